"""One run of the benchmark: every part in processes of its own, gathered in a record."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks import measure, peers, scaling
from benchmarks.contenders import UNIT, contenders
from benchmarks.isolation import Outcome, isolated, within
from benchmarks.measure import Result, Settings
from benchmarks.networks import CASES

OVERHEAD = 60.0
"""Seconds a process may take for its start and imports."""
COMPANIONS = ("evaluators", "processes")
"""Benchmarks with a command of their own, run where they exist."""
COMPANION_SECONDS = 3600
PARTS = (*CASES, "fixed", "linearity", *COMPANIONS)
Say = Callable[[str], None]


@dataclasses.dataclass
class Record:
    """Everything that was measured; what was not run is empty or None.

    Attributes:
        machine: Cores, threads, device and versions.
        cases: Results by case and contender.
        truths: By case, how far fimsym in float64 is from enumeration, or why not known.
        fixed: Fixed cost of a call in milliseconds.
        linear: Exponents by axis.
        companions: What the other benchmarks wrote.
    """

    machine: dict[str, str]
    cases: dict[str, dict[str, Result]] = dataclasses.field(default_factory=dict)
    truths: dict[str, float | str] = dataclasses.field(default_factory=dict)
    fixed: dict | None = None
    linear: dict[str, dict] | None = None
    companions: dict[str, object] = dataclasses.field(default_factory=dict)


def run(parts: Sequence[str], settings: Settings, say: Say) -> Record:
    """Measure the parts asked for."""
    record = Record(machine(settings))
    for name in (name for name in CASES if name in parts):
        record.truths[name], record.cases[name] = run_case(name, settings, say)
    if "fixed" in parts:
        say("fixed cost of a call")
        record.fixed = _fixed(settings)
    if "linearity" in parts:
        record.linear = {axis: _linear(axis, settings, say) for axis in scaling.AXES}
    for name in (name for name in COMPANIONS if name in parts):
        if importlib.util.find_spec(f"benchmarks.{name}"):
            say(name)
            record.companions[name] = _companion(name)
    return record


def machine(settings: Settings) -> dict[str, str]:
    """Describe what the numbers depend on, without names or paths."""
    device = "CPU"
    if settings.device != "cpu":
        device = torch.cuda.get_device_name(settings.device)
    versions = {**peers.versions(), "torch": torch.__version__}
    return {
        "device": device,
        "cores": str(os.cpu_count()),
        "threads": str(settings.threads),
        "rounds": str(settings.rounds),
        "python": sys.version.split()[0],
        **versions,
    }


def run_case(name: str, settings: Settings, say: Say) -> tuple[float | str, dict[str, Result]]:
    """Return how far the truth is from enumeration, and the results of a case."""
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "truth.pt")
        say(f"{name}: the true diagonal")
        limit = 5 * settings.seconds + OVERHEAD
        found = _outcome(settings, limit, measure.find_truth, name, path, settings)
        for entrant in contenders(CASES[name]):
            say(f"{name}: is it right, memory: {entrant.name}")
            results[entrant.name] = _examined(name, entrant, path, settings)
    ready = [
        result.name
        for result in results.values()
        if result.kind != "unit" and result.estimate and result.estimate <= settings.seconds
    ]
    say(f"{name}: time, {settings.rounds} rounds of {len(ready)} contenders")
    _timed(name, ready, results, settings)
    return (found.value if found.status == "ok" else describe(found)), results


def _outcome(
    settings: Settings, seconds: float, function: Callable, *args, memory: int | None = None
) -> Outcome:
    """Call a measurement in a process of its own; on a GPU in this one, stopped after `seconds`."""
    if settings.device == "cpu":
        return isolated(function, *args, seconds=seconds, memory=memory)
    return within(function, *args, seconds=seconds)


def _examined(name, entrant, path, settings) -> Result:
    given = (name, entrant.name, path, settings)
    limit = settings.seconds + OVERHEAD
    outcome = _outcome(settings, limit, measure.examine, *given, memory=settings.memory)
    result = Result(entrant.name, entrant.kind, entrant.quantity, outcome.status, outcome.message)
    return dataclasses.replace(result, **outcome.value) if outcome.value else result


def _timed(name, ready, results, settings) -> None:
    """Add the times of the interleaved rounds; without them the estimates stand."""
    longest = sum(min(results[entrant].estimate or 0, settings.seconds) for entrant in ready)
    limit = OVERHEAD + 10 * settings.rounds + 3 * min(
        settings.rounds * longest, len(ready) * settings.seconds
    )  # fmt: skip
    outcome = _outcome(settings, limit, measure.time_rounds, name, ready, settings)
    if outcome.status == "ok":
        for entrant, seconds in outcome.value.items():
            results[entrant].seconds = seconds
    else:
        results[UNIT].message = f"rounds stopped, times are estimates: {describe(outcome)}"


def _fixed(settings: Settings) -> dict:
    outcome = _outcome(settings, settings.seconds + OVERHEAD, measure.fixed_cost, settings)
    if outcome.status != "ok":
        return {"milliseconds": None, "message": describe(outcome)}
    times = {name: [1e3 * second for second in found] for name, found in outcome.value.items()}
    return {
        "milliseconds": statistics.median(times["one"]),
        "quartiles": {name: statistics.quantiles(found, n=4) for name, found in times.items()},
        "message": "one input of the mlp, the first call on a network",
    }


def _linear(axis: str, settings: Settings, say: Say) -> dict:
    say(f"linearity in {axis}")
    limit = 4 * settings.seconds + OVERHEAD
    outcome = _outcome(settings, limit, scaling.time_axis, axis, settings)
    record = {"description": scaling.AXES[axis].description, "exponent": None, "message": ""}
    if outcome.status != "ok":
        return {**record, "message": describe(outcome)}
    sizes = scaling.coordinates(axis)
    exponent, last = scaling.exponents(sizes, outcome.value)
    medians = [statistics.median(times) for times in outcome.value]
    record |= {"exponent": exponent, "last": last, "sizes": sizes, "seconds": medians}
    return {**record, "message": f"{last:.2f} over the last doubling"}


def _companion(name: str) -> object:
    """Return the JSON another benchmark writes to the file, or else the output, of --json."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        for arguments in (["--json", str(path)], ["--json"]):
            command = [sys.executable, "-m", f"benchmarks.{name}", *arguments]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=COMPANION_SECONDS, check=False
            )
            text = path.read_text() if path.exists() else done.stdout
            try:
                return json.loads(text)
            except json.JSONDecodeError:
                continue
    lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
    return {"error": lines[-1][:200]}


def describe(outcome: Outcome) -> str:
    """Return the status of an outcome with its reason."""
    return f"{outcome.status}: {outcome.message}" if outcome.message else outcome.status
