"""Shortcuts for classes: the same numbers as the generated evaluator, from fewer passes."""

import pytest
import torch

import fimsym
from fimsym.engine import classes
from fimsym.engine.classes import Classes, log_sum_of_others
from fimsym.engine.columns import Columns
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


def _law(h, fewer=False):
    return Head("categorical", None, {}).classes(h, fewer)


def _centred(h, w, fewer=False):
    law = _law(h, fewer)
    return law.centred(w, law.lag(w))


FEWER = pytest.mark.parametrize("fewer", [False, True])


@FEWER
@pytest.mark.parametrize("outputs", [2, 3, 10, 700])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_centred_gradients_give_the_same_moments(outputs, dtype, rounding, fewer):
    h = _logits(outputs).to(dtype)
    w = 3 + torch.randn(outputs, 7, dtype=torch.float64).to(dtype)
    expected = CATEGORICAL.moments(h.double(), w.double().expand(5, outputs, 7))
    law, u = _law(h, fewer), _centred(h, w, fewer)
    found = law.moments(u, None, True)
    _near(found, expected, rounding)
    alone = law.moments(u, None, False)
    assert set(alone) == {"fisher"}
    assert torch.equal(alone["fisher"], found["fisher"])
    rows = torch.tensor([3, 1])
    some = law[rows].moments(u[rows], None, True)
    assert torch.equal(some[BOTH[1]], found[BOTH[1]][rows])


@FEWER
@pytest.mark.parametrize("outputs", [2, 3, 6])
def test_second_derivatives_join_in(outputs, fewer):
    h = _logits(outputs)
    given = [torch.randn(outputs, 4, dtype=torch.float64) for _ in "uv"]
    u, v = (_centred(h, w, fewer) for w in given)
    expected = CATEGORICAL.moments(h, *(w.expand(5, outputs, 4) for w in given))
    for quantity, value in _law(h, fewer).moments(u, v, True).items():
        torch.testing.assert_close(value, getattr(expected, quantity), rtol=1e-9, atol=1e-15)


@FEWER
@pytest.mark.parametrize("outputs", [2, 3, 10, 700])
def test_directions_stand_for_all_classes(outputs, fewer):
    h, w = _logits(outputs), torch.randn(outputs, 4, dtype=torch.float64)
    law, found = _law(h, fewer), _centred(h, w, fewer)
    saved = outputs == 2 or (fewer and outputs <= 32)
    assert law.directions == found.shape[1] == outputs - saved
    every = w - (h.softmax(1) @ w).unsqueeze(1)
    torch.testing.assert_close(law.completed(found.permute(2, 0, 1)), every.permute(2, 0, 1))
    weights = torch.linspace(-1, 2, law.directions, dtype=torch.float64)
    mixed = torch.einsum("bo,of->bf", law.seeds(weights), w)
    torch.testing.assert_close(mixed, torch.einsum("d,bdf->bf", weights, found))


def test_two_classes_next_to_one_half():
    """V₁ is 10⁻¹² I² there: the difference of two squares would have lost it."""
    h = torch.tensor([[0.3, 0.3 + 1e-6], [0.3, 0.3]], dtype=torch.float64)
    w = torch.randn(2, 4, dtype=torch.float64)
    expected = CATEGORICAL.moments(h, w.expand(2, 2, 4))
    found = _law(h).moments(_centred(h, w), None, True)
    for quantity in BOTH:
        torch.testing.assert_close(found[quantity], getattr(expected, quantity), rtol=1e-9, atol=0)


def test_long_batches_are_cut(monkeypatch):
    h, u = torch.randn(9, 4), torch.randn(9, 4, 6)
    whole = Classes(h).moments(u, u, True)
    monkeypatch.setattr(classes, "_ENTRIES", 50)
    for name, value in Classes(h).moments(u, u, True).items():
        torch.testing.assert_close(value, whole[name])


@pytest.mark.parametrize("batch", [0, 1, 5, 200])
@pytest.mark.parametrize("outputs", [3, 10, 700])
@pytest.mark.parametrize("with_variance", [True, False])
@FEWER
def test_derivatives_used_up_give_the_same_sums(batch, outputs, with_variance, fewer):
    h = torch.randn(batch + 2, outputs, dtype=torch.float64)
    rows = slice(1, batch + 1)
    law = _law(h, fewer)
    w = torch.randn(outputs, 3, dtype=torch.float64)
    u = law[rows].centred(w, law[rows].lag(w))
    plain = law[rows].moments(u, None, with_variance)
    strided = law[rows].centred(w, law[rows].lag(w), together=False)
    assert torch.equal(u, strided)
    assert u.is_contiguous()
    assert strided.transpose(0, 1).is_contiguous()
    for own, summed in ((u.clone(), True), (u.clone(), False), (strided, True)):
        found = law.used_up(own, rows, with_variance, summed)
        added = summed and with_variance and batch * law.directions <= 512
        assert all(len(v) == (1 if added and q != "fisher" else batch) for q, v in found.items())
        assert found.keys() == plain.keys()
        torch.testing.assert_close(found["fisher"], plain["fisher"], rtol=1e-14, atol=0)
        for name, value in found.items():
            torch.testing.assert_close(value.sum(0), plain[name].sum(0), rtol=1e-12, atol=0)


