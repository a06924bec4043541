"""The result of `estimate`: the Fisher diagonal and its standard error."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fimsym.engine.quantities import by_group
from fimsym.errors import UnsupportedError
from fimsym.estimation.schedule import check_confidence, quantile
from fimsym.report.files import load_tensors, optional, save_tensors


@dataclasses.dataclass(frozen=True)
class Group:
    """A group of parameters.

    Attributes:
        name: Module, parameter, or ``"model"``.
        parameters: Names of its parameters.
        size: Number of scalars in them.
        fisher: Sum of the estimates over the group.
        standard_error: √Σ SE², the expected size of ‖Î − I‖.
        relative_error: That divided by ‖Î‖; NaN where Î is zero.
    """

    name: str
    parameters: tuple[str, ...]
    size: int
    fisher: float
    standard_error: float
    relative_error: float


@dataclasses.dataclass(frozen=True, repr=False)
class Estimate:
    """An estimate of the Fisher diagonal with a standard error for every parameter.

    Attributes:
        fisher: Estimate of I, per parameter, mean over the inputs; float64, shaped like it.
        standard_error: Its standard error, likewise.
        covers: Which randomness that is: ``"labels"`` drawn for the given inputs (probes, too),
            ``"labels and inputs"``, ``"inputs"``, or ``"nothing"`` of an exact result.
        estimator: Name of the estimator.
        family: Name of the output family.
        constants: Values of its constants.
        link: What the network puts out, ``"natural"`` for h itself.
        inputs: Number of inputs n.
        outputs: Number of outputs m.
        labels_per_input: Labels, or probes, drawn for every input.
        passes: Backward passes over the data that it took.
        seed: Of what was drawn.
        grouping: How parameters are grouped.
        roads: Which road of the engine each parameter took.
        ways: How derivatives that have several ways were taken.
        frozen: Parameters left out because they do not require grad.
        notes: What a reader should know, in sentences.
        target: The relative error asked for, None without one.
        reached: For each group whether it was reached.
        interrupted: Whether Ctrl-C ended the computation.
        expected_inputs: Number of inputs of the whole data, where it is known.
    """

    fisher: Mapping[str, Tensor]
    standard_error: Mapping[str, Tensor]
    covers: str
    estimator: str
    family: str
    constants: Mapping[str, float]
    link: str
    inputs: int
    outputs: int
    labels_per_input: int
    passes: float
    seed: int
    grouping: str
    roads: Mapping[str, str]
    ways: Mapping[str, str]
    frozen: tuple[str, ...]
    notes: tuple[str, ...] = ()
    target: float | None = None
    reached: Mapping[str, bool] = dataclasses.field(default_factory=dict)
    interrupted: bool = False
    expected_inputs: int | None = None

    @property
    def groups(self) -> tuple[Group, ...]:
        """One record per group of parameters."""
        return groups_of(self.fisher, self.standard_error, self.grouping)

    def interval(self, confidence: float = 0.95) -> dict[str, tuple[Tensor, Tensor]]:
        """Return lower and upper ends of normal confidence intervals, per parameter.

        Args:
            confidence: Probability with which each covers its parameter's I.
        """
        z = quantile(check_confidence(confidence))
        return {
            name: ((value - z * self.standard_error[name]).clamp(min=0),
                   value + z * self.standard_error[name])
            for name, value in self.fisher.items()
        }  # fmt: skip

    def __repr__(self) -> str:
        constants = "".join(f", {name}={value:g}" for name, value in self.constants.items())
        link = "" if self.link == "natural" else f", link {self.link}"
        many = "" if self.labels_per_input == 1 else "s"
        drawn = f" × {self.labels_per_input} draw{many}" if self.labels_per_input else ""
        width = max(len(group.name) for group in self.groups)
        lines = [
            f"Estimate: {self.estimator}, {self.family}{link}{constants}; {self.inputs} inputs"
            f"{drawn}, {self.outputs} outputs; sums over each {self.grouping}",
            f"{'':{width}} {'size':>10} {'fisher':>14} {'relative error':>16}",
        ]
        for group in self.groups:
            error = "–" if math.isnan(group.relative_error) else f"{group.relative_error:.2%}"
            lines.append(f"{group.name:{width}} {group.size:10} {group.fisher:14.6g} {error:>16}")
        lines.append(f"standard errors cover: {self.covers}")
        lines += [f"note: {note}" for note in self.notes]
        if self.frozen:
            lines.append(f"left out, not requiring grad: {', '.join(self.frozen)}")
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """Return the groups as a pandas DataFrame, one row each."""
        pandas = optional("pandas")
        columns = ("size", "fisher", "standard_error", "relative_error")
        rows = [{"group": g.name, **{c: getattr(g, c) for c in columns}} for g in self.groups]
        return pandas.DataFrame(rows).set_index("group")

    def save(self, path: str | Path) -> None:
        """Write all tensors and what is known of them to a safetensors file.

        Raises:
            DomainError: the path cannot be written.
        """
        tensors = {"fisher": self.fisher, "standard_error": self.standard_error}
        record = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in tensors
        }
        save_tensors(Path(path), "Estimate", tensors, record)

    @classmethod
    def load(cls, path: str | Path) -> Estimate:
        """Read an estimate written by `save`.

        Raises:
            DomainError: the file cannot be read, or `save` did not write it.
        """
        tensors, record = load_tensors(Path(path), "Estimate")
        record |= {name: tuple(record[name]) for name in ("frozen", "notes")}
        return cls(**tensors, **record)

    def plot(self) -> Any:
        """Return a matplotlib figure: per group, the norms of the estimate and of its error."""
        from fimsym.report.plots import grouped_bars

        groups = self.groups
        norms = [_norm(self.fisher, group.parameters) for group in groups]
        series = {
            "norm of the estimate": norms,
            "norm of its standard error": [group.standard_error for group in groups],
        }
        if not all(math.isfinite(x) for values in series.values() for x in values):
            raise UnsupportedError("the estimate holds NaN, which cannot be drawn. See its notes.")
        return grouped_bars([group.name for group in groups], series, "norm over the group")


def groups_of(
    fisher: Mapping[str, Tensor], errors: Mapping[str, Tensor], grouping: str
) -> tuple[Group, ...]:
    """Return one record per group of parameters; entries that are NaN are left out of sums."""
    found = []
    for name, names in by_group(fisher, grouping).items():
        error, norm = _norm(errors, names), _norm(fisher, names)
        found.append(
            Group(
                name,
                tuple(names),
                sum(fisher[n].numel() for n in names),
                sum(float(fisher[n].nansum()) for n in names),
                error,
                error / norm if norm > 0 else math.nan,
            )
        )
    return tuple(found)


def _norm(named: Mapping[str, Tensor], names: tuple[str, ...] | list[str]) -> float:
    return math.sqrt(sum(float(torch.nansum(named[name].square())) for name in names))
