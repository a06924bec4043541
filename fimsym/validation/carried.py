"""A validation carried out: labels fixed, drawn, and judged."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fimsym.engine.distributed import Ranks, sharing
from fimsym.engine.kernels import exact_kernels
from fimsym.errors import DomainError, FimsymError
from fimsym.validation.cells import Cell, Sampled, pilot_labels
from fimsym.validation.checkpoint import Store
from fimsym.validation.network import OfNetwork
from fimsym.validation.output import AtPoints
from fimsym.validation.result import Validation
from fimsym.validation.run import Covered, Run, one_thread
from fimsym.validation.sizes import check_labels, check_relative_error, labels_for
from fimsym.validation.subject import Subject
from fimsym.validation.verdict import Measured, judge, number_of_tests

RELATIVE_ERROR = 0.02
"""What is caught with probability 0.99 in every row, unless another error is asked for."""

_LARGEST_SEED = 2**32


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is fixed before anything is drawn.

    Attributes:
        seed: Of everything random.
        samples: Labels for each input and parameter of a network; None to choose.
        output_samples: Labels for each point and direction of a law; None to choose.
        relative_error: What to choose them for.
        checkpoint: Folder in which to keep what is done; None to keep nothing.
        command: How the run was started.
        progress: Show progress bars.

    Raises:
        DomainError: one of them is out of range.
    """

    seed: int = 0
    samples: int | None = None
    output_samples: int | None = None
    relative_error: float = RELATIVE_ERROR
    checkpoint: str | Path | None = None
    command: str = ""
    progress: bool = True

    def __post_init__(self) -> None:
        if not (isinstance(self.seed, int) and 0 <= self.seed < _LARGEST_SEED):
            raise DomainError(f"seed must be an integer from 0 to 2³² − 1; got {self.seed!r}.")
        for name in ("samples", "output_samples"):
            if (given := getattr(self, name)) is not None:
                check_labels(name, given)
        check_relative_error(self.relative_error)

    def given(self, subject: Subject) -> int | None:
        """Return the labels for each point and parameter of a subject, None to choose."""
        return self.output_samples if isinstance(subject, AtPoints) else self.samples


def carry_out(
    plan: Plan, build: Callable[[], Sequence[Subject]], untested: tuple[str, ...] = ()
) -> Validation:
    """Validate subjects, with all processes of an initialised process group.

    Args:
        plan: What is fixed.
        build: Returns what is validated.
        untested: What is not, in sentences.
    """
    start = time.perf_counter()
    with one_thread(), exact_kernels(), torch.enable_grad(), sharing() as ranks:
        subjects = build()
        tests = number_of_tests(subjects)
        folder = None if plan.checkpoint is None else Path(plan.checkpoint)
        identities = _identities(plan, subjects, tests)
        _check_same(ranks, [identities(Cell("main", s.key, 0, 0, 1)) for s in subjects])
        store = Store(folder, identities, plan.command)
        run = Run(subjects, plan.seed, ranks, store, plan.progress)
        samples, covered = _samples(plan, subjects, run, tests)
        if not covered.interrupted:
            covered = run.cover("main", samples)
        if not covered.sampled:
            raise KeyboardInterrupt
        return _judged(plan, subjects, samples, covered, untested, start)


def _samples(
    plan: Plan, subjects: Sequence[Subject], run: Run, tests: int
) -> tuple[dict[str, int], Covered]:
    """Fix the number of labels of every subject; those not given follow from a pilot."""
    given = {subject.key: plan.given(subject) for subject in subjects}
    open_ones = [subject for subject in subjects if given[subject.key] is None]
    of_pilot = {subject.key: pilot_labels(subject) for subject in open_ones}
    pilot = run.cover("pilot", of_pilot)
    if pilot.interrupted:
        return of_pilot, pilot
    for subject in open_ones:
        found = pilot.sampled[subject.key]
        given[subject.key] = labels_for(subject, found, plan.relative_error, tests)
    return {key: labels for key, labels in given.items() if labels is not None}, pilot


def _judged(
    plan: Plan,
    subjects: Sequence[Subject],
    samples: Mapping[str, int],
    covered: Covered,
    untested: tuple[str, ...],
    start: float,
) -> Validation:
    reached = [subject for subject in subjects if subject.key in covered.sampled]
    measured = [_measured(s, samples[s.key], covered.sampled[s.key]) for s in reached]
    models, fits, tests = judge(measured)
    chosen = any(plan.given(subject) is None for subject in subjects)
    missing = [s.description.title for s in subjects if s not in reached]
    cut = (f"Not reached before the interruption: {', '.join(missing)}.",) if missing else ()
    places = {subject.key: subject.places for subject in reached if isinstance(subject, OfNetwork)}
    return Validation(
        models=models,
        fits=fits,
        tests=tests,
        seed=plan.seed,
        relative_error=plan.relative_error if chosen else None,
        untested=(*cut, *untested),
        interrupted=covered.interrupted,
        progress=(covered.done, covered.total),
        environment=_environment(),
        seconds=time.perf_counter() - start,
        places=places,
    )


def _measured(subject: Subject, samples: int, sampled: Sampled) -> Measured:
    return Measured(subject, samples, subject.closed(sampled.points), sampled)


def _identities(
    plan: Plan, subjects: Sequence[Subject], tests: int
) -> Callable[[Cell], dict[str, Any] | None]:
    """Return what the numbers of a cell depend on, as a function of the cell."""
    known = {subject.key: subject.identity() for subject in subjects}
    versions = {**_environment(), "fimsym's source": _source()}
    labels = {}
    for subject in subjects:
        given = plan.given(subject)
        labels[subject.key] = (
            f"{plan.relative_error:g} with {tests} tests" if given is None else given
        )

    def identity(cell: Cell) -> dict[str, Any] | None:
        if cell.subject not in known:
            return None
        rule = {} if cell.stage == "pilot" else {"number of labels": labels[cell.subject]}
        return {**versions, "seed": plan.seed, **rule, **known[cell.subject]}

    return identity


def _check_same(ranks: Ranks, identities: list[dict[str, Any] | None]) -> None:
    """Raise FimsymError unless all processes validate the same."""
    own = hashlib.sha256(json.dumps(identities, sort_keys=True).encode()).hexdigest()
    others = [rank for rank, other in enumerate(ranks.exchange(own)) if other != own]
    if others:
        raise FimsymError(
            f"rank {others[0]} validates other weights, inputs or settings than rank "
            f"{ranks.rank}; expected the same in every process. Load the weights from a file, "
            "or seed them in the factory, and do not shuffle the data."
        )


@functools.cache
def _source() -> str:
    """Return a digest of the package's own code."""
    whole = hashlib.sha256()
    root = Path(__file__).parent.parent
    for path in sorted(root.rglob("*.py")):
        whole.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes())
    return whole.hexdigest()


def _environment() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    return {
        "fimsym": version("fimsym"),
        "torch": torch.__version__,
        "NumPy": np.__version__,
        "Python": platform.python_version(),
    }
