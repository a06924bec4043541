"""Arithmetic on columns that keeps the last digits."""

from __future__ import annotations

import torch
from torch import Tensor


def two_largest(h: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of the two largest outputs, each [*batch, 1, 1]."""
    order = h.topk(2, dim=-2).indices
    return order[..., :1, :], order[..., 1:, :]


def rest(values: Tensor, top: Tensor, second: Tensor, value: float = 0.0) -> Tensor:
    """Return values with another one at the positions of two outputs."""
    return values.scatter(-2, top, value).scatter(-2, second, value)


def others(values: Tensor) -> Tensor:
    """Return Σ_{j≠i} x_j for non-negative x, accurate relative to itself.

    Subtracting from the total cancels only for the largest entry, so that one alone is
    summed anew.
    """
    if values.shape[-2] == 1:
        return torch.zeros_like(values)
    largest = values.max(dim=-2, keepdim=True).indices  # argmax is ten times slower
    rest = values.scatter(-2, largest, 0.0).sum(dim=-2, keepdim=True)
    total = values.sum(dim=-2, keepdim=True)
    return (total - values).scatter(-2, largest, rest)


def pairs(values: Tensor) -> Tensor:
    """Return Σ_{i<j} x_i x_j over outputs, [*batch, 1, param], without a difference."""
    if values.shape[-2] == 1:
        return torch.zeros_like(values)
    before = values.cumsum(dim=-2)[..., :-1, :]
    return total(before * values[..., 1:, :])


def rounded_up(value: Tensor, size: Tensor) -> Tensor:
    """Return an upper bound raised by the rounding of a sum of terms of that total size."""
    return value + 32 * torch.finfo(value.dtype).eps * size


def fill(value: float | Tensor, *likes: Tensor) -> Tensor:
    """Return a reduced column [*batch, 1, param] that holds `value` everywhere.

    Where one of `likes` is not finite the result is not either, as if it had been used.
    """
    zeros = [total(like * 0) for like in likes]
    found = sum(zeros[1:], zeros[0])
    return found if not isinstance(value, Tensor) and value == 0 else found + value


def total(values: Tensor) -> Tensor:
    """Return Σ_i x_i over outputs, [*batch, 1, param]."""
    return values if values.shape[-2] == 1 else values.sum(dim=-2, keepdim=True)


def softplus(x: Tensor) -> Tensor:
    """Return log(1 + e^x)."""
    return -torch.nn.functional.logsigmoid(-x)


def tanh_half(x: Tensor) -> Tensor:
    """Return tanh(x/2), the difference of the probabilities σ(x) and σ(−x)."""
    return torch.tanh(x / 2)


def log1mexp(x: Tensor) -> Tensor:
    """Return log(1 − e^x) for x < 0, right near 0 and far from it."""
    near = x > -0.6931471805599453
    far = torch.log1p(-torch.exp(torch.where(near, -1.0, x)))
    return torch.where(near, torch.log(-torch.expm1(torch.where(near, x, -0.5))), far)


def norm(x: Tensor, y: Tensor) -> Tensor:
    """Return √(x² + y²), with a zero gradient at 0."""
    zero = (x == 0) & (y == 0)
    return torch.where(zero, 0.0, torch.hypot(torch.where(zero, 1.0, x), y))


def cosine(x: Tensor, r: Tensor, at_zero: float) -> Tensor:
    """Return x/r; `at_zero` where r = 0."""
    zero = r == 0
    return torch.where(zero, at_zero, x / torch.where(zero, 1.0, r))


def sum_of_products(
    a: Tensor, b: Tensor, c: Tensor, d: Tensor, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Return a b + c d with one rounding, however much it cancels (Dekker, Knuth).

    In float64 the products of what was given in float32, `dtype`, are exact as they are.
    """
    if dtype == torch.float32 and a.dtype == torch.float64:
        return torch.addcmul(a * b, c, d)
    first, first_error = exact_product(a, b)
    second, second_error = exact_product(c, d)
    total = first + second
    part = total - first
    error = (first - (total - part)) + (second - part)
    return total + (error + (first_error + second_error))


def exact_product(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rounded product and its rounding error."""
    product = a * b
    (high_a, low_a), (high_b, low_b) = _halves(a), _halves(b)
    return product, ((high_a * high_b - product) + high_a * low_b + low_a * high_b) + low_a * low_b


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return two numbers of half the digits that add up to x."""
    scaled = x * (2 ** (27 if x.dtype == torch.float64 else 12) + 1)
    high = scaled - (scaled - x)
    return high, x - high


def largest_pair(values: Tensor) -> Tensor:
    """Return the product of the two largest values over targets; 0 for a single target."""
    if values.shape[-2] < 2:
        return torch.zeros_like(values)
    return values.topk(2, dim=-2).values.prod(dim=-2, keepdim=True)


def smallest_pair(values: Tensor) -> Tensor:
    """Return the product of the two smallest values over targets; ∞ for a single target."""
    if values.shape[-2] < 2:
        return torch.full_like(values, float("inf"))
    return values.topk(2, dim=-2, largest=False).values.prod(dim=-2, keepdim=True)
