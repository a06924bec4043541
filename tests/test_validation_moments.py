"""Moments that merge, and the errors that follow from them."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from fimsym.validation.estimates import ESTIMATES, averaged, estimate, expected
from fimsym.validation.moments import ORDERS, Moments, merged, of_counts, of_labels


def draws(count, seed=0):
    rng = np.random.default_rng(seed)
    s = rng.standard_normal(count)
    return s**2 + 3, 0.3 * s + rng.exponential(size=count) - 7


def exact(a, b):
    """Return the fields of labels by rational arithmetic."""
    a, b = [Fraction(x) for x in a.tolist()], [Fraction(x) for x in b.tolist()]
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    sums = [sum((x - mean_a) ** j * (y - mean_b) ** k for x, y in zip(a, b, strict=True))
            for j, k in ORDERS]  # fmt: skip
    return np.array([len(a), float(mean_a), float(mean_b), *map(float, sums)])


def field(values):
    return values[: 3 + len(ORDERS)]


def test_fields_are_right_to_rounding():
    a, b = draws(500)
    np.testing.assert_allclose(field(of_labels(a, b)), exact(a, b), rtol=1e-12)


@pytest.mark.parametrize("sizes", [(400,), (1, 399), (1, 1, 1, 397), (100, 200, 7, 93), (50,) * 8])
def test_parts_merge_to_the_whole(sizes):
    a, b = draws(400)
    ends = np.cumsum(sizes)[:-1]
    parts = [of_labels(*part) for part in zip(np.split(a, ends), np.split(b, ends), strict=True)]
    got = merged(np.stack(parts)[..., None])[:, 0]
    np.testing.assert_allclose(field(got), exact(a, b), rtol=1e-11)
    extremes = (a.min(), a.max(), b.min(), b.max())
    np.testing.assert_array_equal(got[-5:-1], extremes)


def test_merging_keeps_the_digits_that_raw_sums_lose():
    """A mean 10⁸ times the deviation, where Σx² − (Σx)²/n has no digit left."""
    a, b = draws(2000)
    a, b = a + 1e8, b - 1e8
    parts = [of_labels(x, y) for x, y in zip(np.split(a, 20), np.split(b, 20), strict=True)]
    got = merged(np.stack(parts)[..., None])[:, 0]
    np.testing.assert_allclose(field(got), exact(a, b), rtol=1e-7)
    raw = np.float32(a) ** 2
    naive = float(raw.mean() - np.float32(a).mean() ** 2)
    assert abs(naive - got[3] / 2000) > got[3] / 2000


@pytest.mark.parametrize("count", [1, 2, 5, 16, 23, 64])
@pytest.mark.parametrize("size", [1, 2, 8])
def test_any_division_into_powers_of_two_gives_the_same_bits(count, size):
    rng = np.random.default_rng(count)
    parts = np.stack([of_labels(*rng.standard_normal((2, 9)))[:, None] for _ in range(count)])
    cells = [merged(parts[at : at + size]) for at in range(0, count, size)]
    assert (merged(np.stack(cells)) == merged(parts)).all()


def test_counts_are_labels_that_occur_so_often():
    rng = np.random.default_rng(1)
    a, b, times = *draws(6), rng.integers(1, 9, 6)
    whole = of_labels(np.repeat(a, times), np.repeat(b, times))
    n = times.sum()
    got = of_counts(a[:, None], b[:, None], times[:, None] / n, n, times[:, None] > 0)
    np.testing.assert_allclose(got.values[:, 0], whole, rtol=1e-12)


def unseen():
    """A law of three labels, one of which does not occur."""
    a, b = np.array([[0.0], [1.0], [9.0]]), np.array([[2.0], [0.0], [5.0]])
    return of_counts(a, b, np.array([[0.5], [0.5], [0.0]]), 1, np.array([[True], [True], [False]]))


def test_labels_that_cannot_occur_are_not_extremes():
    np.testing.assert_array_equal(unseen().values[-5:, 0], [0, 1, 0, 2, 0.5])


LAW = np.array([[0.0, 1.0], [1.0, -2.0], [4.0, 0.5]]), np.array([0.5, 0.3, 0.2])
"""Î₁ and Î₂ of three labels, and their probabilities."""


def every_sample(n):
    """Yield estimates of every sample of n labels of the law, with its probability."""
    (values, p) = LAW
    for labels in itertools.product(range(3), repeat=n):
        at = np.array(labels)
        yield estimate(Moments(of_labels(values[at, 0], values[at, 1])[:, None])), p[at].prod()


@pytest.mark.parametrize("n", [2, 3, 5])
def test_estimates_are_unbiased_and_their_errors_exact(n):
    """Over all samples of n labels: the mean is the truth, the variance what is said."""
    (values, p) = LAW
    law = of_counts(values[:, :1], values[:, 1:], p[:, None], 1, np.full((3, 1), True))
    said = estimate(Moments(np.concatenate([[[n]], law.values[1:]])), law)
    truth = expected(law)
    found = list(every_sample(n))
    for name in ESTIMATES:
        values = np.array([float(e[name].mean[0]) for e, _ in found])
        weights = np.array([weight for _, weight in found])
        mean = float(weights @ values)
        assert mean == pytest.approx(float(truth[name][0]), rel=1e-12)
        variance = float(weights @ (values - mean) ** 2)
        assert float(said[name].variance[0]) == pytest.approx(variance, rel=1e-12)


def test_an_effect_is_the_most_one_label_changes():
    values, p = LAW
    law = of_counts(values[:, :1], values[:, 1:], p[:, None], 1, np.full((3, 1), True))
    n = 1000
    found = estimate(Moments(np.concatenate([[[n]], law.values[1:]])), law)
    a, b = (values - p @ values).T
    effects = (a, b, a * a - p @ a**2, b * b - p @ b**2, a * b - p @ (a * b))
    for name, effect in zip(ESTIMATES, effects, strict=True):
        bound, largest = float(found[name].largest[0]) * n, np.abs(effect).max()
        assert largest <= bound * (1 + 1e-12)
        assert bound <= 2 * largest


def test_inputs_are_averaged_with_independent_errors():
    one, other = (estimate(Moments(of_labels(*draws(50, seed))[:, None])) for seed in (1, 2))
    whole, covered = averaged(3, [(slice(0, 1), one), (slice(0, 1), other), (slice(2, 3), one)])
    assert covered.tolist() == [2, 0, 1]
    for name in ESTIMATES:
        got = whole[name]
        assert got.mean[0] == pytest.approx((one[name].mean[0] + other[name].mean[0]) / 2)
        error = math.hypot(one[name].standard_error[0], other[name].standard_error[0]) / 2
        assert got.standard_error[0] == pytest.approx(error)
        assert got.mean[2] == one[name].mean[0]
