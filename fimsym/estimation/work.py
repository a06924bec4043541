"""What takes how much: floating-point operations, in units of one draw.

Products of matrices and convolutions are counted, as they are done; they do not depend on the
machine or on what else it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from torch.utils.flop_counter import FlopCounterMode

from fimsym.engine.accumulate import Accumulator
from fimsym.engine.alignment import Alignment
from fimsym.engine.checks import traced
from fimsym.engine.functional import Functional
from fimsym.engine.head import Head
from fimsym.engine.network import Network
from fimsym.engine.roads import Roads
from fimsym.estimation.drawn import TOGETHER, Drawn
from fimsym.estimation.piece import Piece
from fimsym.estimation.seeds import Probes

Result = TypeVar("Result")


def operations_of(call: Callable[[], Result]) -> tuple[int, Result]:
    """Return how many floating-point operations a call takes, and its result."""
    with FlopCounterMode(display=False) as counter:
        result = call()
    return counter.get_total_flops(), result


class Work:
    """What one draw and the exact diagonal take, for some inputs.

    Args:
        network: The network.
        head: The law of the labels.
        alignment: Finds uses of parameters.
        limit: Budget in bytes.

    Attributes:
        forward: Operations of a forward pass for one input.
        draw: Operations of one draw, of several taken together: a backward pass down to the
            layers' results, and the sums.
    """

    def __init__(self, network: Network, head: Head, alignment: Alignment, limit: int):
        self.forward = 0.0
        self.draw = 0.0
        self._network = network
        self._head = head
        self._limit = limit
        self._drawn = Drawn(network, head, alignment, Probes(head, 0, False))

    def measure(self, piece: Piece) -> float:
        """Return what the exact diagonal of some inputs takes, in draws.

        Args:
            piece: The inputs.
        """
        count = len(piece.inputs)
        roads = Roads(self._network, self._head, ("fisher",), self._limit)
        functional = Functional(self._network, self._head, ("fisher",), self._limit)
        operations, _ = operations_of(lambda: traced(self._network, piece.inputs))
        self.forward = operations / count
        # The first time both compare what they do with some inputs run apart.
        self._draws(piece)
        operations, _ = operations_of(lambda: self._draws(piece))
        self.draw = operations / TOGETHER / count
        self._exact(piece, roads, functional)
        operations, _ = operations_of(lambda: self._exact(piece, roads, functional))
        return self.in_draws(operations / count - self.forward)

    def in_draws(self, taken: float) -> float:
        """Return operations for one input in units of a draw."""
        return taken / max(1.0, self.draw)

    def _draws(self, piece: Piece) -> None:
        self._drawn.add(piece, TOGETHER, 0, self._sums(self._drawn.quantities))

    def _exact(self, piece: Piece, roads: Roads, functional: Functional) -> None:
        sums = self._sums(("fisher",))
        graph = traced(self._network, piece.inputs)
        prepared = roads.prepare(graph, piece.inputs, 0, sums)
        prepared.add()
        at = graph.h.detach(), piece.inputs, 0, sums, prepared.second
        for units in functional.units(prepared.rest, *at).values():
            for unit in units:
                unit()

    def _sums(self, quantities: tuple[str, ...]) -> Accumulator:
        return Accumulator(quantities, self._network.size, self._network.device, False)
