"""The structured and shared roads: what they take, and that they equal the functional one."""

import copy
import gc
import itertools
import weakref

import pytest
import torch
from torch import nn

import fimsym
from fimsym.engine import (
    alignment,
    bent,
    chain,
    columns,
    curvatures,
    examined,
    functional,
    parts,
    probe,
    seeded,
    uses,
)  # fmt: skip
from fimsym.engine.examined import Examined
from fimsym.engine.expansion import Expansion
from fimsym.engine.graph import read
from fimsym.engine.head import Head
from fimsym.engine.network import Network
from fimsym.engine.probe import Known
from fimsym.engine.recording import NoTape
from fimsym.engine.tape import Tape
from tests import networks
from tests.networks import build, convolution, flat
from tests.reference import enumeration


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 6), nn.LayerNorm(6)
        self.inner, self.last = nn.Linear(6, 6), nn.Linear(6, 3, bias=False)

    def forward(self, x):
        z = self.first(x)
        return self.last(z + torch.tanh(self.inner(self.norm(z))))


class Twice(nn.Module):
    """One layer used twice, one once, one whose weight also enters elsewhere."""

    def __init__(self):
        super().__init__()
        self.twice, self.once, self.leaked = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        x = torch.tanh(self.twice(torch.tanh(self.twice(x))))
        return self.leaked(torch.tanh(self.once(x))) + self.leaked.weight.square().sum()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.encode, self.decode = nn.Linear(4, 4), nn.Linear(4, 4)
        self.decode.weight = self.encode.weight

    def forward(self, x):
        return self.decode(torch.sigmoid(self.encode(x)))


class Pixels(nn.Module):
    """A convolution, a linear layer over positions, and one over the whole example."""

    def __init__(self):
        super().__init__()
        self.conv, self.each, self.whole = nn.Conv1d(1, 2, 2), nn.Linear(3, 2), nn.Linear(4, 3)

    def forward(self, x):
        return self.whole(torch.tanh(self.each(torch.tanh(self.conv(x.unsqueeze(1))))).flatten(1))


class Switching(nn.Module):
    """Uses its layer twice for inputs that are longer."""

    def __init__(self):
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        z = torch.tanh(self.inner(x[:, :4]))
        if x.shape[1] > 4:
            z = torch.tanh(self.inner(z))
        return self.outer(z)


class Unusual(nn.Module):
    """A layer called by keyword, and one with a hook of its own."""

    def __init__(self):
        super().__init__()
        self.named, self.hooked, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 3)
        self.hooked.register_forward_hook(lambda module, given, output: 2 * output)

    def forward(self, x):
        x = torch.tanh(self.named(input=x))
        return self.last(torch.tanh(self.hooked(x)))


def deep():
    """A chain of layers of every width, with functions of functions between them."""
    return nn.Sequential(
        nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3), nn.Tanh(), nn.Softplus(), nn.Linear(3, 6),
        nn.ReLU(), nn.Linear(6, 7, bias=False), nn.GELU(), nn.Linear(7, 3),
    )  # fmt: skip


STRUCTURED, SHARED, FUNCTIONAL = "structured", "shared", "functional"
CASES = {
    "residual": (Residual, {"norm.weight": SHARED}),
    "twice": (
        Twice,
        {"twice.weight": SHARED, "twice.bias": SHARED, "leaked.weight": FUNCTIONAL},
    ),
    "tied": (Tied, {"encode.weight": SHARED}),
    "pixels": (
        Pixels,
        dict.fromkeys(("conv.weight", "conv.bias", "each.weight", "each.bias"), SHARED),
    ),
    "unusual": (Unusual, {}),
    "deep": (deep, {}),
}


