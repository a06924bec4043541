"""How far closed forms and Monte Carlo are apart, in units of standard errors.

Every parameter and quantity is one test. So is every layer's sum, and every layer's
scale, Σ c_i (c_i − m_i)/q_i², the factor by which closed forms c_i would have to be multiplied
to fit the estimates m_i best; it sees a wrong factor where a sum cancels. The q_i are standard
errors where the law gives them, else sizes of them that closed forms tell: by the sample's own, an
estimate that is too small by chance would have a large weight by the same chance.

A test's level is Bernstein's bound, which needs no normal limit: a parameter that only rare
labels inform cannot raise a false alarm. It holds for sums of bounded terms; where labels are
unbounded, as a Gaussian's, the largest effect that occurred stands for the bound. A sample that
misses a long tail has too small an estimate of a square, and too small a standard error. So where
standard errors are the sample's and a closed form is the larger one, a parameter's error is scaled
up to it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from fimsym.validation.estimates import CLOSED_FORM, ESTIMATES, Estimate
from fimsym.validation.moments import Array, Mask
from fimsym.validation.tails import bernstein

_ROUNDING = 1e-9
"""Relative size up to which a difference is rounding: of I, or of I² for variances."""
_NOISE = 1e-13
"""Rounding of a derivative, relative to the largest of all parameters: where a derivative
vanishes both sides have noise of their own."""
_SQUARES = {"fisher_score_squared", "variance_score_squared", "variance_negative_hessian"}
"""Estimates of which no term is negative: their errors grow with them."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One quantity of one layer, before the verdict.

    Attributes:
        layer: Name of the layer.
        quantity: One of `ESTIMATES`.
        closed_form: Sum of its closed form.
        monte_carlo: Sum of its Monte Carlo estimate.
        standard_error: Standard error of that.
        z: (closed form − Monte Carlo) / standard error, of the sum.
        scale_z: The same of the scale.
        largest_z: Largest |z| of a parameter, of the sum or of the scale.
        noise: Standard error of the scale, relative to closed forms; infinite if these are zero.
        ratio: r of the scale, as `bernstein` takes it.
        parameters: Number of parameters.
        tested: How many of them the labels inform; the others are compared to rounding.
        levels: Logarithm of each test's level: every parameter's, then the sum's, the scale's.
    """

    layer: str
    quantity: str
    closed_form: float
    monte_carlo: float
    standard_error: float
    z: float
    scale_z: float
    largest_z: float
    noise: float
    ratio: float
    parameters: int
    tested: int
    levels: Array


@dataclasses.dataclass(frozen=True)
class Scores:
    """z of every parameter of one quantity, [param].

    Attributes:
        z: (closed form − Monte Carlo) / standard error; less rounding where not tested.
        ratio: r of each, as `bernstein` takes it.
        tested: Which parameters the labels inform.
        closed_form: The closed forms.
        monte_carlo: Their estimates.
        standard_error: The estimates' standard errors.
    """

    z: Array
    ratio: Array
    tested: Mask
    closed_form: Array
    monte_carlo: Array
    standard_error: Array


def natural_sizes(closed: Mapping[str, Array]) -> dict[str, Array]:
    """Return what each estimate's standard error is proportional to, roughly, [param].

    Î₁ is of size √V₁, Î₂ − I of size √V₂, and squares and products of these vary as much again.
    """
    first, second = (
        np.sqrt(np.maximum(closed[name], 0.0))
        for name in ("variance_score_squared", "variance_negative_hessian")
    )
    return {
        "fisher_score_squared": first,
        "fisher_negative_hessian": second,
        "variance_score_squared": first**2,
        "variance_negative_hessian": second**2,
        "covariance": first * second,
    }


def compare(
    closed: Mapping[str, Array],
    estimates: Mapping[str, Estimate],
    layers: Mapping[str, slice],
    covered: Array | None = None,
    exact: bool = False,
) -> tuple[list[Row], dict[str, Scores]]:
    """Compare closed forms with Monte Carlo for every parameter and layer.

    Args:
        closed: Closed forms by quantity, each [param].
        estimates: Monte Carlo estimates by name, each [param].
        layers: Range of each layer in the vector over parameters.
        covered: Which parameters there are estimates of; all if None.
        exact: Standard errors are those of the law, not of the sample.
    """
    noise = rounding(closed)
    sizes = (
        {name: one.standard_error for name, one in estimates.items()}
        if exact
        else natural_sizes(closed)
    )
    scores = {
        name: _scores(closed[CLOSED_FORM[name]], estimates[name], noise[name]) for name in ESTIMATES
    }
    inside = np.ones(len(closed["fisher"]), bool) if covered is None else covered > 0
    rows = []
    for layer, part in layers.items():
        at = np.arange(part.start, part.stop)[inside[part]]
        if len(at):
            rows += [_row(layer, name, scores[name], sizes[name], at, exact) for name in ESTIMATES]
    return rows, scores


def rounding(closed: Mapping[str, Array]) -> dict[str, Array]:
    """Return by how much each estimate's two sides may differ without randomness, [param].

    That is what rounding of the score's deviation √I, and of Î₂ = I − w with its deviation
    √V₂, makes of I, V₁, V₂ and Cov. Terms that cancel in Î₂ are of size V₁/I: where a label is
    almost certain, that is much more than I.
    """
    s, first, w = (
        np.sqrt(np.maximum(closed[name], 0.0))
        for name in ("fisher", "variance_score_squared", "variance_negative_hessian")
    )
    ds, dw = (_NOISE * float(np.nanmax(x, initial=0.0)) for x in (s, w))
    own = _ROUNDING * s**2
    of_square = (2 * s + ds) * ds
    of_second = dw + _NOISE * (s**2 + (first / np.where(s > 0, s, 1.0)) ** 2)
    size = first + s**2
    return {
        "fisher_score_squared": own + of_square,
        "fisher_negative_hessian": own + of_square + dw,
        "variance_score_squared": _ROUNDING * s**4 + (2 * s**2 + of_square) * of_square,
        "variance_negative_hessian": _ROUNDING * w**2 + (2 * w + of_second) * of_second,
        "covariance": _ROUNDING * size * w + size * of_second + of_square * (w + of_second),
    }


def _scores(truth: Array, estimate: Estimate, rounding: Array) -> Scores:
    """Return z, Bernstein's r, and which parameters the labels inform.

    Where rounding is the larger error, only what exceeds it counts.
    """
    difference, error = truth - estimate.mean, estimate.standard_error
    tested = error > rounding
    safe = np.where(error > 0, error, 1.0)
    excess = np.sign(difference) * np.maximum(np.abs(difference) - rounding, 0.0)
    beyond = np.where(error > 0, excess / safe, np.where(excess == 0, 0.0, math.inf))
    z = np.where(tested, difference / safe, beyond)
    z = np.where(np.isnan(difference), math.inf, z)
    ratio = np.where(error > 0, estimate.largest / safe, 0.0)
    return Scores(z, ratio, tested, truth, estimate.mean, error)


def _row(
    layer: str, name: str, scores: Scores, size: Array, at: NDArray[np.int_], exact: bool
) -> Row:
    """Return the row of a layer; errors of parameters are independent."""
    z, tested, truth = scores.z[at], scores.tested[at], scores.closed_form[at]
    error, mean = scores.standard_error[at], scores.monte_carlo[at]
    effect = np.where(tested, scores.ratio[at] * error, 0.0)
    weights = np.where(tested & (size[at] > 0), truth / np.maximum(size[at] ** 2, 1e-300), 0.0)
    total, sum_ratio = _combined(np.ones_like(truth), truth - mean, error, effect, tested)
    scale, scale_ratio = _combined(weights, truth - mean, error, effect, tested)
    signal = abs(float((weights * truth).sum()))
    noise = math.sqrt(float(np.square((weights * error)[tested]).sum()))
    share = np.ones_like(truth) if exact else _share_of_error(name, truth, mean)
    whole = bernstein(np.array([total, scale]), np.array([sum_ratio, scale_ratio]))
    return Row(
        layer=layer,
        quantity=name,
        closed_form=float(truth.sum()),
        monte_carlo=float(mean.sum()),
        standard_error=math.sqrt(float(np.square(error).sum())),
        z=total,
        scale_z=scale,
        largest_z=max(float(np.abs(z).max()), abs(total), abs(scale)),
        noise=noise / signal if signal else math.inf,
        ratio=scale_ratio,
        parameters=len(at),
        tested=int(tested.sum()),
        levels=np.concatenate([bernstein(z * share, scores.ratio[at]), whole]),
    )


def _share_of_error(name: str, truth: Array, mean: Array) -> Array:
    """Return the standard error relative to that under the closed form, where that is larger."""
    if name not in _SQUARES:
        return np.ones_like(truth)
    larger = (truth > mean) & (mean > 0)
    return np.where(larger, mean / np.where(larger, truth, 1.0), 1.0)


def _combined(weights, difference, error, effect, tested):
    """Return z of Σ w·difference over the tested parameters, and its Bernstein ratio."""
    spread = math.sqrt(float(np.square((weights * error)[tested]).sum()))
    if not spread > 0:
        return 0.0, 0.0
    total = float((weights * difference)[tested].sum())
    return total / spread, float((np.abs(weights) * effect)[tested].max()) / spread
