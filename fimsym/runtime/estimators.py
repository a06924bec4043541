"""Variances of every estimator of I, from one label or one probe."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from fimsym.runtime.arithmetic import others
from fimsym.runtime.results import Moments, register


@dataclasses.dataclass(frozen=True)
class EstimatorVariances:
    """The variance of each estimator of I from one label, or one probe; each [*batch, param].

    The mean of N has variance V/N; all are unbiased.

    Attributes:
        score_squared: V₁ of Î₁ = s².
        score_squared_cv: Of s² + c s, at the best c.
        gaussian_probe: Of ⟨Lᵀu, g⟩² with g ~ N(0, 1): 2 I².
        rademacher_probe: Of the same with random signs g; None where it was not given.
        exact: Of the closed form: 0.
        control: The best c, −κ₃₀/I, of the units of the score; 0 where I = 0.
        negative_hessian: V₂ of Î₂ = −∂²ℓ; None without v.
        mixed: Of α Î₁ + (1 − α) Î₂ from one label, at the best α; None without v.
        mixing: The best α; None without v.
    """

    score_squared: Tensor
    score_squared_cv: Tensor
    gaussian_probe: Tensor
    rademacher_probe: Tensor | None
    exact: Tensor
    control: Tensor
    negative_hessian: Tensor | None = None
    mixed: Tensor | None = None
    mixing: Tensor | None = None


register(EstimatorVariances)


def rademacher(whitened_u: Tensor) -> Tensor:
    """Return 2 [(Σ a²)² − Σ a⁴] = 2 Σ_i a_i² Σ_{j≠i} a_j², [*batch, 1, param]."""
    squares = whitened_u**2
    return 2 * (squares * others(squares)).sum(dim=-2, keepdim=True)


def of_label(whitened_u: Tensor, coskewness: Tensor, remainder: Tensor) -> tuple[Tensor, ...]:
    """Return the fields of `EstimatorVariances` that concern u alone, as sums of squares.

    With the statistics in whitened coordinates e = L⁺(t − η), I = LLᵀ, s = ⟨a, e⟩ for a = Lᵀu, and
    s² − I = ⟨k, e⟩ + r with Var(r) = R, Cov(r, e) = 0. So V₁ = R + ‖k‖² and
    Var(s² + c s) = R + ‖k + c a‖².

    Args:
        whitened_u: a, [*batch, output, param].
        coskewness: k, likewise.
        remainder: R, [*batch, 1, param].
    """
    rest = remainder.clamp(min=0)
    fisher = _sum(whitened_u**2)
    first = rest + _sum(coskewness**2)
    control = -_ratio(_sum(coskewness * whitened_u), fisher)
    controlled = rest + _sum((coskewness + control * whitened_u) ** 2)
    return (
        first,
        torch.minimum(controlled, first),
        2 * fisher**2,
        rademacher(whitened_u),
        torch.zeros_like(first),
        control,
    )


def of_labels(
    of_u: tuple[Tensor, ...], coskewness: Tensor, remainder: Tensor, whitened_v: Tensor
) -> tuple[Tensor, ...]:
    """Return every field of `EstimatorVariances`, from those of `of_label` and b = Lᵀv.

    w = ⟨b, e⟩, so that V₂ = ‖b‖² and Var(α Î₁ + (1 − α) Î₂) = α² R + ‖α k − (1 − α) b‖².

    Args:
        of_u: What `of_label` returned.
        coskewness: k, [*batch, output, param].
        remainder: R, [*batch, 1, param].
        whitened_v: b, [*batch, output, param].
    """
    rest, first = remainder.clamp(min=0), of_u[0]
    second = _sum(whitened_v**2)
    # Î₁ − Î₂ has the linear part k + b. The estimator that varies less is moved towards the
    # other by a share of that, so that nothing larger than its own variance cancels.
    apart = coskewness + whitened_v
    nearer = first < second
    start = torch.where(nearer, coskewness, -whitened_v)
    gain = _sum(apart * start) + torch.where(nearer, rest, 0.0)
    share = _ratio(gain.where(nearer, -gain), rest + _sum(apart**2), first + second)
    mixing = torch.where(nearer, 1 - share, share)
    moved = start + torch.where(nearer, -share, share) * apart
    mixed = torch.minimum(mixing**2 * rest + _sum(moved**2), torch.minimum(first, second))
    return (*of_u, second, mixed, mixing)


def estimator_variances(
    moments: Moments, rademacher_probe: Tensor | None = None
) -> EstimatorVariances:
    """Return every estimator's variance from moments, or from their sums over inputs.

    Of sums over inputs the coefficients are the best ones that all inputs share. Variances
    that are tiny beside V₁ and V₂ lose their digits, which those of an evaluator's
    `estimator_variances` keep; they never leave [0, min(V₁, V₂)].

    Args:
        moments: Of any shape. The probes' variances hold for one input: 2 I².
        rademacher_probe: What an evaluator's `variance_rademacher_probe` returned.
    """
    fisher, first, third = moments.fisher, moments.variance_score_squared, moments.third
    control = -_ratio(third, fisher)
    controlled = (first + control * third).clamp(min=0)
    found = EstimatorVariances(
        first,
        torch.minimum(controlled, first),
        2 * fisher**2,
        rademacher_probe,
        torch.zeros_like(first),
        control,
    )
    second, covariance = moments.variance_negative_hessian, moments.covariance
    if second is None or covariance is None:
        return found
    low, high = torch.minimum(first, second), torch.maximum(first, second)
    gain = low - covariance
    rounding = 64 * torch.finfo(first.dtype).eps * (low + high)
    apart = (high - covariance) + gain
    share = _ratio(torch.where(apart > rounding, gain, 0.0), apart)
    mixed = torch.minimum((low - share * gain).clamp(min=0), low)
    mixing = torch.where(first < second, 1 - share, share)
    return dataclasses.replace(found, negative_hessian=second, mixed=mixed, mixing=mixing)


def _sum(values: Tensor) -> Tensor:
    return values.sum(dim=-2, keepdim=True)


def _ratio(numerator: Tensor, denominator: Tensor, size: Tensor | None = None) -> Tensor:
    """Return a quotient; 0 where the denominator, which is not negative, is 0.

    A denominator that is a square of differences of vectors of a given squared `size` counts as
    0 where rounding alone makes it as large.
    """
    rounding = 0.0 if size is None else size * (64 * torch.finfo(size.dtype).eps) ** 2
    positive = denominator > rounding
    return torch.where(positive, numerator / torch.where(positive, denominator, 1.0), 0.0)