def inputs(count=6):
    return torch.randn(count, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def both(model, data, monkeypatch, **options):
    """Return the analysis by both roads, and by the functional road alone."""
    given = {"family": "categorical", "progress": False, **options}
    taken = fimsym.analyze(model, data, **given)
    monkeypatch.setattr(alignment, "agreeing", lambda graph, leaves: Known({}))
    monkeypatch.setattr(curvatures, "examine", lambda network, inputs: Examined())
    monkeypatch.setattr(alignment, "_OF_MODELS", weakref.WeakKeyDictionary())
    return taken, fimsym.analyze(model, data, **given)


def assert_same(one, other):
    for quantity in one.values:
        for name, value in one.values[quantity].items():
            torch.testing.assert_close(value, other.values[quantity][name], rtol=1e-11, atol=1e-18)
    for name, value in one.input_variance.items():
        torch.testing.assert_close(
            value, other.input_variance[name], rtol=1e-8, atol=1e-16, equal_nan=True
        )


@pytest.mark.parametrize("name", CASES)
def test_roads_equal_the_functional_one(name, monkeypatch):
    make, others = CASES[name]
    model = build(make).double()
    taken, alone = both(model, inputs(), monkeypatch)
    assert dict(taken.roads) == dict.fromkeys(alone.roads, STRUCTURED) | others
    assert set(alone.roads.values()) == {FUNCTIONAL}
    assert_same(taken, alone)
    left = [n for n, module in model.named_modules() if module._forward_hooks]
    assert left == (["hooked"] if name == "unusual" else [])


@pytest.mark.parametrize("family", ["gamma", "poisson", "gaussian_mean_variance", "bernoulli"])
def test_links_and_families(family, monkeypatch):
    link = {"gamma": "log_shape_log_rate", "gaussian_mean_variance": "mean_log_variance"}
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 4)).double()
    assert_same(*both(model, inputs(), monkeypatch, family=family, link=link.get(family)))


def test_batches_chunks_and_frozen_parameters(monkeypatch):
    model = build(Residual).double()
    model.first.weight.requires_grad_(False)
    data = inputs(23)
    batches = [data[:10], data[10:20], data[20:]]
    taken, alone = both(model, batches, monkeypatch, max_memory="20kB")
    assert taken.inputs == 23
    assert "first.weight" not in taken.roads
    assert taken.roads["first.bias"] == "structured"
    assert_same(taken, alone)


def test_a_layer_that_changes_its_use_is_left_to_the_functional_road(monkeypatch):
    model = build(Switching).double()
    data = inputs(12)
    other = torch.cat((data[:4], data[:4, :1]), 1)
    taken, alone = both(model, [data, other], monkeypatch)
    assert taken.roads["inner.weight"] == "shared"
    assert taken.roads["outer.weight"] == "structured"
    assert_same(taken, alone)


def test_a_wrong_rule_is_noticed(monkeypatch):
    """A rule scaled by 1 + 1e-6 agrees with no layer, so that none is taken."""
    rule = uses.Product.jacobian
    monkeypatch.setattr(uses.Product, "jacobian", lambda *given: rule(*given) * (1 + 1e-6))
    model = build(Residual).double()
    result = fimsym.analyze(model, inputs(), "categorical", progress=False)
    weights = {name for name in result.roads if name.endswith("weight") and "norm" not in name}
    assert {result.roads[name] for name in weights} == {"functional"}


@pytest.mark.parametrize("name", CASES)
def test_second_derivatives_equal_the_functional_road(name, monkeypatch):
    make, _ = CASES[name]
    model = build(make).double()
    taken, alone = both(model, inputs(), monkeypatch, quantities="all", max_memory="50kB")
    assert_same(taken, alone)


def test_batched_backward_passes_are_not_trusted(monkeypatch):
    """PReLU's batched derivatives are wrong where there are as many inputs as directions."""
    model = nn.Sequential(nn.Linear(4, 5), nn.PReLU(5), nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 3))
    for count in (1, 3, 5):
        with monkeypatch.context() as patch:
            assert_same(*both(model.double(), inputs(count), patch, quantities="all"))


