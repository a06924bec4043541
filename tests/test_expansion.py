"""Second derivatives of whole networks by tangents through a tape, against double backward."""

import copy

import pytest
import torch
from torch import nn

import fimsym
from fimsym.engine import examined
from fimsym.engine.allocations import Allocations
from fimsym.engine.examined import examine, expanded
from fimsym.engine.expansion import Expansion
from fimsym.engine.kernels import exact_kernels
from fimsym.engine.network import Network
from fimsym.engine.recording import NoTape
from fimsym.engine.replay import Replay


@pytest.fixture(autouse=True)
def _kernels():
    with exact_kernels():
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
    def __init__(self, cell):
        super().__init__()
        self.cell = cell

    def forward(self, x):
        found, _ = self.cell(x.reshape(-1, 4, 2))
        return found.tanh().sum(1)[:, :4]


class Classified(nn.Module):
    """A token of its own in front of patches, one convolution for each channel, a gate."""

    def __init__(self):
        super().__init__()
        self.patch, self.token = nn.Conv1d(1, 4, 2, 2), nn.Parameter(torch.tensor([[[0.3] * 4]]))
        self.place = nn.Parameter(torch.linspace(-0.5, 0.5, 20).reshape(1, 5, 4))
        self.each, self.norm = nn.Conv1d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4)
        self.layer = nn.TransformerEncoderLayer(4, 2, 5, batch_first=True, norm_first=True)
        self.gate = nn.Parameter(torch.tensor([0.2, -0.1, 0.4, 0.3]))

    def forward(self, x):
        z = nn.functional.gelu(self.patch(x.unsqueeze(1)))
        z = z + self.gate.reshape(4, 1) * self.each(z)
        z = torch.cat([self.token.expand(len(x), -1, -1), z.mT], 1) + self.place
        return self.norm(self.layer(z))[:, 0]


class Alone(nn.Module):
    """What is computed without a gradient is constant to autograd."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x):
        with torch.no_grad():
            scale = self.inner(x).exp()
        return self.inner(x).tanh() * scale * self.inner(x).detach()


class Written(nn.Module):
    """Writes into views of what it has computed."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x):
        z = self.inner(x) * 1
        flat = z.reshape(-1)
        z[:, 1:3] = z[:, :2].tanh()
        z[:, 0] *= 2
        return z * flat.reshape(-1, 4).sin()


class Upwards(nn.Module):
    """A transposed convolution and a join of two branches."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv1d(1, 2, 3, stride=2, padding=1), nn.ConvTranspose1d(2, 2, 2, 2)
        self.join = nn.Conv1d(3, 4, 3, padding=1)

    def forward(self, x):
        x = x.unsqueeze(1)
        z = torch.cat([x, self.up(self.down(x).tanh()).tanh()], 1)
        return nn.functional.silu(self.join(z)).mean(-1)


class PartOfTable(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.randn(3, 8))

    def forward(self, x):
        return nn.functional.embedding(x.sign().long() + 1, self.w[:, :4]).tanh().mean(1)


class PooledAlone(nn.Module):
    """Pools of [channel, height, width] in which examples are channels."""

    def __init__(self):
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(4, 4)

    def forward(self, x):
        z = self.conv(x.reshape(-1, 1, 4, 2).repeat(1, 1, 1, 2)).tanh().flatten(0, 1)
        z = nn.functional.max_pool2d(z, 2) + nn.functional.avg_pool2d(z.tanh(), 2)
        return self.last(z.reshape(len(x), 2, 4).sum(1))


class Noted(nn.Module):
    """Writes down, without gradient, what it has computed."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(8, 4)

    def forward(self, x):
        z = self.inner(x)
        with torch.no_grad():
            kept = torch.zeros_like(z)
            kept.add_(z)
        return z.tanh() * kept


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
    "classified": Classified,
    "upwards": Upwards,
    "alone": Alone,
    "written": Written,
    "part-of-table": PartOfTable,
    "pooled-alone": PooledAlone,
    "noted": Noted,
    "gru": lambda: Recurrent(nn.GRU(2, 4, batch_first=True)),
    "gru-both-ways": lambda: Recurrent(nn.GRU(2, 2, 2, batch_first=True, bidirectional=True)),
    "lstm": lambda: Recurrent(nn.LSTM(2, 4, batch_first=True, bias=False)),
    "rnn": lambda: Recurrent(nn.RNN(2, 4, batch_first=True)),
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


