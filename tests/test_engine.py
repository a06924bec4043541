"""`analyze` against exact enumeration over labels, and its mistakes."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import fimsym
from fimsym.engine import derivatives
from fimsym.engine.allocations import Allocations
from fimsym.engine.memory import budget
from fimsym.engine.network import Block, Network
from fimsym.engine.run import Run
from fimsym.errors import DomainError, SpecError, UnsupportedError
from tests.networks import (
    Attention,
    Heads,
    Language,
    Memory,
    Recurrent,
    Residual,
    Tied,
    build,
    convolution,
    flat,
    inputs,
    mlp,
    pooled,
    volume,
)
from tests.reference import enumeration
from tests.tolerances import ENUMERATION

TOKENS = torch.randint(0, 7, (3, 5), generator=torch.Generator().manual_seed(2))

NETWORKS = {
    "mlp sigmoid": (lambda: mlp(4, 6, 5, 3), inputs(5, 4), "categorical", {}),
    "mlp gaussian": (lambda: mlp(4, 6, 1, activation=nn.Tanh), inputs(5, 4), "gaussian", {}),
    "two targets": (
        lambda: mlp(4, 3, 2, activation=nn.Softplus),
        inputs(4, 4),
        "gaussian",
        {"sigma": 0.3},
    ),
    "relu": (lambda: mlp(4, 6, 3, activation=nn.ReLU), inputs(5, 4), "categorical", {}),
    "no bias": (
        lambda: mlp(4, 5, 3, activation=nn.GELU, bias=False),
        inputs(5, 4),
        "categorical",
        {},
    ),
    "layer norm": (Residual, inputs(5, 4), "categorical", {}),
    "layer norm gaussian": (lambda: Residual(2), inputs(3, 4), "gaussian", {"sigma": 2.0}),
    "convolution": (convolution, inputs(4, 2, 6, 6), "categorical", {}),
    "attention": (Attention, TOKENS, "categorical", {}),
    "tied": (Tied, inputs(5, 4), "categorical", {}),
    "silu": (lambda: mlp(3, 4, 4, 3, activation=nn.SiLU), inputs(4, 3), "categorical", {}),
    "tanh no bias": (
        lambda: mlp(3, 4, 2, activation=nn.Tanh, bias=False),
        inputs(4, 3),
        "categorical",
        {},
    ),
    "pooled": (pooled, inputs(3, 1, 6, 6), "categorical", {}),
    "volume": (volume, inputs(2, 1, 4, 4, 4), "categorical", {}),
    "lstm": (Memory, inputs(3, 3, 2), "categorical", {}),
    "heads": (Heads, inputs(3, 4, 4), "categorical", {}),
    "language": (Language, TOKENS[:, :3] % 5, "categorical", {}),
    "one image": (convolution, inputs(1, 2, 6, 6), "categorical", {}),
    "gru": (Recurrent, inputs(3, 4, 2), "categorical", {}),
    "one input": (lambda: mlp(4, 6, 3), inputs(1, 4), "categorical", {}),
}


def assert_close(value, truth, scale):
    assert ((value - truth).abs() <= ENUMERATION * truth.abs() + 1e-12 * scale).all()


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.filterwarnings("ignore:enable_nested_tensor:UserWarning")
def test_equals_enumeration_over_labels(network):
    factory, data, family, constants = NETWORKS[network]
    model = build(factory)
    given = fimsym.family(family).bind(constants)
    got = fimsym.analyze(model, data, family=family, quantities="all", **constants)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        torch.backends.mha.set_fastpath_enabled(False)
        truth = enumeration.moments(family, model, data, **given)
        torch.backends.mha.set_fastpath_enabled(True)
    scale = truth["fisher"].max()
    assert_close(flat(got.fisher), truth["fisher"], scale)
    assert_close(flat(got.fisher), truth["fisher_negative_hessian"], 1e3 * scale)
    for name in ("variance_score_squared", "variance_negative_hessian", "covariance"):
        assert_close(flat(getattr(got, name)), truth[name], max(scale**2, truth[name].max()))
    if len(data) > 1:
        assert_close(flat(got.input_variance), truth["input_variance"], scale**2)
    assert {name: t.shape for name, t in got.fisher.items()} == {
        name: p.shape for name, p in model.named_parameters()
    }


def test_layer_norm_in_nested_forward_mode_is_wrong_and_would_be_noticed(monkeypatch):
    """The trap itself: jacfwd of jacfwd is silently wrong, and the check refuses it."""
    model = build(Residual)

    def nested_forward(network, block, data):
        theta = network.theta[block.start : block.stop]

        def one(example):
            def h(values):
                return network.of_block(block, values, example)

            hessian = torch.func.jacfwd(torch.func.jacfwd(h))(theta)
            return hessian.diagonal(dim1=-2, dim2=-1)

        return torch.vmap(one)(data)

    network, data = Network(model), inputs(2, 4)
    whole = Block(0, network.size)
    right = derivatives.hessian_forward_over_reverse(network, whole, data)
    wrong = nested_forward(network, whole, data)
    assert (wrong - right).abs().max() > 0.01 * right.abs().max()
    ways = (derivatives.Way("nested forward", nested_forward), *derivatives.SECOND)
    monkeypatch.setattr(derivatives, "SECOND", ways)
    take = derivatives.Differentiator(network, "second")
    for start in range(0, network.size, 4):
        block = Block(start, min(start + 4, network.size))
        take(block, data, 0, 3)
    assert take.way == "forward over reverse"
    torch.testing.assert_close(take(whole, data, 0, 3), right)


@pytest.mark.parametrize("batch", [1, 2, 3, 4, 7])
def test_gradients_that_vmap_gets_wrong_are_taken_another_way(batch):
    """PReLU under vmap mixes inputs and outputs when there are as many of each."""
    model = build(lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(), nn.Linear(6, 3)))
    data = inputs(batch, 4)
    got = fimsym.analyze(model, data, "categorical", quantities="all")
    truth = enumeration.moments("categorical", model, data)
    for name in got.values:
        assert_close(flat(got.values[name]), truth[name], truth["fisher"].max())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("size", "bias"), [(1.0, 0.0), (1e-3, 1e4), (1e-6, 1.0)])
def test_wrong_gradients_are_noticed_in_low_precision(dtype, size, bias):
    model = build(
        lambda: nn.Sequential(nn.Linear(4, 4, bias=False), nn.PReLU(), nn.Linear(4, 3))
    ).to(dtype)
    with torch.no_grad():
        model[2].bias += bias
    data = (size * inputs(3, 4)).to(dtype)
    got = fimsym.analyze(model, data, "categorical")
    truth = fimsym.analyze(model.double(), data.double(), "categorical")
    for name in truth.fisher:
        error = (got.fisher[name] - truth.fisher[name]).abs().max()
        # At h = 1e4 float32 knows p to 1e-3; a mixed-up gradient is off by tenths.
        assert error <= 1e-2 * truth.fisher[name].abs().max()


def test_float64_takes_over_where_float32_is_too_coarse():
    class Rapid(nn.Linear):
        def forward(self, x):
            return torch.sin(1e7 * super().forward(x))

    model = build(lambda: Rapid(4, 3)).float()
    got = fimsym.analyze(model, inputs(5, 4), "categorical", quantities="all")
    assert got.ways["second"].endswith("in float64")


def test_the_three_ways_of_second_derivatives_agree():
    network, data = Network(build(Residual)), inputs(2, 4)
    whole = Block(0, network.size)
    values = [way.compute(network, whole, data) for way in derivatives.SECOND]
    for value in values[1:]:
        torch.testing.assert_close(value, values[0], rtol=1e-9, atol=1e-12)


def test_gradients_of_whole_tensors_are_held_for_some_outputs_at_a_time():
    network, data = Network(build(Residual)), inputs(2, 4)
    block, found, peaks = Block(2, 9), [], []
    for limit in (None, 1):
        with Allocations() as counted:
            found.append(derivatives.jacobian_by_vmap(network, block, data, limit))
        peaks.append(counted.peak)
    assert torch.equal(*found)
    assert peaks[1] < peaks[0]


def test_wrong_vmapped_gradients_rule_out_vmapped_second_derivatives(monkeypatch):
    network, data = Network(build(Residual)), inputs(4, 4)
    whole = Block(0, network.size)
    right = derivatives.Differentiator(network, "second")(whole, data, 0, 3)
    by_vmap = derivatives.jacobian_by_vmap

    def off_at_one_entry(*given):
        u = by_vmap(*given)
        u[2, 1, 5] += 1e-6
        return u

    monkeypatch.setattr(derivatives, "jacobian_by_vmap", off_at_one_entry)
    take = derivatives.Differentiator(network, "second")
    torch.testing.assert_close(take(whole, data, 0, 3), right)
    assert take.way == "double backward, looped"


def test_relu_networks_and_last_layers_have_no_second_derivative():
    got = fimsym.analyze(
        build(lambda: mlp(4, 6, 3, activation=nn.ReLU)), inputs(5, 4), "categorical",
        quantities="all",
    )  # fmt: skip
    assert flat(got.variance_negative_hessian).abs().max() == 0
    got = fimsym.analyze(build(lambda: mlp(4, 6, 3)), inputs(5, 4), "categorical", quantities="all")
    assert got.variance_negative_hessian["2.weight"].abs().max() == 0
    assert got.variance_negative_hessian["0.weight"].abs().max() > 0


@pytest.mark.parametrize("max_memory", [5_000, "200kB", "1GB"])
def test_chunks_do_not_change_the_numbers(max_memory):
    model, data = build(lambda: mlp(4, 6, 5, 3)), inputs(7, 4)
    whole = fimsym.analyze(model, data, "categorical", quantities="all")
    chunked = fimsym.analyze(model, data, "categorical", quantities="all", max_memory=max_memory)
    for name in whole.values:
        torch.testing.assert_close(
            flat(chunked.values[name]), flat(whole.values[name]), rtol=1e-12, atol=1e-18
        )
    torch.testing.assert_close(flat(chunked.input_variance), flat(whole.input_variance))


def test_any_form_of_data_gives_the_same():
    model, data = build(lambda: mlp(4, 6, 3)), inputs(7, 4)
    labels = torch.tensor([0, 1, 2, 0, 1, 2, 0])
    whole = flat(fimsym.analyze(model, data, "categorical").fisher)
    forms = [
        data.numpy(),
        data.float().double().numpy().astype(np.float64) * 0 + data.numpy(),
        (data, labels),
        (data.numpy(), labels.numpy()),
        DataLoader(data, batch_size=3),
        DataLoader(TensorDataset(data, labels), batch_size=2),
        [data[:2], data[2:]],
        [(data[:6], labels[:6]), (data[6:], labels[6:])],
        iter([data[:2], data[2:2], data[2:]]),
    ]
    for form in forms:
        got = fimsym.analyze(model, form, "categorical")
        assert got.inputs == 7
        torch.testing.assert_close(flat(got.fisher), whole, rtol=1e-12, atol=1e-18)


def test_float32_models_are_close():
    model, data = build(lambda: mlp(4, 6, 3)), inputs(7, 4)
    exact = fimsym.analyze(model, data, "categorical", quantities="all")
    rounded = fimsym.analyze(model.float(), data, "categorical", quantities="all")
    for name in exact.values:
        value, truth = flat(rounded.values[name]), flat(exact.values[name])
        assert value.dtype == torch.float64
        assert (value - truth).abs().max() < 1e-5 * truth.abs().max()


def test_frozen_parameters_are_left_out_and_named():
    model = build(lambda: mlp(4, 6, 3))
    model[0].weight.requires_grad_(False)
    got = fimsym.analyze(model, inputs(5, 4), "categorical", quantities="all")
    assert got.frozen == ("0.weight",)
    assert repr(got).endswith("left out, not requiring grad: 0.weight")
    assert set(got.fisher) == {"0.bias", "2.weight", "2.bias"}
    model[0].weight.requires_grad_(True)
    whole = fimsym.analyze(model, inputs(5, 4), "categorical", quantities="all")
    assert torch.equal(whole.fisher["0.bias"], got.fisher["0.bias"])


def test_the_model_is_left_as_it_was():
    model = build(Residual)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fast_path = torch.backends.mha.get_fastpath_enabled()
    fimsym.analyze(model, inputs(3, 4), "categorical", quantities="all")
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert torch.backends.mha.get_fastpath_enabled() == fast_path


def test_a_module_at_two_places_is_left_as_it_was():
    shared = nn.Linear(4, 4)
    model = build(lambda: nn.Sequential(shared, nn.PReLU(), shared, nn.Tanh(), nn.Linear(4, 3)))
    before = {name: (value, value.clone()) for name, value in model.named_parameters()}
    for quantities in ("fisher", "all"):
        fimsym.analyze(model, inputs(3, 4), "categorical", quantities=quantities)
        for name, (parameter, value) in before.items():
            assert model.get_parameter(name) is parameter
            assert torch.equal(parameter, value)


def test_parameters_of_the_network_itself_are_groups_by_themselves():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(4))
            self.model = nn.Linear(4, 3)

        def forward(self, x):
            return self.scale * self.model(x + self.shift)

    got = fimsym.analyze(Scaled(), inputs(5, 4), "categorical")
    assert [(g.name, g.size) for g in got.groups] == [("scale", 3), ("shift", 4), ("model", 15)]


def test_groups_frames_files_and_plots(tmp_path):
    model = build(lambda: mlp(4, 6, 3))
    got = fimsym.analyze(model, inputs(5, 4), "categorical", quantities="all")
    assert [g.name for g in got.groups] == ["0", "2"]
    assert got.groups[0].size == 30
    assert got.groups[1].sums["fisher"] == pytest.approx(
        float(got.fisher["2.weight"].sum() + got.fisher["2.bias"].sum())
    )
    assert list(got.to_frame().index) == ["0", "2"]
    whole = fimsym.analyze(model, inputs(5, 4), "categorical", groups="model")
    assert [g.name for g in whole.groups] == ["model"]
    got.save(tmp_path / "out.safetensors")
    again = fimsym.Analysis.load(tmp_path / "out.safetensors")
    assert torch.equal(flat(again.covariance), flat(got.covariance))
    assert (again.inputs, again.roads, again.frozen) == (5, got.roads, ())
    assert again.groups == got.groups
    assert got.plot().axes
    with pytest.raises(DomainError, match="cannot write"):
        got.save(tmp_path / "missing" / "out.safetensors")
    (tmp_path / "broken").write_bytes(b"nonsense")
    with pytest.raises(DomainError, match="cannot read"):
        fimsym.Analysis.load(tmp_path / "broken")


def test_what_was_not_asked_for_says_so(monkeypatch):
    def refuse(*_):
        raise AssertionError("a second derivative was taken")

    monkeypatch.setattr(sys.modules["fimsym.engine.derivatives"], "curvatures_along", refuse)
    got = fimsym.analyze(build(lambda: mlp(4, 6, 3)), inputs(5, 4), "categorical")
    with pytest.raises(UnsupportedError, match=r"covariance was not computed.*quantities="):
        _ = got.covariance


@pytest.mark.parametrize("quantity", ["fisher", "variance_negative_hessian", ("covariance",)])
def test_each_quantity_alone(quantity):
    model, data = build(lambda: mlp(4, 6, 3)), inputs(5, 4)
    alone = fimsym.analyze(model, data, "categorical", quantities=quantity)
    whole = fimsym.analyze(model, data, "categorical", quantities="all")
    (name,) = alone.values
    torch.testing.assert_close(flat(alone.values[name]), flat(whole.values[name]))


def test_budget_reads_sizes():
    device = torch.device("cpu")
    assert budget("2GB", device) == 2 * 10**9
    assert budget(" 1.5 MiB", device) == 1_500_000
    assert budget(12345, device) == 12345
    assert 10**7 <= budget(None, device) <= 10**9
    for wrong in (0, -1, "GB", "1.2.3GB", "0"):
        with pytest.raises(SpecError):
            budget(wrong, device)


def test_blocks_cover_every_parameter_once():
    network = Network(build(lambda: mlp(4, 6, 5, 3)))
    for name, block in network.parameters():
        assert network.name_at(block.start) == network.name_at(block.stop - 1) == name
    for limit in (1, 7, 30, 10**6):
        blocks = network.blocks(limit, network.names)
        assert [b.start for b in blocks[1:]] == [b.stop for b in blocks[:-1]]
        assert (blocks[0].start, blocks[-1].stop) == (0, network.size)
        assert max(b.size for b in blocks) <= limit


class Upcast(nn.Module):
    """Normalises in float32 and returns logits in float32, whatever dtype the rest has."""

    def __init__(self, casts=True):
        super().__init__()
        self.casts = casts
        self.first, self.scale = nn.Linear(4, 5), nn.Parameter(torch.linspace(0.5, 1.5, 5))
        self.last = nn.Linear(5, 3)

    def forward(self, x):
        z = torch.tanh(self.first(x))
        wide = z.to(torch.float32) if self.casts else z
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-3)
        h = self.last(self.scale * wide.to(z.dtype))
        if not self.casts:
            return h.softmax(-1)
        return nn.functional.softmax(h, -1, dtype=torch.float32).float()


@pytest.mark.parametrize("quantities", ["fisher", "all"])
@pytest.mark.parametrize(
    ("dtype", "rounding"),
    [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 1e-4), (torch.float16, 1e-4)],
    ids=str,
)
def test_a_model_that_casts_to_float32(dtype, rounding, quantities):
    model, data = build(Upcast).to(dtype), inputs(4, 4).to(dtype)
    got = fimsym.analyze(model, data, "categorical", quantities=quantities)
    assert "functional" not in got.roads.values()
    plain = Upcast(casts=False).double()
    plain.load_state_dict(model.state_dict())
    truth = enumeration.moments("categorical", plain, data.double())
    for name in got.values:
        exact = truth[name]
        assert (flat(got.values[name]) - exact).abs().max() <= rounding * exact.abs().max()


class WithEmpty(nn.Module):
    """Parameters without entries, beside others."""

    def __init__(self, empty=True):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.last = nn.Linear(4, 3)
        self.none = nn.Linear(0, 3, bias=False) if empty else None
        self.start = nn.Parameter(torch.empty(0, 4)) if empty else None
        self.end = nn.Parameter(torch.empty(0)) if empty else None

    def forward(self, x):
        z = torch.tanh(self.first(x))
        if self.none is None:
            return self.last(z)
        z = z + self.start.sum(0) + self.end.sum()
        return self.last(z) + self.none(x[:, :0])


@pytest.mark.filterwarnings("ignore:Initializing zero-element:UserWarning")
@pytest.mark.parametrize(
    "options",
    [{}, {"quantities": "all"}, {"quantities": "all", "second_derivative": "stochastic"}],
    ids=str,
)
def test_parameters_without_entries_come_out_empty(options):
    model, data = build(WithEmpty), inputs(5, 4)
    got = fimsym.analyze(model, data, "categorical", **options)
    plain = WithEmpty(empty=False).double()
    plain.load_state_dict(model.state_dict(), strict=False)
    alone = fimsym.analyze(plain, data, "categorical", **options)
    assert got.frozen == ()
    for quantity, named in got.values.items():
        assert {n: v.shape for n, v in named.items()} == {
            n: p.shape for n, p in model.named_parameters()
        }
        for name, value in alone.values[quantity].items():
            torch.testing.assert_close(named[name], value)
    assert [group.size for group in got.groups] == [20, 15]
    for name in ("first", "last"):
        getattr(model, name).requires_grad_(False)
    with pytest.raises(UnsupportedError, match=r"no trainable parameter.*3 without entries"):
        fimsym.analyze(model, data, "categorical")


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "wrap", [compiled, nn.DataParallel, lambda model: nn.DataParallel(compiled(model))]
)
def test_a_wrapped_model_is_the_one_that_was_wrapped(wrap):
    model, data = build(lambda: mlp(4, 5, 3)), inputs(6, 4)
    plain = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    found = fimsym.analyze(wrap(model), data, "categorical", quantities="all", progress=False)
    for quantity, values in plain.values.items():
        for name, value in values.items():
            torch.testing.assert_close(found.values[quantity][name], value)


class Constants(nn.Module):
    """Makes constants of torch's default dtype in its forward pass."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        turned = torch.tanh(self.first(x @ torch.eye(4).flip(0)))
        return self.last(turned @ torch.tril(torch.ones(5, 5)))


