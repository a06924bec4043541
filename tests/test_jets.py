"""Second-order jets against double backward, rule by rule and through whole networks."""

import pytest
import torch
from torch.autograd.functional import jacobian

from fimsym.engine.jet_table import operations
from fimsym.engine.jet_tensor import parts, replaced
from fimsym.engine.jets import RULES, Jet, second_order
from fimsym.engine.network import differentiable_kernels
from tests.jet_cases import CASES, UNTESTED, Moving

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


def double_backward(path):
    """Return the first and second derivative at 0 of a curve, by reverse over reverse."""
    zero = torch.zeros((), dtype=torch.float64)
    value = path(zero)
    if not isinstance(value, torch.Tensor) or not value.is_floating_point():
        return value, None, None
    first = lambda t: jacobian(path, t, create_graph=True)  # noqa: E731
    return value, first(zero), jacobian(first, zero)


def flat(result):
    """Return the floating-point parts of a result as one vector; anything else as it is."""
    if isinstance(result, torch.Tensor):
        return result
    if not isinstance(result, tuple | list):
        result = list(result) if hasattr(result, "__next__") else [result]
    found = [x for x in result if isinstance(x, torch.Tensor) and x.is_floating_point()]
    return torch.cat([x.reshape(-1) for x in found]) if found else result[0]


def close(found, expected):
    if found is None:
        return bool((expected.abs() < 1e-12).all())
    dtype_error = torch.finfo(found.dtype).eps ** 0.75
    return torch.allclose(found.double(), expected.double(), rtol=dtype_error, atol=dtype_error)


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
    def at(make):
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
        value, *expected = double_backward(
            lambda t, k=k: at(
                lambda v, f, s, k=k: v + t * f[k] + (t * t / 2 * s[k] if curved else 0)
            )
        )
        if expected[0] is None:
            assert found == (None, None)
            assert type(values[0]) is type(value)
            continue
        got = parts(values[0])[0]
        assert got.shape == value.shape
        assert got.dtype == value.dtype
        if function not in (torch.empty_like, torch.Tensor.new_empty):
            assert close(got, value)
            assert all(
                close(one if one is None else one[k], e)
                for one, e in zip(found, expected, strict=True)
            )
