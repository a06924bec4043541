"""Rounds of draws: one, or as many as a target error asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine import data as inputs_of
from fimsym.engine.accumulate import Accumulator
from fimsym.engine.distributed import Share
from fimsym.engine.interruption import Interruption
from fimsym.estimation import moments, notes
from fimsym.estimation.curved import Curved
from fimsym.estimation.drawn import Drawn
from fimsym.estimation.estimators import Estimator
from fimsym.estimation.hessians import FISHER
from fimsym.estimation.moments import BOTH, INPUTS, LABELS, Covered
from fimsym.estimation.result import Estimate, Group, groups_of
from fimsym.estimation.run import Run
from fimsym.estimation.schedule import TRUSTED, Target, quantile


class Rounds:
    """Passes over the data until the target error is reached.

    Args:
        run: Makes one pass.
        estimator: What is drawn.
        target: When to stop; None after one round.
        grouping: How parameters are grouped.
        random_inputs: Whether the standard error covers the inputs, too.
        seed: Of what is drawn.
    """

    def __init__(
        self,
        run: Run,
        estimator: Estimator,
        target: Target | None,
        grouping: str,
        random_inputs: bool,
        seed: int,
    ):
        self._run = run
        self._estimator = estimator
        self._target = target
        self._grouping = grouping
        self._random_inputs = random_inputs
        self._seed = seed
        self._reached: dict[str, bool] = {}
        self._errors: dict[str, float] = {}
        self._look = 0
        self._outputs = 0

    def estimate(self, data: inputs_of.Data, draws: int, show: bool) -> Estimate:
        """Return the estimate after as many rounds as it takes.

        Args:
            data: The inputs, which may be read several times with a target.
            draws: For each input in the first round.
            show: Show progress.
        """
        if self._target is not None:
            draws = max(2, draws)
        with Interruption() as stop:
            sums, share = self._run.cover(data, draws, 0, "estimating", show, stop)
            if not share.count:
                raise KeyboardInterrupt
            self._outputs = share.outputs
            covered = Covered(share.count, [draws], self._random_inputs)
            mean, variance = self._moments(sums, covered)
            while not (share.interrupted or stop.requested) and (
                more := self._wanted(self._size(mean, sums, covered), variance, covered)
            ):
                what = f"estimating, {covered.draws} + {more} draws per input"
                round_sums, last = self._run.cover(data, more, self._look, what, show, stop)
                if last.interrupted:
                    share = last
                    break
                moments.add(sums, round_sums)
                covered.parts.append(more)
                mean, variance = self._moments(sums, covered)
        return self._result(mean, variance, covered, share)

    def _moments(self, sums: Accumulator, covered: Covered) -> tuple[Tensor, Tensor]:
        method = self._run.method
        if not isinstance(method, Curved):
            return moments.of_draws(sums.sums, covered)
        lacking = torch.zeros(self._run.network.size, dtype=torch.bool)
        for name, block in self._run.network.parameters():
            lacking[block.start : block.stop] = name in method.lacking
        return moments.of_closed_forms(sums.sums, covered, lacking.to(self._run.network.device))

    def _size(self, mean: Tensor, sums: Accumulator, covered: Covered) -> Tensor:
        """Return what errors are relative to: I itself where it is known."""
        exact = sums.sums.get(FISHER)
        return mean if exact is None else exact / (covered.inputs * covered.draws)

    def _groups(self, mean: Tensor, variance: Tensor) -> tuple[Group, ...]:
        return groups_of(self._split(mean), self._split(variance.sqrt()), self._grouping)

    def _split(self, flat: Tensor) -> Mapping[str, Tensor]:
        return self._run.network.split(flat)

    def _wanted(self, mean: Tensor, variance: Tensor, covered: Covered) -> int:
        """Return how many draws per input to add; 0 to stop."""
        target = self._target
        if target is None:
            return 0
        self._look += 1
        curved = self._estimator.curved
        z = quantile(target.confidence) if curved else target.quantile(self._look)
        trusted = not self._output_error(covered) > TRUSTED
        for group in self._groups(mean, variance):
            self._errors[group.name] = error = z * group.relative_error
            self._reached[group.name] = trusted and error <= target.relative_error
        open_ = [
            error
            for name, error in self._errors.items()
            if not self._reached[name] and not math.isnan(error)
        ]
        room = target.most - covered.draws
        if not open_ or room <= 0:
            return 0
        if not curved:
            return min(room, covered.draws)
        # Variances are closed forms there: what is missing is known.
        factor = (max(open_) / target.relative_error) ** 2
        return min(room, max(1, math.ceil(covered.draws * factor * (1 + 1e-9)) - covered.draws))

    def _output_error(self, covered: Covered) -> float:
        """Return the relative error of the outputs' Fisher information; NaN where not known."""
        method = self._run.method
        if not isinstance(method, Drawn) or self._estimator.draws != "labels":
            return math.nan
        known = method.of_outputs
        known = known if known.numel() else known.new_zeros(2, self._outputs)
        fisher, variance = self._run.ranks.summed(known)
        norm = float(fisher.square().sum())
        return math.sqrt(float(variance.sum()) / covered.draws / norm) if norm > 0 else math.nan

    def _result(self, mean, variance, covered: Covered, share: Share) -> Estimate:
        run, head = self._run, self._run.head
        roads, ways = share.taken
        fisher = self._split(mean.cpu())
        return Estimate(
            fisher=fisher,
            standard_error=self._split(variance.sqrt().cpu()),
            covers=self._covers(covered),
            estimator=self._estimator.name,
            family=head.spec.name,
            constants=head.constants,
            link=head.link,
            inputs=covered.inputs,
            outputs=share.outputs,
            labels_per_input=covered.draws,
            passes=run.passes,
            seed=self._seed,
            grouping=self._grouping,
            roads=roads,
            ways=ways,
            frozen=run.network.frozen,
            notes=self._notes(fisher, covered, share),
            target=self._target.relative_error if self._target else None,
            reached=self._reached,
            interrupted=share.interrupted,
            expected_inputs=share.total,
        )

    def _covers(self, covered: Covered) -> str:
        if self._estimator.name == "empirical":
            return INPUTS
        drawn = isinstance(self._run.method, Drawn)
        return BOTH if covered.random_inputs or (drawn and covered.draws == 1) else LABELS

    def _notes(self, fisher, covered: Covered, share: Share) -> tuple[str, ...]:
        run, name = self._run, self._estimator.name
        found = []
        if share.interrupted:
            whole = "" if share.total is None else f" of {share.total}"
            found.append(
                f"interrupted; this covers {covered.inputs}{whole} inputs with {covered.draws} "
                "draws each"
            )
        if isinstance(run.method, Curved):
            found += notes.of_lacking(run.method.lacking, name)
        found += notes.of_predictable(self._output_error(covered))
        if self._target is not None:
            found += notes.of_target(
                self._reached, self._errors, self._target.relative_error,
                self._target.confidence, covered.draws,
            )  # fmt: skip
        found += notes.of_cost(run.passes, share.outputs, name)
        return (*found, *notes.of_zeros(fisher, self._grouping))
