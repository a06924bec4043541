"""A family's law alone: closed forms against labels at given or random h, u and v."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.engine.quantities import QUANTITIES
from fimsym.errors import DomainError, FimsymError
from fimsym.families import Family, Limits
from fimsym.generated import evaluator
from fimsym.laws import Law
from fimsym.laws.algebra import Matrix, pack
from fimsym.laws.law import log_base_measure
from fimsym.laws.statistics import statistics
from fimsym.validation.draws import draw
from fimsym.validation.moments import Array
from fimsym.validation.montecarlo import Derivatives
from fimsym.validation.simulate import listed
from fimsym.validation.streams import Stream
from fimsym.validation.subject import Description, Subject, digest

_LISTED_DIRECTIONS = 32  # where labels can be listed, each costs next to nothing
_DRAWN_DIRECTIONS = 12
_COSTLY_DIRECTIONS = 8  # with several natural parameters per target
_TARGETS = 2
_ENTRIES = 4
_AWAY = 2.0  # median distance of h from a single bound
_FACTORS = (1.0, 0.6, 1.7, 2.5)
_STEPS = (0, 1, 4, 7)
_SPOT_LABELS = 50
RANDOM = "random h, u, v"
GIVEN = "given h, u, v"


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


class AtPoints(Subject):
    """A family's evaluator at points of its domain.

    Args:
        family: The family, built in or the user's.
        points: Where; each with directions of its own.
        name: How the points came about.
    """

    def __init__(self, family: Family, points: Sequence[Point], name: str):
        super().__init__()
        self.family = family
        self.key = f"{family.name}/points"
        self.points = len(points)
        self._points = points
        self._laws = [Law(family, point.constants) for point in points]
        ends = np.cumsum([point.at.u.shape[1] for point in points]).tolist()
        self._ranges = [slice(a, b) for a, b in zip([0, *ends[:-1]], ends, strict=True)]
        self.size = ends[-1]
        self.layers = {"all": slice(0, self.size)}
        self.description = _described(family, points, name)

    def law(self, point: int) -> Law:
        """Return the law of the labels at a point."""
        return self._laws[point]

    def outputs(self, point: int) -> Tensor:
        """Return h, [output]."""
        return self._points[point].at.h

    def where(self, point: int) -> slice:
        """Return the range of the point's directions."""
        return self._ranges[point]

    def keys(self, point: int) -> Sequence[int]:
        """Return the number of each direction."""
        return range(self._points[point].at.u.shape[1])

    def closed(self, points: Sequence[int]) -> dict[str, Array]:
        """Return closed forms from `moments` of the evaluator, zero at other points."""
        found = {quantity: np.zeros(self.size) for quantity in QUANTITIES}
        for number in points:
            point = self._points[number]
            batch = (point.at.h.unsqueeze(0), point.at.u.unsqueeze(0), point.at.v.unsqueeze(0))
            moments = evaluator(self.family).moments(*batch, **point.constants)
            for quantity, values in found.items():
                values[self.where(number)] = getattr(moments, quantity).squeeze(0).numpy()
        return found

    def density_gap(self, point: int, streams: Callable[..., Stream]) -> float:
        """Return how far log p of drawn labels is from log π + ⟨t, h⟩ − F of the specification.

        Zero for a family without a density on a line. Without it a sampler of another law with
        the same log-partition would pass for the family's.
        """
        law, h = self._laws[point], self.outputs(point)
        family = self.family
        if family.density is None or family.vector or family.structure == "matrix":
            return 0.0
        labels = draw(law.given(h), streams("density").generator(), _SPOT_LABELS)
        t = statistics(law.family, law.constants, labels, len(h))
        if t is None:
            return 0.0
        weight = log_base_measure(family, law.constants, labels).sum(-1) + t @ h
        expected = weight - evaluator(family).log_partition(h, **law.constants)
        given = law.log_prob(h, labels)
        inside = expected.isfinite()
        if not torch.equal(inside, given.isfinite()):
            return math.inf
        gap = (expected - given)[inside].abs() / expected[inside].abs().clamp(min=1)
        return float(gap.max()) if bool(inside.any()) else math.inf

    def identity(self) -> dict[str, Any]:
        """Return everything the numbers depend on, as plain data."""
        tensors = [x for p in self._points for x in (p.at.h, p.at.u, p.at.v)]
        return {
            "family": self.family.canonical(),
            "constants": [dict(point.constants) for point in self._points],
            "points": digest(*tensors),
        }

    def _differentiated(self, point: int) -> Derivatives:
        return self._points[point].at

    def _whole(self, point: int, position: int) -> tuple[nn.Module, Tensor, tuple[int, int]]:
        at = self._points[point].at
        return Path(at), at.h, (0, position)


def check_points(family: Family, points: Sequence[Point]) -> None:
    """Refuse points at which a law cannot be checked.

    Raises:
        DomainError: there is none, one has no direction, or numbers are not finite or not in
            the family's domain.
    """
    if not points:
        raise DomainError("expected at least one point; got none.")
    for number, point in enumerate(points):
        try:
            _check_point(family, point)
        except FimsymError as error:
            raise type(error)(f"point {number}: {error}") from None


def _check_point(family: Family, point: Point) -> None:
    h, directions = point.at.h, {"u": point.at.u, "v": point.at.v}
    for name, values in directions.items():
        if values.numel() == 0:
            raise DomainError(f"expected at least one direction in {name}; got none.")
        if not bool(values.isfinite().all()):
            raise DomainError(f"{name} must be finite; got NaN or infinity. Drop that direction.")
    moments = evaluator(family).moments(h, **directions, **family.bind(point.constants))
    if not all(bool(getattr(moments, quantity).isfinite().all()) for quantity in QUANTITIES):
        raise DomainError(
            "a closed form is too large for a number there, so that nothing can be compared with "
            "it. Take smaller h, u and v."
        )


def random_points(family: Family, seed: int) -> list[Point]:
    """Return points with moderate h inside the domain, and normal u and v."""
    rng = Stream(seed, f"{family.name}/points", "where").generator()
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
    if listed(law, h) is not None:
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


def _described(family: Family, points: Sequence[Point], name: str) -> Description:
    outputs, directions = points[0].at.u.shape
    constants = {k: [point.constants[k] for point in points] for k in points[0].constants}
    quality = f"{len(points)} points of {outputs} natural parameters, {directions} directions each"
    if constants:
        shown = (f"{k} = {', '.join(f'{x:g}' for x in v)}" for k, v in constants.items())
        quality += f"; {'; '.join(shown)}"
    return Description(
        kind="law",
        name=name,
        title=f"{family.title}: {name}",
        family=family.name,
        constants=constants,
        link=None,
        inputs=len(points),
        quality=quality,
        parameters=sum(point.at.u.shape[1] for point in points),
    )
