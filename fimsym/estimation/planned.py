"""The result of `plan`: what each estimator would take, and which to take."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from fimsym.estimation.schedule import quantile
from fimsym.report.files import optional


@dataclasses.dataclass(frozen=True)
class Option:
    """One estimator for one group of parameters.

    Attributes:
        deviation: √Σ Var / ‖I‖ of one draw for each of the inputs; NaN if I is zero, or where
            the estimator does not apply.
        labels: Draws per input for the error and confidence asked for, by the normal law; 0
            if none is drawn, None where it does not apply.
        labels_chebyshev: The same by Chebyshev's inequality, which holds for every law.
        labels_median: As `labels`, for the relative error of the median parameter alone.
        passes: Backward passes over the data for so many `labels`.
        predicted_error: √Σ Var / ‖I‖ with so many.
    """

    deviation: float
    labels: int | None
    labels_chebyshev: int | None
    labels_median: int | None
    passes: float
    predicted_error: float


@dataclasses.dataclass(frozen=True)
class PlannedGroup:
    """What a group of parameters takes.

    Attributes:
        name: Module, parameter, or ``"model"``.
        parameters: Names of its parameters.
        size: Number of scalars in them.
        fisher: Sum of I over the group, from the pilot.
        options: By estimator.
        recommended: The estimator of fewest passes that reaches the error.
        insights: What the numbers say, in words.
    """

    name: str
    parameters: tuple[str, ...]
    size: int
    fisher: float
    options: Mapping[str, Option]
    recommended: str
    insights: tuple[str, ...]


@dataclasses.dataclass(frozen=True, repr=False)
class Plan:
    """How to estimate a Fisher diagonal with a given error.

    Attributes:
        recommended: The estimator of fewest passes that reaches the error in every group.
        labels_per_input: Draws per input for that, 0 if it draws none.
        passes: Backward passes over the data that it takes.
        predicted_error: √Σ Var / ‖I‖ of each group then; NaN where I is zero.
        groups: One record per group of parameters.
        options: By estimator, what all groups take together.
        insights: What the numbers say, in words.
        relative_error: The error asked for.
        confidence: Probability with which it is not exceeded.
        inputs: Number of inputs of the data.
        pilot: Number of inputs that were looked at.
        outputs: Number of outputs.
        family: Name of the output family.
        constants: Values of its constants.
        link: What the network puts out.
        grouping: How parameters are grouped.
    """

    recommended: str
    labels_per_input: int
    passes: float
    predicted_error: Mapping[str, float]
    groups: tuple[PlannedGroup, ...]
    options: Mapping[str, Option]
    insights: tuple[str, ...]
    relative_error: float
    confidence: float
    inputs: int
    pilot: int
    outputs: int
    family: str
    constants: Mapping[str, float]
    link: str
    grouping: str

    def __repr__(self) -> str:
        width = max(len(name) for name in (*self.options, "for each of the inputs"))
        lines = [
            f"Plan: {self.family}, {self.inputs} inputs, {self.outputs} outputs; relative error "
            f"{self.relative_error:g} at confidence {self.confidence:g}, from {self.pilot} inputs",
            f"{'':{width}} "
            + "".join(f"{group.name[-16:]:>17}" for group in self.groups)
            + f"{'passes':>10}",
        ]
        for name, option in self.options.items():
            cells = "".join(f"{shown(group.options[name]):>17}" for group in self.groups)
            lines.append(f"{name:{width}} {cells}{number(option.passes):>10}")
        lines += [self.sentence, *(f"· {insight}" for insight in self.insights)]
        return "\n".join(lines)

    @property
    def sentence(self) -> str:
        """What to do, in words."""
        passes = f"{number(self.passes)} backward pass" + ("" if self.passes == 1 else "es")
        if not self.labels_per_input:
            return f"recommended: {self.recommended}, {passes}, without error"
        worst = max((e for e in self.predicted_error.values() if e == e), default=math.nan)
        return (
            f"recommended: {self.recommended} with {self.labels_per_input} "
            f"draw{'' if self.labels_per_input == 1 else 's'} per input, {passes}; predicted "
            f"standard error of a group: {worst:.1%} or less"
        )

    def to_frame(self) -> Any:
        """Return a pandas DataFrame, one row for each group and estimator."""
        pandas = optional("pandas")
        rows = [
            {"group": group.name, "estimator": name, **dataclasses.asdict(option)}
            for group in self.groups
            for name, option in group.options.items()
        ]
        return pandas.DataFrame(rows).set_index(["group", "estimator"])

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; numbers that are not finite become None."""
        return _plain(dataclasses.asdict(self))


def needed(deviation: float, relative_error: float, confidence: float) -> tuple[int, int] | None:
    """Return draws per input by the normal law and by Chebyshev; None if not finite.

    With V/(n I²) = d² they are z² d²/ε² and d²/(δ ε²), one at least if there is any error.

    Args:
        deviation: d, of one draw for each input.
        relative_error: ε.
        confidence: 1 − δ.
    """
    if not math.isfinite(deviation):
        return None
    square = (deviation / relative_error) ** 2
    # A hair less, so that rounding does not ask for one draw more.
    counts = (quantile(confidence) ** 2 * square, square / (1 - confidence))
    normal, chebyshev = (max(1, math.ceil(count * (1 - 1e-12))) for count in counts)
    return normal, chebyshev


def shown(option: Option) -> str:
    """Return the draws of an option for a table."""
    if option.labels is None:
        return "–"
    return "exact" if option.predicted_error == 0 else f"{option.labels:,}"


def number(passes: float) -> str:
    """Return a number of passes for a table."""
    return (
        "–" if not math.isfinite(passes) else f"{passes:,.0f}" if passes >= 10 else f"{passes:.3g}"
    )


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