class Mixing(torch.autograd.Function):
    """The identity, whose backward pass mixes the inputs of a batch."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, *gradients):
        return gradients[0] / gradients[0].norm()


class Around(nn.Module):
    """Two layers and a way to run them that some input or row makes a trap."""

    def __init__(self, run):
        super().__init__()
        self.a, self.b, self.run = nn.Linear(4, 5), nn.Linear(5, 3), run

    def forward(self, x):
        return self.run(self.a, self.b, x)


def by_order(a, b, x):
    order = x[:, 0].argsort()
    return b(a(x[order]).tanh())[order.argsort()]


def gated(a, b, x):
    z = a(x).tanh()
    return b(z + x[:, :1].relu() * nn.functional.linear(x, a.weight))


def experts(a, b, x):
    picked = x[:, 0] > 0
    z = x.new_zeros(len(x), 5)
    return b(z.index_put((picked.nonzero().flatten(),), a(x[picked])).tanh())


TRAPS = {
    "reversed": lambda a, b, x: b(a(x.flip(0)).tanh()).flip(0),
    "reversed within": lambda a, b, x: b(a(x.flip(0)).tanh().flip(0)),
    "sorted": by_order,
    "gated": gated,
    "experts": experts,
    "one by one": lambda a, b, x: torch.cat([b(a(row).tanh()) for row in x.split(1)]),
    "curved elsewhere": lambda a, b, x: (
        b(a(x).tanh()) + (a.weight - a.weight.detach()).square()[1, :3] * x[:, :3]
    ),
}


@pytest.mark.parametrize("family", ["categorical", "gaussian", "poisson"])
def test_a_chain_takes_its_second_derivatives_by_itself(family, monkeypatch):
    model, data = build(deep).double(), inputs()
    given = {"family": family, "quantities": "all", "progress": False}
    monkeypatch.setattr(chain, "_ENTRIES", 20)
    taken = fimsym.analyze(model, data, **given)
    with monkeypatch.context() as forced:
        forced.setattr(chain.Chain, "_bent", lambda self, terms, rows: terms[-1] * (1 + 1e-6))
        by_series = fimsym.analyze(model, data, **given)
    assert_same(taken, by_series)
    monkeypatch.delattr(curvatures.Curvatures, "of_neurons")
    assert_same(fimsym.analyze(model, data, **given), taken)


class Untransposed(nn.Module):
    """Parameters that are multiplied from the right, [in, out]."""

    def __init__(self, *sizes):
        super().__init__()
        pairs = itertools.pairwise(sizes)
        self.weights = nn.ParameterList(torch.randn(pair) for pair in pairs)

    def forward(self, x):
        first, *others = self.weights
        x = x @ first
        for weight in others:
            x = torch.tanh(x) @ weight
        return x


@pytest.mark.parametrize("sizes", [(6, 3, 4, 3), (2, 5, 3), (5, 1, 3)])
def test_products_from_the_right_take_second_derivatives_down_the_chain(sizes, monkeypatch):
    model, data = build(lambda: Untransposed(*sizes)), networks.inputs(5, sizes[0])
    monkeypatch.delattr(curvatures.Curvatures, "of_neurons")
    found = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    truth = enumeration.moments("categorical", model, data)
    assert set(found.roads.values()) == {"structured"}
    for quantity, values in found.values.items():
        torch.testing.assert_close(flat(values), truth[quantity], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", TRAPS)
def test_traps_equal_the_functional_road(name, monkeypatch):
    data = inputs(7)
    data[0, 0] = -1.0  # no gate is open, no expert is picked for the first input
    model = build(lambda: Around(TRAPS[name]))
    assert_same(*both(model, data, monkeypatch, quantities="all"))


@pytest.mark.parametrize("how", ["hook", "forward"])
def test_outputs_changed_behind_the_layer(how, monkeypatch):
    model = build(lambda: Around(lambda a, b, x: b(a(x).tanh())))
    plain = model.a.forward
    if how == "hook":
        model.a.register_forward_hook(lambda module, given, output: output.clamp(-0.5, 0.5))
    else:
        model.a.forward = lambda x: plain(x).clamp(-0.5, 0.5)
    data = inputs(7)
    data[0] *= 1e-3
    taken, alone = both(model, data, monkeypatch, quantities="all")
    assert_same(taken, alone)


def test_backward_passes_that_mix_inputs_are_not_taken():
    model = build(lambda: Around(lambda a, b, x: b(Mixing.apply(a(x).tanh()))))
    with pytest.raises(fimsym.UnsupportedError):
        fimsym.analyze(model, inputs(7), "categorical", progress=False)


def test_input_variance_does_not_cancel(monkeypatch):
    data = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    data[:, 0] = 1e6
    model = build(lambda: nn.Linear(4, 2))
    taken, alone = both(model, data, monkeypatch, family="gaussian", sigma=0.7)
    for name, value in alone.input_variance.items():
        size = alone.fisher[name].square()
        assert bool(((taken.input_variance[name] - value).abs() <= 1e-14 * size + 1e-12).all())


def test_input_variance_of_nearly_equal_inputs():
    noise = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    model = build(lambda: Around(lambda a, b, x: b(a(x).tanh())))
    taken = fimsym.analyze(model, 1 + 1e-9 * noise, "categorical", progress=False)
    assert set(taken.roads.values()) == {"structured"}
    assert float(taken.input_variance["b.bias"].min()) > 0
    assert float(taken.input_variance["b.bias"].max()) < 1e-17


def _pieces():
    return nn.Sequential(
        nn.Unflatten(1, (1, 4)), nn.Conv1d(1, 3, 2, padding=1), nn.ReLU(), nn.MaxPool1d(2),
        nn.Conv1d(3, 2, 2, bias=False), nn.LeakyReLU(), nn.Flatten(), nn.Linear(2, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "link"), [("categorical", None), ("exponential", "log_rate"), ("gaussian", None)]
)
def test_piecewise_linear_networks_take_no_second_derivative(monkeypatch, family, link):
    model, data = build(_pieces), inputs()
    given = {"family": family, "link": link, "quantities": "all", "progress": False}
    with monkeypatch.context() as forced:
        forced.setattr(alignment, "agreeing", lambda graph, leaves: Known({}))
        forced.setattr(curvatures, "examine", lambda network, inputs: Examined())
        truth = fimsym.analyze(model, data, **given)
    monkeypatch.delattr(curvatures.Curvatures, "of_neurons")
    monkeypatch.setattr(bent, "Bent", None)
    monkeypatch.setattr(functional, "Differentiator", None)
    found = fimsym.analyze(model, data, **given)
    assert set(found.roads.values()) == {STRUCTURED, SHARED}
    for quantity, values in truth.values.items():
        for name, value in values.items():
            torch.testing.assert_close(
                found.values[quantity][name], value, rtol=1e-10, atol=1e-15, msg=(quantity, name)
            )
    if link is None:
        assert not any(value.any() for value in found.variance_negative_hessian.values())


def test_a_bent_parameter_is_not_taken_for_affine():
    model, data = (
        build(lambda: nn.Sequential(nn.Linear(4, 4), nn.Softplus(), nn.Linear(4, 3))),
        inputs(),
    )
    found = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    assert found.variance_negative_hessian["0.weight"].all()
    assert not found.variance_negative_hessian["2.weight"].any()


class Slices(nn.Module):
    """Two layers whose inputs start at the same place in memory."""

    def __init__(self, one, other):
        super().__init__()
        self.one, self.other = one, other
        wide = torch.empty(1, 4)
        self.a, self.b = (nn.Linear(wide[:, part].shape[1], 4) for part in (one, other))
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(torch.tanh(self.a(x[:, self.one]) - self.b(x[:, self.other])))


@pytest.mark.parametrize(
    ("one", "other"),
    [(slice(0, 4, 2), slice(0, 2)), (slice(0, 3), slice(0, 4)), (slice(0, 1), slice(0, 4))],
    ids=str,
)
def test_inputs_that_start_at_the_same_place_are_told_apart(one, other):
    model, data = build(lambda: Slices(one, other)), inputs()
    found = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    assert set(found.roads.values()) == {STRUCTURED}
    truth = enumeration.moments("categorical", model, data)
    for quantity, named in found.values.items():
        torch.testing.assert_close(flat(named), truth[quantity], rtol=1e-9, atol=1e-14)
    torch.testing.assert_close(
        flat(found.input_variance), truth["input_variance"], rtol=1e-9, atol=1e-14
    )


def test_a_layer_computed_in_every_forward_pass_is_not_kept():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.base = nn.Linear(4, 5), nn.Parameter(torch.randn(40, 5))
            self.base.requires_grad_(False)

        def forward(self, x):
            return nn.functional.linear(self.first(x).tanh(), 2 * self.base)

    made = []

    class Counted(columns.Columns):
        def __init__(self, matrix):
            super().__init__(matrix)
            made.append(weakref.ref(self))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(columns, "Columns", Counted)
        fimsym.analyze(build(Scaled), inputs(12).split(3), "categorical", progress=False)
        gc.collect()
        assert made
        assert not [one for one in made if one() is not None]
        head = Head("categorical", None, {})
        for _ in range(3):
            head.columns(torch.randn(40, 5))
        gc.collect()
        assert sum(one() is not None for one in made) == 1
    w = torch.randn(6, 6)
    one, other = head.columns(w[:, ::2]), head.columns(w[:, :3])
    assert torch.equal(one.powers, columns.Columns(w[:, ::2]).powers)
    assert torch.equal(other.powers, columns.Columns(w[:, :3]).powers)


@pytest.mark.parametrize("size", [1e-12, 1e12, 1e-16])
def test_tiny_and_huge_inputs_neither_vanish_nor_overflow(size):
    """In float32 1e-12 and 1e12 have no fourth power; what a weight's entry is, has."""
    model = build(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)))
    data = inputs(20)
    data[:, 1:3] *= size
    data[0, 3] = 0.0
    with torch.no_grad():
        model[0].weight[:, 1:3] /= size
    model, data = model.float(), data.float()
    found = fimsym.analyze(model, data, "categorical", quantities="all", progress=False)
    truth = fimsym.analyze(
        model.double(), data.double(), "categorical", quantities="all", progress=False
    )
    given = zip(
        (*found.values.values(), found.input_variance),
        (*truth.values.values(), truth.input_variance),
        strict=True,
    )
    for one, other in given:
        value, exact = one["0.weight"], other["0.weight"]
        assert exact.all()
        assert bool(((value - exact).abs() <= 1e-3 * exact.abs().amax(0)).all())


