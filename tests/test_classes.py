"""Shortcuts for classes: the same numbers as the generated evaluator, from fewer passes."""

import pytest
import torch

import fimsym
from fimsym.engine.classes import central_moments, centred, moments_of_centred
from fimsym.engine.head import Head

CATEGORICAL = fimsym.evaluator("categorical")
BOTH = ("fisher", "variance_score_squared")


def _logits(outputs, dtype=torch.float64):
    """Rows from equal classes to one of probability 1 − 10⁻¹³."""
    torch.manual_seed(outputs)
    scale = torch.tensor([0.0, 0.1, 1.0, 5.0, 30.0], dtype=dtype)
    return scale[:, None] * torch.randn(5, outputs, dtype=dtype)


def _near(found, expected, rounding):
    """Compare V₁ relative to I², too: three and more classes have no better bound."""
    for quantity in BOTH:
        size = getattr(expected, quantity).abs() + expected.fisher**2
        size = size if quantity == BOTH[1] else expected.fisher
        error = (found[quantity].double() - getattr(expected, quantity)).abs()
        assert (error <= rounding * size).all(), (quantity, (error / size).max())


@pytest.mark.parametrize("outputs", [3, 10, 700])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_centred_gradients_give_the_same_moments(outputs, dtype, rounding):
    h = _logits(outputs)
    g = 3 + torch.randn(outputs, 5, 7, dtype=torch.float64)
    expected = CATEGORICAL.moments(h, g.transpose(0, 1))
    shifted = centred(h.to(dtype), g.to(dtype))
    found = moments_of_centred(h.to(dtype), shifted.transpose(0, 1), True)
    exact = CATEGORICAL.moments(h.to(dtype).double(), g.to(dtype).double().transpose(0, 1))
    _near(found, exact if dtype == torch.float32 else expected, rounding)
    alone = moments_of_centred(h.to(dtype), shifted.transpose(0, 1), False)
    assert torch.equal(alone["fisher"], found["fisher"])
    assert set(alone) == {"fisher"}


def test_the_likeliest_class_keeps_its_small_deviation():
    h = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    g = torch.tensor([1e3, 1e3 + 1, 1e3 - 2], dtype=torch.float64).reshape(3, 1, 1)
    rest = torch.exp(torch.tensor(-40.0, dtype=torch.float64))
    torch.testing.assert_close(centred(h, g)[:, 0, 0], torch.stack([rest, 1 + rest, rest - 2]))


@pytest.mark.parametrize("outputs", [3, 10, 700])
def test_moments_of_columns_equal_the_evaluator(outputs):
    h, columns = _logits(outputs), 1 + torch.randn(outputs, 6, dtype=torch.float64)
    expected = CATEGORICAL.moments(h, columns.expand(5, outputs, 6))
    second, fourth = central_moments(h, columns)
    _near(dict(zip(BOTH, (second, fourth - second**2), strict=True)), expected, 1e-9)


@pytest.mark.parametrize(("family", "constants"), [("categorical", {}), ("multinomial", {"n": 4})])
def test_one_class_against_the_others_equals_the_evaluator(family, constants):
    h = _logits(6)
    eye = torch.eye(6, dtype=torch.float64).expand(5, 6, 6)
    expected = fimsym.evaluator(family).moments(h, eye, **constants)
    found = Head(family, None, constants).of_outputs(BOTH, h)
    for quantity in BOTH:
        torch.testing.assert_close(found[quantity], getattr(expected, quantity), rtol=1e-11, atol=0)


def test_what_overflows_is_left_to_the_evaluator():
    h, u = torch.zeros(1, 3), torch.tensor([[[1e12], [-1e12], [0.0]]])
    with pytest.raises(fimsym.DomainError, match="overflows"):
        Head("categorical", None, {}).values_of_centred(BOTH, h, u)
