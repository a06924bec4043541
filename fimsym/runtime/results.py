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


def _flatten(moments: Moments) -> tuple[list[Tensor], tuple[str, ...]]:
    present = {
        field.name: value
        for field in dataclasses.fields(moments)
        if (value := getattr(moments, field.name)) is not None
    }
    return list(present.values()), tuple(present)


def _unflatten(values, names) -> Moments:
    return Moments(**dict(zip(names, values, strict=True)))


# vmap accepts results that are trees of tensors, and a None is not a tensor.
_pytree.register_pytree_node(Moments, _flatten, _unflatten)


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


_pytree.register_pytree_node(
    Bounds,
    lambda bounds: ([getattr(bounds, f.name) for f in dataclasses.fields(bounds)], None),
    lambda values, _: Bounds(*values),
)


def outward(dtype: torch.dtype, *values: Tensor) -> Bounds:
    """Return bounds in `dtype`, lower ones rounded down and upper ones up.

    Args:
        dtype: Of the result.
        *values: The four constants of `Bounds` as columns [*batch, 1, 1].
    """
    found = []
    for place, value in enumerate(values):
        value = value.squeeze((-2, -1))
        near = value.to(dtype)
        limit = torch.full_like(near, float("inf") if place % 2 else float("-inf"))
        inside = near < value if place % 2 else near > value
        found.append(torch.where(inside, torch.nextafter(near, limit), near))
    return Bounds(*found)
