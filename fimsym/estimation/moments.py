"""From sums over inputs and draws to an estimate and its variance.

With n inputs and N draws for each, Var Î = (1/n) [Var_x I(x) + (1/N) E_x V(x)]; for a fixed data
set the first term is absent.

Source: Soen & Sun (2024), Theorem 4.7.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine.accumulate import Accumulator
from fimsym.estimation.drawn import dof
from fimsym.estimation.hessians import FISHER, FISHER_SQUARED, mixed
from fimsym.estimation.squares import SECOND, TOTAL, WITHIN

LABELS, INPUTS, BOTH, NOTHING = "labels", "inputs", "labels and inputs", "nothing"
"""What a standard error covers."""


@dataclasses.dataclass
class Covered:
    """How much the sums hold.

    Attributes:
        inputs: Number of inputs n.
        parts: Draws per input of each pass over the data; N is their sum.
        random_inputs: Whether the inputs are a sample, too.
    """

    inputs: int
    parts: list[int]
    random_inputs: bool

    @property
    def draws(self) -> int:
        """N, draws per input."""
        return sum(self.parts)


def of_draws(sums: Mapping[str, Tensor], covered: Covered) -> tuple[Tensor, Tensor]:
    """Return the mean of x over inputs and draws, and the variance of that mean.

    Args:
        sums: Of `squares`, [param] each; Σ x² is needed for random inputs, and for one draw.
        covered: What they hold.
    """
    n, draws = covered.inputs, covered.draws
    pairs = n * draws
    mean = sums[TOTAL] / pairs
    freedom = n * dof(covered.parts)
    within = sums[WITHIN] / freedom if freedom else torch.zeros_like(mean)
    if SECOND not in sums:
        return mean, within / pairs
    if n == 1 and not freedom:
        return mean, torch.full_like(mean, math.nan)
    scatter = (sums[SECOND] - pairs * mean.square()).clamp(min=0)
    if not freedom:
        return mean, scatter / (pairs - 1) / pairs
    if n == 1:
        return mean, torch.full_like(mean, math.nan)
    # E Σ (x − x̄)² = (n − 1) N Var_x I + (nN − 1) E V
    between = (scatter - (pairs - 1) * within) / ((n - 1) * draws)
    return mean, between.clamp(min=0) / n + within / pairs


def of_closed_forms(
    sums: Mapping[str, Tensor], covered: Covered, lacking: Tensor
) -> tuple[Tensor, Tensor]:
    """Return an estimate of second derivatives, and its variance from closed forms.

    Args:
        sums: Of `hessians`, weighted by draws; with those of Î₁ the best mixture is taken.
        covered: What they hold.
        lacking: Where there are no second derivatives: NaN, or Î₁ alone in a mixture.
    """
    n, pairs = covered.inputs, covered.inputs * covered.draws
    values = {name: total / pairs for name, total in sums.items()}
    if "score_squared" in values:
        mean, variance = mixed(values)
        mean = torch.where(lacking, values["score_squared"], mean)
        variance = torch.where(lacking, values["variance_score_squared"], variance)
    else:
        mean = torch.where(lacking, math.nan, values["negative_hessian"])
        variance = torch.where(lacking, math.nan, values["variance_negative_hessian"])
    variance = variance / pairs
    if covered.random_inputs:
        between = values[FISHER_SQUARED] - values[FISHER].square()
        variance = variance + between.clamp(min=0) / max(n - 1, 1)
        variance = variance if n > 1 else torch.full_like(mean, math.nan)
    return mean, variance


def add(sums: Accumulator, more: Accumulator) -> None:
    """Add the sums of another pass over the data."""
    for name, total in more.sums.items():
        sums.sums[name] += total
