"""How many rows and columns of a parameter to take second derivatives along at a time."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import torch

from fimsym.engine.allocations import Allocations
from fimsym.engine.memory import at_a_time

Tile = tuple[slice, slice]
"""Ranges of rows and of columns."""

_ALWAYS = 4_000_000
"""What a tile costs whatever its size, in bytes that are moved."""

_CACHED = 16_000_000
"""Bytes that are better than more, as long as they stay near the processor."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """Numbers held for one input by r rows and c columns: fixed + row r + column c + both r c."""

    fixed: float = 0.0
    row: float = 0.0
    column: float = 0.0
    both: float = 0.0

    def times(self, inputs: int, row: float = 0.0, both: float = 0.0) -> Cost:
        """Return the cost of so many inputs, with more for every row, and row and column."""
        parts = (self.fixed, self.row + row, self.column, self.both + both)
        return Cost(*(inputs * part for part in parts))

    def of(self, rows: int, columns: int) -> float:
        """Return how many numbers rows and columns take."""
        return self.fixed + self.row * rows + self.column * columns + self.both * rows * columns


def measured(run: Callable[[int, int], object], rows: int, columns: int, itemsize: int) -> Cost:
    """Return what rows and columns cost.

    Args:
        run: Carries out so many rows and columns for one input.
        rows: How many there are.
        columns: Likewise.
        itemsize: Bytes of a number.
    """

    def peak(r: int, c: int) -> float:
        with Allocations() as counted:
            run(r, c)
        return counted.peak / itemsize

    more_rows, more_columns = min(rows, 2), min(columns, 2)
    one = peak(1, 1)
    row = peak(more_rows, 1) - one if more_rows > 1 else 0.0
    column = peak(1, more_columns) - one if more_columns > 1 else 0.0
    both = 0.0
    if more_rows > 1 and more_columns > 1:
        both = peak(2, 2) - one - row - column
    elif more_rows > 1:
        both, row = row, 0.0
    elif more_columns > 1:
        both, column = column, 0.0
    both = max(both, 0.0)
    row, column = max(row - both, 0.0), max(column - both, 0.0)
    return Cost(max(one - row - column - both, 0.0), row, column, both)


def tiles(
    cost: Cost,
    rows: int,
    columns: int,
    limit: float,
    itemsize: int,
    device: torch.device,
    unit: int = 1,
) -> list[Tile]:
    """Return tiles that cover rows and columns, each within a limit if it can be.

    Args:
        cost: Of rows and columns, for all inputs.
        rows: How many there are.
        columns: Likewise.
        limit: Bytes.
        itemsize: Bytes of a number.
        device: Where they are.
        unit: Rows are cut at multiples of it.
    """

    def work(r: int, c: int) -> float:
        return (always + itemsize * cost.of(r, c)) * -(-rows // r) * -(-columns // c)

    always = at_a_time(_ALWAYS, device)
    limit = min(limit, at_a_time(_CACHED, device))
    heights = [size * unit for size in _sizes(-(-rows // unit))]
    pairs = list(itertools.product(heights, _sizes(columns)))
    fitting = [(r, c) for r, c in pairs if itemsize * cost.of(r, c) <= limit]
    height, width = min(fitting, key=lambda pair: work(*pair), default=pairs[0])
    return [
        (slice(r, min(r + height, rows)), slice(c, min(c + width, columns)))
        for r in range(0, rows, height)
        for c in range(0, columns, width)
    ]


def ranges(
    cost: Cost, rows: int, columns: int, limit: float, itemsize: int
) -> list[tuple[int, int]]:
    """Return ranges of whole rows one after another, or of part of one row if none fits."""

    def fit(count: int, of: Callable[[int], float]) -> int:
        sizes = [size for size in _sizes(count) if itemsize * of(size) <= limit]
        return max(sizes, default=1)

    height = fit(rows, lambda r: cost.of(r, columns))
    if itemsize * cost.of(height, columns) <= limit or columns == 1:
        step, last = height * columns, rows * columns
        return [(first, min(first + step, last)) for first in range(0, last, step)]
    width = fit(columns, lambda c: cost.of(1, c))
    return [
        (row * columns + first, row * columns + min(first + width, columns))
        for row in range(rows)
        for first in range(0, columns, width)
    ]


def _sizes(count: int) -> list[int]:
    """Return the sizes that cut a range into one, two, four, … equal parts."""
    return sorted({-(-count // 2**halved) for halved in range(count.bit_length() + 1)})
