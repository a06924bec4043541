"""Tables: u and v of the rows that each example looks up, not of the whole table."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine.accumulate import Accumulator
from fimsym.engine.memory import at_a_time
from fimsym.engine.network import Block
from fimsym.engine.uses import Lookup, split_rows

_ENTRIES = 2**17
"""Entries of a table whose sums are added to at a time."""

Numbers = tuple[int | Tensor, int | Tensor]
"""How many examples the sums hold already, and how many are added, for every row [row, 1]."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """An example and a row of the table that it looks up, for every such pair.

    Attributes:
        example: [pair].
        row: [pair].
        u: ∂o/∂(row), [pair, output, feature].
    """

    example: Tensor
    row: Tensor
    u: Tensor


def pairs_of(use: Lookup, g: Tensor) -> Pairs:
    """Return every pair once, from gradients at a lookup [output, batch, position, feature]."""
    outputs, batch, _, features = g.shape
    places = split_rows(use.indices, batch, use.order)
    example, position = (places != use.padding).nonzero(as_tuple=True)
    keys = example * use.shape[0] + places[example, position]
    keys, inverse = keys.unique(return_inverse=True)
    picked = g[:, example, position].transpose(0, 1)
    u = g.new_zeros(len(keys), outputs, features).index_add_(0, inverse, picked)
    return Pairs(keys // use.shape[0], keys % use.shape[0], u)


def places_of(use: Lookup, block: Block) -> Tensor:
    """Return where a table's entries that are looked up are in the sums, the table at `block`."""
    rows, width = use.indices.unique(), use.shape[1]
    columns = torch.arange(width, device=rows.device)
    return (block.start + rows.unsqueeze(1) * width + columns).flatten()


def slots_of(use: Lookup, batch: int) -> Tensor:
    """Return the rows that each example looks up, each once, [batch, slot]; −1 for none."""
    looked = split_rows(use.indices, batch, use.order).sort(1).values
    new = torch.ones_like(looked, dtype=torch.bool)
    new[:, 1:] = looked[:, 1:] != looked[:, :-1]
    slots = torch.where(new & (looked != use.padding), looked, -1)
    slots = slots.sort(1, descending=True).values
    return slots[:, : max(1, int((slots >= 0).sum(1).max()))]


def numbers(slots: Tensor, some: slice, height: int, count: int) -> Numbers:
    """Return the numbers of examples where the slots of a batch are added part by part.

    Args:
        slots: Rows that each example looks up, [batch, slot], −1 for none.
        some: Which of the slots are added; parts are added in order. With the first go those
            examples that do not look a row up at all.
        height: Number of rows of the table.
        count: Number of examples in the sums before the batch.
    """

    def seen(part: Tensor) -> Tensor:
        return torch.bincount(part[part >= 0], minlength=height).double().unsqueeze(1)

    batch, width = slots.shape
    if some.stop - some.start == width:
        return count, batch
    others = batch - seen(slots)
    if some.start == 0:
        return torch.full_like(others, count), seen(slots[:, some]) + others
    return count + others + seen(slots[:, : some.start]), seen(slots[:, some])


def put(
    sums: Accumulator,
    block: Block,
    shape: torch.Size,
    row: Tensor,
    columns: slice,
    values: Mapping[str, Tensor],
    held: Numbers,
) -> None:
    """Add quantities [pair, column] of pairs of an example and a row of a table.

    Args:
        sums: What is added to.
        block: The table in the sums.
        shape: Its height and width.
        row: Row of each pair.
        columns: Which columns.
        values: The quantities asked for.
        held: Numbers of examples, see `numbers`.
    """
    height, width = shape
    row, order = row.sort()
    size = max(1, at_a_time(_ENTRIES, row.device) // (columns.stop - columns.start))
    starts = torch.arange(0, height, size, device=row.device)
    ends = [*torch.searchsorted(row, starts).tolist(), len(row)]
    for first, (start, stop) in zip(starts.tolist(), itertools.pairwise(ends), strict=True):
        if start == stop and sums.squares is None:
            continue
        band = slice(first, min(first + size, height))
        some = {quantity: value[order[start:stop]] for quantity, value in values.items()}
        held_there = tuple(n[band] if isinstance(n, Tensor) else n for n in held)
        whole = slice(block.start + first * width, block.start + band.stop * width)
        _put_band(sums, whole, width, row[start:stop] - first, columns, some, held_there)


def _put_band(sums, whole: slice, width: int, row: Tensor, columns: slice, values, held) -> None:
    """Add quantities of some rows of a table that lie together, `whole` in the sums."""
    before, among = held
    height = (whole.stop - whole.start) // width
    totals, spread = {}, None
    for quantity, value in values.items():
        value = value.double()
        total = totals[quantity] = _into_rows(row, value, height)
        if quantity == "fisher" and sums.squares is not None:
            mean = total / (among.clamp(min=1) if isinstance(among, Tensor) else among)
            seen = _into_rows(row, torch.ones_like(value), height)
            about = _into_rows(row, (value - mean[row]).square(), height)
            spread = (about + (among - seen) * mean.square()).flatten()
    where: slice | Tensor = whole
    if columns != slice(0, width):
        places = torch.arange(whole.start, whole.stop, device=row.device)
        where = places.reshape(height, width)[:, columns].flatten()
    count, batch = (
        n.expand(height, columns.stop - columns.start).flatten() if isinstance(n, Tensor) else n
        for n in (before, among)
    )
    sums.add_totals(where, count, batch, {q: t.flatten() for q, t in totals.items()}, spread)


def _into_rows(rows: Tensor, values: Tensor, height: int) -> Tensor:
    """Return values [pair, feature] summed into the rows of a table."""
    return values.new_zeros(height, values.shape[1]).index_add_(0, rows, values)
