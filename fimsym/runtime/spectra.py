"""Certified extreme values of quadratic forms that are a diagonal and one more term.

Every bound here holds at whatever point its search stops: an iteration that has not
converged makes it looser, never wrong. Rounding is left to the caller, who knows how
accurate the arguments are. Columns are [*batch, output, 1], results [*batch, 1, 1].
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_STEPS = 20
"""Newton's steps; sixteen reach the last digit from any start that was tried."""
_DECADES = 24
"""Half decades of an interval that are looked at before a search."""
_SECTIONS = 32
"""Golden sections: they shrink an interval by 5·10⁶."""
_GOLDEN = (5**0.5 - 1) / 2


def least(function: Callable[[Tensor], Tensor], low: Tensor, high: Tensor) -> Tensor:
    """Return the least value found of a function with a single minimum on an interval.

    Args:
        function: Of a column; infinite to the left of where it is defined.
        low: Left end.
        high: Right end.
    """
    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    of_left, of_right = function(left), function(right)
    ends = torch.minimum(function(low), function(high))
    best = torch.minimum(ends, torch.minimum(of_left, of_right))
    for _ in range(_SECTIONS):
        lower = of_left < of_right
        low, high = torch.where(lower, low, left), torch.where(lower, right, high)
        kept, of_kept = torch.where(lower, left, right), torch.where(lower, of_left, of_right)
        width = _GOLDEN * (high - low)
        new = torch.where(lower, high - width, low + width)
        of_new = function(new)
        best = torch.minimum(best, of_new)
        left, right = torch.where(lower, new, kept), torch.where(lower, kept, new)
        of_left, of_right = (
            torch.where(lower, of_new, of_kept),
            torch.where(lower, of_kept, of_new),
        )
    return best


def largest_centred(diagonal: Tensor, weight: Tensor, rest: Tensor | float = 0.0) -> Tensor:
    """Return λ with Σ w d g² ≤ λ Σ w g² for every g whose Σ w g is 0, almost the least one.

    With the largest entry d₁ set apart, λ > d₂ is large enough as soon as

        S(λ) = Σ_{k>1} w_k (d₁ − d_k)/(λ − d_k) ≤ 1.

    1/S is concave, so that Newton's steps from the left stay there; its slope is at least
    1/W, W = Σ w_k (d₁ − d_k), so that λ + W (1 − 1/S(λ)) is large enough wherever they stop.

    Args:
        diagonal: d ≥ 0, [*batch, output, 1], at least two.
        weight: w ≥ 0, which with `rest` add up to 1.
        rest: The weight of one more entry, with d = 0.
    """
    first, second = diagonal.topk(2, dim=-2).values.split(1, dim=-2)
    gap, behind = first - diagonal, second - diagonal
    mass, extra = weight * gap, rest * first

    def sums(step: Tensor) -> tuple[Tensor, Tensor]:
        away = torch.where(gap > 0, behind + step, 1.0)
        share = mass / away
        of_rest = extra / (second + step) if isinstance(extra, Tensor) else extra
        slope = (share / away).sum(dim=-2, keepdim=True) + of_rest / (second + step)
        return share.sum(dim=-2, keepdim=True) + of_rest, slope

    step = torch.where(behind == 0, mass, 0.0).amax(dim=-2, keepdim=True)
    for _ in range(_STEPS):
        value, slope = sums(step)
        step = step + torch.where(value > 1, value * (value - 1) / slope, 0.0)
    value, _ = sums(step)
    whole = mass.sum(dim=-2, keepdim=True) + extra
    return second + step + torch.where(value > 1, whole * (1 - 1 / value), 0.0)


