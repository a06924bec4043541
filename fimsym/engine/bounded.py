"""Theorem 4.1 for the parameters of a network: what I, V₁ and V₂ can be, given ‖u‖ and ‖v‖.

With the constants λ of the law at h(x), which depend on the input alone,

    λ_min(I)‖u‖² ≤ I ≤ λ_max(I)‖u‖²    λ_min(M)‖u‖⁴ ≤ V₁ ≤ λ_max(M)‖u‖⁴

and V₂ as I with v for u. Means over inputs and sums over parameters keep the order.

Source: Soen & Sun (2024), Theorem 4.1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import ModuleType

import torch
from torch import Tensor

BOUNDS = "bounds"
"""What asks for the bounds of every quantity that is asked for and has some."""
_CONSTANT = {
    "fisher": ("fisher", 2),
    "variance_score_squared": ("quartic", 4),
    "variance_negative_hessian": ("fisher", 2),
}
"""Whose constant it is that multiplies which power of a norm."""
ENDS = ("min", "max")
OF_SECOND = {f"variance_negative_hessian_{end}" for end in ENDS}
"""Bounds that need second derivatives."""
_NAMES = tuple(f"{quantity}_{end}" for quantity in _CONSTANT for end in ENDS)
NAMES = frozenset(_NAMES)


def bounds_of(asked: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the bounds of what is asked for, if bounds are."""
    return tuple(name for name in _NAMES if BOUNDS in asked and name.rpartition("_")[0] in asked)


def values(
    asked: Sequence[str],
    module: ModuleType,
    constants: Mapping[str, float],
    h: Tensor,
    u: Tensor | None,
    v: Tensor | None,
) -> dict[str, Tensor]:
    """Return the bounds asked for, each [batch, param].

    Args:
        asked: Names of quantities, bounds among them or not.
        module: The evaluator.
        constants: Of its family.
        h: Natural parameters, [batch, output].
        u: ∂h/∂θ, [batch, output, param].
        v: ∂²h/∂θ², likewise.
    """
    named = [name for name in asked if name in NAMES]
    if not named:
        return {}
    limits = module.bounds(h, **constants)
    squares: dict[bool, Tensor] = {}
    found = {}
    for name in named:
        quantity, _, end = name.rpartition("_")
        kind, power = _CONSTANT[quantity]
        second = name in OF_SECOND
        if second not in squares:
            squares[second] = _squared_norm(v if second else u)
        limit = getattr(limits, f"{kind}_{end}").to(squares[second]).unsqueeze(-1)
        found[name] = limit * squares[second] ** (power // 2)
    return {name: _without_nan(value) for name, value in found.items()}


def _squared_norm(direction: Tensor | None) -> Tensor:
    assert direction is not None
    return direction.square().sum(-2)


def _without_nan(bound: Tensor) -> Tensor:
    """Return 0 for what a direction that vanishes makes of a constant that is infinite."""
    return torch.where(bound.isnan(), 0.0, bound)
