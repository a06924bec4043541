"""Check every closed form against Monte Carlo: at random points, and on trained networks."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from typing import Any

from fimsym.errors import DomainError
from fimsym.families import Family, families, family
from fimsym.validation import network, output
from fimsym.validation.agreement import (
    CLOSED_FORM,
    FAMILY_WISE_ERROR,
    Agreement,
    Comparison,
    compare,
    number_of_tests,
)
from fimsym.validation.measurement import GAP, Measurement, Subject
from fimsym.validation.tasks import TASKS

_MOST_SAMPLES = 10_000_000


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The verdict on one network, or on a family's law at random points."""

    subject: Subject
    agreement: Agreement
    autograd_gap: float
    function_gap: float
    seconds: float

    @property
    def agrees(self) -> bool:
        """Closed forms and Monte Carlo agree, and both see the same network and formulas."""
        gap = max(self.autograd_gap, self.function_gap)
        return self.agreement.agrees and gap <= GAP


@dataclasses.dataclass(frozen=True, repr=False)
class Validation:
    """The verdict on every family and network of a run.

    Attributes:
        models: One report for each family's law, each followed by its networks'.
        samples: Labels for each input and parameter of a network.
        output_samples: Labels for each random point and direction.
        seed: Seed of the points, data split, training and labels.
        tests: Number of tests that share the family-wise error of 1e-6.
        seconds: How long it took.
    """

    models: tuple[ModelReport, ...]
    samples: int
    output_samples: int
    seed: int
    tests: int
    seconds: float

    @property
    def agrees(self) -> bool:
        """No closed form was rejected."""
        return all(model.agrees for model in self.models)

    def __repr__(self) -> str:
        verdicts = ", ".join(
            f"{model.subject.family}, {model.subject.name}: "
            f"{'agreed' if model.agrees else 'disagreed'}"
            for model in self.models
        )
        return f"Validation({verdicts}; {self.tests} tests)"

    def to_dict(self) -> dict[str, Any]:
        """Return the result as plain data, for JSON."""
        return {
            "agrees": self.agrees,
            "family_wise_error": FAMILY_WISE_ERROR,
            "tests": self.tests,
            "samples": self.samples,
            "output_samples": self.output_samples,
            "seed": self.seed,
            "seconds": round(self.seconds, 2),
            "models": [_record(model) for model in self.models],
        }


def validate(
    names: str | Family | Sequence[str | Family] = (),
    samples: int = 100_000,
    seed: int = 0,
    inputs: int = 16,
    output_samples: int = 1_000_000,
    progress: bool = True,
) -> Validation:
    """Compare I, V₁, V₂ and Cov(Î₁, Î₂) with Monte Carlo for every parameter.

    Every family's law is checked at random points of its domain and in random directions
    u and v. For families with real data, small sigmoid networks are trained besides, and
    the closed forms of `analyze` are checked on held-out inputs. The other side are labels
    drawn from the law and autograd of log p, which share no code with the closed forms.

    Args:
        names: Families to validate, by name or as `Family`; all built-in ones when empty.
            A family of the user's own has no networks.
        samples: Labels for each input and parameter of a network.
        seed: Seed of the random points, data split, training and labels.
        inputs: Number of held-out inputs of each network.
        output_samples: Labels for each random point and direction.
        progress: Show progress bars on standard error when it is a terminal.

    Returns:
        The verdict; a true closed form is rejected with probability below 1e-6 per run.

    Raises:
        SpecError: an unknown family.
        DomainError: samples, seed or inputs out of range.
        UnsupportedError: scikit-learn or statsmodels is missing, or a family has neither a
            sampler nor a density to draw labels from.
    """
    names = (names,) if isinstance(names, str | Family) else names
    chosen = dict.fromkeys(family(name) for name in names or families())
    _check_samples("samples", samples)
    _check_samples("output_samples", output_samples)
    if not (isinstance(seed, int) and 0 <= seed < 2**32):
        raise DomainError(f"seed must be an integer from 0 to 2³² − 1; got {seed!r}.")
    start = time.perf_counter()
    tasks = {spec: [build(seed, inputs) for build in _builders(spec)] for spec in chosen}
    measured = []
    for spec in chosen:
        measured.append(output.measure(spec, output_samples, seed, progress))
        measured += [network.measure(task, samples, seed, progress) for task in tasks[spec]]
    reports, tests = judge(measured)
    seconds = time.perf_counter() - start
    return Validation(reports, samples, output_samples, seed, tests, seconds)


def judge(measured: Sequence[Measurement]) -> tuple[tuple[ModelReport, ...], int]:
    """Return the verdict on every measurement, and the number of tests it took."""
    tests = sum(number_of_tests(m.closed, m.layers) for m in measured)
    reports = tuple(
        ModelReport(
            m.subject,
            compare(m.closed, m.estimates, m.layers, tests),
            m.autograd_gap,
            m.function_gap,
            m.seconds,
        )
        for m in measured
    )
    return reports, tests


def _builders(spec: Family) -> tuple:
    """Return what builds a family's tasks; nothing for a user's family of the same name."""
    return TASKS[spec.name] if spec.name in families() and spec == family(spec.name) else ()


def _check_samples(name: str, samples: int) -> None:
    if not (isinstance(samples, int) and 1000 <= samples <= _MOST_SAMPLES):
        raise DomainError(
            f"{name} must be an integer from 1000, so that standard errors mean something, to "
            f"{_MOST_SAMPLES:,}, so that a parameter's labels fit in memory; got {samples!r}."
        )


def _record(model: ModelReport) -> dict[str, Any]:
    return {
        **dataclasses.asdict(model.subject),
        "autograd_gap": _finite(model.autograd_gap),
        "function_gap": _finite(model.function_gap),
        "seconds": round(model.seconds, 2),
        "agrees": model.agrees,
        "comparisons": [_plain(comparison) for comparison in model.agreement.comparisons],
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _plain(comparison: Comparison) -> dict[str, Any]:
    record = dataclasses.asdict(comparison)
    record["closed_form_of"] = CLOSED_FORM[comparison.quantity]
    return {
        key: _finite(value) if isinstance(value, float) else value for key, value in record.items()
    }
