"""Measurements, each made in a process of its own: correctness, memory, time."""

from __future__ import annotations

import dataclasses
import gc
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch

from benchmarks import isolation, truth
from benchmarks.contenders import (
    UNIT,
    Contender,
    contenders,
    copy_of,
    forward_backward,
    ours,
)
from benchmarks.networks import BATCHES, CASES

CHECKED = 2
"""Batches on which results are compared with the truth."""
ENUMERATED = 2
"""Inputs on which the truth is compared with enumeration."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How everything is measured.

    Attributes:
        device: Torch device.
        threads: Threads of torch.
        rounds: Interleaved rounds after the warm-up.
        seconds: Time limit of a contender on a case, for each of its stages.
        memory: Bytes a process may take beyond what it starts with.
    """

    device: str = "cpu"
    threads: int = 2
    rounds: int = 7
    seconds: float = 120.0
    memory: int = dataclasses.field(default_factory=isolation.default_memory)


@dataclasses.dataclass
class Result:
    """What was measured of a contender on a case.

    Attributes:
        name: The contender.
        kind: ``unit``, ``fimsym``, ``floor`` or ``peer``.
        quantity: What it computes.
        status: ``ok``, ``wrong``, ``incomplete``, ``refused``, ``out of memory``, ``too slow``,
            ``unchecked`` (there is no truth) or ``another quantity``.
        message: Why not ok.
        error: Largest error of the diagonal relative to the largest entry of its parameter.
        dropped: Parameters left out.
        peak: Bytes of memory beyond network, data, imports and one forward and backward.
        seconds: Time for all batches in each round; in a single entry of `estimate` if empty.
        estimate: The same from its first run on a few batches, where more would take too long.
    """

    name: str
    kind: str
    quantity: str = "fisher"
    status: str = "ok"
    message: str = ""
    error: float | None = None
    dropped: tuple[str, ...] = ()
    peak: int | None = None
    seconds: list[float] = dataclasses.field(default_factory=list)
    estimate: float | None = None

    @property
    def typical(self) -> float | None:
        """Median time for all batches, or the estimate."""
        return statistics.median(self.seconds) if self.seconds else self.estimate


def start(settings: Settings) -> None:
    """Set up a process that measures."""
    torch.set_num_threads(settings.threads)
    torch.backends.cudnn.allow_tf32 = False  # three digits, for everyone
    warnings.filterwarnings("ignore")  # of the peers, about their hooks


def find_truth(name: str, path: str, settings: Settings) -> float:
    """Write the true diagonal of a case to `path`; return how far it is from enumeration."""
    start(settings)
    case = CASES[name]
    batches = case.batches(CHECKED)
    torch.save(truth.exact(case.model(), batches, case.family)["fisher"], path)
    return truth.disagreement(case.model(), batches[0][:ENUMERATED], case.family)


def examine(name: str, contender: str, path: str, settings: Settings) -> dict:
    """Return the peak memory, the first times and the error of a contender: fields of Result."""
    start(settings)
    case = CASES[name]
    entrant = _named(case, contender)
    run = entrant.prepare(copy_of(case, settings.device), case)
    batches = [x.to(settings.device) for x in case.batches(CHECKED)]
    forward_backward(copy_of(case, settings.device), case)(batches[:1])
    taken = _memory_before(settings.device)
    first, got = timed(run, batches, settings.device)
    found = {"peak": max(0, _memory_peak(settings.device) - taken)}
    again = first
    if first * 2 < settings.seconds / 4:
        again, got = timed(run, batches, settings.device)
    found["estimate"] = min(first, again) * BATCHES / CHECKED
    return {**found, **_judged(entrant, got, path)}


def _judged(entrant: Contender, got: object, path: str) -> dict:
    if entrant.quantity != "fisher":
        return {"status": "ok" if entrant.kind == "unit" else "another quantity"}
    if not isinstance(got, Mapping):
        raise TypeError(f"expected a dict of diagonals; got {type(got).__name__}.")
    if not Path(path).exists():
        return {"status": "unchecked"}
    verdict = truth.judge(got, torch.load(path))
    message = ""
    if verdict.wrong:
        message = f"in {len(verdict.wrong)} of {len(got)} parameters, most in {verdict.worst}"
    return {
        "status": verdict.status,
        "error": verdict.error,
        "dropped": verdict.dropped,
        "message": message,
    }


def time_rounds(name: str, entrants: Sequence[str], settings: Settings) -> dict[str, list[float]]:
    """Return the times of all batches per round, the contenders taking turns.

    The unit runs before every other contender; its time in a round is the median of those.
    A contender that has used its time limit sits out the remaining rounds.
    """
    start(settings)
    case = CASES[name]
    batches = [x.to(settings.device) for x in case.batches()]
    runs = {
        entrant: _named(case, entrant).prepare(copy_of(case, settings.device), case)
        for entrant in (UNIT, *entrants)
    }
    for run in runs.values():
        timed(run, batches[:CHECKED], settings.device)
    unit = runs.pop(UNIT)
    times: dict[str, list[float]] = {entrant: [] for entrant in (UNIT, *entrants)}
    for turn in range(settings.rounds):
        units = [timed(unit, batches, settings.device)[0]]
        for entrant in _rotated(tuple(runs), turn):
            if times[entrant] and sum(times[entrant]) + times[entrant][-1] > settings.seconds:
                continue
            units.append(timed(unit, batches, settings.device)[0])
            times[entrant].append(timed(runs[entrant], batches, settings.device)[0])
        times[UNIT].append(statistics.median(units))
    return times


def fixed_cost(settings: Settings) -> dict[str, list[float]]:
    """Return seconds of calls of `fimsym.analyze` on one and on two inputs of the mlp.

    The network is a new one for each, and the one of the call before for those "again".
    """
    start(settings)
    case = CASES["mlp"]
    times: dict[str, list[float]] = {"one": [], "one, again": [], "two": [], "two, again": []}
    for turn in range(4 * settings.rounds + 2):
        for name in times:
            if not name.endswith("again"):
                run = ours()(copy_of(case, settings.device), case)
            rows = 1 if name.startswith("one") else 2
            batches = [x.to(settings.device) for x in case.batches(1, rows)]
            seconds, _ = timed(run, batches, settings.device)
            if turn >= 2:  # after the warm-up
                times[name].append(seconds)
    return times


def timed(run: Callable, batches: Sequence, device: str) -> tuple[float, object]:
    """Return the seconds a run takes, garbage collected before, and what it returns."""
    gc.collect()
    _wait(device)
    began = time.perf_counter()
    got = run(batches)
    _wait(device)
    return time.perf_counter() - began, got


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def _memory_before(device: str) -> int:
    gc.collect()
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    isolation.reset_peak()
    return isolation.peak_memory()


def _memory_peak(device: str) -> int:
    if device != "cpu":
        return torch.cuda.max_memory_allocated(device)
    return isolation.peak_memory()


def _named(case, name: str) -> Contender:
    return next(entrant for entrant in contenders(case) if entrant.name == name)


def _rotated(names: tuple[str, ...], turn: int) -> tuple[str, ...]:
    shift = turn % len(names) if names else 0
    return names[shift:] + names[:shift]
