"""Sums over inputs, and what is needed to merge those of several processes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterable, Mapping

import torch
from torch import Tensor

from fimsym.engine.memory import at_a_time
from fimsym.errors import DomainError

_ENTRIES = 2**17
"""Parameters that are merged at a time."""

ERROR = "variance of the estimate of "
"""Before a quantity's name: the variance of its sum, if that is estimated."""


class Accumulator:
    """Mean over inputs of vectors over parameters, and the sample variance of one of them.

    Chunks are summed in their own dtype and added up in float64, by Chan's formula for the
    variance.

    Args:
        quantities: Names of the vectors; "fisher" is the one with a variance.
        size: Number of parameters.
        device: Where the sums are kept.
        spread: Whether the variance over inputs is wanted.
        groups: Number of groups of parameters over which estimates are summed too.

    Attributes:
        of_groups: Variance of the sum over every group, [group], of what is estimated.
    """

    def __init__(
        self,
        quantities: tuple[str, ...],
        size: int,
        device: torch.device,
        spread: bool = True,
        groups: int = 0,
    ):
        self._zeros = functools.partial(torch.zeros, size, dtype=torch.float64, device=device)
        self.of_groups = {
            quantity: torch.zeros(groups, dtype=torch.float64, device=device)
            for quantity in quantities
            if groups and quantity.startswith(ERROR)
        }
        self._quantities = quantities
        self._spread = spread and "fisher" in quantities
        self._held: dict[tuple[int, int], Tensor] = {}

    @functools.cached_property
    def sums(self) -> dict[str, Tensor]:
        """Σ_x of every quantity, [param]; they take memory once something is added."""
        return {quantity: self._zeros() for quantity in self._quantities}

    @functools.cached_property
    def squares(self) -> Tensor | None:
        """Σ_x (I(x) − Ī)² of "fisher", [param]; None if not wanted."""
        return self._zeros() if self._spread else None

    def add(self, block: slice | Tensor, count: int, values: Mapping[str, Tensor]) -> None:
        """Add the values [batch, param] of a batch, with `count` inputs already added.

        `block` says which parameters they are, a range or distinct places. All but "fisher" may
        be summed over some of the batch.
        """
        self._settle(block, count)
        for quantity, value in values.items():
            if quantity == "fisher" and self.squares is not None:
                value = value.double()
                total = value.sum(dim=0)
                spread = (value - total / value.shape[0]).square().sum(dim=0)
                self._merge(self.squares, block, count, value.shape[0], total, spread)
            else:
                total = value.sum(dim=0)
            _add(self.sums[quantity], block, total)

    def add_totals(
        self,
        block: slice | Tensor,
        count: int,
        batch: int,
        totals: Mapping[str, Tensor],
        spread: Tensor | None,
    ) -> None:
        """Add sums [param] over a batch, and that of squares of "fisher" about its mean.

        Args:
            block: Which parameters they are.
            count: Number of inputs already added.
            batch: Number of inputs that are added.
            totals: The sums.
            spread: The sum of squares.

        Raises:
            ValueError: the squares are wanted and not given.
        """
        self._settle(block, count)
        for quantity, total in totals.items():
            if quantity == "fisher" and self.squares is not None:
                if spread is None:
                    raise ValueError('the sum of squares of "fisher" is wanted; got None.')
                self._merge_by_parts(self.squares, block, count, batch, total, spread)
            _add(self.sums[quantity], block, total)

    def add_rows(
        self,
        block: slice,
        width: int,
        rows: Tensor,
        columns: slice,
        totals: Mapping[str, Tensor],
        numbers: tuple[Tensor, Tensor] | None,
        spread: Tensor | None,
    ) -> None:
        """Add sums [row, column] over those inputs that look up some rows of a table.

        Args:
            block: The table's range.
            width: Number of its columns.
            rows: Which rows, each once.
            columns: Which columns.
            totals: The sums.
            numbers: How many inputs the squares of these rows hold, see `held`, and how many
                are added, [row, 1] each, if squares are wanted.
            spread: The sum of squares of "fisher" about its mean, likewise.
        """

        def add(sums, total):
            sums[block].view(-1, width)[:, columns][rows] += total

        if self.squares is not None and numbers is not None and spread is not None:
            count, batch = numbers
            before = self.sums["fisher"][block].view(-1, width)[:, columns][rows]
            add(self.squares, spread + _between(totals["fisher"], batch, before, count))
        for quantity, total in totals.items():
            add(self.sums[quantity], total)

    def add_zeros(self, block: slice, count: int, batch: int) -> None:
        """Add a batch in which every value of some parameters is zero; see `add`."""
        self._settle(block, count)
        if self.squares is not None:
            zeros = self.squares.new_zeros(1).expand(block.stop - block.start)
            self._merge_by_parts(self.squares, block, count, batch, zeros, zeros)

    def held(self, block: slice, height: int, count: int) -> Tensor | None:
        """Return how many inputs the squares of every row of a table hold, [row], to add to.

        The others are zeros of which the squares are still to be told; None without squares.

        Args:
            block: The table's range.
            height: Number of rows.
            count: Number of inputs before the batch that is added.
        """
        if self.squares is None:
            return None
        key = block.start, block.stop
        if key not in self._held:
            self._held[key] = self.squares.new_full((height,), float(count))
        return self._held[key]

    def saved(self, touched: Iterable[slice | Tensor]) -> Callable[[], None]:
        """Return a function that puts the sums at some places back to what they are now."""
        sums = [*self.sums.values(), *(() if self.squares is None else (self.squares,))]
        kept = [(values, places, values[places].clone()) for places in touched for values in sums]
        held = {key: numbers.clone() for key, numbers in self._held.items()}
        of_groups = {quantity: variance.clone() for quantity, variance in self.of_groups.items()}

        def restore():
            self._held, self.of_groups = held, of_groups
            for values, places, old in kept:
                values[places] = old

        return restore

    def agree(self, one: str, other: str) -> bool:
        """Tell whether two sums are held and the same."""
        if one not in self.sums or other not in self.sums:
            return False
        return torch.equal(self.sums[one], self.sums[other])

    def means(self, count: int, infinite: Collection[str] = ()) -> dict[str, Tensor]:
        """Turn the sums into means over `count` inputs, and complete the squares.

        Nothing may be added afterwards.

        Args:
            count: Number of inputs.
            infinite: Names of those that may be infinite.

        Raises:
            DomainError: a sum is not finite.
        """
        self._settle(slice(None), count)
        for quantity, total in self.sums.items():
            if quantity in infinite:
                continue
            if not bool(total.sum().isfinite()) and not bool(total.isfinite().all()):
                raise DomainError(
                    f"{quantity} overflows; expected derivatives whose fourth power is finite. "
                    "Use float64 (model.double()), or measure the parameters in smaller units."
                )
        return {quantity: total.div_(count).cpu() for quantity, total in self.sums.items()}

    def packed(self, count: int, reference: Tensor | None) -> Tensor:
        """Return all sums over `count` inputs as one vector that adds up over processes.

        Squares about the own mean do not add up; those about a common reference do:
        Σ_x (I(x) − c)² = Σ_x (I(x) − Ī)² + n (Ī − c)².

        Args:
            count: Number of inputs n.
            reference: c, [param]; None without squares.
        """
        self._settle(slice(None), count)
        parts = list(self.sums.values())
        if self.squares is not None and reference is not None:
            parts.append(self.squares + self._shift(count, reference))
        return torch.cat([*parts, *self.of_groups.values()])

    def unpack(self, vector: Tensor, count: int, reference: Tensor | None) -> None:
        """Replace the sums by what `packed` wrote, added up over `count` inputs in all."""
        some = next(iter(self.sums.values()))
        sizes = [len(some)] * (len(self.sums) + (self.squares is not None))
        sizes += map(len, self.of_groups.values())
        rows = iter(vector.to(some.device).split(sizes))
        self.sums = {quantity: next(rows) for quantity in self.sums}
        if self.squares is not None and reference is not None:
            self.squares = (next(rows) - self._shift(count, reference)).clamp(min=0)
        self.of_groups = {quantity: next(rows) for quantity in self.of_groups}

    def _shift(self, count, reference):
        """Return n (Ī − c)²."""
        if not count:
            return torch.zeros_like(reference)
        return (self.sums["fisher"] / count - reference).square() * count

    def _settle(self, block: slice | Tensor, count: int) -> None:
        """Tell the squares of tables that a block overlaps of zeros, up to so many inputs."""
        for start, stop in list(self._held):
            if isinstance(block, Tensor):
                apart = not bool(((block >= start) & (block < stop)).any())
            else:
                apart = (block.start or 0) >= stop or (block.stop or stop) <= start
            if apart:
                continue
            numbers = self._held.pop((start, stop))
            width = (stop - start) // len(numbers)
            rows = max(1, at_a_time(_ENTRIES, numbers.device) // width)
            for first in range(0, len(numbers), rows):
                before = numbers[first : first + rows].repeat_interleave(width)
                zeros = before.new_zeros(1).expand(before.shape)
                some = slice(start + first * width, start + first * width + len(before))
                self._merge(self.squares, some, before, count - before, zeros, zeros)

    def _merge_by_parts(self, squares, block, count, batch, total, spread):
        """Merge so many parameters at a time that they stay in the cache."""
        length, entries = len(total), at_a_time(_ENTRIES, total.device)
        if length <= entries or not isinstance(block, slice):
            self._merge(squares, block, count, batch, total, spread)
            return
        for first in range(0, length, entries):
            some = slice(first, min(first + entries, length))
            there = slice(block.start + some.start, block.start + some.stop)
            self._merge(squares, there, count, batch, total[some], spread[some])

    def _merge(self, squares, block, count, batch, total, spread):
        """Add a batch's sum of squares about its mean to those about the mean of all."""
        if isinstance(count, Tensor) or count:
            spread = spread + _between(total, batch, self.sums["fisher"][block], count)
        _add(squares, block, spread)


def _add(sums: Tensor, block: slice | Tensor, total: Tensor) -> None:
    """Add to some entries; for a range x[block] += total would write them once more."""
    if isinstance(block, slice):
        sums[block].add_(total)
    else:
        sums[block] += total


def _between(total: Tensor, batch: int | Tensor, held: Tensor, count: int | Tensor) -> Tensor:
    """Return what the squares about the means of two groups are less than about that of both.

    Args:
        total: Sum of one group.
        batch: Its number.
        held: Sum of the other.
        count: Its number.
    """
    shift = total / _or_one(batch) - held / _or_one(count)
    return shift.square_() * (count * batch / _or_one(count + batch))


def _or_one(number: int | Tensor) -> int | Tensor:
    """Return a number to divide by."""
    return number.clamp(min=1) if isinstance(number, Tensor) else max(number, 1)
