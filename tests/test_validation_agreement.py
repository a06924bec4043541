"""Which differences of a closed form and an estimate count, and which are rounding."""

import math

import numpy as np
import pytest

from fimsym.validation.agreement import compare
from fimsym.validation.estimates import CLOSED_FORM, ESTIMATES, Estimate
from fimsym.validation.tails import FAMILY_WISE_ERROR

SIZE = 200


def sides(relative_error, seed=0, **closed):
    """Return closed forms of many parameters, and estimates with errors of a relative size."""
    base = {"fisher": 1.0, "variance_score_squared": 2.0, "variance_negative_hessian": 1.0}
    closed = {
        name: np.full(SIZE, value) for name, value in {**base, "covariance": 0.1, **closed}.items()
    }
    rng = np.random.default_rng(seed)
    estimates = {}
    for name in ESTIMATES:
        truth = closed[CLOSED_FORM[name]]
        error = relative_error * np.abs(truth)
        mean = truth + error * rng.standard_normal(SIZE)
        estimates[name] = Estimate(mean, error**2, np.zeros(SIZE))
    return closed, estimates


def level(closed, estimates, quantity, **options):
    """Return the logarithm of the smallest level among a quantity's tests."""
    rows, _ = compare(closed, estimates, {"all": slice(0, SIZE)}, **options)
    (row,) = (row for row in rows if row.quantity == quantity)
    return float(row.levels.min()) + math.log(SIZE)


REJECTED = math.log(FAMILY_WISE_ERROR)


@pytest.mark.parametrize("relative", [1e-11, 3e-10, 0.9e-9, 1.1e-9, 1e-8])
def test_chance_about_the_size_of_rounding_is_chance(relative):
    closed, estimates = sides(relative)
    for quantity in ESTIMATES:
        assert level(closed, estimates, quantity) > REJECTED


def test_a_small_variance_beside_a_large_information_is_tested():
    """V₂ is a billionth of I², and twice what it should be."""
    closed, estimates = sides(1e-3, variance_negative_hessian=1e-9, covariance=0.0)
    assert level(closed, estimates, "variance_negative_hessian") > REJECTED
    closed["variance_negative_hessian"] *= 2
    assert level(closed, estimates, "variance_negative_hessian") < REJECTED


@pytest.mark.parametrize("exact", [True, False])
def test_one_closed_form_that_is_far_too_large(exact):
    """With the law's standard errors the parameter tells; elsewhere its layer's scale does."""
    closed, estimates = sides(0.25)
    closed["fisher"][7] *= 10
    assert level(closed, estimates, "fisher_score_squared", exact=exact) < REJECTED
    rows, _ = compare(closed, estimates, {"all": slice(0, SIZE)}, exact=exact)
    assert (rows[0].levels[7] + math.log(SIZE) < REJECTED) == exact


def test_what_cancels_in_a_hessian_is_no_variance():
    """A label is almost certain: Î₂ is a difference of terms 10⁸ times as large as I."""
    closed, estimates = sides(
        1e-3,
        fisher=1e-8,
        variance_score_squared=1e-8,
        variance_negative_hessian=0.0,
        covariance=0.0,
    )
    noise = np.full(SIZE, 1e-31)
    estimates["variance_negative_hessian"] = Estimate(noise, (noise / 1000) ** 2, np.zeros(SIZE))
    assert level(closed, estimates, "variance_negative_hessian") > REJECTED
