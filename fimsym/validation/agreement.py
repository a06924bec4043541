"""Whether closed forms and Monte Carlo agree, at a family-wise error of 1e-6.

Every parameter and quantity is one test. So is every layer's sum, and every layer's
scale: the factor by which closed forms c_i would have to be multiplied to fit the
estimates m_i best, Σ c_i (c_i − m_i)/se_i², which sees a wrong factor where a sum cancels.
(Where labels cannot be listed se_i is the sample's, which biases the scale's z by a term
of order 1/√N, a few tenths at the default N, far below the threshold.) A test
compares a difference with its standard error by Bernstein's inequality,

    P(|error| > z·se) ≤ 2 exp(−z²/2 / (1 + z r/3)),     r = largest single effect / se,

which needs no normal limit: a parameter that only rare labels inform cannot raise a false
alarm. It holds for sums of bounded terms; where labels are unbounded, as a Gaussian's, the
largest effect that occurred stands for the bound. Bonferroni's correction over all tests
of a run gives the family-wise error.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.validation.montecarlo import ESTIMATES, Estimates

FAMILY_WISE_ERROR = 1e-6
ROUNDING = 1e-9
"""Relative size up to which a difference is rounding: of I, or of I² for variances."""

_POWER = 2.326  # normal quantile of 0.99

CLOSED_FORM = {
    "fisher_score_squared": "fisher",
    "fisher_negative_hessian": "fisher",
    "variance_score_squared": "variance_score_squared",
    "variance_negative_hessian": "variance_negative_hessian",
    "covariance": "covariance",
}
"""The closed form that each estimate is compared with."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity of one layer, summed over its parameters.

    Attributes:
        layer: Name of the layer.
        quantity: One of `ESTIMATES`.
        closed_form: Its closed form.
        monte_carlo: Its Monte Carlo estimate.
        standard_error: Standard error of the estimate.
        z: (closed form − Monte Carlo) / standard error, of the sum.
        scale_z: The same of the scale.
        largest_z: Largest |z| of a parameter, of the sum or of the scale.
        detectable: Relative error of all closed forms that the scale's test would catch
            with probability 0.99; infinite where they are zero.
        parameters: Number of parameters.
        tested: How many of them the labels inform; the others are compared to rounding.
        agrees: No test of this row was rejected.
    """

    layer: str
    quantity: str
    closed_form: float
    monte_carlo: float
    standard_error: float
    z: float
    scale_z: float
    largest_z: float
    detectable: float
    parameters: int
    tested: int
    agrees: bool


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The comparisons of one model, and every parameter's z.

    Attributes:
        comparisons: One per layer and quantity.
        z: z of every tested parameter, by quantity.
        closed_form: Closed form of every parameter, by quantity.
        monte_carlo: Its estimate, likewise.
    """

    comparisons: tuple[Comparison, ...]
    z: Mapping[str, Tensor]
    closed_form: Mapping[str, Tensor]
    monte_carlo: Mapping[str, Tensor]

    @property
    def agrees(self) -> bool:
        """No test was rejected."""
        return all(comparison.agrees for comparison in self.comparisons)


def compare(
    closed: Mapping[str, Tensor],
    estimates: Mapping[str, Estimates],
    layers: Mapping[str, slice],
    tests: int | None = None,
) -> Agreement:
    """Compare closed forms with Monte Carlo for every parameter and layer.

    Args:
        closed: Closed forms by quantity, each [param].
        estimates: Monte Carlo estimates by name, each [param].
        layers: Range of each layer in the vector over parameters.
        tests: Number of tests the family-wise error is shared by; this call's own if None.
    """
    threshold = math.log(FAMILY_WISE_ERROR / (tests or number_of_tests(closed, layers)))
    comparisons, scores, by_name = [], {}, {}
    for name in ESTIMATES:
        estimate, truth = estimates[name], closed[CLOSED_FORM[name]]
        scale = closed["fisher"] if name.startswith("fisher") else closed["fisher"].square()
        z, ratio, tested = _scores(truth, estimate, ROUNDING * scale)
        scores[name], by_name[name] = z[tested], truth
        rejected = _log_tail(z, ratio) < threshold
        for layer, part in layers.items():
            comparisons.append(
                _layer(layer, name, truth[part], estimate, part, z[part], tested[part],
                       bool(rejected[part].any()), threshold)
            )  # fmt: skip
    order = {layer: n for n, layer in enumerate(layers)}
    comparisons.sort(key=lambda comparison: order[comparison.layer])
    means = {name: estimates[name].mean for name in ESTIMATES}
    return Agreement(tuple(comparisons), scores, by_name, means)