def truth(network, inputs, name, r):
    """Return d and d² of Σ_b ⟨r_b, h_b⟩ along every entry of a parameter, by double backward."""
    parameter = dict(network.named_parameters())[name]
    given = {"allow_unused": True, "materialize_grads": True}
    (first,) = torch.autograd.grad(
        (network(inputs) * r).sum(), parameter, create_graph=True, **given
    )
    second = [
        torch.autograd.grad(entry, parameter, retain_graph=True, **given)[0].flatten()[n]
        if entry.requires_grad
        else torch.zeros((), dtype=torch.float64)
        for n, entry in enumerate(first.flatten())
    ]
    return first.detach().flatten(), torch.stack(second).detach()


def assert_agrees(found, expected, r):
    for one, whole in zip(found, expected, strict=True):
        size = 1e-3 * one.abs().max() + whole.abs().max() + 0.1
        projected = torch.einsum("bo,bop->p", r, one.flatten(2))
        assert ((projected - whole).abs() <= 1e-11 * size).all()


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_network(name, batch):
    network, inputs = made(name, batch)
    expansion = Expansion(Network(network), inputs)
    r = torch.randn(batch, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for parameter in dict(network.named_parameters()):
        whole = range(expansion.height(parameter)), range(expansion.width(parameter))
        found = expansion.slopes(parameter, *whole)
        expected = truth(network, inputs, parameter, r)
        assert_agrees(found, expected, r)
        v = expansion.rows(parameter, *whole)
        assert_agrees([torch.zeros_like(found[1]) if v is None else v], expected[1:], r)
        row, column = whole[0][-1], whole[1][-1]
        one = expansion.slopes(parameter, [row], [column])
        for part, all_of in zip(one, found, strict=True):
            torch.testing.assert_close(part[..., 0, 0], all_of[..., row, column])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_every_parameter_is_found_right(name):
    network, inputs = made(name, 3)
    record = examine(Network(network), inputs[:2])
    assert record.right == {n for n, _ in network.named_parameters()}


@pytest.mark.parametrize("act", ACTIVATIONS, ids=lambda act: type(act).__name__)
def test_second_derivatives_of_piecewise_linear_networks_are_proven_zero(act):
    torch.manual_seed(0)
    expansion = Expansion(Network(mlp(act).double().eval()), torch.randn(3, 8).double())
    for name in ("0.weight", "2.bias", "2.weight"):
        assert bool(expansion.plan_of(name).steps) != isinstance(act, PIECEWISE)
    assert not expansion.plan_of("4.weight").steps


def test_a_weight_used_twice_is_not_affine():
    network, inputs = made("twice-relu", 2)
    expansion = Expansion(Network(network), inputs)
    for parameter, affine in (("1.shared.weight", False), ("1.shared.bias", True)):
        assert bool(expansion.plan_of(parameter).steps) != affine


@pytest.mark.parametrize("name", ["mlp-0", "mlp-8", "mlp-13", "residual-layernorm"])
def test_neurons_move_like_what_is_added_to_them(name):
    network, inputs = made(name, 3)
    expansion = Expansion(Network(network), inputs)
    layer = "0.inside.1" if "residual" in name else "0"
    width = expansion.height(f"{layer}.weight")
    neurons = expansion.neurons(f"{layer}.weight", slice(0, width))
    shifts = expansion.rows(f"{layer}.bias", range(width), [0])
    if shifts is None:
        assert neurons is None
    else:
        torch.testing.assert_close(neurons, shifts.squeeze(-1))


def test_rows_of_a_table_that_are_looked_up():
    network, inputs = made("words", 4)
    seen = Network(network)
    expansion = Expansion(seen, inputs)
    with pytest.raises(NoTape, match="not found"):  # it is tied to the output layer
        expansion.looked_up(
            "embed.weight", torch.arange(4).repeat_interleave(3), inputs, slice(0, 4)
        )
    table = nn.Sequential(
        nn.Embedding(7, 4, padding_idx=2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 4)
    )
    expansion = Expansion(Network(table.double()), inputs)
    whole = expansion.rows("0.weight", range(7), range(4))
    owner = torch.arange(4).repeat_interleave(3)
    slots = torch.where(inputs == 2, -1, inputs)
    found = expansion.looked_up("0.weight", owner, slots, slice(1, 3))
    for example, slot in (slots >= 0).nonzero().tolist():
        row = slots[example, slot]
        torch.testing.assert_close(found[example, :, slot], whole[example, :, row, 1:3])


@pytest.mark.parametrize("name", ["0.weight", "1.inside.0.weight", "1.inside.2.weight"])
def test_rows_and_columns_stay_apart_through_layers(name):
    torch.manual_seed(0)
    inside = nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16)
    layers = nn.Linear(16, 16), Residual(*inside), nn.LayerNorm(16), nn.Linear(16, 32), nn.Tanh()
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 32, 3))
    seen, inputs = Network(model), torch.randn(2, 8, 16)
    cost = examine(seen, inputs).cost(name, inputs.shape[1:], Expansion(seen, inputs))
    assert cost.row > 8 * 16
    assert cost.both < 8 * 16


