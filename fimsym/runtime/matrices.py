"""Vectors and symmetric matrices packed in one axis, and what a Gaussian vector needs of them.

The last axis of an argument holds a vector of D entries, then a matrix by rows of its lower
triangle, D(D+3)/2 in all. Inside an evaluator vectors are [*batch, param, D, 1] and matrices
[*batch, param, D, D], with one parameter for h itself; sums over both axes give columns
[*batch, 1, param].
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fimsym.errors import DomainError, ShapeError
from fimsym.runtime.arithmetic import exact_product
from fimsym.runtime.columns import is_true


class Whitening(NamedTuple):
    """The map y ↦ L⁻¹y under which Λ = L Lᵀ becomes the identity.

    Attributes:
        factor: L, [*batch, 1, D, D].
        start: L⁻¹ as one rounded factorisation gives it.
        correction: What `start` is multiplied by to whiten Λ to the last digits, however
            ill-conditioned.
        inverse: L⁻¹, their rounded product.
    """

    factor: Tensor
    start: Tensor
    correction: Tensor
    inverse: Tensor


def vector_and_matrix(column: Tensor) -> tuple[Tensor, Tensor]:
    """Unpack a column [*batch, output, param] into vectors and symmetric matrices.

    Raises:
        ShapeError: the number of outputs is not D(D+3)/2 for any D.
    """
    vector, lower = vector_and_triangle(column)
    return vector, lower + lower.tril(-1).mT


def vector_and_triangle(column: Tensor) -> tuple[Tensor, Tensor]:
    """Unpack a column [*batch, output, param] into vectors and lower triangular matrices.

    Raises:
        ShapeError: the number of outputs is not D(D+3)/2 for any D.
    """
    entries = column.shape[-2]
    size = (math.isqrt(9 + 8 * entries) - 3) // 2
    if size * (size + 3) != 2 * entries:
        raise ShapeError(
            f"expected D outputs of a vector and D(D+1)/2 of a matrix, {size * (size + 3) // 2} "
            f"or {(size + 1) * (size + 4) // 2} in all for D = {size} or {size + 1}; got {entries}."
        )
    rows = column.mT
    row, place = torch.tril_indices(size, size, device=column.device)
    flat = rows.new_zeros(*rows.shape[:-1], size * size)
    flat = flat.index_copy(-1, row * size + place, rows[..., size:])
    return rows[..., :size].unsqueeze(-1), flat.unflatten(-1, (size, size))


def vector_column(vector: Tensor) -> Tensor:
    """Return vectors [*batch, param, D, 1] as a column [*batch, D, param]."""
    return vector.squeeze(-1).mT


def matrix_column(matrix: Tensor, beside: float = 1.0) -> Tensor:
    """Return the rows of lower triangles as a column [*batch, D(D+1)/2, param].

    Args:
        matrix: [*batch, param, D, D].
        beside: Factor of the entries beside the diagonal.
    """
    row, column = torch.tril_indices(*matrix.shape[-2:], device=matrix.device)
    entries = matrix.flatten(-2).index_select(-1, row * matrix.shape[-1] + column)
    return torch.where(row == column, entries, beside * entries).mT


def whitening(matrix: Tensor) -> Whitening:
    """Return the whitening of Λ = −2H₂.

    Raises:
        DomainError: −H₂ is not positive definite.
    """
    precision = -2 * matrix
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    factor, first = torch.linalg.cholesky_ex(precision)
    start = inverse_triangle(factor)
    product, error = _exact_product(start, precision)
    whitened, rest = _exact_product(product, start.mT)
    remainder = (whitened - one) + (rest + error @ start.mT)
    again, second = torch.linalg.cholesky_ex(one + (remainder + remainder.mT) / 2)
    definite = (first == 0) & (second == 0)
    _require_definite(matrix, definite)
    # Where values are not checked, a factorisation that broke off must not pass for one.
    correction = torch.where(definite[..., None, None], inverse_triangle(again), math.nan)
    return Whitening(factor, start, correction, correction @ start)


def whiten(whitening: Whitening, vector: Tensor) -> Tensor:
    """Return L⁻¹x."""
    product, error = _exact_product(whitening.start, vector)
    return whitening.correction @ (product + error)


def congruence(whitening: Whitening, matrix: Tensor) -> Tensor:
    """Return L⁻¹ X L⁻ᵀ."""
    start = whitening.start
    product, error = _exact_product(start, matrix)
    result, rest = _exact_product(product, start.mT)
    whole = result + (rest + error @ start.mT)
    return whitening.correction @ whole @ whitening.correction.mT


def log_determinant(whitening: Whitening) -> Tensor:
    """Return log det Λ, [*batch, 1, 1]."""
    diagonal = whitening.inverse.diagonal(dim1=-2, dim2=-1)
    return -2 * diagonal.log().sum(-1, keepdim=True)


def inner(one: Tensor, other: Tensor) -> Tensor:
    """Return the sum of products of entries as a column [*batch, 1, param]."""
    return (one * other).sum((-2, -1)).unsqueeze(-2)


def log_diagonal(
    triangle: Tensor, first: Tensor | None = None, second: Tensor | None = None
) -> Tensor:
    """Return triangular factors whose diagonal is given by its logarithm, or a derivative.

    Args:
        triangle: Lower triangular matrices [*batch, 1, D, D].
        first: Their first derivatives [*batch, param, D, D]; the factors' are returned.
        second: Their second derivatives, likewise.
    """
    diagonal = triangle.diagonal(dim1=-2, dim2=-1).exp()
    last = triangle
    if first is not None:
        slope = first.diagonal(dim1=-2, dim2=-1)
        last = first
        if second is not None:
            last, slope = second, second.diagonal(dim1=-2, dim2=-1) + slope**2
        diagonal = diagonal * slope
    return last.tril(-1) + torch.diag_embed(diagonal)


def unit_directions(column: Tensor) -> Tensor:
    """Return the unit vectors as directions [*batch, output, output] of a column."""
    one = torch.eye(column.shape[-2], dtype=column.dtype, device=column.device)
    return one.expand(*column.shape[:-2], -1, -1)


def unit_scores(column: Tensor) -> tuple[Tensor, Tensor]:
    """Return c and A of an orthonormal basis for the norm ‖c‖² + 2‖A‖²."""
    return of_coordinates(unit_directions(column))


def coordinates(slope: Tensor, curvature: Tensor) -> Tensor:
    """Return (c, A) as a column [*batch, output, param] whose squared norm is ‖c‖² + 2‖A‖²."""
    matrix = matrix_column(math.sqrt(2) * curvature, beside=math.sqrt(2))
    return torch.cat([vector_column(slope), matrix], dim=-2)


def of_coordinates(column: Tensor) -> tuple[Tensor, Tensor]:
    """Return c and A of `coordinates`."""
    slope, curvature = vector_and_matrix(column)
    on = torch.diag_embed(curvature.diagonal(dim1=-2, dim2=-1))
    return slope, on / math.sqrt(2) + (curvature - on) / 2


def largest_information(slope: Tensor, curvature: Tensor) -> Tensor:
    """Return the largest eigenvalue of the matrix of ⟨c, c'⟩ + 2⟨A, A'⟩, [*batch, 1, 1]."""
    return _largest(torch.cat([slope.squeeze(-1), math.sqrt(2) * curvature.flatten(-2)], -1))


def largest_curvature(curvature: Tensor) -> Tensor:
    """Return the largest eigenvalue of the matrix of ⟨A, A'⟩, [*batch, 1, 1]."""
    return _largest(curvature.flatten(-2))


