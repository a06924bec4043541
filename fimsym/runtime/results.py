"""What evaluators return."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor
from torch.utils import _pytree


@dataclasses.dataclass(frozen=True)
class Moments:
    """Every closed form of one call; each [*batch, param], per label.

    Attributes:
        fisher: I = Var(s) ≥ 0.
        variance_score_squared: V₁ = Var(Î₁) ≥ 0.
        third: κ₃₀ = E[s³], of either sign.
        variance_negative_hessian: V₂ = Var(Î₂) ≥ 0; None without v.
        covariance: Cov(Î₁, Î₂), of either sign; None without v.
    """

    fisher: Tensor
    variance_score_squared: Tensor
    third: Tensor
    variance_negative_hessian: Tensor | None = None
    covariance: Tensor | None = None


def register(kind: type) -> None:
    """Let vmap return a record of tensors; fields that are None are left out, as no tensors."""

    def flatten(record) -> tuple[list[Tensor], tuple[str, ...]]:
        present = {
            field.name: value
            for field in dataclasses.fields(record)
            if (value := getattr(record, field.name)) is not None
        }
        return list(present.values()), tuple(present)

    def unflatten(values, names):
        missing = dict.fromkeys(field.name for field in dataclasses.fields(kind))
        return kind(**{**missing, **dict(zip(names, values, strict=True))})

    _pytree.register_pytree_node(kind, flatten, unflatten)


register(Moments)


@dataclasses.dataclass(frozen=True)
class Bounds:
    """Theorem 4.1's constants, each [*batch].

    Attributes:
        fisher_min: λ with I ≥ λ‖u‖² and V₂ ≥ λ‖v‖².
        fisher_max: λ with I ≤ λ‖u‖² and V₂ ≤ λ‖v‖².
        quartic_min: λ with V₁ ≥ λ‖u‖⁴.
        quartic_max: λ with V₁ ≤ λ‖u‖⁴.
    """

    fisher_min: Tensor
    fisher_max: Tensor
    quartic_min: Tensor
    quartic_max: Tensor


register(Bounds)


def outward(dtype: torch.dtype, *values: Tensor) -> Bounds:
    """Return bounds in `dtype`, lower ones rounded down and upper ones up.

    They also move by the smallest normal number, below which rounding is not relative. Where
    numbers are too large or too small to compute a bound, it is 0 or ∞, which always holds.

    Args:
        dtype: Of the result.
        *values: The four constants of `Bounds` as columns [*batch, 1, 1].
    """
    columns = [value.squeeze((-2, -1)) for value in values]
    return Bounds(*(_rounded(dtype, value, place % 2 == 1) for place, value in enumerate(columns)))


def _rounded(dtype: torch.dtype, value: Tensor, up: bool) -> Tensor:
    range_of = torch.finfo(value.dtype)
    infinity = float("inf") if up else float("-inf")
    value = torch.where(value.isnan(), infinity, value)
    value = value + range_of.tiny if up else (value - range_of.tiny).clamp(0, range_of.max)
    near = value.to(dtype)
    inside = near < value if up else near > value
    return torch.where(inside, torch.nextafter(near, torch.full_like(near, infinity)), near)