def _convolutions():
    layers = [nn.Unflatten(1, (1, 4))]
    for n in range(6):
        layers += [nn.Conv1d(1 if n == 0 else 3, 3, 3, padding=1), nn.Tanh()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 3))


@pytest.mark.parametrize("quantities", ["fisher", "all"])
def test_patches_of_one_convolution_at_a_time_are_held(quantities, monkeypatch):
    held, most = [], 0
    unfolded = uses.Convolution._unfolded

    def noted(use, *given):
        nonlocal most
        found = unfolded(use, *given)
        if given[0] > 1:  # the probe takes a batch for one example
            held[:] = [one for one in held if one() is not None] + [weakref.ref(found)]
            most = max(most, len(held))
        return found

    def by_rows(bent, name, rows, columns, unit=1):
        return [(slice(row, row + 1), slice(0, columns)) for row in range(rows)]

    monkeypatch.setattr(uses.Convolution, "_unfolded", noted)
    monkeypatch.setattr(bent.Bent, "_tiles", by_rows)
    given = {"quantities": quantities, "progress": False}
    found = fimsym.analyze(build(_convolutions), inputs(5), "categorical", **given)
    assert found.roads["1.weight"] == SHARED
    assert most == 1


def test_a_tape_that_breaks_off_is_not_named(monkeypatch):
    layers = nn.ConvTranspose1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(10, 3)
    model, data, left = (
        build(lambda: nn.Sequential(nn.Unflatten(1, (1, 4)), *layers)),
        inputs(),
        [1],
    )
    block = Expansion.block

    def breaking(*given):
        if not left:
            raise NoTape("an operation mixes examples")
        left.pop()
        return block(*given)

    given = {"quantities": "all", "progress": False, "max_memory": "1kB"}
    whole = fimsym.analyze(model, data, "categorical", **given)
    assert whole.ways["second"] == "tangents"
    monkeypatch.setattr(Expansion, "block", breaking)
    found = fimsym.analyze(model, data, "categorical", **given)
    assert not left
    assert found.ways["second"] == "forward over reverse"
    assert_same(found, whole)


