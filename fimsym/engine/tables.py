"""Tables: u and v of the rows that each example looks up, not of the whole table."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine.accumulate import Accumulator
from fimsym.engine.network import Block
from fimsym.engine.uses import Lookup, split_rows


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


def seen(rows: Tensor, height: int) -> Tensor:
    """Return how many examples look each row of a table up, [row], from pairs; −1 is none."""
    return torch.bincount(rows[rows >= 0], minlength=height).double()


def put(
    sums: Accumulator,
    block: Block,
    shape: torch.Size,
    row: Tensor,
    columns: slice,
    values: Mapping[str, Tensor],
    held: Tensor | None,
) -> None:
    """Add quantities [pair, column] of pairs of an example and a row of a table.

    Args:
        sums: What is added to.
        block: The table in the sums.
        shape: Its height and width.
        row: Row of each pair.
        columns: Which columns.
        values: The quantities asked for.
        held: How many examples every row holds already, see `Accumulator.held`.
    """
    rows, inverse, pairs = row.unique(return_inverse=True, return_counts=True)
    totals = {q: _into_rows(inverse, value.double(), len(rows)) for q, value in values.items()}
    spread, numbers = None, None
    if held is not None and "fisher" in values:
        numbers = held[rows].unsqueeze(1), pairs.double().unsqueeze(1)
        about = values["fisher"].double() - (totals["fisher"] / numbers[1])[inverse]
        spread = _into_rows(inverse, about.square_(), len(rows))
    table = slice(block.start, block.stop), shape[1]
    sums.add_rows(*table, rows, columns, totals, numbers, spread)


def _into_rows(rows: Tensor, values: Tensor, height: int) -> Tensor:
    """Return values [pair, feature] summed into the rows of a table."""
    return values.new_zeros(height, values.shape[1]).index_add_(0, rows, values)
