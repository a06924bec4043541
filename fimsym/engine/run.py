"""One call of `analyze`: from batches of inputs to sums over them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

from torch import Tensor

from fimsym.engine import bounded, empirical
from fimsym.engine import data as inputs_of
from fimsym.engine.accumulate import ERROR, Accumulator
from fimsym.engine.analysis import Analysis
from fimsym.engine.checks import check_examples_independent, check_finite, check_outputs
from fimsym.engine.distributed import Ranks, Share
from fimsym.engine.functional import Functional
from fimsym.engine.head import Head
from fimsym.engine.interruption import Interruption
from fimsym.engine.labels import several
from fimsym.engine.network import Network
from fimsym.engine.roads import Roads
from fimsym.engine.stochastic import Probing
from fimsym.errors import FimsymError, ShapeError
from fimsym.report.progress import progress as progress_bar


class Run:
    """What stays the same over the inputs of one call, and the sums over them.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to compute.
        limit: Budget of the chunks in bytes.
        sums: What is added to.
        ranks: The processes that share the inputs.
        probing: How second derivatives are estimated; None to take them exactly.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        asked: tuple[str, ...],
        limit: int,
        sums: Accumulator,
        ranks: Ranks,
        probing: Probing | None = None,
    ):
        self.network = network
        self.head = head
        self.asked = asked
        self.sums = sums
        self.ranks = ranks
        self.count = 0
        self.outputs = 0
        self.rows = 1
        self.own: int | None = None
        self.roads = Roads(network, head, asked, limit)
        self.functional = Functional(network, head, asked, limit, probing)

    def analyze(self, data: inputs_of.Data, grouping: str, show: bool) -> Analysis:
        """Return the analysis of this process's share of the data, merged with the others'."""
        with Interruption() as stop:
            share = self.ranks.merge(self.sums, self._cover(data, show, stop))
        if not share.count:
            raise KeyboardInterrupt
        return self._result(grouping, share)

    def _cover(self, data, show, stop) -> Share:
        """Add up this process's rows, until told to stop."""
        ranks = self.ranks
        total = inputs_of.length(data)
        self.own = own = ranks.rows(total)
        rows = inputs_of.Rows(data, ranks.rank, ranks.world)
        what = "analyzing" if ranks.world == 1 else f"analyzing, rank 0 of {ranks.world}"
        with progress_bar(what, own, show and ranks.rank == 0) as advance:
            for batch in inputs_of.grouped(stop.until_requested(rows), self._wanted):
                if stop.during_work:
                    break
                with self._located():
                    self._add(*inputs_of.placed(batch, self.network), advance)
        return Share(
            count=self.count,
            read=rows.read,
            total=total,
            interrupted=stop.requested and self.count != own,
            outputs=self.outputs,
            size=self.network.size,
            weight=float(self.network.theta.double().abs().sum()),
            taken=(self.roads.taken, self.functional.ways),
        )

    def _wanted(self, inputs: Tensor) -> int:
        """Return how many inputs to take at a time; the first are looked at for that."""
        if not self.outputs:
            with self._located():
                self._start(inputs_of.placed((inputs, None), self.network)[0])
        return self.rows

    @contextlib.contextmanager
    def _located(self) -> Iterator[None]:
        """Say which process an error about its inputs comes from."""
        try:
            yield
        except FimsymError as error:
            raise self.ranks.located(error) from error.__cause__

    def _add(self, inputs: Tensor, labels: Tensor | None, advance) -> None:
        """Add some inputs, as many at a time as fit."""
        for start in range(0, len(inputs), self.rows):
            part = slice(start, start + self.rows)
            self._add_chunk(inputs[part], None if labels is None else labels[part], advance)

    def _start(self, inputs: Tensor) -> None:
        """Fix the number of outputs, and of inputs to take at a time."""
        h = check_outputs(self.network, inputs, self.head.minimum_outputs)
        self.outputs = h.shape[1]
        self.rows, rest = self.roads.rows(inputs)
        if rest:
            self.rows = min(self.rows, self.functional.rows(rest, self.outputs))
        if self.own:
            self.rows = math.ceil(self.own / math.ceil(self.own / self.rows))

    def _add_chunk(self, inputs: Tensor, labels: Tensor | None, advance) -> None:
        graph = self.roads.trace(inputs)
        h = graph.h.detach()
        check_finite(self.network, inputs, h, self.count)
        self.head.check(h, self.count)
        _check_width(h, self.outputs)
        check_examples_independent(self.network, inputs, h, self.count)
        if labels is not None:
            several(self.head, labels, self.outputs, self.count)
        rest = self.roads.add(graph, inputs, self.count, self.sums) if self.asked else set()
        if empirical.EMPIRICAL in self.sums.sums:
            uses = self.roads.uses(graph, inputs, compared=bool(self.asked))
            at = (graph, uses, inputs, labels, self.count, self.sums)
            empirical.add(self.network, self.head, *at)
        done = 0.0
        if rest:
            share = len(h) / len(self.functional.blocks(rest, self.outputs))
            for _ in self.functional.add(rest, h, inputs, self.count, self.sums):
                advance(share)
                done += share
        advance(len(h) - done)
        self.count += len(h)

    def _result(self, grouping, share: Share) -> Analysis:
        network = self.network
        one_label = self.sums.agree(empirical.SHIFT, empirical.EMPIRICAL)
        values, errors, limits = {}, {}, {}
        for quantity, mean in self.sums.means(share.count, bounded.NAMES).items():
            if quantity.startswith(ERROR):
                error = (mean / share.count).sqrt_()
                errors[quantity.removeprefix(ERROR)] = network.split(error)
            else:
                kept = limits if quantity in bounded.NAMES else values
                kept[quantity] = network.split(mean)
        if one_label:
            del values[empirical.SHIFT]
        spread = {}
        if self.sums.squares is not None:
            divisor = share.count - 1 if share.count > 1 else float("nan")
            spread = network.split((self.sums.squares / divisor).cpu())
        roads, ways = share.taken
        return Analysis(
            family=self.head.spec.name,
            link=self.head.link,
            constants=self.head.constants,
            inputs=share.count,
            outputs=share.outputs,
            values=values,
            spread=spread,
            grouping=grouping,
            roads=roads,
            ways=ways,
            frozen=network.frozen,
            standard_errors=errors,
            bounds=limits,
            interrupted=share.interrupted,
            expected_inputs=share.total,
        )


def _check_width(h, outputs):
    if h.shape[1] != outputs:
        raise ShapeError(
            f"the model returned {outputs} outputs for the first batch and {h.shape[1]} for a "
            "later one; expected the same number."
        )
