"""Whether closed forms and Monte Carlo agree, at a family-wise error of 1e-6.

Every parameter and quantity is one test, every layer's sum another. A test compares the
difference with its standard error by Bernstein's inequality,

    P(|error| > z·se) ≤ 2 exp(−z²/2 / (1 + z r/3)),     r = largest single effect / se,

which holds for sums of bounded terms without a normal limit: a parameter that only rare
labels inform cannot raise a false alarm. Bonferroni's correction over all tests of a run
gives the family-wise error.
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
        largest_z: Largest |z| of a parameter or of the sum.
        detectable: Relative error of the sum that would be caught with probability 0.99;
            infinite where the sum is zero.
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
    """Return how many tests `compare` makes: parameters and layers, times quantities."""
    return len(ESTIMATES) * (closed["fisher"].numel() + len(layers))


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
    """Return the comparison of a layer's sum, whose parameters' errors are independent."""
    error = float(estimate.standard_error[part].square().sum().sqrt())
    closed, sampled = float(truth.sum()), float(estimate.mean[part].sum())
    ratio = float(estimate.largest[part].max()) / error if error > 0 else 0.0
    total = (closed - sampled) / error if bool(tested.any()) else 0.0
    rejected |= float(_log_tail(torch.tensor(total), torch.tensor(ratio))) < threshold
    critical = _critical(threshold, ratio) + _POWER
    return Comparison(
        layer=layer,
        quantity=name,
        closed_form=closed,
        monte_carlo=sampled,
        standard_error=error,
        z=total,
        largest_z=max(float(z.abs().max()), abs(total)),
        detectable=critical * error / abs(closed) if closed else math.inf,
        parameters=z.numel(),
        tested=int(tested.sum()),
        agrees=not rejected,
    )


def _critical(threshold: float, ratio: float) -> float:
    """Return the z at which Bernstein's bound reaches the threshold."""
    level = math.log(2) - threshold
    slope = level * ratio / 3
    return slope + math.sqrt(slope**2 + 2 * level)