@FEWER
def test_the_likeliest_class_keeps_its_small_deviation(fewer):
    h = torch.tensor([[40.0, 0.0, 0.0]], dtype=torch.float64)
    w = torch.tensor([[1e3], [1e3 + 1], [1e3 - 2]], dtype=torch.float64)
    rest = torch.exp(torch.tensor(-40.0, dtype=torch.float64))
    law = _law(h, fewer)
    found = law.completed(_centred(h, w, fewer)[..., 0])[0]
    torch.testing.assert_close(found, torch.stack([rest, 1 + rest, rest - 2]), atol=0, rtol=1e-12)


@pytest.mark.parametrize("outputs", [3, 10, 700])
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_moments_of_columns_equal_the_evaluator(outputs, dtype, rounding):
    h = _logits(outputs).to(dtype)
    matrix = (1 + torch.randn(outputs, 6, dtype=torch.float64)).to(dtype)
    expected = CATEGORICAL.moments(h.double(), matrix.double().expand(5, outputs, 6))
    found = Classes(h).moments_of_columns(Columns(matrix))
    _near(found, expected, rounding)


def test_columns_are_taken_in_double_where_float_is_too_short():
    """Two likely classes that a column tells apart by little: V₁ is 10⁻⁷ of other terms."""
    h = torch.tensor([[2.0, 2.5, -6.0, -6.0]])
    matrix = torch.tensor([[0.5], [0.501], [-3.0], [2.0]])
    matrix[2:] *= 1e-3
    expected = CATEGORICAL.moments(h.double(), matrix.double().unsqueeze(0))
    found = Classes(h).moments_of_columns(Columns(matrix))
    for quantity in BOTH:
        value = getattr(expected, quantity)
        torch.testing.assert_close(found[quantity].double(), value, rtol=1e-5, atol=0)


@pytest.mark.parametrize("outputs", [2, 3, 6, 700])
def test_moments_of_outputs_equal_the_evaluator(outputs):
    h = _logits(outputs)
    expected = Head("bernoulli", None, {}).of_outputs(BOTH, h - log_sum_of_others(h))
    for quantity, value in Classes(h).moments_of_outputs().items():
        torch.testing.assert_close(value, expected[quantity], rtol=1e-11, atol=0)


@pytest.mark.parametrize(("family", "constants"), [("categorical", {}), ("multinomial", {"n": 4})])
def test_one_class_against_the_others_equals_the_evaluator(family, constants):
    h = _logits(6)
    eye = torch.eye(6, dtype=torch.float64).expand(5, 6, 6)
    expected = fimsym.evaluator(family).moments(h, eye, **constants)
    found = Head(family, None, constants).of_outputs(BOTH, h)
    for quantity in BOTH:
        torch.testing.assert_close(found[quantity], getattr(expected, quantity), rtol=1e-11, atol=0)


def _steep(size, dtype):
    """A network whose last weights are large, and its inputs."""
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))
    model = model.to(dtype)
    with torch.no_grad():
        model[2].weight.mul_(size)
        model[2].bias.fill_(0.0)
        model[0].weight.mul_(1e-5 / size)
        model[0].bias.mul_(1e-5 / size)
    return model, torch.ones(2, 2, dtype=dtype)


def test_what_overflows_is_refused():
    model, data = _steep(1e100, torch.float64)
    with pytest.raises(fimsym.DomainError, match="variance_score_squared overflows"):
        fimsym.analyze(model, data, "categorical", progress=False)


def test_what_overflows_in_float32_alone_is_taken_in_float64():
    model, data = _steep(1e15, torch.float32)
    found = fimsym.analyze(model, data, "categorical", progress=False)
    truth = fimsym.analyze(model.double(), data.double(), "categorical", progress=False)
    for quantity in BOTH:
        for name, value in truth.values[quantity].items():
            gap = (found.values[quantity][name] - value).abs().max()
            assert gap <= 1e-4 * value.abs().max()
    assert found.variance_score_squared["0.weight"].max() > 1e38