def test_what_ran_out_of_memory_is_tried_again(monkeypatch):
    network, data = Network(build(Twice).double()), inputs()
    known, graph = curvatures.Curvatures(network), read(*network.traced(data))
    with monkeypatch.context() as patch:

        def refuse(*_):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 3 bytes")

        patch.setattr(examined, "Expansion", refuse)
        assert known.of(graph, data).expansion is None
    second = known.of(graph, data)
    assert "twice.weight" in second.right
    with monkeypatch.context() as patch:
        patch.setattr(examined, "Expansion", refuse)
        assert known.of(graph, data).expansion is None
    assert known.of(graph, data).expansion is not None


def test_records_of_many_lengths_hold_no_tape_and_know_each_cost():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.each = nn.RNN(2, 3, batch_first=True), nn.Linear(3, 3)

        def forward(self, x):
            return self.each(self.cell(x)[0]).tanh().mean(1)

    network = Network(build(Mean))
    known = curvatures.Curvatures(network)
    for length in (3, 4, 5):
        data = torch.randn(2, length, 2).double()
        second = known.of(read(*network.traced(data)), data)
        assert "each.weight" in second.right
    del second
    gc.collect()
    assert len(known._records) == 3
    assert not [one for one in gc.get_objects() if type(one) in (Expansion, Tape)]
    same = Network(build(lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), Averaged())))
    known, costs = curvatures.Curvatures(same), []
    for length in (2, 400):
        data = torch.randn(2, length, 2).double()
        second = known.of(read(*same.traced(data)), data)
        costs.append(second.cost("0.weight").of(1, 1))
    assert len(known._records) == 1
    assert costs[1] > 5 * costs[0]


