"""The result of `analyze`: per-parameter tensors and per-group summaries."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from fimsym.engine import empirical
from fimsym.engine.bounded import ENDS, NAMES
from fimsym.engine.empirical import EMPIRICAL, SHIFT
from fimsym.engine.groups import Group, table
from fimsym.engine.quantities import by_group
from fimsym.engine.variance import of_estimate
from fimsym.errors import UnsupportedError
from fimsym.report.files import load_tensors, optional, save_tensors

_ERROR = "standard_error_of_"


@dataclasses.dataclass(frozen=True, repr=False)
class Analysis:
    """Exact Fisher diagonal of a network and the variances of its estimators.

    Each quantity is a dict from parameter name to a float64 tensor shaped like the
    parameter: the mean over the inputs of its value per label. An estimate from one label
    for each of n inputs has variance ``variance / n``.

    Attributes:
        family: Name of the output family.
        constants: Values of its constants.
        inputs: Number of inputs n.
        outputs: Number of outputs m.
        values: Every computed quantity.
        spread: Var_x I(x) as `input_variance` gives it; empty if it was not computed.
        groups: One record per group of parameters.
        grouping: How parameters are grouped.
        roads: Which road of the engine each parameter took.
        ways: How first and second derivatives were taken.
        frozen: Parameters left out because they do not require grad.
        link: What the network puts out, ``"natural"`` for h itself.
        interrupted: Whether Ctrl-C ended the computation after `inputs` of them.
        expected_inputs: Number of inputs of the whole data, where it is known.
        standard_errors: With ``second_derivative="stochastic"`` the standard error of V₂ and
            Cov(Î₁, Î₂), 0 where they are exact; else empty.
        group_errors: Likewise of their sums over every group, by its name.
        notes: What there was to say while computing, such as how long it would take.
        bounds: Theorem 4.1's, ``"fisher_min"``, ``"fisher_max"`` and likewise, for every
            parameter, mean over the inputs; empty unless asked for.
    """

    family: str
    constants: Mapping[str, float]
    inputs: int
    outputs: int
    values: Mapping[str, Mapping[str, Tensor]]
    spread: Mapping[str, Tensor]
    grouping: str
    roads: Mapping[str, str]
    ways: Mapping[str, str]
    frozen: tuple[str, ...]
    link: str = "natural"
    interrupted: bool = False
    expected_inputs: int | None = None
    standard_errors: Mapping[str, Mapping[str, Tensor]] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    bounds: Mapping[str, Mapping[str, Tensor]] = dataclasses.field(default_factory=dict)
    group_errors: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)

    @property
    def fisher(self) -> Mapping[str, Tensor]:
        """I = Var(s) ≥ 0, per parameter, mean over the inputs."""
        return self._read("fisher")

    @property
    def variance_score_squared(self) -> Mapping[str, Tensor]:
        """V₁ = Var(Î₁) ≥ 0 from one label, per parameter, mean over the inputs."""
        return self._read("variance_score_squared")

    @property
    def variance_negative_hessian(self) -> Mapping[str, Tensor]:
        """V₂ = Var(Î₂) ≥ 0 from one label, per parameter, mean over the inputs."""
        return self._read("variance_negative_hessian")

    @property
    def covariance(self) -> Mapping[str, Tensor]:
        """Cov(Î₁, Î₂) from one label, per parameter, mean over the inputs."""
        return self._read("covariance")

    @property
    def empirical(self) -> Mapping[str, Tensor]:
        """E_q[s²] ≥ 0 with q the data's labels, per parameter, mean over the inputs."""
        return self._read(EMPIRICAL)

    @property
    def empirical_bias(self) -> Mapping[str, Tensor]:
        """E_q[s²] − I, of either sign: what is wrong with the empirical Fisher as the Fisher."""
        return _differences(self.empirical, self.fisher)

    @property
    def empirical_shift(self) -> Mapping[str, Tensor]:
        """(E_q s)² = ⟨u, η_q − η⟩² ≥ 0, mean over the inputs: labels off the model's mean."""
        return self.values.get(SHIFT, self.empirical)

    @property
    def empirical_spread(self) -> Mapping[str, Tensor]:
        """Var_q(s) = uᵀ Cov_q(t) u ≥ 0, mean over the inputs; 0 with one label per input.

        E_q[s²] − I is (Var_q(s) − I) + (E_q s)².
        """
        return _differences(self.empirical, self.empirical_shift)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a reader should know before using the numbers, in sentences."""
        if not {EMPIRICAL, "fisher"} <= self.values.keys():
            return ()
        groups = {group.name: group.parameters for group in self.groups}
        variance = self.values.get("variance_score_squared")
        return empirical.warnings(self.empirical, self.fisher, variance, groups, self.inputs)

    @property
    def input_variance(self) -> Mapping[str, Tensor]:
        """Var_x I(x) ≥ 0, per parameter: sample variance over inputs, NaN for a single one."""
        if not self.spread:
            raise UnsupportedError(
                'input_variance was not computed. Ask for it: analyze(..., quantities=("fisher", '
                "...), input_variance=True)."
            )
        return self.spread

    def variance(
        self,
        estimator: str = "score_squared",
        inputs: int | None = None,
        labels_per_input: int = 1,
        finite: bool = False,
    ) -> dict[str, Tensor]:
        """Return the variance of an estimate from inputs and labels of a sample, per parameter.

            Var Î = (1/N_x) [Var_x I(x) + (1/N_y) E_x V(x)]

        Both terms are those of the analyzed inputs, taken for a sample of the law of inputs.

        Args:
            estimator: ``score_squared``, ``negative_hessian``, ``mixed`` (the best mixture of
                the two), ``gaussian_probe`` or ``exact``.
            inputs: N_x, as many as were analyzed if None.
            labels_per_input: N_y, labels or probes for each.
            finite: The inputs are all there are: the first term is absent.

        Raises:
            SpecError: an unknown estimator, or a number below 1.
            UnsupportedError: what it takes was not computed.

        Source:
            Soen & Sun (2024), Theorem 4.7.
        """
        number = self.inputs if inputs is None else inputs
        return of_estimate(self, estimator, number, labels_per_input, finite)

    @property
    def coverage(self) -> str:
        """What an interruption left out, in words; ``""`` without one."""
        if not self.interrupted:
            return ""
        whole = "" if self.expected_inputs is None else f" of {self.expected_inputs}"
        return f"interrupted after {self.inputs}{whole} inputs; means are over these {self.inputs}"

    @property
    def groups(self) -> tuple[Group, ...]:
        """One record per group of parameters."""
        members = by_group(self.roads, self.grouping)
        return tuple(self._group(name, names) for name, names in members.items())

    def __repr__(self) -> str:
        constants = "".join(f", {name}={value:g}" for name, value in self.constants.items())
        link = "" if self.link == "natural" else f", link {self.link}"
        lines = [
            f"Analysis: {self.family}{link}{constants}; {self.inputs} inputs, {self.outputs} "
            f"outputs; sums over each {self.grouping}",
            *table(self.groups),
        ]
        if self.interrupted:
            lines.append(self.coverage)
        if self.standard_errors:
            lines.append(
                f"estimated from random probes, and may be negative: "
                f"{', '.join(self.standard_errors)}; standard_errors holds every parameter's error"
            )
        if self.frozen:
            lines.append(f"left out, not requiring grad: {', '.join(self.frozen)}")
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        return "\n".join(lines)

    def to_frame(self) -> Any:
        """Return the groups as a pandas DataFrame, one row each."""
        pandas = optional("pandas")
        rows = [{"group": group.name, **group.row} for group in self.groups]
        return pandas.DataFrame(rows).set_index("group")

    def save(self, path: str | Path) -> None:
        """Write every tensor as ``quantity/parameter`` to a safetensors file, whole or not at all.

        Raises:
            DomainError: the path cannot be written.
        """
        named = {
            **self.values,
            "input_variance": self.spread,
            **{_ERROR + quantity: of_it for quantity, of_it in self.standard_errors.items()},
            **self.bounds,
        }
        record = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in ("values", "spread", "standard_errors", "bounds")
        }
        save_tensors(Path(path), "Analysis", named, record)

    @classmethod
    def load(cls, path: str | Path) -> Analysis:
        """Read an analysis written by `save`.

        Raises:
            DomainError: the file cannot be read, or `save` did not write it.
        """
        values, record = load_tensors(Path(path), "Analysis")
        spread = values.pop("input_variance", {})
        errors = {
            quantity.removeprefix(_ERROR): values.pop(quantity)
            for quantity in list(values)
            if quantity.startswith(_ERROR)
        }
        limits = {name: values.pop(name) for name in NAMES if name in values}
        record |= {name: tuple(record.get(name, ())) for name in ("frozen", "notes")}
        return cls(values=values, spread=spread, standard_errors=errors, bounds=limits, **record)

    def plot(self) -> Any:
        """Return a matplotlib figure: per group, the Fisher trace and each deviation."""
        from fimsym.report.plots import grouped_bars

        groups = self.groups
        series = {
            quantity: [group.sums[quantity] for group in groups]
            for quantity in self.values
            if quantity != "covariance"
        }
        return grouped_bars([group.name for group in groups], series, "sum over the group")

    def _read(self, quantity: str) -> Mapping[str, Tensor]:
        if quantity not in self.values:
            raise UnsupportedError(
                f"{quantity} was not computed; this analysis holds {', '.join(self.values)}. "
                f'Ask for it: analyze(..., quantities=("{quantity}", ...)) or quantities="all".'
            )
        return self.values[quantity]

    def _group(self, name, names):
        sums = _sums(self.values, names)
        limits = _sums(self.bounds, names)
        bounds = {
            quantity: (limits[f"{quantity}_{ENDS[0]}"], limits[f"{quantity}_{ENDS[1]}"])
            for quantity in sums
            if f"{quantity}_{ENDS[0]}" in limits
        }
        some = next(iter(self.values.values()))
        errors = {quantity: named[name] for quantity, named in self.group_errors.items()}
        size = sum(some[n].numel() for n in names)
        return Group(name, tuple(names), size, sums, bounds, errors)


def _sums(values: Mapping[str, Mapping[str, Tensor]], names) -> dict[str, float]:
    """Return sums over some parameters."""
    return {q: sum(float(named[n].sum()) for n in names) for q, named in values.items()}


def _differences(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value - other[name] for name, value in one.items()}
