"""Second-order jets against double backward, rule by rule and through whole networks."""

import pytest
import torch
from torch import nn

from fimsym.engine.jet_table import operations
from fimsym.engine.jet_tensor import parts, replaced
from fimsym.engine.jets import RULES, Jet, NoJetRule, Shifted, is_affine_along, second_order
from fimsym.engine.network import differentiable_kernels
from tests.double_backward import agree
from tests.jet_cases import CASES, UNTESTED, WRITTEN_OUT, Moving

FORMS = [
    pytest.param(function, one, id=f"{name}-{getattr(function, '__qualname__', '')}-{n}")
    for name in sorted(CASES)
    for function, _ in operations(name)
    for n, one in enumerate(CASES[name])
]
DIRECTIONS = 2


@pytest.fixture(autouse=True)
def _kernels():
    with differentiable_kernels():
        yield


def flat(result):
    """Return the floating-point parts of a result as one vector; anything else as it is."""
    if isinstance(result, torch.Tensor):
        return result
    if not isinstance(result, tuple | list):
        result = list(result) if hasattr(result, "__next__") else [result]
    found = [x for x in result if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return torch.cat([x.reshape(-1) for x in found]) if found else result[0]


def test_every_rule_has_a_case():
    assert not UNTESTED
    assert all(operations(name) for name in RULES)


@pytest.mark.parametrize(("function", "one"), FORMS)
def test_rule(function, one):
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    places: list[Moving] = []
    replaced((one.args, one.kwargs), lambda x: isinstance(x, Moving) and places.append(x))
    drawn = {}
    for place in places:
        unit = torch.rand(place.shape, generator=generator, dtype=torch.float64)
        value = place.low + (place.high - place.low) * unit
        drawn[id(place)] = value, draw(DIRECTIONS, *place.shape), draw(DIRECTIONS, *place.shape)
    everything = set(drawn)
    for movers in (everything, *({one_only} for one_only in everything if len(everything) > 1)):
        for curved in (False, True):
            _check(function, one, drawn, movers, curved)


def _check(function, one, drawn, movers, curved):
    def at(make, function=function):
        def change(x):
            if not isinstance(x, Moving):
                return x
            value, first, second = drawn[id(x)]
            return make(value, first, second) if id(x) in movers else value

        args, kwargs = replaced((one.args, one.kwargs), change)
        return flat(function(*args, **kwargs))

    # One object per argument, so that f(x, x) sees the same jet twice.
    def run(directions):
        made = {}

        def jet(value, first, second):
            key = id(value)
            k = directions[key]
            return made.setdefault(key, Jet(value, k[0], k[1] if curved else None))

        values.append(result := at(jet))
        return result if isinstance(result, torch.Tensor) else torch.zeros(0)

    values = []
    stacked = {id(v): (f, s) for key, (v, f, s) in drawn.items() if key in movers}
    found = second_order(run, stacked)
    for k in range(DIRECTIONS):
        t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        truth = at(
            lambda v, f, s, k=k, t=t: v + t * f[k] + (t * t / 2 * s[k] if curved else 0),
            WRITTEN_OUT.get(function, function),
        )
        value = parts(values[0])[0]
        assert type(value) is type(truth)
        if isinstance(truth, torch.Tensor):
            assert value.shape == truth.shape
            assert value.dtype == truth.dtype
            if "empty" not in function.__name__:
                error = torch.finfo(truth.dtype).eps ** 0.75 if truth.is_floating_point() else 0
                assert torch.allclose(value, truth, rtol=error, atol=error)
        if isinstance(truth, torch.Tensor) and truth.is_floating_point():
            agree([c if c is None else c[k] for c in found], truth, t)
        else:
            assert found == (None, None)


def test_a_shifted_weight_is_taken_by_one_linear_layer_alone():
    weight, e = torch.randn(4, 4), torch.ones(4)
    x = torch.randn(2, 4)
    for misuse in (
        lambda w: x @ w,
        lambda w: nn.functional.embedding(torch.tensor([0]), w),
        lambda w: nn.functional.linear(x, w) + nn.functional.linear(x, w),
        lambda w: nn.functional.linear(nn.functional.linear(x, w), Shifted(weight, e)),
        lambda w: nn.functional.linear(w, weight),
        lambda w: w + 1,
    ):
        with pytest.raises(NoJetRule, match="shifted"):
            second_order(lambda e, misuse=misuse: misuse(Shifted(weight, e)), e[None])


class Straight(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.round()

    @staticmethod
    def setup_context(context, inputs, output):
        pass

    @staticmethod
    def backward(context, gradient):
        return gradient


VALUE = torch.tensor([[0.3, -0.4], [1.0, 2.0]])


@pytest.mark.parametrize(
    "use",
    [
        Straight.apply,
        lambda x: torch.linalg.inv(x),
        lambda x: x.prod(),
        lambda x: torch.tensor(x.tolist()),
        lambda x: x * x.sum().item(),
        lambda x: torch.zeros(2, 2).add_(x),
        lambda x: torch.zeros(2, 2).copy_(x),
        lambda x: x.copy_(torch.zeros(2, 2)),
        lambda x: x.add_(1.0),
        lambda x: x.exp().reshape(4).mul_(2.0),
        lambda x: torch.exp(x, out=torch.zeros(2, 2)),
        lambda x: nn.functional.dropout(x, training=True),
        lambda x: nn.functional.batch_norm(x, None, None, training=True),
        lambda x: x.pow(x.exp()),
        lambda x: x.norm(1),
        lambda x: torch.linalg.norm(x, 2, dim=(0, 1)),
        lambda x: x.max(axis=0)[0],
        lambda x: x + torch.randn(2, 2),
        lambda x: nn.functional.softmax(x),
        lambda x: torch.ops.aten.tanh.default(x),
        lambda x: nn.functional.embedding(torch.tensor([0]), x, max_norm=1.0),
    ],
)
def test_what_is_not_in_the_table_is_refused(use):
    with pytest.raises(NoJetRule):
        second_order(lambda e: use(Jet(VALUE, e)), torch.ones(1, 2, 2))


def _assigned(x):
    y = x * 2
    y += x
    y *= 3
    y -= 1
    return y.tanh_() / 2


def _relu_of_sum(x):
    y = x * x
    z = y
    y += x
    nn.functional.relu(y, inplace=True)
    return z * x


@pytest.mark.parametrize("use", [_assigned, _relu_of_sum])
def test_writing_in_place_is_seen_by_every_name(use):
    before = VALUE.double().clone()
    value = before.clone()
    found = second_order(lambda e: use(Jet(value, e)), torch.ones(1, 2, 2).double())
    t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    agree([c[0] for c in found], use(before + t), t)
    assert torch.equal(value, before)


def test_what_a_value_decides_is_decided_by_the_value():
    run = lambda e: (lambda x: x.sin() if x.sum() > 0 else x)(Jet(VALUE, e))  # noqa: E731
    assert not is_affine_along(run, torch.ones(2, 2))
    assert second_order(lambda e: Jet(VALUE, e).detach(), torch.ones(1, 2, 2)) == (None, None)
    assert "Jet" in repr(Jet(VALUE))
