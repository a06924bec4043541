"""Estimates of I, V₁, V₂ and Cov(Î₁, Î₂) from moments of Î₁ and Î₂, with standard errors."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from fimsym.validation.moments import Array, Moments

ESTIMATES = (
    "fisher_score_squared",
    "fisher_negative_hessian",
    "variance_score_squared",
    "variance_negative_hessian",
    "covariance",
)
"""What is estimated: the mean of Î₁, the mean of Î₂, their variances and covariance."""

CLOSED_FORM = {
    "fisher_score_squared": "fisher",
    "fisher_negative_hessian": "fisher",
    "variance_score_squared": "variance_score_squared",
    "variance_negative_hessian": "variance_negative_hessian",
    "covariance": "covariance",
}
"""The closed form that each estimate is compared with."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Monte Carlo estimates of one quantity.

    Attributes:
        mean: The estimates, [param].
        variance: Variances of their errors.
        largest: Largest contribution of a single label to the error; with the variance it
            bounds the tails of the error without a normal limit.
    """

    mean: Array
    variance: Array
    largest: Array

    @property
    def standard_error(self) -> Array:
        """Standard errors of the estimates, [param]."""
        return np.sqrt(self.variance)


def estimate(sample: Moments, law: Moments | None = None) -> dict[str, Estimate]:
    """Return the estimates that a sample gives, unbiased.

    Args:
        sample: Moments of the labels drawn.
        law: Those of one label under the law, where they are known; errors are computed from
            them, and from the sample itself without.
    """
    n = sample.count
    bessel = n / (n - 1)
    means = (
        *sample.means,
        sample.central(2, 0) * bessel,
        sample.central(0, 2) * bessel,
        sample.central(1, 1) * bessel,
    )
    errors = _errors(law or sample, n)
    pairs = zip(ESTIMATES, means, errors, strict=True)
    return {name: Estimate(mean, *error) for name, mean, error in pairs}


def expected(law: Moments) -> dict[str, Array]:
    """Return what the estimates are in the mean, as sums over all labels of a law."""
    values = (*law.means, law.central(2, 0), law.central(0, 2), law.central(1, 1))
    return dict(zip(ESTIMATES, values, strict=True))


def _errors(moments: Moments, n: Array) -> list[tuple[Array, Array]]:
    """Return the variance of each estimate, and one label's largest effect on it."""
    aa, ab, bb = (moments.central(*order) for order in ((2, 0), (1, 1), (0, 2)))
    far_a, far_b, far_ab = moments.deviations
    pairs = (
        (aa, far_a),
        (bb, far_b),
        (_of_product(moments.central(4, 0), aa, aa, aa, n), np.maximum(far_a**2 - aa, aa)),
        (_of_product(moments.central(0, 4), bb, bb, bb, n), np.maximum(far_b**2 - bb, bb)),
        (_of_product(moments.central(2, 2), aa, bb, ab, n), far_ab + np.abs(ab)),
    )
    return [(np.maximum(variance, 0.0) / n, largest / n) for variance, largest in pairs]


def _of_product(fourth, aa, bb, ab, n):
    """Return n times the variance of a sample covariance of n labels.

    With the sample's variance as the covariance of a quantity with itself it is
    μ₄ − μ₂² (n − 3)/(n − 1).
    """
    return fourth - ab**2 + (aa * bb + ab**2) / (n - 1)


def averaged(
    size: int, parts: list[tuple[slice, dict[str, Estimate]]]
) -> tuple[dict[str, Estimate], Array]:
    """Return the mean of several inputs' estimates, whose errors are independent.

    Args:
        size: Number of parameters.
        parts: Each input's estimates, and the range of parameters that they are of.

    Returns:
        Estimates [param], and how many inputs each parameter's is the mean of; zero where
        there is none.
    """
    count = np.zeros(size)
    for where, _ in parts:
        count[where] += 1
    found = {}
    for name in ESTIMATES:
        mean, variance, largest = (np.zeros(size) for _ in range(3))
        for where, of_input in parts:
            one = of_input[name]
            mean[where] += one.mean
            variance[where] += one.variance
            largest[where] = np.maximum(largest[where], one.largest)
        n = np.maximum(count, 1)
        found[name] = Estimate(mean / n, variance / n**2, largest / n)
    return found, count


def mean_of(size: int, parts: list[tuple[slice, Mapping[str, Array]]]) -> dict[str, Array]:
    """Return the mean over inputs of values by name, [param]; zero where there is none."""
    count = np.zeros(size)
    totals: dict[str, Array] = {}
    for where, of_input in parts:
        count[where] += 1
        for name, values in of_input.items():
            total = totals.setdefault(name, np.zeros(size))
            total[where] += values
    return {name: total / np.maximum(count, 1) for name, total in totals.items()}