def largest_square(vector: Tensor, matrix: Tensor) -> Tensor:
    """Return the largest eigenvalue of the matrix of ⟨u, u'⟩ in packed entries, [*batch, 1, 1]."""
    return _largest(torch.cat([vector_column(vector), matrix_column(matrix)], -2).mT)


def relative_rounding(factor: Tensor, inverse: Tensor) -> Tensor:
    """Return a bound, at most 1, of the relative rounding of either, [*batch, 1, 1]."""
    size = factor.shape[-1]
    epsilon = 64 * size**2 * torch.finfo(factor.dtype).eps
    return (epsilon * (inner(factor, factor) * inner(inverse, inverse)).sqrt()).clamp(max=1.0)


def _largest(rows: Tensor) -> Tensor:
    return torch.linalg.eigvalsh(rows @ rows.mT)[..., -1:].unsqueeze(-1)


def inverse_triangle(matrix: Tensor) -> Tensor:
    """Return the inverse of lower triangular matrices."""
    one = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return torch.linalg.solve_triangular(matrix, one.expand_as(matrix), upper=False)


def _exact_product(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """Return the matrix product and its rounding error, as one term after the other adds."""
    total, error = exact_product(left[..., :1], right[..., :1, :])
    for k in range(1, left.shape[-1]):
        product, rest = exact_product(left[..., k : k + 1], right[..., k : k + 1, :])
        before, total = total, total + product
        part = total - before
        error = error + (rest + ((before - (total - part)) + (product - part)))
    return total, error


def _require_definite(matrix: Tensor, definite: Tensor) -> None:
    if is_true(definite.all()) is not False:
        return
    where = (~definite).nonzero()[0].tolist()
    smallest = torch.linalg.eigvalsh(-matrix[tuple(where)])[0].item()
    raise DomainError(
        f"-H2 must be positive definite, beyond rounding; got the smallest eigenvalue "
        f"{smallest:.6g} at index {where[:-1]} of the batch. Pass h = (Λμ, −Λ/2 by rows of its "
        "lower triangle) with a positive definite Λ, or let the model put out unbounded numbers "
        "and pass the link mean_cholesky."
    )
