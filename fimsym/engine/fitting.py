"""How many inputs to take at a time, from the memory and the time that the first ones took."""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Iterator

from fimsym.engine.allocations import Allocations, give_back

_PATIENCE = 10.0
"""Seconds that a chunk may take, if one input takes less."""
_GROWTH = 8
"""By how much a chunk may be larger than the largest before."""
_MEASURED = 2
"""Chunks that are measured for every shape of an input, beside those larger than any before."""
_ENOUGH = 150_000_000
"""Bytes above which more inputs at a time save no time."""
_KEPT = 0.6
"""Part of a budget that tensors may take; allocators keep more than they were asked for, …"""
_HOLES = 8_000_000
"""… and of a small budget more of it."""


class Fitting:
    """Chooses numbers of inputs.

    Memory is taken for a straight line in the number of inputs, through the two largest chunks
    so far; the first one is a single input. What is done once only may hide what an input takes,
    so that chunks grow by steps.

    Args:
        limit: Bytes; None where memory is not to be measured.
        patient: Let a chunk take any time.
    """

    def __init__(self, limit: float | None, patient: bool):
        self._asked = limit
        self._limit = None if limit is None else min(limit, _ENOUGH)
        self._patient = patient
        self._peaks: dict[tuple[int, ...], dict[int, int]] = {}
        self._measured: collections.Counter[tuple[int, ...]] = collections.Counter()
        self._seconds: float | None = None
        self.most = 1

    def rows(self, shape: tuple[int, ...]) -> int:
        """Return how many inputs of a shape to take next."""
        found = self.most if self._limit is None else min(self.most, self._fitting(shape))
        if self._seconds is not None and not self._patient:
            found = min(found, int(_PATIENCE / max(self._seconds, 1e-9)))
        return max(1, found)

    def _fitting(self, shape) -> int:
        seen = self._peaks.get(shape)
        if not seen:
            return 1
        assert self._limit is not None
        limit = max(_KEPT * self._limit - _HOLES, 0.5 * _KEPT * self._limit)
        before, last = [0, *sorted(seen)][-2:]
        if not before:  # one more if there is room: all may be what is done once only
            room = last / max(1, seen[last])
            more = min(last + 1, int(room * self._limit))
            return min(_GROWTH * last, max(more, int(room * limit)))
        slope = max((seen[last] - seen[before]) / (last - before), 1.0)
        return min(_GROWTH * last, last + int((limit - seen[last]) / slope))

    @property
    def needed(self) -> int | None:
        """Bytes of tensors that a single input takes, if that is more than there may be."""
        alone = [seen[1] for seen in self._peaks.values() if 1 in seen]
        least = max(alone, default=0)
        return least if self._asked is not None and least > self._asked else None

    @contextlib.contextmanager
    def watched(self, rows: int, shape: tuple[int, ...]) -> Iterator[None]:
        """Measure what a chunk takes."""
        start = time.perf_counter()
        seen = self._peaks.setdefault(shape, {})
        known = self._measured[shape] >= _MEASURED and rows <= max(seen)
        if self._limit is None or known:
            yield
        else:
            give_back()
            with Allocations() as counted:
                yield
            self._measured[shape] += 1
            seen[rows] = min(counted.peak, seen.get(rows, counted.peak))
        self._seconds = (time.perf_counter() - start) / rows
