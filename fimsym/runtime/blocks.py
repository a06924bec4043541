"""Sums over outputs in pieces of a call that stay in the processor's cache.

An evaluator makes some twenty passes over u. On a large u each of them would wait for main
memory, so the passes run on one block of the batch and of the parameters after the other.
On accelerators one long sequence of launches is better, and what is differentiated or
compiled is one graph: there the whole call is one block.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from fimsym.runtime.columns import require_finite_results

ENTRIES = 2**18
"""Entries of u in a block for each thread: a few such tensors fit into the second and third
levels of cache, and the cost of calling torch is small beside them."""

_NARROWEST = 64
"""Fewest parameters that a block is cut down to: rows of whole cache lines."""
_LONGEST = 512
"""Most outputs whose weighted sum is left to a matrix product, which adds them up in order."""

_FEW = 2**14
"""Entries below which the number of calls of torch decides."""
_RETAINED = 2**24
"""Bytes that, freed once, make the C library keep twice as many for the next block."""

Region = tuple[tuple[int, int, int], ...]
"""Axis, start and length of every axis that is cut."""


def in_blocks(
    dtype: torch.dtype,
    block: Callable[..., Sequence[Tensor]],
    *columns,
    **directions: Tensor,
) -> list[Tensor]:
    """Return what `block` computes of u and v, each [*batch, param].

    Args:
        dtype: Of the results.
        block: Takes the columns and directions of some entries of the batch and some
            parameters, and returns reduced columns [*batch, 1, param].
        *columns: What was computed from h, [*batch, …], or named tuples of it.
        **directions: u and v, [*batch, output, param].

    Raises:
        DomainError: a result is not finite.
    """
    given = list(directions.values())
    chunks = _chunks(given[0].shape) if _may_be_cut(given, columns) else given[0].shape
    if chunks == given[0].shape:
        values = [value.squeeze(-2).to(dtype) for value in block(*columns, *given)]
    else:
        values = _each(dtype, block, columns, given, chunks)
    require_finite_results(values, directions)
    return values


def _may_be_cut(directions, columns) -> bool:
    """Tell whether values are computed now, on a processor with a cache, without a graph."""
    if torch.compiler.is_compiling() or any(x.device.type != "cpu" for x in directions):
        return False
    if not torch.is_grad_enabled():
        return True
    flat = itertools.chain(directions, *(c if isinstance(c, tuple) else (c,) for c in columns))
    return not any(x.requires_grad for x in flat)


def _chunks(shape: torch.Size) -> torch.Size:
    """Return the shape of the blocks of u: whole rows of parameters, then of the batch."""
    *batch, outputs, params = shape
    room = max(1, torch.get_num_threads() * ENTRIES // max(1, outputs))
    if math.prod(shape) <= room * outputs:
        return shape
    sizes = []
    for size, narrowest in ((params, _NARROWEST), *((size, 1) for size in reversed(batch))):
        pieces = math.ceil(size / max(room, narrowest))
        sizes.append(math.ceil(size / pieces))
        room //= size
    return torch.Size([*reversed(sizes[1:]), outputs, sizes[0]])


def _each(dtype, block, columns, directions, chunks) -> list[Tensor]:
    # The C library returns freed memory to the system, which zeroes it page by page when it is
    # asked for again, unless a larger piece has been freed before.
    torch.empty(_RETAINED, dtype=torch.uint8)
    *batch, _, params = directions[0].shape
    values: list[Tensor] = []
    targets: list[Sequence[Tensor]] = []
    for rows in _regions(batch, chunks[:-2]):
        of_rows = [_of_column(column, rows) for column in columns]
        pieces = zip(*(_part(x, rows).split(chunks[-1], -1) for x in directions), strict=True)
        for place, piece in enumerate(pieces):
            found = block(*of_rows, *piece)
            if found[0].requires_grad:  # through a constant of the family
                return [value.squeeze(-2).to(dtype) for value in block(*columns, *directions)]
            if not values:
                values = [x.new_empty((*batch, 1, params), dtype=dtype) for x in found]
            if place == 0:
                targets = [_part(value, rows).split(chunks[-1], -1) for value in values]
            for target, part in zip(targets, found, strict=True):
                target[place].copy_(part)
    return [value.squeeze(-2) for value in values]


def _regions(sizes: Sequence[int], chunks: Sequence[int]) -> Iterator[Region]:
    cut = [
        [(axis, start, min(chunk, size - start)) for start in range(0, size, chunk)]
        for axis, (size, chunk) in enumerate(zip(sizes, chunks, strict=True))
        if chunk < size
    ]
    return itertools.product(*cut)


def _part(tensor: Tensor, region: Region) -> Tensor:
    for axis, start, length in region:
        tensor = tensor.narrow(axis, start, length)
    return tensor


def _of_column(column, region: Region):
    if isinstance(column, Tensor):
        return _part(column, region)
    return type(column)(*(_part(part, region) for part in column))


def at(values: Tensor, place: Tensor) -> Tensor:
    """Return the entries of `values` [*batch, output, param] at one output each, [*batch, 1, 1]."""
    if values.device.type != "cpu" or torch.compiler.is_compiling():
        return torch.take_along_dim(values, place, dim=-2)
    if values.numel() < _FEW:
        return values.gather(-2, place.expand(*place.shape[:-1], values.shape[-1]))
    # The same without an index for every parameter.
    batch = place.shape[:-2]
    if not batch:
        return values.index_select(-2, place.flatten())
    index = place.squeeze(-1)
    grid = [
        torch.arange(size).view(-1, *[1] * (len(batch) - axis)) for axis, size in enumerate(batch)
    ]
    return values[(*grid, index)]


def weighted_sum(weights: Tensor, values: Tensor) -> Tensor:
    """Return Σ_i w_i x_i over outputs, [*batch, 1, param].

    A matrix product needs no temporary; it is taken where it is as accurate as the sum.
    """
    if (
        values.device.type != "cpu"
        or torch.compiler.is_compiling()
        or weights.dtype != values.dtype
        or values.shape[-2] > _LONGEST
        or torch.get_float32_matmul_precision() != "highest"
        or torch.is_autocast_enabled("cpu")
    ):
        return (weights * values).sum(dim=-2, keepdim=True)
    return weights.mT @ values
