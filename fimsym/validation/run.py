"""One run: cells shared out over processes, kept, and gathered."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import torch

from fimsym.engine.distributed import Ranks
from fimsym.engine.interruption import Interruption
from fimsym.report.progress import progress as progress_bar
from fimsym.validation.cells import Cell, Found, Sampled, cells, combine, measure
from fimsym.validation.checkpoint import Store
from fimsym.validation.subject import Subject


@dataclasses.dataclass(frozen=True)
class Covered:
    """What all processes found in one stage.

    Attributes:
        sampled: By key of the subject; those without a single covered point are missing.
        done: Number of cells computed, or found in the checkpoint.
        total: Number of cells of the stage.
        interrupted: Whether Ctrl-C ended the stage before it was through.
    """

    sampled: Mapping[str, Sampled]
    done: int
    total: int
    interrupted: bool


class Run:
    """Covers the cells of a run's stages.

    Args:
        subjects: What is validated.
        seed: Of all labels.
        ranks: The processes that share the cells.
        store: Where finished cells are kept.
        show: Show a progress bar.
    """

    def __init__(
        self, subjects: Sequence[Subject], seed: int, ranks: Ranks, store: Store, show: bool
    ):
        self._subjects = {subject.key: subject for subject in subjects}
        self._seed = seed
        self._ranks = ranks
        self._store = store
        self._show = show
        self._kept = store.load()

    def cover(self, stage: str, samples: Mapping[str, int]) -> Covered:
        """Draw the labels of a stage, and return what all processes found.

        Args:
            stage: ``"pilot"`` or ``"main"``.
            samples: Labels for each point and parameter, by key of the subject.

        Raises:
            FimsymError: another process failed, or a checkpoint cannot be written.
        """
        whole = [
            cell
            for subject in self._subjects.values()
            if subject.key in samples
            for cell in cells(subject, samples[subject.key], stage)
        ]
        own = whole[self._ranks.rank :: self._ranks.world]
        with Interruption() as stop:
            found = self._found(stage, own, samples, stop)
        self._store.flush()
        cut = stop.requested and (stage == "pilot" or len(found) < len(own))
        parts = self._ranks.exchange((found, cut))
        together = {cell: one for cells_of, _ in parts for cell, one in cells_of.items()}
        sampled = {}
        for key in samples:
            merged = combine(self._subjects[key], together)
            if merged is not None:
                sampled[key] = merged
        return Covered(sampled, len(together), len(whole), any(cut for _, cut in parts))

    def _found(
        self, stage: str, own: Sequence[Cell], samples: Mapping[str, int], stop: Interruption
    ) -> dict[Cell, Found]:
        found = {}
        words = "choosing the number of labels" if stage == "pilot" else "drawing labels"
        if self._ranks.world > 1:
            words += f", rank 0 of {self._ranks.world}"
        with progress_bar(words, len(own), self._show and self._ranks.rank == 0) as advance:
            stop.told = advance.stopping
            for cell in stop.until_requested(own):
                found[cell] = self._kept.get(cell) or self._measured(cell, samples)
                advance()
        return found

    def _measured(self, cell: Cell, samples: Mapping[str, int]) -> Found:
        found = measure(self._subjects[cell.subject], cell, samples[cell.subject], self._seed)
        self._store.add(cell, found)
        return found


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread, so that no sum depends on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
