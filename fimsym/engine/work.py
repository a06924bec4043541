"""Long work in pieces: how long it will take, how far it is, and a way out of it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence

from fimsym.engine.interruption import Interruption

Unit = Callable[[], None]
"""A piece of work; those of one kind take about as long as each other."""


class Work:
    """Carries out pieces of work, and learns from the first of each kind how long all take.

    Args:
        advance: Told how many inputs more are done.
        expect: Told the seconds that so many inputs take, once they are known.
        stop: Whether somebody wants to stop.
    """

    def __init__(
        self,
        advance: Callable[[float], object],
        expect: Callable[[float, int], object],
        stop: Interruption,
    ):
        self._advance = advance
        self._expect = expect
        self._stop = stop
        self._told = 0.0

    @property
    def stopped(self) -> bool:
        """Whether somebody wants to stop: what was read before a wait was broken off is done."""
        return self._stop.during_work

    def done(self, units: Mapping[str, Sequence[Unit]], inputs: int, must: bool) -> bool:
        """Carry out all units for some inputs; return False if stopped before the end.

        Args:
            units: By kind. The first of each kind, or two, come first.
            inputs: How many inputs they cover, for the progress.
            must: Do not stop.
        """
        self._told = 0.0
        finished = False
        try:
            finished = self._all_done([kind for kind in units.values() if kind], inputs, must)
        finally:
            self._tell(inputs - self._told if finished else -self._told)
        return finished

    def _all_done(self, kinds: list[Sequence[Unit]], inputs: int, must: bool) -> bool:
        timed: list[list[float]] = []
        for kind in kinds:
            timed.append([])
            for unit in kind[: 2 if len(kind) > 2 else 1]:  # the first also sets up what all share
                if self.stopped and not must:
                    return False
                start = time.perf_counter()
                unit()
                timed[-1].append(time.perf_counter() - start)
        spent = sum(map(sum, timed))
        rest = sum(
            took[-1] * (len(kind) - len(took)) for took, kind in zip(timed, kinds, strict=True)
        )
        self._expect(spent + rest, inputs)
        part = inputs / max(spent + rest, 1e-9)
        self._tell(part * spent)
        for took, kind in zip(timed, kinds, strict=True):
            for unit in itertools.islice(kind, len(took), None):
                if self.stopped and not must:
                    return False
                unit()
                self._tell(part * took[-1])
        return True

    def _tell(self, step: float) -> None:
        self._told += step
        self._advance(step)


def duration(seconds: float) -> str:
    """Return a time in words a person would use."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    if seconds < 129600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"
