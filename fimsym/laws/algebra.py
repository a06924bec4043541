"""What the formulas of a specification mean on tensors."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from fimsym.families.formula import interpret


class Matrix:
    """Matrices [*batch, D, D] whose product in a formula is the matrix product."""

    def __init__(self, values: Tensor):
        self.values = values

    def __mul__(self, other: Matrix | float) -> Matrix:
        if isinstance(other, Matrix):
            return Matrix(self.values @ other.values)
        return Matrix(self.values * other)

    __rmul__ = __mul__

    def __truediv__(self, other: float) -> Matrix:
        return Matrix(self.values / other)

    def __neg__(self) -> Matrix:
        return Matrix(-self.values)


def evaluate(formula: str, names: Mapping[str, Any]) -> Any:
    """Return the value of a formula, whose names stand for tensors, numbers or matrices."""
    return interpret(formula, {"pi": math.pi, **names}, _FUNCTIONS, float)


def packed_size(entries: int) -> int:
    """Return D of a vector of D entries followed by D(D+1)/2 of a matrix."""
    size = math.isqrt(9 + 8 * entries) // 2 - 1
    return size if size * (size + 3) == 2 * entries else 0


def lower_triangle(packed: Tensor, size: int) -> Tensor:
    """Return lower triangular matrices [*batch, D, D] from their rows [*batch, D(D+1)/2]."""
    rows, columns = torch.tril_indices(size, size)
    full = packed.new_zeros(*packed.shape[:-1], size * size)
    return full.index_copy(-1, rows * size + columns, packed).unflatten(-1, (size, size))


def symmetric(packed: Tensor, size: int) -> Matrix:
    """Return symmetric matrices from the rows of their lower triangles."""
    lower = lower_triangle(packed, size)
    return Matrix(lower + lower.tril(-1).mT)


def pack(matrix: Matrix) -> Tensor:
    """Return the rows of the lower triangles, [*batch, D(D+1)/2]."""
    rows, columns = torch.tril_indices(*matrix.values.shape[-2:])
    return matrix.values[..., rows, columns]


def _lifted(function: Callable) -> Callable:
    """Return a function of tensors that takes numbers too."""
    return lambda *values: function(
        *(v if isinstance(v, Tensor) else torch.tensor(v, dtype=torch.float64) for v in values)
    )


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{
        name: _lifted(getattr(torch, name))
        for name in ("exp", "log", "sqrt", "expm1", "log1p", "sin", "cos", "atan2", "lgamma")
    },
    "softplus": _lifted(lambda x: torch.logaddexp(x, torch.zeros_like(x))),
    "gamma": _lifted(lambda x: torch.lgamma(x).exp()),
    "log_bessel_i0": _lifted(lambda x: torch.special.i0e(x).log() + x.abs()),
    "sum": lambda values: values.sum(dim=-1, keepdim=True),
    "transpose": lambda matrix: Matrix(matrix.values.mT),
    "inverse": lambda matrix: Matrix(torch.linalg.inv(matrix.values)),
    "solve": lambda matrix, b: torch.linalg.solve(matrix.values, b.unsqueeze(-1)).squeeze(-1),
    "dot": lambda one, other: (one * other).sum(-1),
    "logdet": lambda matrix: torch.linalg.slogdet(matrix.values).logabsdet,
}
