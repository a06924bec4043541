"""Points of a family's domain, at which numerical checks are made."""

from __future__ import annotations

import math
import random
from typing import Any

from fimsym.families.spec import Limits

Point = tuple[float, ...]


def points(
    limits: tuple[Limits, ...],
    distances: tuple[float, ...],
    fractions: tuple[float, ...],
    count: int,
) -> list[Point]:
    """Return points of the domain: distances from bounds or 0, then seeded random mixtures."""
    generator = random.Random(0)
    grids = [_grid(interval, distances, fractions) for interval in limits]
    found = [(x,) for x in grids[0]] if len(limits) == 1 else []
    if len(found) > count:
        found = found[:: math.ceil(len(found) / count)]
    while len(found) < count:
        low, high = min(distances), max(distances)
        if generator.random() < 0.5:
            point = [generator.choice(grid) for grid in grids]
        else:
            distance = tuple(low * (high / low) ** generator.random() for _ in grids)
            fraction = [generator.uniform(fractions[0], fractions[-1]) for _ in grids]
            options = zip(limits, distance, fraction, strict=True)
            point = [generator.choice(_grid(i, (d,), (f,))) for i, d, f in options]
        found.append(tuple(point))
    return found


def _grid(limits: Limits, distances: tuple[float, ...], fractions: tuple[float, ...]) -> Point:
    low, high = limits.low, limits.high
    if math.isfinite(low) and math.isfinite(high):
        values = [low + (high - low) * fraction for fraction in fractions]
    elif math.isfinite(low):
        values = [low + max(1, abs(low)) * distance for distance in distances]
    elif math.isfinite(high):
        values = [high - max(1, abs(high)) * distance for distance in distances]
    else:
        values = [sign * distance for distance in distances for sign in (1, -1)]
    return tuple(
        float(f"{value:.4g}") if low < float(f"{value:.4g}") < high else value for value in values
    )


def scale(x: Any, limits: Limits) -> Any:
    """Return the smaller of 1 and the distance to the nearer bound."""
    return min(1, x - limits.low, limits.high - x)


def advice(symbol: str, failed: list[float], passed: list[float]) -> str:
    """Return an inequality that keeps the failing values of a symbol out, or ``""``."""
    if not failed or not passed:
        return ""
    for sign, low, high in (("<", passed, failed), (">", failed, passed)):
        if max(low) < min(high):
            between = 0, math.ceil(max(low)), math.floor(min(high))
            inside = [x for x in between if max(low) <= x <= min(high)]
            bound = inside[0] if inside else (max(low) + min(high)) / 2
            return f"{symbol} {sign} {bound:.3g}"
    return ""