def test_constants_of_the_default_dtype_are_taken_along():
    model, data = build(Constants).float(), inputs(6, 4).float()
    found = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    plain = build(lambda: mlp(4, 5, 3, activation=nn.Tanh)).float()
    with torch.no_grad():
        plain[0].weight.copy_(model.first.weight.flip(1))
        plain[0].bias.copy_(model.first.bias)
        plain[-1].weight.copy_(model.last.weight @ torch.tril(torch.ones(5, 5)).T)
        plain[-1].bias.copy_(model.last.bias)
    expected = fimsym.analyze(plain, data, "categorical", quantities="all", progress=False)
    for quantity in expected.values:
        got = found.values[quantity]["first.weight"].flip(1)
        torch.testing.assert_close(got, expected.values[quantity]["0.weight"], rtol=1e-4, atol=0)
    assert torch.get_default_dtype() == torch.float32


def test_how_long_it_takes_is_not_judged_by_a_single_input():
    run = object.__new__(Run)
    run.roads, run.functional = SimpleNamespace(second=True), SimpleNamespace(stochastic=False)
    run.ranks = SimpleNamespace(world=2)
    run.own, run.count, run.notes = 400, 0, []
    run._expected, run._say = False, lambda text: None
    run._expect(1.0, 1)
    assert not run.notes
    run.count = 1
    run._expect(2.0, 8)
    assert "take about 2 min for the 400 inputs of this process" in run.notes[0]
    run._expect(9.0, 8)
    assert len(run.notes) == 1
