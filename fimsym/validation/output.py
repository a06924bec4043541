"""A family's law alone: closed forms against labels at random h, u and v, without data."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.engine.analysis import QUANTITIES
from fimsym.families import Family, Limits
from fimsym.generated import evaluator
from fimsym.laws.algebra import Matrix, pack
from fimsym.laws.law import Law
from fimsym.report.progress import progress as progress_bar
from fimsym.validation.measurement import (
    Measurement,
    Subject,
    autograd_gap,
    density_gap,
    function_gap,
)
from fimsym.validation.montecarlo import Derivatives, Estimates, simulate

_LISTED_DIRECTIONS = 32  # where labels can be listed, each costs next to nothing
_DRAWN_DIRECTIONS = 12
_COSTLY_DIRECTIONS = 8  # with several natural parameters per target
_TARGETS = 2
_ENTRIES = 4
_AWAY = 2.0  # median distance of h from a single bound
_FACTORS = (1.0, 0.6, 1.7, 2.5)
_STEPS = (0, 1, 4, 7)
NAME = "random h, u, v"


@dataclasses.dataclass(frozen=True)
class Point:
    """Values of the constants, and h [output] with u and v [output, param]."""

    constants: Mapping[str, float]
    at: Derivatives


class Path(nn.Module):
    """A network whose output is h + Σ (uᵢθᵢ + vᵢθᵢ²/2), at θ = 0, for any input."""

    def __init__(self, at: Derivatives):
        super().__init__()
        self.at = at
        self.step = nn.Parameter(torch.zeros(at.u.shape[1], dtype=at.h.dtype))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output once for each input."""
        output = self.at.h + self.at.u @ self.step + self.at.v @ self.step.square() / 2
        return output.expand(len(inputs), -1)


def measure(family: Family, samples: int, seed: int, progress: bool = False) -> Measurement:
    """Measure both sides at random points of a family's domain.

    Args:
        family: The family, built in or the user's.
        samples: Labels for each point and direction.
        seed: Seed of the points and the labels.
        progress: Show progress bars.
    """
    start = time.perf_counter()
    closed: dict[str, list[Tensor]] = {quantity: [] for quantity in QUANTITIES}
    sampled, gaps, wrong = [], [0.0], [0.0]
    points = random_points(family, seed)
    with progress_bar(f"{family.name}: {NAME}", len(points), progress) as advance:
        for number, point in enumerate(points):
            law, at = Law(family, point.constants), point.at
            batch = (at.h.unsqueeze(0), at.u.unsqueeze(0), at.v.unsqueeze(0))
            moments = evaluator(family).moments(*batch, **point.constants)
            exact = {quantity: getattr(moments, quantity).squeeze(0) for quantity in QUANTITIES}
            for quantity, values in exact.items():
                closed[quantity].append(values)
            sampled.append(simulate(law, [at], samples, _seeds(family, seed, number), advance))
            gaps.append(autograd_gap(law, Path(at), [at], [at.h], seed))
            wrong.append(function_gap(family, point.constants, exact, *batch))
            wrong.append(density_gap(law, at.h, seed))
    return Measurement(
        subject=_subject(family, points, samples),
        closed={quantity: torch.cat(values) for quantity, values in closed.items()},
        estimates={name: _joined([s[name] for s in sampled]) for name in sampled[0]},
        layers={"all": slice(0, sum(point.at.u.shape[1] for point in points))},
        autograd_gap=max(gaps),
        function_gap=max(wrong),
        seconds=time.perf_counter() - start,
    )


def random_points(family: Family, seed: int) -> list[Point]:
    """Return points with moderate h inside the domain, and normal u and v."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(_seeds(family, seed))))
    points = []
    for factor, step in zip(_FACTORS, _STEPS, strict=True):
        constants = {
            c.name: c.default + step if c.integer else c.default * factor for c in family.constants
        }
        h = _natural(family, rng)
        shape = (len(h), _directions(Law(family, constants), h))
        u, v = (torch.from_numpy(rng.standard_normal(shape)) for _ in range(2))
        points.append(Point(family.bind(constants), Derivatives(h, u, v)))
    return points


def _directions(law: Law, h: Tensor) -> int:
    if law.support(h) is not None:
        return _LISTED_DIRECTIONS
    return _DRAWN_DIRECTIONS if law.family.components == 1 else _COSTLY_DIRECTIONS


def _natural(family: Family, rng: np.random.Generator) -> Tensor:
    """Return random natural parameters, [output]."""
    if family.structure == "matrix":
        size = family.minimum_outputs
        factor = rng.standard_normal((size, size))
        half = torch.from_numpy(-(np.eye(size) + factor @ factor.T) / 4)
        mean = torch.from_numpy(rng.standard_normal(size))
        return torch.cat([-2 * half @ mean, pack(Matrix(half))])
    if family.vector:
        (limits,) = family.limits
        return _within(limits, max(_ENTRIES, family.minimum_outputs), rng)
    targets = _TARGETS if family.structure == "independent" else 1
    return torch.cat([_within(limits, targets, rng) for limits in family.limits])


def _within(limits: Limits, count: int, rng: np.random.Generator) -> Tensor:
    """Return random numbers between limits, away from both."""
    z = rng.standard_normal(count)
    if math.isfinite(limits.low) and math.isfinite(limits.high):
        values = limits.low + (limits.high - limits.low) / (1 + np.exp(-z))
    elif math.isfinite(limits.low):
        values = limits.low + _AWAY * np.exp(z / 3)
    elif math.isfinite(limits.high):
        values = limits.high - _AWAY * np.exp(z / 3)
    else:
        values = 0.7 * z
    return torch.from_numpy(values)


def _seeds(family: Family, seed: int, *more: int) -> list[int]:
    """Return a seed of the family's own, whatever else is validated in the same run."""
    return [seed, *family.name.encode(), *more]


def _joined(estimates: list[Estimates]) -> Estimates:
    return Estimates(
        *(torch.cat([getattr(e, f.name) for e in estimates]) for f in dataclasses.fields(Estimates))
    )


def _subject(family: Family, points: list[Point], samples: int) -> Subject:
    outputs, directions = points[0].at.u.shape
    constants = {name: [point.constants[name] for point in points] for name in points[0].constants}
    quality = f"{len(points)} points of {outputs} natural parameters, {directions} directions each"
    if constants:
        shown = (f"{k} = {', '.join(f'{x:g}' for x in v)}" for k, v in constants.items())
        quality += f"; {'; '.join(shown)}"
    return Subject(
        name=NAME,
        title=f"{family.title}: {NAME}, {samples:,} labels",
        family=family.name,
        constants=constants,
        link=None,
        inputs=len(points),
        quality=quality,
        samples=samples,
    )
