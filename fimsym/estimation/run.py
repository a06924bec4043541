"""From batches of inputs to sums over them: one pass over the data for each round of draws."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from fimsym.engine import data as inputs_of
from fimsym.engine.accumulate import Accumulator
from fimsym.engine.alignment import Alignment
from fimsym.engine.checks import (
    check_examples_independent,
    check_finite,
    check_outputs,
    traced,
)
from fimsym.engine.distributed import Ranks, Share
from fimsym.engine.graph import Graph
from fimsym.engine.head import Head
from fimsym.engine.interruption import Interruption
from fimsym.engine.memory import at_a_time
from fimsym.engine.network import Network
from fimsym.engine.pieces import grouped
from fimsym.engine.probe import Sizes
from fimsym.engine.roads import ROADS
from fimsym.errors import FimsymError, ShapeError
from fimsym.estimation.noise import BLOCK
from fimsym.estimation.piece import Piece
from fimsym.report.progress import progress as progress_bar

_LEAST_TARGET = 32 * 10**6
"""Bytes of derivatives to hold: what stays near the processor's caches."""
_MOST_ROWS = 4096


class Method(Protocol):
    """What is done with some inputs.

    Attributes:
        quantities: Names of the sums.
        shown: How many inputs `start` looks at.
        passed: Backward passes taken, counted by input.
    """

    quantities: tuple[str, ...]
    shown: int
    passed: int

    @property
    def ways(self) -> dict[str, str]:
        """How derivatives of parameters whose uses are not known were taken."""
        ...

    def entries(self, sizes: Sizes, outputs: int) -> int:
        """Return how many numbers one input takes."""
        ...

    def start(self, piece: Piece) -> None:
        """Look at the first inputs before anything is added."""
        ...

    def add(self, piece: Piece, draws: int, part: object, sums: Accumulator) -> dict[str, str]:
        """Add what some inputs give; return the road each parameter took."""
        ...


class Run:
    """Passes over the data with one method.

    Args:
        network: The network.
        head: The law of the labels.
        alignment: Finds the uses of parameters.
        method: What is done with some inputs.
        limit: Budget in bytes.
        ranks: The processes that share the inputs.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        alignment: Alignment,
        method: Method,
        limit: int,
        ranks: Ranks,
    ):
        self.network = network
        self.head = head
        self.method = method
        self.ranks = ranks
        self.outputs = 0
        self.roads = dict.fromkeys(network.names, ROADS[0])
        self._alignment = alignment
        self._limit = limit
        self._rows = 1
        self._count = 0
        self._started = False

    def cover(
        self,
        data: inputs_of.Data,
        draws: int,
        part: object,
        what: str,
        show: bool,
        stop: Interruption,
    ) -> tuple[Accumulator, Share]:
        """Return the sums of `draws` draws for every input, over all processes.

        Args:
            data: The inputs, read once.
            draws: How many for each.
            part: Which part of all draws these are.
            what: The progress bar's text.
            show: Show it.
            stop: Whether to end early.
        """
        network, ranks = self.network, self.ranks
        sums = Accumulator(self.method.quantities, network.size, network.device, False)
        self._count = 0
        ranks.begin()
        total = inputs_of.length(data)
        own = ranks.rows(total)
        rows = inputs_of.Rows(data, ranks.rank, ranks.world)
        if ranks.world > 1:
            what += f", rank 0 of {ranks.world}"
        with progress_bar(what, own, show and ranks.rank == 0) as advance:
            stop.told = advance.stopping
            for batch in grouped(stop.until_requested(rows), self._wanted):
                if stop.during_work:
                    break
                inputs, labels = inputs_of.placed(batch, network)
                with self._located():
                    self._add(inputs, labels, draws, part, sums)
                advance(len(inputs))
        share = Share(
            count=self._count,
            read=rows.read,
            total=total,
            interrupted=stop.requested and self._count != own,
            outputs=self.outputs,
            size=network.size,
            weight=float(network.theta.double().abs().sum()),
            taken=(self.roads, self.method.ways),
        )
        return sums, ranks.merge(sums, share)

    @property
    def passes(self) -> float:
        """Backward passes taken so far for each input, in this process."""
        return self.method.passed / max(1, self._count)

    def _wanted(self, inputs: Tensor) -> int:
        """Return how many inputs to take at a time; the first are looked at for that."""
        if not self.outputs:
            with self._located():
                inputs, _ = inputs_of.placed((inputs, None), self.network)
                graph = check_outputs(self.network, inputs, self.head.minimum_outputs)
                self.outputs = graph.h.shape[1]
                self._rows = self._fitting(graph, inputs)
        return self._rows

    @contextlib.contextmanager
    def _located(self) -> Iterator[None]:
        """Say which process an error about its inputs comes from."""
        try:
            yield
        except FimsymError as error:
            raise self.ranks.located(error) from error.__cause__

    def _add(self, inputs: Tensor, labels: Tensor | None, draws, part, sums) -> None:
        if not self._started:
            self._started = True
            few = slice(0, min(self._rows, self.method.shown))
            self.method.start(self.piece(inputs[few], None if labels is None else labels[few]))
        for first in range(0, len(inputs), self._rows):
            few = slice(first, first + self._rows)
            piece = self.piece(inputs[few], None if labels is None else labels[few])
            for name, road in self.method.add(piece, draws, part, sums).items():
                self.roads[name] = max(self.roads[name], road, key=ROADS.index)
            self._count += len(piece.inputs)

    def _fitting(self, graph: Graph, inputs: Tensor) -> int:
        """Return how many inputs to take at a time: whole blocks of rows, if they fit."""
        sizes = self._alignment.known(graph, inputs).sizes
        width = self.network.dtype.itemsize
        each = max(1, width * self.method.entries(sizes, self.outputs))
        # A large layer's sums take as long as its gradients unless many inputs share them.
        target = at_a_time(max(_LEAST_TARGET, width * self.network.size), self.network.device)
        target = min(self._limit, target)
        rows = min(at_a_time(_MOST_ROWS, self.network.device), max(1, target // each))
        if rows >= BLOCK:
            return rows - rows % BLOCK
        fits = min(BLOCK, max(1, self._limit // each))
        return 1 << (fits.bit_length() - 1)

    def piece(self, inputs: Tensor, labels: Tensor | None) -> Piece:
        """Run the network on some inputs, and check what it puts out."""
        graph, first = traced(self.network, inputs), self._count
        h = graph.h.detach()
        check_finite(self.network, inputs, h, first)
        self.head.check(h, first)
        if h.shape[1] != self.outputs:
            raise ShapeError(
                f"the model returned {self.outputs} outputs for the first batch and {h.shape[1]} "
                "for a later one; expected the same number."
            )
        check_examples_independent(self.network, inputs, h, first)
        if labels is not None:
            inputs_of.check_labels(labels, self.outputs, first, self.head.targets(h.shape[1]))
        rows = self.ranks.rank + self.ranks.world * torch.arange(first, first + len(inputs))
        return Piece(graph, inputs, labels, rows, first, self._alignment.uses(graph, inputs))
