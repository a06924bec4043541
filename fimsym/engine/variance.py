"""The variance of an estimate from several inputs and labels, in two terms.

Source: Soen & Sun (2024), Theorem 4.7: Var = (1/N_x) [Var_x I(x) + (1/N_y) E_x V(x)].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fimsym.errors import SpecError, UnsupportedError, nearest

if TYPE_CHECKING:
    from fimsym.engine.analysis import Analysis

Named = Mapping[str, Tensor]


def of_estimate(
    analysis: Analysis, estimator: str, inputs: int, labels_per_input: int, finite: bool
) -> dict[str, Tensor]:
    """Return Var Î for every parameter; see `Analysis.variance`."""
    for name, number in (("inputs", inputs), ("labels_per_input", labels_per_input)):
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise SpecError(f"{name} must be a whole number of at least 1; got {number!r}.")
    if estimator not in _OF_ONE_LABEL:
        if estimator in _WITHOUT:
            raise UnsupportedError(
                f"an Analysis does not hold the variance of {estimator}; it has those of "
                f"{', '.join(_OF_ONE_LABEL)}. fimsym.plan computes it from a few inputs."
            )
        raise SpecError(
            f"unknown estimator {estimator!r}; expected one of {', '.join(_OF_ONE_LABEL)}."
            f"{nearest(str(estimator), _OF_ONE_LABEL)}"
        )
    of_one = _OF_ONE_LABEL[estimator](analysis)
    found = {name: value / (inputs * labels_per_input) for name, value in of_one.items()}
    if finite:
        return found
    return {name: value + analysis.input_variance[name] / inputs for name, value in found.items()}


def best_mixture(one: Tensor, two: Tensor, both: Tensor) -> tuple[Tensor, Tensor]:
    """Return α and the variance of αÎ₁ + (1 − α)Î₂ from V₁, V₂ and Cov(Î₁, Î₂).

    α = (V₂ − Cov)/(V₁ + V₂ − 2 Cov). The difference Î₁ − Î₂ has that denominator for its
    variance; where it is 0 both are alike, and Î₂ is taken.
    """
    apart = one + two - 2 * both
    weight = torch.where(apart > 0, (two - both) / torch.where(apart > 0, apart, 1.0), 0.0)
    # Var(Î₂ + α(Î₁ − Î₂)), without the differences of V₁V₂ − Cov².
    return weight, (two - weight * (two - both)).clamp(min=0)


def _mixed(analysis: Analysis) -> dict[str, Tensor]:
    one, two = analysis.variance_score_squared, analysis.variance_negative_hessian
    both = analysis.covariance
    return {name: best_mixture(one[name], two[name], both[name])[1] for name in one}


def _gaussian_probe(analysis: Analysis) -> dict[str, Tensor]:
    """Return 2 E_x I(x)²."""
    share = 1 - 1 / analysis.inputs
    spread = analysis.input_variance
    return {
        name: 2 * (value.square() + share * spread[name].nan_to_num())
        for name, value in analysis.fisher.items()
    }


_OF_ONE_LABEL: dict[str, Callable[[Analysis], Named]] = {
    "score_squared": lambda analysis: analysis.variance_score_squared,
    "negative_hessian": lambda analysis: analysis.variance_negative_hessian,
    "mixed": _mixed,
    "gaussian_probe": _gaussian_probe,
    "exact": lambda analysis: {n: torch.zeros_like(x) for n, x in analysis.fisher.items()},
}
"""Mean over inputs of the variance from one label."""

_WITHOUT = ("score_squared_cv", "rademacher_probe", "empirical")
