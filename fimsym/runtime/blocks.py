"""Sums over outputs in pieces of a call that stay in the processor's cache.

An evaluator makes some twenty passes over u. On a large u each of them would wait for main
memory, so the passes run on one block of the batch and of the parameters after the other.
On accelerators one long sequence of launches is better, and what is differentiated or
compiled is one graph: there the whole call is one block.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_unflatten

from fimsym.runtime.columns import require_finite_results

ENTRIES = 2**19
"""Entries of u in a block: a few such tensors fit into the second and third levels of cache,
and the cost of calling torch, and of its threads waiting for each other, is small beside them."""

_NARROWEST = 64
"""Fewest parameters that a block is cut down to: rows of whole cache lines."""
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
        block: Takes `reuse`, and the columns and directions of some entries of the batch and
            some parameters; returns reduced columns [*batch, 1, param]. An operation may write
            its result to `reuse(x)`, where that is not None, if x is not used after it.
        *columns: What was computed from h, [*batch, …], or named tuples of it.
        **directions: u and v, [*batch, output, param].

    Raises:
        DomainError: a result is not finite.
    """
    given = list(directions.values())
    if torch.compiler.is_compiling() and not _transformed():
        columns = _stored(columns)
    chunks = _chunks(given[0].shape) if _may_be_cut(given, columns) else given[0].shape
    if chunks == given[0].shape:
        values = [value.squeeze(-2).to(dtype) for value in block(_never, *columns, *given)]
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
    return not any(isinstance(x, Tensor) and x.requires_grad for x in flat)


def _chunks(shape: torch.Size) -> torch.Size:
    """Return the shape of the blocks of u: whole rows of parameters, then of the batch."""
    *batch, outputs, params = shape
    room = max(1, ENTRIES // max(1, outputs))
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
    shape, reuse = directions[0].shape, _never
    values: list[Tensor] = []
    for region in _regions((*shape[:-2], shape[-1]), (*chunks[:-2], chunks[-1])):
        rows = tuple(cut for cut in region if cut[0] >= 0)
        of_rows = [_of_column(column, rows) for column in columns]
        found = block(reuse, *of_rows, *(_part(direction, region) for direction in directions))
        if found[0].requires_grad:  # through a constant of the family
            return [value.squeeze(-2).to(dtype) for value in block(_never, *columns, *directions)]
        if not values:
            values = [x.new_empty((*shape[:-2], 1, shape[-1]), dtype=dtype) for x in found]
            reuse = _always if _is_plain(directions) else _never
        for value, part in zip(values, found, strict=True):
            _part(value, region).copy_(part)
    return [value.squeeze(-2) for value in values]


def _never(x: Tensor) -> None:
    """Keep x, which gradients may need."""


def _always(x: Tensor) -> Tensor:
    return x


def _is_plain(tensors: Sequence[Tensor]) -> bool:
    """Tell whether operations on tensors have forms that write to a place."""
    return not _transformed() and all(type(x) is Tensor for x in tensors)


def _transformed() -> bool:
    """Tell whether torch.func or forward-mode derivatives act on what is computed."""
    return maybe_current_level() is not None or forward_ad._current_level >= 0


def _regions(sizes: Sequence[int], chunks: Sequence[int]) -> Iterator[Region]:
    """Yield the pieces of a batch and of its parameters, the last of the sizes."""
    axes = (*range(len(sizes) - 1), -1)
    cut = [
        [(axis, start, min(chunk, size - start)) for start in range(0, size, chunk)]
        for axis, size, chunk in zip(axes, sizes, chunks, strict=True)
        if chunk < size
    ]
    return itertools.product(*cut)


def _part(tensor: Tensor, region: Region) -> Tensor:
    for axis, start, length in region:
        tensor = tensor.narrow(axis, start, length)
    return tensor


@torch.library.custom_op("fimsym::stored", mutates_args=())
def _store(columns: list[Tensor]) -> list[Tensor]:
    return [column.clone() for column in columns]


@_store.register_fake
def _(columns):
    return [torch.empty_like(column) for column in columns]


def _stored(columns: Sequence) -> Sequence:
    """Return columns that compiled code holds in memory.

    A compiler would else work them out anew, in float64, for every entry of u.
    """
    leaves, structure = tree_flatten(columns)
    places = [n for n, x in enumerate(leaves) if isinstance(x, Tensor) and not x.requires_grad]
    for place, column in zip(places, _store([leaves[n] for n in places]), strict=True):
        leaves[place] = column
    return tree_unflatten(leaves, structure)


def _of_column(column, region: Region):
    if isinstance(column, Tensor):
        return _part(column, region)
    if isinstance(column, tuple):
        return type(column)(*(_of_column(part, region) for part in column))
    return column


def at(values: Tensor, place: Tensor) -> Tensor:
    """Return the entries of `values` [*batch, output, param] at one output each, [*batch, 1, 1]."""
    return rows(values, place)[0]


def rows(values: Tensor, *places: Tensor) -> list[Tensor]:
    """Return the entries of `values` at each of several outputs, each [*batch, 1, param]."""
    width = values.shape[-1]
    if torch.compiler.is_compiling() or values.numel() < _FEW or width == 1:
        return [values.gather(-2, place.expand(*place.shape[:-1], width)) for place in places]
    # The same without an index for every parameter.
    if values.ndim == 2:
        if values.device.type == "cpu":
            with contextlib.suppress(RuntimeError):  # inside vmap
                return [values.narrow(-2, int(place), 1) for place in places]
        return [values.index_select(-2, place.flatten()) for place in places]
    sizes = values.shape[:-2]
    if _rows_follow(values):
        count = values.shape[:-1].numel()
        first = torch.arange(0, count, values.shape[-2], device=values.device)
        index = torch.cat([first + place.flatten() for place in places])
        found = values.view(-1, width).index_select(0, index).view(-1, *sizes, 1, width)
        return list(found.unbind())
    grid = [
        torch.arange(size, device=values.device).view(-1, *[1] * (len(sizes) - axis))
        for axis, size in enumerate(sizes)
    ]
    return [values[(*grid, place.squeeze(-1))] for place in places]


def _rows_follow(values: Tensor) -> bool:
    """Tell whether the rows of parameters are equally far apart in memory."""
    sizes, strides = values.shape, values.stride()
    return all(strides[n] == sizes[n + 1] * strides[n + 1] for n in range(values.ndim - 2))
