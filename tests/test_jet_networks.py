"""Second-order jets through whole networks, against double backward."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call

from fimsym.engine.jets import Jet, NoJetRule, Shifted, is_affine_along, second_order
from fimsym.engine.network import differentiable_kernels
from tests.double_backward import agree


@pytest.fixture(autouse=True)
def _kernels():
    with differentiable_kernels():
        yield


class Residual(nn.Module):
    def __init__(self, *inside):
        super().__init__()
        self.inside = nn.Sequential(*inside)

    def forward(self, x):
        return x + self.inside(x)


class Twice(nn.Module):
    """A linear layer called twice, and a weight tied to another layer's."""

    def __init__(self, act):
        super().__init__()
        self.shared, self.out, self.act = nn.Linear(4, 4), nn.Linear(4, 4), act
        self.out.weight = self.shared.weight

    def forward(self, x):
        return self.out(self.act(self.shared(self.shared(x))))


class Words(nn.Module):
    """An embedding tied to the output layer, a bare parameter and attention by hand."""

    def __init__(self):
        super().__init__()
        self.embed, self.query = nn.Embedding(7, 4), nn.Linear(4, 4)
        self.scale = nn.Parameter(torch.tensor(0.7))

    def forward(self, tokens):
        a = self.embed(tokens)
        scores = self.query(a) @ a.mT * self.scale
        scores = scores.masked_fill(torch.ones(3, 3).triu(1).bool(), float("-inf"))
        pooled = (scores.softmax(-1) @ a).mean(1)
        return nn.functional.linear(pooled, self.embed.weight)[:, :4]


class Attending(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, x):
        x = x.reshape(-1, 2, 4)
        return self.attention(x, x, x, need_weights=False)[0].sum(1)


class Encoder(nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, **options)

    def forward(self, x):
        return self.layer(x.reshape(-1, 2, 4))[:, 0]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        return self.cell(x.reshape(-1, 2, 4))[0][:, -1]


def mlp(act):
    act = copy.deepcopy(act)
    return nn.Sequential(nn.Linear(8, 5), act, nn.Linear(5, 5), act, nn.Linear(5, 4))


ACTIVATIONS = (
    nn.Tanh(), nn.Sigmoid(), nn.GELU(), nn.GELU("tanh"), nn.SiLU(), nn.Softplus(), nn.ELU(),
    nn.Mish(), nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(), nn.Hardtanh(), nn.PReLU(),
    nn.Softmax(dim=1), nn.Hardswish(), nn.CELU(), nn.SELU(), nn.LogSigmoid(), nn.Softsign(),
)  # fmt: skip
PIECEWISE = (nn.ReLU, nn.LeakyReLU, nn.Hardtanh, nn.PReLU)


def convolutional(act, pool):
    return nn.Sequential(
        nn.Unflatten(1, (2, 2, 2)),
        nn.Conv2d(2, 4, 2, padding=2, groups=2),
        nn.BatchNorm2d(4),
        act,
        Residual(nn.Conv2d(4, 4, 3, padding="same", dilation=2, padding_mode="zeros"), act),
        pool,
        nn.Conv2d(4, 2, 2, stride=2, padding=1, padding_mode="circular"),
        nn.Flatten(),
        nn.LazyLinear(4),
    )


NETWORKS = {
    **{f"mlp-{n}": (lambda act=act: mlp(act)) for n, act in enumerate(ACTIVATIONS)},
    "mlp-composed": lambda: mlp(nn.Sequential(nn.Tanh(), nn.GELU())),
    "cnn-max": lambda: convolutional(nn.Tanh(), nn.MaxPool2d(2)),
    "cnn-avg": lambda: convolutional(nn.ReLU(inplace=True), nn.AvgPool2d(2)),
    "cnn-adaptive": lambda: convolutional(nn.ReLU(), nn.AdaptiveAvgPool2d(2)),
    "residual-layernorm": lambda: nn.Sequential(
        Residual(nn.LayerNorm(8), nn.Linear(8, 8), nn.GELU(), nn.Dropout()), nn.Linear(8, 4)
    ),
    "rmsnorm": lambda: nn.Sequential(nn.RMSNorm(8), nn.Linear(8, 4), nn.RMSNorm(4)),
    "groupnorm": lambda: nn.Sequential(
        nn.Unflatten(1, (4, 2)), nn.GroupNorm(2, 4), nn.InstanceNorm1d(4, affine=True),
        nn.Conv1d(4, 2, 1), nn.Flatten(), nn.Linear(4, 4),
    ),
    "volume": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 2, 2)), nn.Conv3d(1, 2, 2, padding=1), nn.SiLU(),
        nn.MaxPool3d(3), nn.Flatten(), nn.Linear(2, 4),
    ),
    "twice": lambda: nn.Sequential(nn.Linear(8, 4), Twice(nn.Tanh())),
    "twice-relu": lambda: nn.Sequential(nn.Linear(8, 4), Twice(nn.ReLU())),
    "words": Words,
    "attention": Attending,
    "encoder": lambda: Encoder(),
    "encoder-prenorm": lambda: Encoder(norm_first=True, activation="gelu"),
}  # fmt: skip


