"""Batches of any size merged and cut into pieces of a chosen size."""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from fimsym.engine.data import Batch

LOOKED_AT = 8
"""Inputs that are looked at before the size of the first piece is chosen."""
_LARGEST_PIECE = 2**28
"""Bytes."""


def grouped(batches: Iterable[Batch], wanted: Callable[[Tensor], int | None]) -> Iterator[Batch]:
    """Merge and cut batches, so that the size of a piece does not depend on theirs.

    Only batches of equal trailing shape and dtype, in inputs and labels, are merged. Pieces
    that lie in one batch are views of it. Merging stops at 256 MB.

    Args:
        batches: Pairs (inputs, labels or None).
        wanted: Returns the largest number of rows of the next piece, given its first inputs, up
            to eight, or None for the next batch as it came; asked anew for every piece.
    """
    held = _Held()
    for batch in batches:
        if not held.fits(batch):
            yield from held.pieces(wanted, everything=True)
        held.add(batch)
        del batch
        yield from held.pieces(wanted, everything=False)
    yield from held.pieces(wanted, everything=True)


class _Held:
    """Batches of one kind that wait to be cut into pieces."""

    def __init__(self):
        self._batches: collections.deque[Batch] = collections.deque()
        self._rows = 0

    def fits(self, batch: Batch) -> bool:
        return not self._batches or _kind(self._batches[0]) == _kind(batch)

    def add(self, batch: Batch) -> None:
        self._batches.append(batch)
        self._rows += len(batch[0])

    def pieces(self, wanted, everything) -> Iterator[Batch]:
        """Yield full pieces, and with `everything` also what remains."""
        while self._batches:
            if self._rows < LOOKED_AT and not everything:
                return
            rows = self._allowed(wanted(self._first()))
            if self._rows < rows and not everything:
                return
            yield self._cut(rows)

    def _first(self) -> Tensor:
        """Return the first inputs that are held."""
        found, rows = [], 0
        for inputs, _ in self._batches:
            found.append(inputs[: LOOKED_AT - rows])
            rows += len(found[-1])
            if rows == LOOKED_AT:
                break
        return found[0] if len(found) == 1 else torch.cat(found)

    def _allowed(self, rows):
        first, _ = self._batches[0]
        if rows is None:
            return len(first)
        width = max(1, first[:1].numel() * first.element_size())
        return max(1, min(rows, _LARGEST_PIECE // width))

    def _cut(self, rows) -> Batch:
        taken = []
        while rows and self._batches:
            inputs, labels = self._batches.popleft()
            if len(inputs) > rows:
                rest = None if labels is None else labels[rows:]
                self._batches.appendleft((inputs[rows:], rest))
                inputs, labels = inputs[:rows], None if labels is None else labels[:rows]
            taken.append((inputs, labels))
            rows -= len(inputs)
            self._rows -= len(inputs)
        if len(taken) == 1:
            return taken[0]
        inputs, labels = zip(*taken, strict=True)
        return torch.cat(inputs), None if labels[0] is None else torch.cat(labels)


def _kind(batch):
    """Return what batches must share to be merged."""
    return [part if part is None else (part.shape[1:], part.dtype, part.device) for part in batch]
