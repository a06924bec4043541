"""Bounds on tails hold, and are not idle."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from fimsym.validation.tails import bernstein, detectable, holm, shape, spread


def test_bernstein_bounds_every_binomial_tail():
    """The tail bound holds for rare events too, where a normal limit fails by far."""
    for count, p in itertools.product((1000, 100_000), (1e-6, 1e-4, 1e-2, 0.5)):
        error = math.sqrt(p * (1 - p) / count)
        ratio = (1 - p) / count / error
        for z in (2.0, 4.0, 6.5, 20.0):
            level = stats.binom.sf(math.ceil((p + z * error) * count) - 1, count, p)
            level += stats.binom.cdf(math.floor((p - z * error) * count), count, p)
            bound = float(bernstein(np.array([z]), np.array([ratio]))[0])
            assert level == 0 or math.log(level) <= bound + 1e-9


def test_bernstein_of_no_difference_and_of_an_infinite_one():
    assert bernstein(np.array([0.0, math.inf]), np.zeros(2)).tolist() == [0.0, -math.inf]


@pytest.mark.parametrize("ratio", [0.0, 0.1, 3.0])
def test_what_is_detectable_is_rejected_with_probability_099(ratio):
    z = detectable(-25.0, ratio) - stats.norm.ppf(0.99)
    bound = bernstein(np.array([z]), np.array([ratio]))[0]
    assert float(bound) == pytest.approx(-25, rel=1e-4)


def test_holm_is_holm():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    adjusted = np.exp(holm(np.log(p)))
    np.testing.assert_allclose(adjusted, [0.03, 0.06, 0.06, 0.02])
    assert holm(np.array([-math.inf, -1.0]))[0] == -math.inf


def test_holm_rejects_what_bonferroni_does_and_more():
    p = np.array([1e-9, 4e-7, 0.5])
    adjusted = np.exp(holm(np.log(p)))
    assert (adjusted < 1e-6).tolist() == [True, True, False]
    assert p[1] * len(p) > 1e-6


def scores(count, seed, scale=1.0, shift=0.0):
    return scale * np.random.default_rng(seed).standard_normal(count) + shift


@pytest.mark.parametrize("seed", range(20))
def test_normal_scores_pass(seed):
    z = scores(3000, seed)
    assert shape(z, np.zeros(3000)) > math.log(1e-3)
    assert spread(z, np.zeros(3000)) > math.log(1e-3)


@pytest.mark.parametrize("scale", [0.7, 1.3])
def test_errors_of_the_wrong_size_are_seen(scale):
    """The third too small as well, which no test of single scores could see."""
    z = scores(3000, 0, scale)
    assert spread(z, np.zeros(3000)) < math.log(1e-10)
    assert shape(z, np.zeros(3000)) < math.log(1e-6)


def test_a_shift_and_a_missing_half_are_seen_by_the_shape():
    shifted, folded = scores(3000, 0, shift=0.3), np.abs(scores(3000, 0))
    for z in (shifted, folded):
        assert shape(z, np.zeros(3000)) < math.log(1e-10)
    assert spread(folded, np.zeros(3000)) > math.log(1e-3)


def test_bounds_are_those_of_kolmogorov_and_of_chi_squared():
    """Never below the exact level, and above it by a factor that does not matter."""
    count, none = 2000, np.zeros(2000)
    z = scores(count, 1, 1.1)
    exact = stats.kstest(z, "norm").pvalue
    assert math.log(exact) <= shape(z, none) <= 0.5 * math.log(exact)
    total = float((z**2).sum())
    exact = stats.chi2.sf(total, count)
    assert math.log(exact) <= spread(z, none) <= 0.5 * math.log(exact)
    z = scores(count, 1, 0.9)
    exact = stats.chi2.cdf(float((z**2).sum()), count)
    assert math.log(exact) <= spread(z, none) <= 0.5 * math.log(exact)


def test_skewness_that_few_labels_bring_is_allowed_for():
    """Means of 4,000 labels of an exponential law, whose skewness is 2."""
    count, labels = 20_000, 4000
    z = stats.gamma(labels).rvs(count, random_state=0)
    z = (z - labels) / math.sqrt(labels)
    skewness = 2 / math.sqrt(labels)
    assert shape(z, np.full(count, skewness)) > math.log(1e-3)
    assert math.log(stats.kstest(z, "norm").pvalue) < math.log(0.1)


def test_a_score_that_is_not_finite_is_no_normal_score():
    assert spread(np.array([0.0, math.inf]), np.zeros(2)) == -math.inf


def test_steps_of_a_count_are_allowed_for():
    """A score of few labels takes few values: its law has steps that the normal one has not."""
    labels, count = 1000, 200_000
    drawn = np.random.default_rng(0).binomial(labels, 0.5, count)
    z = (drawn - labels / 2) / math.sqrt(labels / 4)
    assert shape(z, np.full(count, 1 / math.sqrt(labels))) > math.log(1e-3)
    assert shape(z, np.zeros(count)) < math.log(1e-9)