def made(name, batch):
    torch.manual_seed(3)
    network = NETWORKS[name]().double().eval()
    if name == "words":
        inputs = torch.randint(7, (batch, 3))
    else:
        inputs = torch.randn(batch, 8, dtype=torch.float64)
    network(inputs)
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    return network, inputs


def along(network, inputs, name):
    value = dict(network.named_parameters())[name].detach()
    run = lambda e: functional_call(network, {name: Jet(value, e)}, (inputs,))  # noqa: E731
    return value, run


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_network(name, batch):
    network, inputs = made(name, batch)
    for parameter in dict(network.named_parameters()):
        value, run = along(network, inputs, parameter)
        directions = torch.randn(3, *value.shape, dtype=torch.float64)
        found = second_order(run, directions)
        for k, e in enumerate(directions):
            t = torch.zeros((), dtype=torch.float64, requires_grad=True)
            truth = functional_call(network, {parameter: value + t * e}, (inputs,))
            assert truth.shape == (batch, 4)
            agree([c if c is None else c[k] for c in found], truth, t)


def test_chunks_and_a_loop_give_the_same_numbers():
    network, inputs = made("residual-layernorm", 2)
    value, run = along(network, inputs, "0.inside.1.weight")
    directions = torch.randn(5, *value.shape, dtype=torch.float64)
    together = second_order(run, directions)
    chunked = second_order(run, directions, chunk_size=2)
    looped = [second_order(run, e.unsqueeze(0)) for e in directions]
    for order in (0, 1):
        one_by_one = torch.cat([found[order] for found in looped])
        torch.testing.assert_close(together[order], chunked[order])
        torch.testing.assert_close(together[order], one_by_one)


@pytest.mark.parametrize("act", ACTIVATIONS, ids=lambda act: type(act).__name__)
def test_second_derivatives_of_piecewise_linear_networks_are_proven_zero(act):
    torch.manual_seed(0)
    network = mlp(act).double()
    inputs = torch.randn(3, 8, dtype=torch.float64)
    for name in ("0.weight", "2.bias", "2.weight"):
        value, run = along(network, inputs, name)
        assert is_affine_along(run, torch.ones_like(value)) == isinstance(act, PIECEWISE)
    value, run = along(network, inputs, "4.weight")
    assert is_affine_along(run, torch.ones_like(value))


@pytest.mark.parametrize("name", ["cnn-avg", "cnn-adaptive"])
def test_convolutional_relu_networks_are_proven_affine(name):
    network, inputs = made(name, 2)
    for parameter in dict(network.named_parameters()):
        value, run = along(network, inputs, parameter)
        assert is_affine_along(run, torch.ones_like(value))


def test_a_weight_used_twice_is_not_affine():
    network, inputs = made("twice-relu", 2)
    for parameter, affine in (("1.shared.weight", False), ("1.shared.bias", True)):
        value, run = along(network, inputs, parameter)
        assert is_affine_along(run, torch.ones_like(value)) == affine


@pytest.mark.parametrize(
    "name", ["mlp-0", "mlp-8", "mlp-12", "mlp-13", "mlp-composed", "residual-layernorm"]
)
def test_a_shifted_layer_moves_its_pre_activation(name):
    network, inputs = made(name, 3)
    layer = "0.inside.1" if "residual" in name else "0"
    value = network.get_submodule(layer).weight.detach()
    run = lambda e: functional_call(  # noqa: E731
        network, {f"{layer}.weight": Shifted(value, e)}, (inputs,)
    )
    found = second_order(run, torch.eye(len(value), dtype=torch.float64))
    by_position = second_order(run, torch.arange(len(value)))
    bias = network.get_submodule(layer).bias.detach()
    for k, e in enumerate(torch.eye(len(value), dtype=torch.float64)):
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        truth = functional_call(network, {f"{layer}.bias": bias + t * e}, (inputs,))
        for one in (found, by_position):
            agree([c if c is None else c[k] for c in one], truth, t)


def test_a_recurrent_layer_is_refused():
    network = Recurrent()
    value, run = along(network, torch.randn(2, 8), "cell.weight_hh_l0")
    with pytest.raises(NoJetRule, match="gru"):
        second_order(run, torch.ones(1, *value.shape))
