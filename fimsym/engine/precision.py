"""Quantities so small that float32 cannot hold them: fourth powers of derivatives underflow."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fimsym.engine.powers import DEGREES

_LEAST = 2.0**-28
"""Largest |u| below which fourth powers keep too few digits in float32."""

_TELLING = ("variance_score_squared", "fisher")
"""Quantities of first derivatives, at least zero: others may be exactly zero."""

Values = Mapping[str, Tensor]
"""Quantities by name."""


def vanish(values: Values) -> bool:
    """Tell whether quantities in float32 are zero, or so small that they may have lost digits.

    V₁ alone tells, if it is there: it is at most Σ_c p_c ũ_c⁴ for classes and of degree four for
    all, so that where it holds digits, I does.
    """
    name = next((name for name in _TELLING if name in values), None) or next(iter(values), None)
    if name is None or values[name].dtype != torch.float32 or not values[name].numel():
        return False
    value = values[name]
    size = value.amax() if name in _TELLING else largest(value)
    return float(size) < _LEAST ** DEGREES[name]


def largest(values: Tensor) -> Tensor:
    """Return max |x|, NaN if there is one."""
    low, high = torch.aminmax(values)
    return torch.maximum(-low, high)


def with_digits(
    take: Callable[[Tensor, Any, Any], Values],
    h: Tensor,
    u: Tensor | None,
    v: Tensor | None,
) -> dict[str, Tensor]:
    """Return the quantities of u and v at h, in float64 where they vanish in float32.

    Args:
        take: Returns them, and changes none of its arguments.
        h: Outputs, [batch, output].
        u: ∂h/∂θ, [batch, output, param], if it is needed.
        v: ∂²h/∂θ², likewise.
    """
    found = take(h, u, v)
    if vanish(found) and any(x is not None and bool(x.any()) for x in (u, v)):
        wide = (x if x is None else x.double() for x in (u, v))
        found = take(h.double(), *wide)
    return dict(found)
