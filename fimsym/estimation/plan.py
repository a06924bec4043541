"""A plan: which estimator, and how many labels, from closed forms at a few inputs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.engine import data as inputs_of
from fimsym.engine.alignment import Alignment
from fimsym.engine.analyze import check_keywords
from fimsym.engine.distributed import sharing
from fimsym.engine.head import Head
from fimsym.engine.interruption import Interruption
from fimsym.engine.kernels import differentiating, exact_kernels
from fimsym.engine.memory import budget
from fimsym.engine.network import Network
from fimsym.engine.quantities import by_group, check_grouping
from fimsym.errors import SpecError
from fimsym.estimation.closed_forms import QUANTITIES, FromDerivatives, variances
from fimsym.estimation.curved import Curved
from fimsym.estimation.drawn import PILOT, pilot_draws
from fimsym.estimation.hessians import FISHER
from fimsym.estimation.insights import of_group
from fimsym.estimation.planned import Option, Plan, PlannedGroup, needed, number
from fimsym.estimation.run import Run
from fimsym.estimation.schedule import check_confidence, check_relative_error, quantile
from fimsym.estimation.work import Work, operations_of
from fimsym.families import Family

_CURVED = ("negative_hessian", "mixed")
_WORKED_ON = 16
"""Inputs on which it is counted what estimators take."""


def plan(
    model: nn.Module,
    data: inputs_of.Data,
    family: str | Family | None = None,
    relative_error: float = 0.1,
    confidence: float = 0.95,
    link: str | None = None,
    groups: str = "layer",
    pilot: int = 32,
    max_memory: int | str | None = None,
    device: str | torch.device | None = None,
    progress: bool = True,
    **constants: float,
) -> Plan:
    """Return which estimator reaches an error with the fewest backward passes.

    Closed forms at a few inputs give the variance of one draw of every estimator. Var Î is
    that divided by n inputs and N draws; the error of a group of parameters is ‖Î − I‖/‖I‖.
    It exceeds ε with a probability of at most Σ Var/(ε² ‖I‖²) by Chebyshev's inequality, which
    holds for every law, and is at most z √Σ Var/‖I‖ where errors are normal.

    The cost is counted in backward passes over the data. A draw is one; what ``exact``,
    ``negative_hessian`` and ``mixed`` take is counted in floating-point operations of matrix
    products and convolutions, relative to those of a draw. ``exact`` takes one for every
    output at most, and far less next to the output, where it needs no backward passes.

    Args:
        model: As for `analyze`.
        data: As for `analyze`. The pilot's inputs are spread evenly over a tensor, and are
            the first ones of a loader or an iterable; its length is counted where unknown.
        family: Name or specification of the output family.
        relative_error: The error ε to be reached in every group.
        confidence: Probability with which it is not exceeded.
        link: What the model puts out instead of h.
        groups: ``"layer"``, ``"parameter"`` or ``"model"``.
        pilot: How many inputs to look at.
        max_memory: Budget, in bytes or as ``"2GB"``.
        device: Where to compute; the model's own device if None.
        progress: Show a progress bar on standard error when it is a terminal.
        **constants: Constants of the family, such as ``sigma=0.5``.

    Returns:
        The plan; `Plan.recommended` and `Plan.labels_per_input` are arguments of `estimate`.

    Raises:
        SpecError: an unknown name, an error that is not positive, a confidence out of range.
        ShapeError, DomainError, UnsupportedError, KeyboardInterrupt: as `analyze`.

    Source:
        Soen & Sun (2024), section 4; sample sizes by Chebyshev and the normal law.
    """
    check_relative_error(relative_error)
    check_confidence(confidence)
    if isinstance(pilot, bool) or not isinstance(pilot, int) or pilot < 1:
        raise SpecError(f"pilot must be a whole number of inputs, at least 1; got {pilot!r}.")
    check_keywords(plan, family, constants)
    with sharing() as ranks, exact_kernels(), differentiating():
        head = Head(family, link, constants)
        grouping = check_grouping(groups)
        network = Network(model, device)
        few, count = some_inputs(data, pilot)
        alignment = Alignment(network)
        method = Curved(
            network, head, alignment, QUANTITIES, lambda piece, *_: FromDerivatives(head, piece)
        )
        limit = budget(max_memory, network.device)
        run = Run(network, head, alignment, method, limit, ranks)
        with Interruption() as stop:
            curved, (sums, share) = operations_of(
                lambda: run.cover(few, 1, 0, "looking at a few inputs", progress, stop)
            )
            if share.interrupted or not share.count:
                raise KeyboardInterrupt
            work = Work(network, head, alignment, limit)
            inputs, _ = inputs_of.placed((torch.as_tensor(few[0][:_WORKED_ON]), None), network)
            exact = work.measure(run.piece(inputs, None))
        means = {name: total / share.count for name, total in sums.sums.items()}
        each = work.in_draws(curved / share.count - work.forward)
        costs = {"exact": exact, **dict.fromkeys(_CURVED, each)}
        return _Planner(
            network, head, method, means, costs, grouping, count, share.count, share.outputs,
            relative_error, confidence,
        ).plan()  # fmt: skip


def some_inputs(data: inputs_of.Data, pilot: int) -> tuple[list[Any], int]:
    """Return batches of at most `pilot` inputs, and the number of all."""
    whole = data[0] if isinstance(data, tuple) and len(data) == 2 else data
    if isinstance(whole, Tensor | np.ndarray) and whole.ndim and len(whole):
        count = len(whole)
        places = np.unique(np.linspace(0, count - 1, min(pilot, count)).round().astype(int))
        return [whole[places]], count
    batches, count = [], 0
    for inputs, _ in inputs_of.Rows(data):
        if count < pilot:
            batches.append(inputs[: pilot - count])
        elif not isinstance(data, Iterator) and (total := inputs_of.length(data)):
            return batches, total
        count += len(inputs)
    return batches, count


class _Planner:
    """From means of closed forms to a plan."""

    def __init__(
        self,
        network: Network,
        head: Head,
        method: Curved,
        means: Mapping[str, Tensor],
        costs: Mapping[str, float],
        grouping: str,
        inputs: int,
        pilot: int,
        outputs: int,
        relative_error: float,
        confidence: float,
    ):
        self.network = network
        self.head = head
        self.method = method
        self.costs = costs
        self.grouping = grouping
        self.inputs = inputs
        self.pilot = pilot
        self.outputs = outputs
        self.relative_error = relative_error
        self.confidence = confidence
        self.fisher = network.split(means[FISHER].cpu())
        self.variances = {
            name: network.split(value.cpu()) for name, value in variances(means).items()
        }

    def plan(self) -> Plan:
        members = by_group(self.network.names, self.grouping)
        groups = tuple(self._group(name, names) for name, names in members.items())
        options = {name: self._together(name, groups) for name in self.variances}
        recommended = _cheapest(options)
        labels = options[recommended].labels or 0
        said: dict[str, list[str]] = {}
        for group in groups:
            for insight in group.insights:
                said.setdefault(insight, []).append(group.name)
        found = [f"{', '.join(names)}: {insight}" for insight, names in said.items()]
        return Plan(
            recommended=recommended,
            labels_per_input=labels,
            passes=options[recommended].passes,
            predicted_error={
                group.name: group.options[recommended].deviation / max(1, labels) ** 0.5
                for group in groups
            },
            groups=groups,
            options=options,
            insights=(*self._overall(options, recommended), *found),
            relative_error=self.relative_error,
            confidence=self.confidence,
            inputs=self.inputs,
            pilot=self.pilot,
            outputs=self.outputs,
            family=self.head.spec.name,
            constants=self.head.constants,
            link=self.head.link,
            grouping=self.grouping,
        )

    def _group(self, name: str, names: list[str]) -> PlannedGroup:
        fisher = torch.cat([self.fisher[n].flatten() for n in names])
        of_names = {
            estimator: torch.cat([named[n].flatten() for n in names])
            for estimator, named in self.variances.items()
        }
        lacking = any(n in self.method.lacking for n in names)
        options = {
            estimator: self._option(estimator, fisher, variance, lacking)
            for estimator, variance in of_names.items()
        }
        return PlannedGroup(
            name,
            tuple(names),
            fisher.numel(),
            float(fisher.sum()),
            options,
            _cheapest(options),
            of_group(fisher, of_names, self.method, names),
        )

    def _option(self, estimator: str, fisher: Tensor, variance: Tensor, lacking: bool) -> Option:
        norm = float(fisher.norm())
        if norm == 0 or (lacking and estimator in _CURVED):
            return Option(math.nan, None, None, None, math.nan, math.nan)
        deviation = math.sqrt(float(variance.sum()) / self.inputs) / norm
        if estimator == "exact":
            return Option(0.0, 0, 0, 0, self.costs["exact"], 0.0)
        counts = needed(deviation, self.relative_error, self.confidence)
        assert counts is not None
        inside = fisher > 0
        single = (variance[inside] / self.inputs).sqrt() / fisher[inside]
        median = needed(float(single.median()), self.relative_error, self.confidence)
        labels, chebyshev = counts
        return Option(
            deviation,
            labels,
            chebyshev,
            median[0] if median else None,
            self._passes(estimator, labels),
            deviation / labels**0.5,
        )

    def _passes(self, estimator: str, labels: int) -> float:
        """Return the backward passes over the data that an estimator takes."""
        if estimator in self.costs:
            return self.costs[estimator]
        if estimator != "score_squared_cv":
            return float(labels)
        inputs = min(PILOT, self.inputs)
        return labels + pilot_draws(inputs) * inputs / self.inputs

    def _together(self, estimator: str, groups: tuple[PlannedGroup, ...]) -> Option:
        """Return what an estimator takes for the error in every group whose I is not zero."""
        found = [g.options[estimator] for g in groups if g.fisher > 0]
        if not found or any(option.labels is None for option in found):
            return Option(math.nan, None, None, None, math.nan, math.nan)
        worst = max(found, key=lambda option: option.deviation)
        labels = max(option.labels or 0 for option in found)
        passes = self._passes(estimator, labels)
        error = worst.deviation / max(1, labels) ** 0.5
        return Option(
            worst.deviation, labels, worst.labels_chebyshev, worst.labels_median, passes, error
        )

    def _overall(self, options: Mapping[str, Option], recommended: str) -> list[str]:
        found = []
        if recommended == "exact":
            found.append(
                f"the exact diagonal takes {number(self.costs['exact'])} backward passes; no one "
                "estimator reaches the error in every group with fewer"
            )
        option = options[recommended]
        bound = quantile(self.confidence) * option.deviation
        if option.labels == 1 and bound < self.relative_error / 2:
            found.append("one draw per input is more than enough: fewer inputs would do")
        return found


def _cheapest(options: Mapping[str, Option]) -> str:
    """Return the estimator of fewest passes; the exact one if it takes no more."""
    able = {n: (o.passes, o.deviation) for n, o in options.items() if math.isfinite(o.passes)}
    if not able or able["exact"] <= min(able.values()):
        return "exact"
    return min(able, key=lambda name: able[name])
