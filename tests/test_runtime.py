"""Mistakes in calls of evaluators: what was expected, what came, what to do."""

import math

import numpy as np
import pytest
import torch

import fimsym
from fimsym import runtime
from fimsym.errors import DomainError, FimsymError, ShapeError
from tests.cases import points


@pytest.fixture
def module(case):
    return fimsym.evaluator(case.family)


@pytest.fixture
def point(case):
    return points(case, case.outputs[-1], 1.0)


WRONG_SHAPES = {
    "u without batch": lambda h, u, v: (h, u[0], v),
    "u without param": lambda h, u, v: (h, u[..., 0], v),
    "u of another width": lambda h, u, v: (h, u[:, :-1], v),
    "v of other parameters": lambda h, u, v: (h, u, v[..., :-1]),
    "h of no axis": lambda h, u, v: (h.sum(), u, v),
    "h of no output": lambda h, u, v: (h[:, :0], u[:, :0], v[:, :0]),
}


@pytest.mark.parametrize("change", WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_wrong_shapes(module, point, change):
    with pytest.raises(ShapeError, match="must"):
        module.moments(*change(*point))
    with pytest.raises(ShapeError):
        module.covariance(*change(*point))


def test_single_class_is_too_few():
    with pytest.raises(ShapeError, match=r"at least 2.*\[5, 1\]"):
        fimsym.evaluator("categorical").fisher(torch.zeros(5, 1), torch.zeros(5, 1, 2))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_values_that_are_not_finite(module, point, which, value):
    point = [x.clone() for x in point]
    point[which][(3,) * 1 + (0,) * (point[which].ndim - 1)] = value
    name = "huv"[which]
    with pytest.raises(DomainError, match=rf"{name} must be finite; got .* at index \[3, 0"):
        module.moments(*point)
    with pytest.raises(DomainError, match=f"{name} must be finite"):
        module.covariance(*point)
    if which == 0:
        with pytest.raises(DomainError):
            module.bounds(point[0])


def test_integer_dtype_and_other_types(module, point):
    h, u, v = point
    with pytest.raises(DomainError, match=r"h must be a floating-point.*int64.*h\.double\(\)"):
        module.moments(h.long(), u, v)
    with pytest.raises(DomainError, match="u must be a floating-point"):
        module.moments(h, u.int(), v)
    with pytest.raises(DomainError, match="must be a torch tensor; got list"):
        module.fisher([[1.0]], u)
    with pytest.raises(DomainError, match="floating-point"):
        module.fisher(h, u.to(torch.complex128))


@pytest.mark.parametrize(
    "sigma", [0.0, -1.0, float("nan"), float("inf"), "1", None, True, torch.tensor(-2.0)]
)
def test_sigma_must_be_positive(sigma):
    module = fimsym.evaluator("gaussian")
    with pytest.raises(DomainError, match="sigma must be a positive finite number"):
        module.fisher(torch.zeros(1), torch.ones(1, 1), sigma=sigma)


def test_sigma_of_several_numbers():
    with pytest.raises(ShapeError, match="one number"):
        fimsym.evaluator("gaussian").mean(torch.zeros(2), sigma=torch.ones(2))


def test_every_error_is_a_fimsym_error():
    for name in ("ShapeError", "DomainError", "SpecError", "DerivationError", "UnsupportedError"):
        assert issubclass(getattr(fimsym, name), FimsymError)


def test_overflow_is_named():
    module, h, u = fimsym.evaluator("categorical"), torch.zeros(2), torch.tensor([[1e25], [0.0]])
    with pytest.raises(DomainError, match=r"overflows torch.float32: u reach 1e\+25"):
        module.moments(h, u)
    assert module.moments(h.double(), u).variance_score_squared.isfinite().all()
    with pytest.raises(DomainError, match="sigma must be"):
        fimsym.evaluator("gaussian").moments(h, u, sigma=1e200)


@pytest.mark.parametrize("sigma", [np.float32(2), np.int64(2), 2, torch.tensor(2.0)])
def test_numbers_of_any_type_are_constants(sigma):
    module, h, u = fimsym.evaluator("gaussian"), torch.zeros(1), torch.ones(1, 1)
    assert float(module.fisher(h, u, sigma=sigma)) == 4.0
    if not isinstance(sigma, torch.Tensor):
        assert fimsym.family("gaussian").bind({"sigma": sigma}) == {"sigma": 2.0}


def test_mixed_dtypes_are_promoted(module, point):
    h, u, v = point
    assert module.moments(h.float(), u, v.bfloat16()).fisher.dtype == torch.float64


def test_others_and_pairs_are_accurate():
    x = torch.tensor([1.0, 1e-20, 1e-30], dtype=torch.float64).unsqueeze(-1)
    expected = torch.tensor([1e-20 + 1e-30, 1.0, 1.0], dtype=torch.float64).unsqueeze(-1)
    torch.testing.assert_close(runtime.others(x), expected, rtol=1e-15, atol=0)
    expected = torch.tensor([[1e-20 + 1e-30]], dtype=torch.float64)
    torch.testing.assert_close(runtime.pairs(x), expected, rtol=1e-15, atol=0)


@pytest.mark.parametrize("outputs", range(1, 20))
def test_pairs_of_any_number(outputs):
    x = torch.rand(3, outputs, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = (x.sum(-2, True).square() - x.square().sum(-2, True)) / 2
    torch.testing.assert_close(runtime.pairs(x), found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_weights_count_where_they_underflow(dtype):
    h = torch.tensor([0.0, -1.0, -2.0, -100.0, -800.0], dtype=torch.float64).unsqueeze(-1)
    top, second = runtime.two_largest(h)
    log, others = h.log_softmax(-2), runtime.rest(torch.softmax(h, -2), top, second)
    weights = runtime.weights(log, others, 3, top, second, dtype)
    assert weights.near[0, :2].tolist() == [0.0, 0.0]
    for place, size in ((2, 1.0), (3, 1e30), (4, 1e300)):
        if size > torch.finfo(dtype).max:
            continue
        values = torch.zeros(5, 1, dtype=dtype)
        values[place] = size
        expected = 3 * (log[place] + math.log(size)).exp()
        found = runtime.weighted_sum(weights, values)[0].double()
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    assert runtime.weights(log[:3], others[:3], 3, top, second, dtype).tail is None


@pytest.mark.parametrize("outputs", [5, 512, 513, 5000])
def test_weighted_sums_of_many_outputs(outputs):
    generator = torch.Generator().manual_seed(0)
    weights = torch.rand(2, outputs, 1, generator=generator)
    values = torch.rand(2, outputs, 300, generator=generator)
    truth = (weights.double() * values.double()).sum(-2, keepdim=True)
    found = runtime.weighted_sum(weights, values)
    torch.testing.assert_close(found.double(), truth, rtol=1e-6, atol=0)
