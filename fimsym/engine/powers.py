"""From the quantities of neurons to those of weights: products with powers of what comes in."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fimsym.engine import bounded

DEGREES = {
    "fisher": 2,
    "variance_score_squared": 4,
    "variance_negative_hessian": 4,
    "covariance": 4,
    **{name: 2 if name.startswith("fisher") else 4 for name in bounded.NAMES},
}
"""Degree of every quantity in u, of which v counts two."""


def scaled(values: Mapping[str, Tensor], slope: Tensor) -> dict[str, Tensor]:
    """Return the quantities of φ'(z) u from those of u."""
    square = slope.square()
    scales = {2: square, 4: square.square()}
    return {q: value * scales[DEGREES[q]].to(value.dtype) for q, value in values.items()}


def powers_of(inputs: Tensor) -> dict[int, Tensor]:
    """Return the squares and fourth powers of what comes into a layer, by degree."""
    squares = inputs.square()
    return {2: squares, 4: squares.square()}


def spread_of(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_b (x_b − x̄)² of x_b = f_b a_b, each product of small deviations."""
    f, a = left.mean(0), right.mean(0)
    df, da = left - f, right - a
    about = df.square().T @ right.square()
    about += 2 * f[:, None] * (df.T @ (right * da)) + f.square()[:, None] * da.square().sum(0)
    return (about - (df.T @ da).square() / len(left)).clamp(min=0)
