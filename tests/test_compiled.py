"""Evaluators that torch's compiler has fused."""

import shutil

import pytest
import torch
from torch.autograd import forward_ad

import fimsym
from fimsym.runtime import blocks
from fimsym.runtime.compiled import OPTIONS
from tests.cases import CASES
from tests.test_evaluators import points

QUANTITIES = (
    "fisher",
    "variance_score_squared",
    "variance_negative_hessian",
    "covariance",
)


def close(got, expected):
    """Compare to a few roundings of the largest value."""
    error = (got - expected).abs().max() / expected.abs().max()
    assert error < 20 * torch.finfo(expected.dtype).eps


COMPILER = shutil.which("g++") or shutil.which("clang++")


def test_torch_knows_the_options():
    assert set(OPTIONS) <= set(torch._inductor.list_options())


def test_a_module_is_compiled_once_and_keeps_what_is_no_function():
    module = fimsym.evaluator("categorical", compiled=True)
    assert module is fimsym.evaluator("categorical", compiled=True)
    plain = fimsym.evaluator("categorical")
    assert module is not plain
    assert module.LAYOUT is plain.LAYOUT
    assert module.__doc__ == plain.__doc__
    assert module.fisher is not plain.fisher
    assert module.fisher.__doc__ == plain.fisher.__doc__
    linked = fimsym.evaluator("bernoulli", compiled=True)
    assert linked.LINKS["mean"] is linked.from_mean


def test_compiled_functions_refuse_shapes_that_do_not_fit():
    module = fimsym.evaluator("categorical", compiled=True)
    with pytest.raises(fimsym.ShapeError, match="u"):
        module.fisher(torch.ones(3), torch.ones(4, 2))


def test_what_follows_from_h_is_held_in_memory(case):
    h, u, v = points(case, case.outputs[-1], 1.0)
    graphs = []

    def backend(module, _):
        graphs.append(module.print_readable(print_output=False))
        return module

    torch.compile(fimsym.evaluator(case.family).moments, backend=backend, fullgraph=True)(h, u, v)
    assert graphs[0].count("torch.ops.fimsym.stored") == 1


def test_stored_columns_are_an_operation_as_torch_wants_them():
    columns = [torch.randn(3, 1), torch.arange(4)]
    torch.library.opcheck(blocks._store, (columns,))


def _along(x):
    return torch.linspace(-1.0, 1.0, len(x), dtype=x.dtype)


def _jvp(function, x):
    return torch.func.jvp(function, (x,), (_along(x),))[1]


def _dual(function, x):
    with forward_ad.dual_level():
        result = function(forward_ad.make_dual(x, _along(x)))
        return forward_ad.unpack_dual(result).tangent


def _backward(function, x):
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(function(leaf).sum(), leaf)[0]


AROUND = {
    "jvp": _jvp,
    "grad": lambda function, x: torch.func.grad(lambda x: function(x).sum())(x),
    "vmap": lambda function, x: torch.vmap(function)(torch.stack([x, 2 * x])),
    "dual": _dual,
    "backward": _backward,
}
WITHIN = ("jvp", "grad", "vmap")


@pytest.mark.parametrize("family", ["categorical", "bernoulli"])
@pytest.mark.parametrize(
    ("name", "within"), [*((name, False) for name in AROUND), *((name, True) for name in WITHIN)]
)
def test_transforms_of_compiled_evaluators(family, name, within):
    """Around what is compiled, and within it."""
    h, u, _ = points(CASES[family], CASES[family].outputs[-1], 1.0)
    h, u = h[0].clone(), u[0].clone()
    plain, transform = fimsym.evaluator(family).fisher, AROUND[name]
    expected = transform(lambda h: plain(h, u), h)
    assert expected.abs().max() > 0
    if within:
        found = torch.compile(lambda h: transform(lambda h: plain(h, u), h), backend="aot_eager")(h)
    else:
        compiled = torch.compile(plain, backend="aot_eager")
        found = transform(lambda h: compiled(h, u), h)
    close(found, expected)


if COMPILER:  # numbers without one: tests/test_evaluators.py

    @pytest.mark.parametrize("family", ["categorical", "bernoulli"])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_compiled_code_gives_the_same(family, dtype):
        case = CASES[family]
        h, u, v = (x.to(dtype) for x in points(case, case.outputs[-1], 1.0))
        plain, module = (fimsym.evaluator(family, compiled) for compiled in (False, True))
        for given in ((h, u), (h, u, v)):
            got, expected = module.moments(*given), plain.moments(*given)
            for name in QUANTITIES[: 2 * len(given) - 2]:
                close(getattr(got, name), getattr(expected, name))
        close(module.fisher(h, u), plain.fisher(h, u))

    def test_compiled_code_keeps_what_is_unlikely():
        """Probabilities below the smallest normal number of float32."""
        h = torch.tensor([0.0, -40.0, -90.0, -95.0])
        u = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1e8, 1.0], [0.0, 1e8]])
        plain, module = (fimsym.evaluator("categorical", compiled) for compiled in (False, True))
        got, expected = module.moments(h, u), plain.moments(h, u)
        assert (expected.fisher > 0).all()
        torch.testing.assert_close(got.fisher, expected.fisher, rtol=1e-5, atol=0.0)
        torch.testing.assert_close(
            got.variance_score_squared, expected.variance_score_squared, rtol=1e-5, atol=0.0
        )
