"""Evaluation of power series with coefficients fixed at import."""

from __future__ import annotations

from torch import Tensor, full_like


def horner(coefficients: tuple[float, ...], t: Tensor) -> Tensor:
    """Return Σ_k c_k t^k, the shape of t."""
    value = full_like(t, coefficients[-1])
    for coefficient in coefficients[-2::-1]:
        value = value * t + coefficient
    return value
