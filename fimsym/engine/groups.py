"""Sums over groups of parameters, and their table."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping

from fimsym.engine.bounded import ENDS

_ERROR = "_standard_error"


@dataclasses.dataclass(frozen=True)
class Group:
    """Sums over a group of parameters: traces of the diagonal matrices.

    Attributes:
        name: Module, parameter, or ``"model"``.
        parameters: Names of its parameters.
        size: Number of scalars in them.
        sums: Sum over the group of each computed quantity.
        bounds: Lower and upper bound of those sums of I, V₁ and V₂, by Theorem 4.1, if asked for.
        standard_errors: Of those sums that are estimated.
    """

    name: str
    parameters: tuple[str, ...]
    size: int
    sums: Mapping[str, float]
    bounds: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    standard_errors: Mapping[str, float] = dataclasses.field(default_factory=dict)

    @property
    def row(self) -> Mapping[str, float]:
        """Size and every sum, followed by its standard error and bounds where it has any."""
        found: dict[str, float] = {"size": self.size}
        for quantity, value in self.sums.items():
            found[quantity] = value
            if quantity in self.standard_errors:
                found[quantity + _ERROR] = self.standard_errors[quantity]
            for end, bound in zip(ENDS, self.bounds.get(quantity, ()), strict=False):
                found[f"{quantity}_{end}"] = bound
        return found

    @property
    def log_ratios(self) -> Mapping[str, float]:
        """ln(upper bound / value) ≥ 0 of each quantity with bounds: 0 where the bound is tight.

        NaN where both are zero.
        """
        return {q: _log_ratio(upper, self.sums[q]) for q, (_, upper) in self.bounds.items()}


def table(groups: Iterable[Group]) -> Iterator[str]:
    """Yield the lines of a table of groups, its header first."""
    rows = {group.name: dict(group.row) for group in groups}
    width = max(map(len, rows))
    for number, (name, row) in enumerate(rows.items()):
        size = row.pop("size")
        if not number:
            yield f"{'':{width}} {'size':>10}" + "".join(map(_heading, row))
        yield f"{name:{width}} {size:10}" + "".join(_cell(*pair) for pair in row.items())


def _heading(column: str) -> str:
    return f"{'± s.e.':>10}" if column.endswith(_ERROR) else f"{column:>{_width(column)}}"


def _cell(column: str, value: float) -> str:
    return f"{value:10.2g}" if column.endswith(_ERROR) else f"{value:{_width(column)}.6g}"


def _width(column: str) -> int:
    return max(26, len(column) + 2)


def _log_ratio(upper: float, value: float) -> float:
    if value == 0:
        return math.nan if upper == 0 else math.inf
    return math.log(upper / value)