def test_examples_in_any_place():
    """Positions first, positions and examples on one axis, and heads with them."""

    class Turned(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.cell = nn.Linear(2, 4), nn.TransformerEncoderLayer(4, 2, 3)
            self.last = nn.Linear(4, 4)

        def forward(self, x):
            x = x.reshape(-1, 4, 2).transpose(0, 1)
            z = torch.tanh(self.first(x.reshape(-1, 2))).reshape(4, -1, 4)
            return torch.tanh(self.last(self.cell(z))).mean(0)

    torch.manual_seed(0)
    network, inputs = Turned().double().eval(), torch.randn(3, 8).double()
    expansion = Expansion(Network(network), inputs)
    r = torch.randn(3, 4).double()
    for parameter in dict(network.named_parameters()):
        whole = range(expansion.height(parameter)), range(expansion.width(parameter))
        expected = truth(network, inputs, parameter, r)
        assert_agrees(expansion.slopes(parameter, *whole), expected, r)
        # An example's v depends on it alone.
        some = Expansion(Network(network), inputs[1:2]).slopes(parameter, *whole)
        for one, both in zip(some, expansion.slopes(parameter, *whole), strict=True):
            torch.testing.assert_close(one[0], both[1])


def test_examples_that_mix_are_refused():
    class Sorted(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 4)

        def forward(self, x):
            order = x[:, 0].argsort()
            return torch.tanh(self.inner(x[order]))[order.argsort()]

    network, inputs = Sorted().double(), torch.randn(3, 8).double().sort(0, descending=True).values
    expansion = Expansion(Network(network), inputs)
    with pytest.raises(NoTape, match="mixes examples"):
        expansion.rows("inner.weight", [0], [0])


class Experts(nn.Module):
    """Each of two takes those inputs that a number of theirs sends there."""

    def __init__(self):
        super().__init__()
        self.shared, self.last = nn.Linear(3, 3), nn.Linear(4, 3)
        self.experts = nn.ModuleList([nn.Linear(3, 4), nn.Linear(3, 4)])

    def forward(self, x):
        order = x[:, 0].argsort()
        z, count = self.shared(x)[order], int((x[:, 0] < 0).sum())
        one, other = self.experts
        z = torch.cat([torch.tanh(one(z[:count])), other(z[count:]) ** 2])
        found = torch.empty_like(z)
        found[order] = z
        return self.last(found)


def test_experts_without_an_input_take_no_part():
    torch.manual_seed(0)
    network, inputs = Experts().double(), torch.randn(12, 3).double()
    given = {"family": "categorical", "quantities": "all", "progress": False}
    whole = fimsym.analyze(network, inputs, **given)
    for data in (inputs.split(1), [inputs[inputs[:, 0] < 0], inputs[inputs[:, 0] >= 0]]):
        parts = fimsym.analyze(network, data, max_memory="60kB", **given)
        for quantity, named in whole.values.items():
            for name, value in named.items():
                torch.testing.assert_close(parts.values[quantity][name], value)


def test_a_wrong_rule_is_found_out(monkeypatch):
    network, inputs = made("mlp-0", 3)
    right = Replay.curvatures
    monkeypatch.setattr(
        Replay,
        "curvatures",
        lambda *given: [c if c is None else c * (1 + 1e-8) for c in right(*given)],
    )
    seen = Network(network)
    record = examine(seen, inputs[:2])
    assert record.right == {"4.weight", "4.bias"}


def test_what_cannot_be_written_down_is_refused():
    class Into(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 4)

        def forward(self, x):
            z = torch.zeros(len(x), 4, dtype=x.dtype)
            z[:, :2] = self.inner(x)[:, :2]
            return z

    with pytest.raises(NoTape):
        Expansion(Network(Into().double()), torch.randn(2, 8).double())


def test_an_operation_that_writes_to_many_and_returns_nothing_is_refused():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(8, 4)

        def forward(self, x):
            z = self.inner(x).tanh() * 1
            torch._foreach_mul_([z], 2.0)
            return z

    torch.manual_seed(0)
    network, inputs = Network(Many().double()), torch.randn(2, 8).double()
    with pytest.raises(NoTape, match="_foreach_mul_"):
        Expansion(network, inputs)
    assert expanded(network, inputs) is None


def test_a_tape_of_float64_is_made_once(monkeypatch):
    network, inputs = made("mlp-0", 2)
    count = []
    monkeypatch.setattr(examined, "Expansion", lambda *given: count.append(1) or Expansion(*given))
    assert examine(Network(network), inputs).right
    assert len(count) == 1
    assert examine(Network(network.float()), inputs.float()).right
    assert len(count) == 3


def test_log_sigmoid_keeps_its_digits_in_both_tails():
    x = torch.tensor([-700.0, -60, -30, -21, -19, -1, 0, 1, 19, 21, 30, 60, 700]).double()[:, None]
    network = nn.Sequential(nn.Linear(1, 1, bias=False), nn.LogSigmoid()).double()
    nn.init.ones_(network[0].weight)
    u, v = (part.flatten() for part in Expansion(Network(network), x).slopes("0.weight", [0], [0]))
    x = x.flatten()
    torch.testing.assert_close(u, x * torch.sigmoid(-x), rtol=1e-14, atol=0)
    bend = -x.square() * torch.sigmoid(x) * torch.sigmoid(-x)
    torch.testing.assert_close(v, bend, rtol=1e-14, atol=0)


def test_a_comparison_holds_one_gradient_of_a_large_tensor_at_a_time():
    model = nn.Sequential(nn.Embedding(20_000, 8), nn.Flatten(), nn.Linear(16, 3), nn.Tanh())
    network = Network(model.double())
    with Allocations() as counted:
        examined._sampled(network, torch.tensor([[3, 5]]), torch.ones(3, dtype=torch.float64))
    table = 20_000 * 8 * 8
    assert table < counted.peak < 1.5 * table
