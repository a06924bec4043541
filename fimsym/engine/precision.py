"""Quantities that float32 cannot hold: fourth powers of derivatives underflow, or overflow."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fimsym.engine.powers import DEGREES

_LEAST = 2.0**-28
"""Largest |u| below which fourth powers keep too few digits in float32."""

_OF_FIRST = ("variance_score_squared", "fisher")
"""Quantities of first derivatives, at least zero: others may be exactly zero. V₁ of two classes is
far below I² where they are nearly equal."""

_Named = Mapping[str, Tensor]
"""Quantities by name."""


def vanish(values: _Named) -> bool:
    """Tell whether float32 may not hold quantities: they are zero, tiny, or not finite."""
    names = [name for name in _OF_FIRST if name in values] or list(values)[:1]
    for name in names:
        value = values[name]
        if value.dtype == torch.float32 and value.numel():
            size = float(value.amax() if name in _OF_FIRST else largest(value))
            if not _LEAST ** DEGREES[name] <= size < math.inf:
                return True
    return False


def largest(values: Tensor) -> Tensor:
    """Return max |x|, NaN if there is one."""
    low, high = torch.aminmax(values)
    return torch.maximum(-low, high)


def with_digits(
    take: Callable[[Tensor, Any, Any], _Named],
    h: Tensor,
    u: Tensor | None,
    v: Tensor | None,
) -> dict[str, Tensor]:
    """Return the quantities of u and v at h, in float64 where float32 cannot hold them.

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
