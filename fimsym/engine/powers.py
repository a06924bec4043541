"""From the quantities of neurons to those of weights: products with powers of what comes in."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping

import torch
from torch import Tensor

from fimsym.engine import bounded
from fimsym.engine.memory import at_a_time

_ENTRIES = 2**19
"""Entries of what comes in that are taken at a time, so that they stay in the cache."""

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


def in_memory(tensor: Tensor) -> Hashable:
    """Return the same for tensors that are the same numbers in memory."""
    return tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype


def summed(inputs: Tensor, values: Mapping[str, Tensor], transposed: bool) -> dict[str, Tensor]:
    """Return Σ_b x_b a_b^degree of every quantity x; tiny and huge features a are scaled.

    Args:
        inputs: a, what comes into a layer, [batch, feature].
        values: x, [batch, neuron].
        transposed: Return [neuron, feature] instead of [feature, neuron].
    """
    totals, sums = _summed(inputs, values, transposed)
    scale = _scale_of(inputs, sums)
    if scale is None:
        return totals
    totals, _ = _summed(inputs / scale.to(inputs.dtype), values, transposed)
    return {q: _restored(total, scale, DEGREES[q], transposed) for q, total in totals.items()}


def spread(inputs: Tensor, values: Tensor, transposed: bool) -> Tensor:
    """Return the sum of squares of x_b a_b² about its mean over the batch.

    Deviations from about the means, marked by d, do not cancel: up to a constant x_b a_b² is
    x̄ d(a_b²) + dx_b a_b². Tiny and huge features a are scaled.

    Args:
        inputs: a, what comes into a layer, [batch, feature].
        values: x, [batch, neuron].
        transposed: Return [neuron, feature] instead of [feature, neuron].
    """
    sums = inputs.new_zeros(2, inputs.shape[1])
    for rows in _blocks(inputs):
        squares = inputs[rows].square()
        sums[0] += squares.sum(0)
        sums[1] += squares.square_().sum(0)
    scale = _scale_of(inputs, sums[1])
    if scale is not None:
        found = spread(inputs / scale.to(inputs.dtype), values, transposed)
        return _restored(found, scale, 4, transposed)
    x, a = values.mean(0), (sums[0] / len(inputs)).to(values.dtype)
    found, mixed, cross = values.new_zeros(3, len(x), len(a))
    shift, alone = torch.zeros_like(a), torch.zeros_like(a)
    for rows in _blocks(inputs):
        squares = inputs[rows].square().to(values.dtype)
        dx, da = values[rows] - x, squares - a
        mixed.addmm_(dx.T, squares * da)
        cross.addmm_(dx.T, squares)
        shift += da.sum(0)
        alone += da.square_().sum(0)
        found.addmm_(dx.square_().T, squares.square_())
    found.addcmul_(x.unsqueeze(1), mixed, value=2)
    found.addcmul_(x.square().unsqueeze(1), alone)
    cross.addcmul_(x.unsqueeze(1), shift)
    found.sub_(cross.square_().div_(len(inputs))).clamp_(min=0)
    return found if transposed else found.T


def _blocks(inputs: Tensor) -> Iterator[slice]:
    """Yield ranges of so many inputs that their powers stay in the cache."""
    size = max(1, at_a_time(_ENTRIES, inputs.device) // max(1, inputs.shape[1]))
    size = math.ceil(len(inputs) / math.ceil(len(inputs) / size))
    for first in range(0, len(inputs), size):
        yield slice(first, first + size)


def _summed(inputs, values, transposed) -> tuple[dict[str, Tensor], Tensor]:
    """Return the sums, and those of the highest powers alone."""
    top = max(DEGREES[quantity] for quantity in values)
    sums, totals = inputs.new_zeros(inputs.shape[1]), {}
    for rows in _blocks(inputs):
        powers = {2: inputs[rows].square()}
        if top > 2:
            powers[4] = powers[2].square()
        sums += powers[top].sum(0)
        for quantity, value in values.items():
            x, a = value[rows], powers[DEGREES[quantity]].to(value.dtype)
            pair = (x.T, a) if transposed else (a.T, x)
            if quantity in totals:
                totals[quantity].addmm_(*pair)
            else:
                totals[quantity] = torch.mm(*pair)
    return totals, sums


def _restored(total: Tensor, scale: Tensor, degree: int, transposed: bool) -> Tensor:
    """Return a sum that holds (a/s)^degree as one of a^degree."""
    return total.double() * scale.pow(degree).unsqueeze(0 if transposed else 1)


def _scale_of(inputs: Tensor, sums: Tensor) -> Tensor | None:
    """Return s of every feature, a power of two, if powers of some leave the dtype's range.

    Args:
        inputs: What comes in, [row, feature].
        sums: Sums of its highest powers, [feature].
    """
    least = torch.finfo(inputs.dtype).tiny ** (2 / 3)
    outside = ~((sums >= least) & (sums <= 1 / least))
    if not bool(outside.any()):
        return None
    sizes = inputs[:, outside].abs().amax(0).double()
    if not bool(sizes.any()):
        return None
    scale = torch.ones_like(sums, dtype=torch.float64)
    scale[outside] = torch.exp2(torch.frexp(sizes).exponent.double() - 1)
    return scale