def smallest_reduced(diagonal: Tensor, weight: Tensor, rest: Tensor) -> Tensor:
    """Return λ with Σ d u² − c (Σ u)² ≥ λ Σ u², almost the largest one.

    λ < min d is small enough when c Σ 1/(d_k − λ) ≤ 1, that is, with weights w = c/d, when
    λ A(λ) ≤ r, A(λ) = Σ w_k/(d_k − λ), r = 1 − Σ w. 1/A is concave and decreasing, so that
    Newton's steps for λ = r/A(λ) from the right stay there, and r/A(λ) is small enough at
    any λ that is not.

    Args:
        diagonal: d > 0, [*batch, output, 1].
        weight: w = c/d ≥ 0.
        rest: r ≥ 0, [*batch, 1, 1].
    """
    ceiling = (1 - 1e-6) * diagonal.amin(dim=-2, keepdim=True)

    def sums(value: Tensor) -> tuple[Tensor, Tensor]:
        away = diagonal - value
        share = weight / away
        return share.sum(dim=-2, keepdim=True), (share / away).sum(dim=-2, keepdim=True)

    value = torch.zeros_like(ceiling)
    for _ in range(_STEPS):
        total, slope = sums(value)
        step = (value - rest / total) / (1 + rest * slope / total**2)
        value = torch.minimum((value - step).clamp(min=0), ceiling)
    total, _ = sums(value)
    return torch.minimum(value, rest / total)


def largest_of_classes(diagonal: Tensor, probability: Tensor, ceiling: Tensor) -> Tensor:
    """Return the least of `ceiling` and of bounds on V₁/‖u‖⁴ for one label of C classes.

    With φ = s² − I, V₁ = ⟨A, uuᵀ⟩ for A = Σ_y p_y φ_y (e_y−p)(e_y−p)ᵀ, whose norm and trace are

        ‖A‖² = Σ D_y p_y φ_y² + 2 t²,     tr A = −2 t,     t = Σ p_y² φ_y,

    D_y = p_y (1 + 2‖p‖² − 4 p_y). For any κ < 1/d, d = C − 1, by Cauchy's inequality
    V₁² ≤ (1 + κ/(1 − κd)) (‖A‖² − κ (tr A)²) ‖u‖⁴, and if λ Σ p φ² ≥ Σ D p φ² + (2 − 4κ) t²
    for every φ with Σ p φ = 0, then V₁ ≤ λ (1 + κ/(1 − κd)) ‖u‖⁴. That is so for
    2 − 4κ = 1/Φ(λ), where Φ(λ) = min_t Σ p_y (p_y − t)²/(λ − D_y), wherever λI − D is
    positive on these φ. The search is over λ alone, a trial costs O(C).

    Args:
        diagonal: D, [*batch, output, 1].
        probability: p, likewise.
        ceiling: A bound that is known, [*batch, 1, 1].
    """
    place = diagonal.argmax(dim=-2, keepdim=True)
    first, second = diagonal.topk(2, dim=-2).values.split(1, dim=-2)
    apart = torch.take_along_dim(probability, place, dim=-2)
    others = probability.scatter(-2, place, torch.zeros_like(apart))
    shifted = probability - apart
    others_only = diagonal.scatter(-2, place, torch.full_like(first, float("-inf")))
    size = diagonal.shape[-2] - 1

    def bound(value: Tensor) -> Tensor:
        share = others / (value - others_only)
        lead = value - first
        definite = apart + share.sum(dim=-2, keepdim=True) * lead
        slope = (share * shifted).sum(dim=-2, keepdim=True)
        centre = slope * lead / definite
        beyond = lead > 0
        away = shifted - torch.where(beyond, centre, 0.0)
        spread = (share * away**2).sum(dim=-2, keepdim=True)
        spread = spread + torch.where(beyond, apart * centre * slope / definite, -centre * slope)
        over, under = size - 1 + (6 - 2 * size) * spread, size + (4 - 2 * size) * spread
        good = (value > second) & (definite > 0) & (under > 0)
        return torch.where(good, value * over / under, float("inf"))

    low = second.clamp(min=0)
    width = 2 * ceiling - low
    far = torch.zeros_like(width)
    best = torch.full_like(width, float("inf"))
    for decade in range(_DECADES):
        found = bound(low + width * 10 ** (-decade / 2))
        far = torch.where(found < best, float(decade), far)
        best = torch.minimum(best, found)
    near, beyond = (low + width * 10 ** (-(far + side) / 2) for side in (1, -1))
    return torch.minimum(torch.minimum(ceiling, best), least(bound, near, beyond))
