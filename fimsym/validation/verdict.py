"""From what was found to verdicts, whose family-wise error covers the whole run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from fimsym.generated import edited
from fimsym.validation.agreement import Row, Scores, compare, rounding
from fimsym.validation.cells import Sampled
from fimsym.validation.estimates import CLOSED_FORM, ESTIMATES
from fimsym.validation.moments import Array, Mask
from fimsym.validation.sizes import threshold
from fimsym.validation.subject import GAP, Description, Subject, largest
from fimsym.validation.tails import FAMILY_WISE_ERROR, detectable, holm, shape, spread

_NEARLY_NORMAL = 0.05
"""Largest r of a z-score that is compared with the normal law."""
_FEWEST_SCORES = 20


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One quantity of one layer, summed over its parameters.

    Attributes:
        layer: Name of the layer.
        quantity: One of `ESTIMATES`.
        closed_form: Its closed form.
        monte_carlo: Its Monte Carlo estimate.
        standard_error: Standard error of the estimate.
        z: (closed form − Monte Carlo) / standard error, of the sum.
        scale_z: The same of the scale.
        largest_z: Largest |z| of a parameter, of the sum or of the scale.
        level: Least family-wise error at which Holm's procedure rejects a test of the row.
        detectable: Relative error of all closed forms that the scale's test would catch
            with probability 0.99; infinite where they are zero.
        parameters: Number of parameters.
        tested: How many of them the labels inform; the others are compared to rounding.
        agrees: No test of this row was rejected.
    """

    layer: str
    quantity: str
    closed_form: float
    monte_carlo: float
    standard_error: float
    z: float
    scale_z: float
    largest_z: float
    level: float
    detectable: float
    parameters: int
    tested: int
    agrees: bool


@dataclasses.dataclass(frozen=True)
class Check:
    """Two ways to the same numbers, without randomness.

    Attributes:
        name: Identifier.
        gap: Their largest relative difference; infinite if they cannot be compared.
    """

    name: str
    gap: float

    @property
    def passes(self) -> bool:
        """The difference is rounding."""
        return self.gap <= GAP


@dataclasses.dataclass(frozen=True)
class Fit:
    """Independent z-scores against N(0, 1), where their normal limit is near.

    Attributes:
        quantity: One of `ESTIMATES`.
        scores: Number of z-scores.
        mean: Their mean.
        variance: Their mean square.
        shape_level: Least family-wise error at which their distribution is rejected.
        spread_level: The same of their sum of squares.
        agrees: Neither was rejected.
    """

    quantity: str
    scores: int
    mean: float
    variance: float
    shape_level: float
    spread_level: float
    agrees: bool


