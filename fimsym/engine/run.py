"""One call of `analyze`: from batches of inputs to sums over them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fimsym.engine import data as inputs_of
from fimsym.engine import empirical
from fimsym.engine.accumulate import Accumulator
from fimsym.engine.analysis import Analysis
from fimsym.engine.checks import (
    check_examples_independent,
    check_finite,
    check_outputs,
    check_own_functions,
    check_shape,
    traced,
)
from fimsym.engine.distributed import Ranks, Share
from fimsym.engine.fitting import Fitting
from fimsym.engine.functional import Functional
from fimsym.engine.graph import Graph
from fimsym.engine.head import Head
from fimsym.engine.interruption import Interruption
from fimsym.engine.labels import several
from fimsym.engine.network import Network
from fimsym.engine.outcome import outcome
from fimsym.engine.pieces import grouped
from fimsym.engine.powers import in_memory
from fimsym.engine.recording import NoTape
from fimsym.engine.roads import Roads
from fimsym.engine.stochastic import Probing
from fimsym.engine.work import Work, duration
from fimsym.errors import FimsymError, ShapeError, UnsupportedError, reason
from fimsym.report.progress import progress as progress_bar

_LONG = 30.0
"""Seconds from which on it is said how long it will take."""


class Run:
    """What stays the same over the inputs of one call, and the sums over them.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to compute.
        limit: Budget of the chunks in bytes.
        held: Whether the user set it, so that it is to be measured.
        sums: What is added to.
        ranks: The processes that share the inputs.
        grouping: How parameters are grouped.
        probing: How second derivatives are estimated; None to take them exactly.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        asked: tuple[str, ...],
        limit: int,
        held: bool,
        sums: Accumulator,
        ranks: Ranks,
        grouping: str,
        probing: Probing | None = None,
    ):
        self.network = network
        self.head = head
        self.asked = asked
        self.sums = sums
        self.ranks = ranks
        self.grouping = grouping
        self.count = 0
        self.outputs = 0
        self.own: int | None = None
        self.held = held
        self.limit = limit
        self.notes: list[str] = []
        self.fitting = Fitting(None, True)
        self._looked_at: tuple[tuple, Graph] | None = None
        self._say: Callable[[str], None] = lambda text: None
        self._expected = False
        self.roads = Roads(network, head, asked, limit, exact=probing is None)
        self.functional = Functional(network, head, asked, limit, probing, grouping)

    def analyze(self, data: inputs_of.Data, show: bool) -> Analysis:
        """Return the analysis of this process's share of the data, merged with the others'."""
        with Interruption() as stop:
            share = self.ranks.merge(self.sums, self._cover(data, show, stop))
        if not share.count:
            raise KeyboardInterrupt
        notes = tuple(self.notes)
        return outcome(self.network, self.head, self.sums, share, self.grouping, notes)

    def _cover(self, data, show, stop) -> Share:
        """Add up this process's rows, until told to stop."""
        ranks = self.ranks
        total = inputs_of.length(data)
        self.own = own = ranks.rows(total)
        rows = inputs_of.Rows(data, ranks.rank, ranks.world)
        what = "analyzing" if ranks.world == 1 else f"analyzing, rank 0 of {ranks.world}"
        with progress_bar(what, own, show and ranks.rank == 0) as bar:
            self._say, stop.told = bar.say, bar.stopping
            work = Work(bar.advance, self._expect, stop)
            for batch in grouped(stop.until_requested(rows), self._wanted):
                if stop.during_work:
                    break
                with self._located():
                    self._add(*inputs_of.placed(batch, self.network), work)
        return Share(
            count=self.count,
            read=rows.read,
            total=total,
            interrupted=stop.requested and self.count != own,
            outputs=self.outputs,
            size=self.network.size,
            weight=float(torch.linalg.vector_norm(self.network.theta, 1, dtype=torch.float64)),
            taken=(self.roads.taken, self.functional.ways),
        )

    def _wanted(self, inputs: Tensor) -> int:
        """Return how many inputs to take at a time; the first are looked at for that."""
        if not self.outputs:
            with self._located():
                self._start(inputs_of.placed((inputs, None), self.network)[0])
        return self.fitting.rows(tuple(inputs.shape[1:]))

    @contextlib.contextmanager
    def _located(self) -> Iterator[None]:
        """Say which process an error about its inputs comes from."""
        try:
            yield
        except FimsymError as error:
            raise self.ranks.located(error) from error.__cause__
        except RuntimeError as error:
            raise _explained(error) from error

    def _add(self, inputs: Tensor, labels: Tensor | None, work: Work) -> None:
        """Add some inputs, as many at a time as fit."""
        start, shape = 0, tuple(inputs.shape[1:])
        while start < len(inputs) and not work.stopped:
            part = slice(start, start + self.fitting.rows(shape))
            some = inputs[part]
            with self.fitting.watched(len(some), shape):
                self._add_chunk(some, None if labels is None else labels[part], work)
            start = part.stop
            needed = self.fitting.needed
            if self.held and needed and self.count <= len(some):
                self._tell(
                    f"the memory budget cannot be held: one input takes {needed / 1e6:.3g} MB of "
                    "tensors. The analysis goes on, one input at a time."
                )

    def _start(self, inputs: Tensor) -> None:
        """Fix the number of outputs, and the most inputs to take at a time."""
        graph = check_outputs(self.network, inputs, self.head.minimum_outputs)
        self.outputs = graph.h.shape[1]
        if self.head.are_probabilities(graph.h.detach()):
            self._tell(
                "the model puts out probabilities, it seems: rows of numbers from 0 to 1 that add "
                f"up to 1. {self.head.spec.name} expects logits: leave the softmax out."
            )
        if self.roads.second:
            check_own_functions(self.network, inputs)
        rows, rest = self.roads.rows(graph, inputs)
        if rest:
            rows = min(rows, self.functional.rows(rest, self.outputs))
        if self.own:
            rows = math.ceil(self.own / math.ceil(self.own / rows))
        heavy = self.roads.heavy and self.roads.second
        limit = self.limit if self.held or heavy else None
        self.fitting = Fitting(limit, not heavy)
        self.fitting.most = rows
        if limit is None:  # else all that a chunk takes is measured
            self._looked_at = _key(inputs), graph

    def _traced(self, inputs: Tensor) -> Graph:
        """Return the graph of some inputs; that of the first is at hand if they are all."""
        first, self._looked_at = self._looked_at, None
        if first is not None and first[0] == _key(inputs):
            return first[1]
        del first
        return traced(self.network, inputs)

    def _add_chunk(self, inputs: Tensor, labels: Tensor | None, work: Work) -> None:
        graph = self._traced(inputs)
        h = graph.h.detach()
        check_shape(h, inputs)
        check_finite(self.network, inputs, h, self.count)
        self.head.check(h, self.count)
        _check_width(h, self.outputs)
        check_examples_independent(self.network, inputs, h, self.count)
        if labels is not None:
            several(self.head, labels, self.outputs, self.count)
        if self.asked and not self._add_quantities(graph, inputs, h, work):
            return
        if empirical.EMPIRICAL in self.sums.sums:
            uses = self.roads.uses(graph, inputs, compared=bool(self.asked))
            at = (graph, uses, inputs, labels, self.count, self.sums)
            empirical.add(self.network, self.head, *at)
        if not self.asked:
            work.done({}, len(h), must=True)
        self.count += len(h)

    def _add_quantities(self, graph: Graph, inputs: Tensor, h: Tensor, work: Work) -> bool:
        """Add all quantities of some inputs, or none; return False if stopped before the end."""
        prepared = self.roads.prepare(graph, inputs, self.count, self.sums)
        rest, second = prepared.rest, prepared.second
        units = self.functional.units(rest, h, inputs, self.count, self.sums, second)
        units |= prepared.later
        blocks = (self.roads.blocks[name] for name in rest)
        wholes = [slice(block.start, block.stop) for block in blocks]
        put_back = self.sums.saved([*prepared.touched, *wholes])
        taped = self.functional.along_tape

        def restore() -> None:
            put_back()
            self.functional.along_tape = taped

        try:
            if not work.done(units, len(h), must=self.count == 0):
                restore()
                return False
        except NoTape:
            restore()
            assert second is not None
            self.roads.curvatures.distrust(second)
            return self._add_quantities(graph, inputs, h, work)
        prepared.add()
        return True

    def _tell(self, text: str) -> None:
        """Keep a note for the result, and show it."""
        self.notes.append(text)
        self._say(text)

    def _expect(self, seconds: float, inputs: int) -> None:
        """Say how long second derivatives take, if they take long."""
        if self._expected or not self.roads.second or self.functional.stochastic:
            return
        whole = seconds / inputs * (self.own or inputs)
        # A single input, which goes first, takes longer than one among several.
        alone = self.count == 0 and inputs != self.own and seconds < _LONG
        if whole < _LONG or alone:
            return
        self._expected = True
        span = f"the {self.own} inputs" if self.own else f"{inputs} inputs"
        span += " of this process" if self.ranks.world > 1 else ""
        self._tell(
            f"judged by the first pieces of work, exact second derivatives take about "
            f"{duration(whole)} for {span}. Stochastic ones are estimates with standard errors "
            '(second_derivative="stochastic", or --second-derivative stochastic); '
            "fisher and variance_score_squared alone need none."
        )


def _key(inputs: Tensor) -> tuple:
    """Return the same for inputs that are the same numbers in memory, not written to since."""
    return in_memory(inputs), inputs._version


def _explained(error: RuntimeError) -> RuntimeError:
    """Return an error that says what a model does, if it is the model's fault."""
    why = reason(error)
    if "inplace operation" not in why:
        return error
    return UnsupportedError(
        "the model writes in place into what its own backward pass needs "
        f"({why.partition(', which')[0]}); expected x = x * y instead of x *= y there."
    )


def _check_width(h, outputs):
    if h.shape[1] != outputs:
        raise ShapeError(
            f"the model returned {outputs} outputs for the first batch and {h.shape[1]} for a "
            "later one; expected the same number."
        )
