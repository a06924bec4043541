"""The functional road: any parameter of any module, by torch.func, some at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from torch import Tensor

from fimsym.engine.accumulate import Accumulator
from fimsym.engine.derivatives import Differentiator
from fimsym.engine.head import Head
from fimsym.engine.memory import first_order_chunks, second_order_chunks
from fimsym.engine.network import Block, Network


class Functional:
    """Adds up the quantities of parameters by their Jacobians and Hessian diagonals.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to add up.
        limit: Budget in bytes.
    """

    def __init__(self, network: Network, head: Head, asked: tuple[str, ...], limit: int):
        self._network = network
        self._head = head
        self._asked = asked
        self._limit = limit
        self._first: Differentiator | None = None
        self._second: Differentiator | None = None

    @property
    def ways(self) -> dict[str, str]:
        """How first and second derivatives were taken, where any were."""
        used = {"first": self._first, "second": self._second}
        return {order: way.way for order, way in used.items() if way is not None}

    def blocks(self, names: Collection[str], outputs: int) -> list[Block]:
        """Return the ranges of the parameters that are taken at a time."""
        return self._chunks(names, outputs)[0]

    def rows(self, names: Collection[str], outputs: int) -> int:
        """Return how many inputs fit."""
        return self._chunks(names, outputs)[1]

    def add(
        self, names: Collection[str], h: Tensor, inputs: Tensor, count: int, sums: Accumulator
    ) -> Iterator[Block]:
        """Add the quantities of some inputs, and yield each block when it is done."""
        outputs = h.shape[1]
        needs_first, needs_second = self._head.orders(self._asked)
        if needs_first and self._first is None:
            self._first = Differentiator(self._network, "first")
        if needs_second and self._second is None:
            self._second = Differentiator(self._network, "second")
        for block in self.blocks(names, outputs):
            at = (block, inputs, count, outputs)
            first = self._first(*at) if self._first else None
            second = self._second(*at) if self._second else None
            values = self._head.values(self._asked, h, first, second)
            sums.add(slice(block.start, block.stop), count, values)
            yield block

    def _chunks(self, names, outputs) -> tuple[list[Block], int]:
        chunks = []
        needs_first, needs_second = self._head.orders(self._asked)
        if needs_first:
            width = self._head.width(self._network.dtype)
            chunks.append(first_order_chunks(self._network, names, outputs, self._limit, width))
        if needs_second:
            chunks.append(second_order_chunks(self._network, names, outputs, self._limit))
        return chunks[-1][0], min(rows for _, rows in chunks)