@dataclasses.dataclass(frozen=True)
class ModelReport:
    """The verdict on one network, or on a family's law at points.

    Attributes:
        description: What was validated.
        samples: Labels for each point and parameter.
        covered: Number of points whose labels were drawn.
        comparisons: One for every layer and quantity.
        checks: What was compared without randomness.
        fits: The z-scores of each quantity against N(0, 1), where there are enough.
        scores: z of every parameter by quantity.
    """

    description: Description
    samples: int
    covered: int
    comparisons: tuple[Comparison, ...]
    checks: tuple[Check, ...]
    fits: tuple[Fit, ...]
    scores: Mapping[str, Scores]

    @property
    def agrees(self) -> bool:
        """No test was rejected, and everything compared without randomness is equal."""
        parts = (*self.comparisons, *self.fits)
        return all(part.agrees for part in parts) and all(check.passes for check in self.checks)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Both sides of a subject."""

    subject: Subject
    samples: int
    closed: Mapping[str, Array]
    sampled: Sampled


def judge(measured: Sequence[Measured]) -> tuple[tuple[ModelReport, ...], tuple[Fit, ...], int]:
    """Return the verdict on every subject, that on all z-scores together, and how many tests."""
    rows, scores, levels = [], [], []
    for m in measured:
        sampled = m.sampled
        found = compare(
            m.closed, sampled.estimates, m.subject.layers, sampled.covered, bool(sampled.exact)
        )
        rows.append(found[0])
        scores.append(found[1])
        levels += [row.levels for row in found[0]]
    drafts = [[_draft([one], name) for name in ESTIMATES] for one in scores]
    whole = [_draft(scores, name) for name in ESTIMATES]
    for draft in (*(draft for one in drafts for draft in one), *whole):
        if draft is not None:
            levels.append(np.array(draft.levels))
    everything = np.concatenate(levels)
    adjusted = iter(np.split(holm(everything), np.cumsum([len(part) for part in levels])[:-1]))
    first = threshold(len(everything))
    compared = [
        tuple(_comparison(row, float(next(adjusted).min()), first) for row in of_subject)
        for of_subject in rows
    ]
    fitted = [
        tuple(_fit(d, next(adjusted)) for d in of_subject if d is not None) for of_subject in drafts
    ]
    reports = tuple(
        ModelReport(
            description=m.subject.description,
            samples=m.samples,
            covered=len(m.sampled.points),
            comparisons=compared[n],
            checks=_checks(m),
            fits=fitted[n],
            scores=scores[n],
        )
        for n, m in enumerate(measured)
    )
    return reports, tuple(_fit(d, next(adjusted)) for d in whole if d is not None), len(everything)


def number_of_tests(subjects: Sequence[Subject]) -> int:
    """Return how many tests `judge` makes at most."""
    of_rows = sum(subject.size + 2 * len(subject.layers) for subject in subjects)
    return len(ESTIMATES) * (of_rows + 2 * (len(subjects) + 1))


@dataclasses.dataclass(frozen=True)
class _Draft:
    """A `Fit` before the verdict, with the logarithms of its two levels."""

    quantity: str
    scores: int
    mean: float
    variance: float
    levels: tuple[float, float]


def near_normal(scores: Scores) -> tuple[Array, Array]:
    """Return the z-scores whose normal limit is near, and r of each."""
    near = scores.tested & (scores.ratio <= _NEARLY_NORMAL) & np.isfinite(scores.z)
    return scores.z[near], scores.ratio[near]


def _draft(of_subjects: Sequence[Mapping[str, Scores]], name: str) -> _Draft | None:
    """Compare the z-scores of one quantity with N(0, 1); None where there are too few."""
    found = [near_normal(of_subject[name]) for of_subject in of_subjects]
    z, ratio = (np.concatenate(parts) for parts in zip(*found, strict=True))
    if len(z) < _FEWEST_SCORES:
        return None
    return _Draft(
        quantity=name,
        scores=len(z),
        mean=float(z.mean()),
        variance=float(np.square(z).mean()),
        levels=(shape(z, ratio), spread(z, ratio)),
    )


def _fit(draft: _Draft, adjusted: Array) -> Fit:
    values = {f.name: getattr(draft, f.name) for f in dataclasses.fields(draft)}
    del values["levels"]
    of_shape, of_spread = (float(level) for level in adjusted)
    return Fit(
        **values,
        shape_level=math.exp(of_shape),
        spread_level=math.exp(of_spread),
        agrees=min(of_shape, of_spread) >= math.log(FAMILY_WISE_ERROR),
    )


def _comparison(row: Row, adjusted: float, first: float) -> Comparison:
    values = {
        f.name: getattr(row, f.name)
        for f in dataclasses.fields(row)
        if f.name not in ("noise", "ratio", "levels")
    }
    finite = math.isfinite(row.noise)
    return Comparison(
        **values,
        level=math.exp(adjusted),
        detectable=detectable(first, row.ratio) * row.noise if finite else math.inf,
        agrees=adjusted >= math.log(FAMILY_WISE_ERROR),
    )


def _checks(m: Measured) -> tuple[Check, ...]:
    """Return what was compared without randomness."""
    inside = m.sampled.covered > 0
    functions = max(
        float(np.abs(m.closed[name] - values)[inside].max()) / largest(m.closed[name][inside])
        for name, values in m.sampled.functions.items()
    )
    found = {"functions": functions, **m.sampled.gaps}
    if m.sampled.exact:
        noise = rounding(m.closed)
        found["sums"] = max(
            _relative(
                m.closed[CLOSED_FORM[name]] - exact,
                np.maximum(m.sampled.scale[name], noise[name] / GAP),
                inside,
            )
            for name, exact in m.sampled.exact.items()
        )
    found["generated"] = math.inf if edited(m.subject.family) else 0.0
    return tuple(
        Check(name, found[name] if not math.isnan(found[name]) else math.inf)
        for name in CHECKS
        if name in found
    )


def _relative(difference: Array, scale: Array, inside: Mask) -> float:
    ratio = np.abs(difference) / np.maximum(scale, np.finfo(float).tiny)
    return float(ratio[inside].max())


CHECKS = {
    "functions": "closed forms are the evaluator's functions of one quantity, at u and v by plain "
    "double backward",
    "bounds": "every value lies within Theorem 4.1's bounds",
    "sums": "closed forms are the sums over all labels, differentiated one by one",
    "autograd": "derivatives along a parameter's path are those through the whole network",
    "statistics": "derivatives of log p are affine in t(y)",
    "density": "log p of the sampler is that of the specification's density",
    "generated": "the evaluator's file is as it was generated",
}
"""What is compared without randomness, in words."""