def number_of_tests(closed: Mapping[str, Tensor], layers: Mapping[str, slice]) -> int:
    """Return how many tests `compare` makes: two a layer, one a parameter, per quantity."""
    return len(ESTIMATES) * (closed["fisher"].numel() + 2 * len(layers))


def _scores(truth, estimate, rounding):
    """Return z, the Bernstein ratio r, and which parameters the labels inform."""
    difference = truth - estimate.mean
    tested = estimate.standard_error > rounding
    safe = torch.where(tested, estimate.standard_error, 1.0)
    exact = torch.where(difference.abs() <= rounding, 0.0, math.inf)
    z = torch.where(tested, difference / safe, exact)
    z = torch.where(difference.isnan(), math.inf, z)
    return z, torch.where(tested, estimate.largest / safe, 0.0), tested


def _log_tail(z: Tensor, ratio: Tensor) -> Tensor:
    """Return the logarithm of Bernstein's bound on P(|error| > |z| se)."""
    z = z.abs()
    bounded = -(z.square() / 2) / (1 + z * ratio / 3) + math.log(2)
    return torch.where(z.isinf(), -math.inf, bounded)


def _layer(layer, name, truth, estimate, part, z, tested, rejected, threshold):
    """Return the comparison of a layer's sum and scale; errors of parameters are independent."""
    error, largest = estimate.standard_error[part], estimate.largest[part]
    mean = estimate.mean[part]
    weights = torch.where(tested, truth / error.square().clamp(min=1e-300), 0.0)
    ones = torch.ones_like(truth)
    total, sum_ratio = _combined(ones, truth - mean, error, largest, tested)
    scale, scale_ratio = _combined(weights, truth - mean, error, largest, tested)
    for statistic, ratio in ((total, sum_ratio), (scale, scale_ratio)):
        rejected |= float(_log_tail(torch.tensor(statistic), torch.tensor(ratio))) < threshold
    signal = abs(float((weights * truth).sum()))
    noise = float((weights * error)[tested].square().sum().sqrt())
    critical = _critical(threshold, scale_ratio) + _POWER
    return Comparison(
        layer=layer,
        quantity=name,
        closed_form=float(truth.sum()),
        monte_carlo=float(mean.sum()),
        standard_error=float(error.square().sum().sqrt()),
        z=total,
        scale_z=scale,
        largest_z=max(float(z.abs().max()), abs(total), abs(scale)),
        detectable=critical * noise / signal if signal else math.inf,
        parameters=z.numel(),
        tested=int(tested.sum()),
        agrees=not rejected,
    )


def _combined(weights, difference, error, largest, tested):
    """Return z of Σ w·difference over the tested parameters, and its Bernstein ratio."""
    spread = float((weights * error)[tested].square().sum().sqrt())
    if not spread > 0:
        return 0.0, 0.0
    total = float((weights * difference)[tested].sum())
    effect = float((weights.abs() * largest)[tested].max())
    return total / spread, effect / spread


def _critical(threshold: float, ratio: float) -> float:
    """Return the z at which Bernstein's bound reaches the threshold."""
    level = math.log(2) - threshold
    slope = level * ratio / 3
    return slope + math.sqrt(slope**2 + 2 * level)
