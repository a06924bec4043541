"""How many rows of a parameter, and how many examples, to build u of at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence

import torch

from fimsym.engine.memory import at_a_time
from fimsym.engine.uses import Use

_BLOCK = 2**21
"""Most entries of u that are built at a time: with fewer, operations take longer to start."""
_SHARE = 24
"""How many times the memory of these entries must fit into the budget."""
_FEW = 8
"""Examples below which sums over them cost as much as what is summed."""


def parts(
    uses: Sequence[Use], batch: int, outputs: int, limit: int
) -> Iterator[tuple[slice, slice]]:
    """Yield ranges of a parameter's first axis and of examples whose u is built at a time.

    Rather few examples than few rows: a product of whole rows is faster.

    Args:
        uses: All uses of the parameter.
        batch: Number of examples.
        outputs: Number of gradients of each.
        limit: Entries of u that the budget has memory for.
    """
    height, row = uses[0].shape[:1].numel(), outputs * uses[0].shape[1:].numel()
    unit = unit_of(uses)
    entries = min(at_a_time(_BLOCK, device_of(uses)), limit // _SHARE)
    size = max(1, entries // max(1, min(_FEW, batch) * row * unit)) * unit
    most = max(1, entries // max(1, row * min(size, height)))
    return itertools.product(_even(height, size, unit), _even(batch, most))


def device_of(uses: Sequence[Use]) -> torch.device:
    """Return the device of what uses put out."""
    return uses[0].node._input_metadata[0].device


def unit_of(uses: Iterable[Use]) -> int:
    """Return what the first axis of a parameter with several uses is cut at multiples of."""
    return math.lcm(*(use.unit for use in uses))


def _even(length: int, most: int, unit: int = 1) -> Iterator[slice]:
    """Cut a range into the fewest pieces of at most so many, all of nearly one size.

    Args:
        length: Of the range, a multiple of the unit.
        most: Longest piece, likewise.
        unit: Pieces are multiples of it.
    """
    number = -(-length // most)
    ends = [length // unit * k // number * unit for k in range(number + 1)] if number else []
    return (slice(first, end) for first, end in itertools.pairwise(ends))