class Averaged(nn.Module):
    def forward(self, z):
        return z.mean(1)


@pytest.mark.parametrize("bias", [False, True])
def test_what_convolutions_see_counts_for_the_memory_of_an_input(bias):
    model = build(lambda: nn.Sequential(
        nn.Conv2d(2, 3, 3, padding=1, bias=bias), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3),
    ))  # fmt: skip
    data, network = networks.inputs(5, 2, 4, 4), Network(model)
    sizes = alignment.Alignment(network).known(read(*network.traced(data)), data).sizes
    assert sizes == probe.Sizes(activations=3 * 16 + 3, swept=3 * 16, patches=16 * 2 * 9)


@pytest.mark.parametrize("entries", [1, 40, 200])
def test_derivatives_are_built_of_some_rows_and_some_examples(monkeypatch, entries):
    """Cut either way or both, the sums and the variance over inputs are those of one piece."""
    cases = [
        (build(convolution), networks.inputs(7, 2, 6, 6)),
        (build(networks.pooled), networks.inputs(7, 1, 6, 6)),
        (build(networks.Heads), networks.inputs(7, 5, 4)),
        (build(networks.Language), torch.arange(21).reshape(7, 3) % 5),
    ]
    asked, seen = ("fisher", "variance_score_squared"), []
    for model, data in cases:
        given = {"family": "categorical", "quantities": asked, "input_variance": True}
        whole = fimsym.analyze(model, data, **given, progress=False)
        with monkeypatch.context() as patch:
            patch.setattr(parts, "_BLOCK", entries)
            for kind in (uses.Product, uses.Convolution, uses.Affine, uses.Lookup):
                patch.setattr(kind, "jacobian", _watched(kind.jacobian, seen))
            cut = fimsym.analyze(model, data, **given, progress=False)
        assert "shared" in cut.roads.values()
        for one, other in (
            (whole.fisher, cut.fisher),
            (whole.variance_score_squared, cut.variance_score_squared),
            (whole.input_variance, cut.input_variance),
        ):
            near = 1e-13 * float(flat(one).abs().max())
            torch.testing.assert_close(flat(other), flat(one), rtol=1e-11, atol=near)
    assert {examples.start for examples, _ in seen} > {0}
    assert {part.start for _, part in seen} > {0}


class Branches(nn.Module):
    """Inputs take one layer or the other, by their sign."""

    def __init__(self):
        super().__init__()
        self.plus, self.minus, self.last = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 3)

    def forward(self, x):
        z = x.new_zeros(*x.shape[:-1], 5)
        for layer, taken in ((self.plus, x.sum((1, 2)) > 0), (self.minus, x.sum((1, 2)) <= 0)):
            rows = taken.nonzero().squeeze(1)
            if len(rows):
                z = z.index_put((rows,), torch.tanh(layer(x[rows])))
        return self.last(z.mean(1))


