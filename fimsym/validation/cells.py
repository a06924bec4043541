"""The work of a run in cells, each of which depends on nothing but its place.

A cell is some blocks of the labels of one subject at one point, for all its parameters.
Whoever computes it, in whatever order, gets the same bits; so cells are shared out over
processes, kept in checkpoints, and merged in their order at the end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from fimsym.validation.estimates import Estimate, averaged, estimate, expected, mean_of
from fimsym.validation.moments import Array, Moments, merged
from fimsym.validation.simulate import Drawing, counted
from fimsym.validation.streams import BLOCK, Stream, blocks
from fimsym.validation.subject import Subject

_LABELS = 2**28
"""Labels of one cell, counted over all parameters: a few seconds."""
_PILOT = 2**22
"""Labels of a pilot, counted over all points and parameters."""
_MOST_PILOT = 32
_CANCELLED = 1e-5
"""Deviations of Î₂ below this share of the terms that cancel in it may be rounding."""


@dataclasses.dataclass(frozen=True, order=True)
class Cell:
    """Some blocks of labels.

    Attributes:
        stage: ``"pilot"`` or ``"main"``.
        subject: Key of the subject.
        point: Number of its point.
        start: Number of the first block.
        stop: One more than that of the last.
    """

    stage: str
    subject: str
    point: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class Found:
    """What a cell gives.

    Attributes:
        arrays: ``sample`` moments [field, param]; ``law`` moments where labels are listed; and
            by quantity what the evaluator's functions give, in the first cell of a point.
        gaps: Largest relative differences between two ways to the same numbers, by name.
    """

    arrays: Mapping[str, Array]
    gaps: Mapping[str, float]


def cells(subject: Subject, samples: int, stage: str, limit: int = _LABELS) -> list[Cell]:
    """Return the cells of a subject in their order.

    Args:
        subject: What is validated.
        samples: Labels for each point and parameter.
        stage: ``"pilot"`` or ``"main"``.
        limit: Labels of a cell over all parameters. Results do not depend on it, as long as
            a cell has a power of two of blocks.
    """
    found = []
    last = sum(1 for _ in blocks(samples))
    for point in range(subject.points):
        if subject.support(point) is not None:
            found.append(Cell(stage, subject.key, point, 0, last))
            continue
        where = subject.where(point)
        wide = max(1, limit // (BLOCK * (where.stop - where.start)))
        step = 2 ** int(math.log2(wide))
        starts = range(0, last, step)
        found += [Cell(stage, subject.key, point, at, min(at + step, last)) for at in starts]
    return found


def pilot_labels(subject: Subject) -> int:
    """Return the labels for each point and parameter that a pilot takes."""
    width = sum(subject.where(p).stop - subject.where(p).start for p in range(subject.points))
    return BLOCK * max(1, min(_MOST_PILOT, _PILOT // (BLOCK * width)))


def measure(subject: Subject, cell: Cell, samples: int, seed: int) -> Found:
    """Draw the labels of a cell and return their moments, with the checks of its point."""
    point = cell.point

    def streams(*purpose: str | int) -> Stream:
        return Stream(seed, subject.key, cell.stage, point, *purpose)

    law, at, keys = subject.law(point), subject.derivatives(point), subject.keys(point)
    support = subject.support(point)
    arrays, gaps = {}, {}
    if support is not None:
        sample, of_law = counted(law, at, support, samples, streams, keys)
        arrays = {"sample": sample.values, "law": of_law.values}
    else:
        drawing = Drawing(law, at, streams)
        part = range(cell.start, cell.stop)
        arrays["sample"] = drawing.moments(samples, part, keys).values
        if drawing.affine is not None:
            gaps["statistics"] = drawing.affine.gap
    if cell.start == 0:
        functions, inside = subject.functions(point)
        arrays |= functions
        gaps["bounds"] = 0.0 if inside else math.inf
        if cell.stage == "main":
            gaps["autograd"] = subject.autograd_gap(point, streams)
            gaps["density"] = subject.density_gap(point, streams)
    return Found(arrays, gaps)


@dataclasses.dataclass(frozen=True)
class Sampled:
    """All that was found of one subject, merged.

    Attributes:
        estimates: Monte Carlo estimates by name, [param].
        covered: How many points each parameter's is the mean of, [param]; zero for none.
        points: The points that were covered.
        functions: What the evaluator's functions give, mean over these points, by quantity.
        exact: What the estimates are in the mean, where all labels of every point are listed;
            else empty.
        scale: Mean squares that rounding of `exact` is relative to, by name; empty likewise.
        gaps: Largest gaps over the points.
    """

    estimates: Mapping[str, Estimate]
    covered: Array
    points: tuple[int, ...]
    functions: Mapping[str, Array]
    exact: Mapping[str, Array]
    scale: Mapping[str, Array]
    gaps: Mapping[str, float]


def combine(subject: Subject, found: Mapping[Cell, Found]) -> Sampled | None:
    """Merge the cells of a subject in their order; None if no point was begun."""
    by_point: dict[int, list[Found]] = {}
    for cell in sorted(cell for cell in found if cell.subject == subject.key):
        if cell.start == 0 or cell.point in by_point:
            by_point.setdefault(cell.point, []).append(found[cell])
    if not by_point:
        return None
    estimates, functions, exact, scale = [], [], [], []
    gaps: dict[str, float] = {}
    for point, parts in by_point.items():
        where = subject.where(point)
        sample = Moments(merged(np.stack([part.arrays["sample"] for part in parts])))
        law = Moments(parts[0].arrays["law"]) if "law" in parts[0].arrays else None
        estimates.append((where, estimate(sample, law)))
        functions.append((where, _functions(parts[0])))
        if law is not None:
            exact.append((where, expected(law)))
            scale.append((where, _scale(law)))
        for name, gap in (pair for part in parts for pair in part.gaps.items()):
            gaps[name] = max(gaps.get(name, 0.0), gap)
    listed = len(exact) == len(by_point)
    means, covered = averaged(subject.size, estimates)
    return Sampled(
        estimates=means,
        covered=covered,
        points=tuple(by_point),
        functions=mean_of(subject.size, functions),
        exact=mean_of(subject.size, exact) if listed else {},
        scale=mean_of(subject.size, scale) if listed else {},
        gaps=gaps,
    )


def _functions(found: Found) -> dict[str, Array]:
    return {name: values for name, values in found.arrays.items() if name not in ("sample", "law")}


def _scale(law: Moments) -> dict[str, Array]:
    """Return sizes that sums over labels are rounded relative to."""
    mean_a, mean_b = law.means
    first, second = law.central(2, 0), law.central(0, 2)
    square_a, square_b = first + mean_a**2, second + mean_b**2
    # Î₂ is rounded relative to I and to the terms that cancel in it, of size V₁/I.
    inside = mean_a + first / np.where(mean_a > 0, mean_a, 1.0)
    deviation = np.sqrt(second) + _CANCELLED * inside
    return {
        "fisher_score_squared": mean_a,
        "fisher_negative_hessian": np.sqrt(square_b),
        "variance_score_squared": square_a,
        "variance_negative_hessian": deviation**2,
        "covariance": np.sqrt(square_a) * deviation,
    }
