"""Points of a family's law, from a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fimsym.cli.sources import as_numbers, read_arrays
from fimsym.errors import DomainError, FimsymError
from fimsym.families import Family
from fimsym.validation.montecarlo import Derivatives
from fimsym.validation.output import Point, check_points

_NAMES = ("h", "u", "v")


def load_points(path: Path, family: Family) -> list[Point]:
    """Return points h, u and v, and values of the constants, from an .npz file.

    h is [point, output] or [output]; u and v have a last axis of directions besides. A constant
    is an array of its name, one number or one for each point.

    Raises:
        DomainError: the file cannot be read, its arrays do not fit together, or a point is
            outside the domain of the family.
    """
    arrays = read_arrays(path)
    constants = {c.name for c in family.constants} & set(arrays)
    if set(arrays) != {*_NAMES, *constants}:
        others = [c.name for c in family.constants]
        allowed = f", and values of {', '.join(others)}" if others else ""
        raise DomainError(
            f"{path} holds {', '.join(arrays) or 'nothing'}; expected arrays h, u and v{allowed}."
        )
    h, u, v = (_real(path, name, arrays[name]) for name in _NAMES)
    shapes = [list(x.shape) for x in (h, u, v)]
    if h.ndim == 1:
        h, u, v = h.unsqueeze(0), u.unsqueeze(0), v.unsqueeze(0)
    if h.ndim != 2 or u.ndim != 3 or u.shape[:2] != h.shape or v.shape != u.shape:
        raise DomainError(
            f"{path}: h, u and v have shapes {shapes}; expected [point, output] and, for u and v, "
            "[point, output, direction]."
        )
    values = {name: _of_points(path, name, arrays[name], len(h)) for name in constants}
    try:
        points = [
            Point(_at(family, values, n), Derivatives(h[n], u[n], v[n])) for n in range(len(h))
        ]
        check_points(family, points)
    except FimsymError as error:
        raise DomainError(f"{path}: {error}") from None
    return points


def _real(path: Path, name: str, values: Any) -> Tensor:
    found = as_numbers(path, name, values)
    if found.is_complex():
        raise DomainError(f"{path}: {name} holds values of {found.dtype}; expected real numbers.")
    return found.double()


def _of_points(path: Path, name: str, values: Any, count: int) -> list[float]:
    """Return a constant's value at every point."""
    found = _real(path, name, values)
    if found.numel() != 1 and found.shape != (count,):
        raise DomainError(
            f"{path}: {name} has shape {list(found.shape)}; expected one number, or one for each "
            f"of {count} points."
        )
    return found.reshape(-1).expand(count).tolist()


def _at(family: Family, values: Mapping[str, list[float]], point: int) -> dict[str, float]:
    try:
        return family.bind({name: of_points[point] for name, of_points in values.items()})
    except FimsymError as error:
        raise DomainError(f"point {point}: {error}") from None