@pytest.mark.parametrize("quantities", [("fisher",), "all"])
@pytest.mark.parametrize("positions", [1, 3])
def test_inputs_that_do_not_reach_a_parameter_count_for_its_variance(positions, quantities):
    model, x = build(Branches), networks.inputs(40, positions, 4)
    x = x[x.sum((1, 2)).argsort(descending=True)]
    alone = [enumeration.moments("categorical", model, one[None])["fisher"] for one in x]
    given = {"quantities": quantities, "max_memory": "6kB", "progress": False}
    found = fimsym.analyze(model, x, "categorical", **given)
    assert {"structured"} < set(found.roads.values()) or positions == 1
    truth = torch.stack(alone)
    torch.testing.assert_close(flat(found.fisher), truth.mean(0), rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(flat(found.spread), truth.var(0), rtol=1e-9, atol=1e-17)


@pytest.mark.parametrize("budget", [5 * 10**5, 10**5])
def test_derivatives_that_are_built_take_a_small_part_of_the_budget(monkeypatch, budget):
    model, data = build(convolution), networks.inputs(40, 2, 6, 6)
    built, taken, jacobian = [], [], uses.Convolution.jacobian

    def noted(use, g, part, examples=uses.ALL):
        u = jacobian(use, g, part, examples)
        built.append(u.nbytes)
        return u

    monkeypatch.setattr(uses.Convolution, "jacobian", noted)
    for max_memory in (None, budget):
        given = {"quantities": ("fisher", "variance_score_squared"), "max_memory": max_memory}
        taken.append(fimsym.analyze(model, data, "categorical", progress=False, **given))
        if max_memory is None:
            assert max(built) > budget / 24
            built.clear()
    assert max(built) <= budget / 24
    for one, other in zip(*(found.values.values() for found in taken), strict=True):
        torch.testing.assert_close(flat(other), flat(one), rtol=1e-11, atol=1e-16)


class Grouped(nn.Module):
    """One weight in two convolutions, of two and of three groups."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 2, 1))
        self.last = nn.Linear(6, 3)

    def forward(self, x):
        two = nn.functional.conv1d(x[:, :4], self.weight, groups=2)
        return self.last(torch.tanh(two + nn.functional.conv1d(x, self.weight, groups=3)).mean(2))


def test_a_weight_in_convolutions_of_several_group_counts(monkeypatch):
    model, data = build(Grouped), networks.inputs(5, 6, 4)
    for module in (parts, probe, seeded):
        for name in ("_BLOCK", "_ENTRIES"):
            monkeypatch.setattr(module, name, 1, raising=False)
    truth = enumeration.moments("categorical", model, data)
    for asked in (("fisher", "variance_score_squared"), "all"):
        found = fimsym.analyze(model, data, "categorical", quantities=asked, progress=False)
        assert found.roads["weight"] == "shared"
        for quantity, values in found.values.items():
            torch.testing.assert_close(flat(values), truth[quantity], rtol=1e-9, atol=1e-12)


def _watched(jacobian, seen):
    def watched(use, g, part, examples=uses.ALL):
        if examples != uses.ALL:
            seen.append((examples, part))
        return jacobian(use, g, part, examples)

    return watched


def test_a_gradient_is_compared_in_all_of_its_rows(monkeypatch):
    """Some rows at a time: grouped channels stay together, and a mistake in late rows is seen."""
    model, data = build(convolution), networks.inputs(7, 2, 6, 6)
    whole = fimsym.analyze(model, data, "categorical", progress=False)
    monkeypatch.setattr(probe, "_BLOCK", 1)
    found = fimsym.analyze(copy.deepcopy(model), data, "categorical", progress=False)
    assert found.roads == whole.roads
    assert "functional" not in found.roads.values()
    true = uses.Convolution.jacobian

    def wrong(use, g, part):
        return true(use, g, part) * (1 if part.start == 0 else 1.001)

    monkeypatch.setattr(uses.Convolution, "jacobian", wrong)
    planted = fimsym.analyze(copy.deepcopy(model), data, "categorical", progress=False)
    assert planted.roads["0.weight"] == "functional"
    torch.testing.assert_close(planted.fisher["0.weight"], whole.fisher["0.weight"])
