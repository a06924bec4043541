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
from fimsym.generated import evaluator
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

_MOST_SAMPLES = 10_000_000
_SPOT_CHECKS = 5
GAP = 1e-8
"""Largest relative difference between two ways to the same number."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Both sides of one task, before they are compared.

    Attributes:
        task: The network and its inputs.
        analysis: Closed forms, from the evaluators.
        estimates: Monte Carlo estimates, from autograd.
        autograd_gap: Largest relative difference found between Î₁, Î₂ along a parameter's
            path and by autograd through the whole network.
        function_gap: Largest relative difference between the analysis and the evaluator's
            functions of one quantity; infinite where a bound of Theorem 4.1 is violated.
    """

    task: Task
    analysis: Analysis
    estimates: dict[str, Estimates]
    autograd_gap: float
    function_gap: float


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The verdict on one network."""

    task: Task
    agreement: Agreement
    autograd_gap: float
    function_gap: float

    @property
    def agrees(self) -> bool:
        """Closed forms and Monte Carlo agree, and both see the same network and formulas."""
        gap = max(self.autograd_gap, self.function_gap)
        return self.agreement.agrees and gap <= GAP


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
                    "function_gap": _finite(model.function_gap),
                    "agrees": model.agrees,
                    "comparisons": [
                        _plain(comparison) for comparison in model.agreement.comparisons
                    ],
                }
                for model in self.models
            ],
        }


def validate(
    names: str | Sequence[str] = (),
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
        DomainError: samples, seed or inputs out of range.
        UnsupportedError: a family without a task, or scikit-learn is missing.
    """
    names = (names,) if isinstance(names, str) else names
    chosen = tuple(dict.fromkeys(family(name).name for name in names)) or families()
    for name in chosen:
        if name not in TASKS:
            raise UnsupportedError(f"no validation task for {name}; there is: {', '.join(TASKS)}.")
    if not (isinstance(samples, int) and 1000 <= samples <= _MOST_SAMPLES):
        raise DomainError(
            f"samples must be an integer from 1000, so that standard errors mean something, to "
            f"{_MOST_SAMPLES:,}, so that a parameter's labels fit in memory; got {samples!r}."
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
    return Measurement(task, analysis, estimates, gap, _function_gap(analysis, points))


def judge(measured: Sequence[Measurement]) -> tuple[tuple[ModelReport, ...], int]:
    """Return the verdict on every measurement, and the number of tests it took."""
    sides = []
    for measurement in measured:
        closed = {q: _flat(getattr(measurement.analysis, q)) for q in QUANTITIES}
        sides.append((closed, _layers(measurement.analysis)))
    tests = sum(number_of_tests(closed, layers) for closed, layers in sides)
    reports = tuple(
        ModelReport(
            m.task, compare(closed, m.estimates, layers, tests), m.autograd_gap, m.function_gap
        )
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


def _function_gap(analysis: Analysis, points: Sequence[Derivatives]) -> float:
    """Compare the evaluator's functions of one quantity, and its bounds, with the analysis."""
    module = evaluator(analysis.family)
    h, u, v = (torch.stack([getattr(at, name) for at in points]) for name in ("h", "u", "v"))
    constants = analysis.constants
    of_functions = {
        "fisher": module.fisher(h, u, **constants),
        "variance_score_squared": module.variance_score_squared(h, u, **constants),
        "variance_negative_hessian": module.variance_negative_hessian(h, v, **constants),
        "covariance": module.covariance(h, u, v, **constants),
    }
    gap = 0.0
    for quantity, values in of_functions.items():
        whole = _flat(getattr(analysis, quantity))
        scale = max(float(whole.abs().max()), sys.float_info.min)
        gap = max(gap, float((values.mean(0) - whole).abs().max()) / scale)
    bounds = module.bounds(h, **constants)
    norm, norm_v = u.square().sum(1), v.square().sum(1)
    limits = (
        (of_functions["fisher"], norm, bounds.fisher_min, bounds.fisher_max),
        (of_functions["variance_negative_hessian"], norm_v, bounds.fisher_min, bounds.fisher_max),
        (of_functions["variance_score_squared"], norm**2, bounds.quartic_min, bounds.quartic_max),
    )
    for value, size, low, high in limits:
        slack = GAP * size * high[:, None]
        inside = (value >= size * low[:, None] - slack) & (value <= size * high[:, None] + slack)
        gap = gap if bool(inside.all()) else math.inf
    return gap


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(comparison: Comparison) -> dict[str, Any]:
    record = dataclasses.asdict(comparison)
    record["closed_form_of"] = CLOSED_FORM[comparison.quantity]
    return {
        key: _finite(value) if isinstance(value, float) else value for key, value in record.items()
    }
