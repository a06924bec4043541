"""Check every closed form against Monte Carlo on networks trained on real data."""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fimsym.engine import Analysis, analyze
from fimsym.engine.analysis import QUANTITIES
from fimsym.errors import DomainError, UnsupportedError
from fimsym.families import families, family
from fimsym.report.progress import progress as progress_bar
from fimsym.validation.agreement import (
    CLOSED_FORM,
    FAMILY_WISE_ERROR,
    Agreement,
    Comparison,
    compare,
    number_of_tests,
)
from fimsym.validation.law import Law
from fimsym.validation.montecarlo import (
    Derivatives,
    Estimates,
    derivatives,
    direct,
    estimators,
    simulate,
)
from fimsym.validation.tasks import TASKS, Task

_SPOT_CHECKS = 5
_SPOT_TOLERANCE = 1e-8


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Both sides of one task, before they are compared.

    Attributes:
        task: The network and its inputs.
        analysis: Closed forms, from the evaluators.
        estimates: Monte Carlo estimates, from autograd.
        autograd_gap: Largest relative difference found between Î₁, Î₂ along a parameter's
            path and by autograd through the whole network.
    """

    task: Task
    analysis: Analysis
    estimates: dict[str, Estimates]
    autograd_gap: float


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The verdict on one network."""

    task: Task
    agreement: Agreement
    autograd_gap: float

    @property
    def agrees(self) -> bool:
        """Closed forms and Monte Carlo agree, and both see the same network."""
        return self.agreement.agrees and self.autograd_gap <= _SPOT_TOLERANCE


@dataclasses.dataclass(frozen=True, repr=False)
class Validation:
    """The verdict on every network of a run.

    Attributes:
        models: One report per network.
        samples: Labels for each input and parameter.
        seed: Seed of the data split, training and labels.
        tests: Number of tests that share the family-wise error of 1e-6.
        seconds: How long it took.
    """

    models: tuple[ModelReport, ...]
    samples: int
    seed: int
    tests: int
    seconds: float

    @property
    def agrees(self) -> bool:
        """No closed form was rejected."""
        return all(model.agrees for model in self.models)

    def __repr__(self) -> str:
        verdicts = ", ".join(
            f"{model.task.name}: {'agreed' if model.agrees else 'disagreed'}"
            for model in self.models
        )
        return f"Validation({verdicts}; {self.tests} tests, {self.samples} labels each)"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, for JSON."""
        return {
            "agrees": self.agrees,
            "family_wise_error": FAMILY_WISE_ERROR,
            "tests": self.tests,
            "samples": self.samples,
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "models": [
                {
                    "name": model.task.name,
                    "title": model.task.title,
                    "family": model.task.family,
                    "constants": model.task.constants,
                    "inputs": len(model.task.inputs),
                    "quality": model.task.quality,
                    "autograd_gap": model.autograd_gap,
                    "agrees": model.agrees,
                    "comparisons": [
                        _plain(comparison) for comparison in model.agreement.comparisons
                    ],
                }
                for model in self.models
            ],
        }


def validate(
    names: Sequence[str] = (),
    samples: int = 100_000,
    seed: int = 0,
    inputs: int = 16,
    progress: bool = True,
) -> Validation:
    """Compare I, V₁, V₂ and Cov(Î₁, Î₂) with Monte Carlo for every parameter.

    For each family a small sigmoid network is trained on real data (categorical: digits;
    gaussian: diabetes). On held-out inputs the closed forms of `analyze` meet estimates
    from labels drawn from the model and autograd of log p, which share no code with them.

    Args:
        names: Families to validate; all when empty.
        samples: Labels for each input and parameter.
        seed: Seed of the data split, training and labels.
        inputs: Number of held-out inputs.
        progress: Show progress bars on standard error when it is a terminal.

    Returns:
        The verdict; a true closed form is rejected with probability below 1e-6 per run.

    Raises:
        SpecError: an unknown family.
        DomainError: fewer than 1000 samples, or a negative seed.
        UnsupportedError: a family without a task, or scikit-learn is missing.
    """
    chosen = tuple(dict.fromkeys(family(name).name for name in names)) or families()
    for name in chosen:
        if name not in TASKS:
            raise UnsupportedError(f"no validation task for {name}; there is: {', '.join(TASKS)}.")
    if not (isinstance(samples, int) and samples >= 1000):
        raise DomainError(
            f"samples must be an integer of at least 1000, so that standard errors mean "
            f"something; got {samples!r}."
        )
    if not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise DomainError(f"seed must be an integer from 0 to 2^32 − 1; got {seed!r}.")
    start = time.perf_counter()
    measured = [measure(TASKS[name](seed, inputs), samples, seed, progress) for name in chosen]
    models, tests = judge(measured)
    return Validation(models, samples, seed, tests, time.perf_counter() - start)


def measure(task: Task, samples: int, seed: int, progress: bool = True) -> Measurement:
    """Return the closed forms and the Monte Carlo estimates of one task."""
    constants: dict[str, Any] = dict(task.constants)
    analysis = analyze(
        task.model, task.inputs, task.family, quantities="all", progress=progress, **constants
    )
    law = Law(family(task.family), task.constants)
    with progress_bar(f"{task.name}: derivatives", len(task.inputs), progress) as advance:
        points = []
        for example in task.inputs:
            points.append(derivatives(task.model, example))
            advance()
    gap = _autograd_gap(task, law, points, seed)
    with progress_bar(f"{task.name}: Monte Carlo", len(points), progress) as advance:
        estimates = simulate(law, points, samples, seed, advance)
    return Measurement(task, analysis, estimates, gap)


def judge(measured: Sequence[Measurement]) -> tuple[tuple[ModelReport, ...], int]:
    """Return the verdict on every measurement, and the number of tests it took."""
    sides = []
    for measurement in measured:
        closed = {q: _flat(getattr(measurement.analysis, q)) for q in QUANTITIES}
        sides.append((closed, _layers(measurement.analysis)))
    tests = sum(number_of_tests(closed, layers) for closed, layers in sides)
    reports = tuple(
        ModelReport(m.task, compare(closed, m.estimates, layers, tests), m.autograd_gap)
        for m, (closed, layers) in zip(measured, sides, strict=True)
    )
    return reports, tests


def _flat(named):
    return torch.cat([tensor.reshape(-1) for tensor in named.values()])


def _layers(analysis: Analysis) -> dict[str, slice]:
    """Return each layer's range in the vector over parameters."""
    ranges, start = {}, 0
    for group in analysis.groups:
        ranges[group.name] = slice(start, start + group.size)
        start += group.size
    return ranges


def _autograd_gap(task: Task, law: Law, points: Sequence[Derivatives], seed: int) -> float:
    """Return the largest relative gap between path and whole-network autograd."""
    rng = np.random.default_rng(seed)
    gap = 0.0
    for at, example in list(zip(points, task.inputs, strict=True))[:_SPOT_CHECKS]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            label = law.given(at.h).sample()
        along = estimators(law, at, label.reshape(1, 1, *label.shape))
        for position in rng.integers(at.u.shape[1], size=_SPOT_CHECKS).tolist():
            whole = direct(law, task.model, example, label, position)
            for one, other in zip((a[0] for a in along), whole, strict=True):
                scale = max(float(one.abs().max()), sys.float_info.min)
                gap = max(gap, abs(float(one[position]) - other) / scale)
    return gap


def _plain(comparison: Comparison) -> dict[str, Any]:
    record = dataclasses.asdict(comparison)
    record["closed_form_of"] = CLOSED_FORM[comparison.quantity]
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
