"""The functional road: any parameter of any module, by torch.func, some at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from fimsym.engine.accumulate import ERROR, Accumulator
from fimsym.engine.derivatives import Differentiator
from fimsym.engine.head import SECOND_ORDER, Head
from fimsym.engine.memory import first_order_chunks, second_order_chunks
from fimsym.engine.network import Block, Network
from fimsym.engine.stochastic import Probes, Probing

_COPIES_OF_PROBES = 30


class Functional:
    """Adds up the quantities of parameters by their Jacobians and Hessian diagonals.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to add up.
        limit: Budget in bytes.
        probing: How second derivatives are estimated; None to take them exactly.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        asked: tuple[str, ...],
        limit: int,
        probing: Probing | None = None,
    ):
        self._network = network
        self._head = head
        self._asked = asked
        self._limit = limit
        self._first: Differentiator | None = None
        self._second: Differentiator | None = None
        self._probing = probing
        self._probes: Probes | None = None

    @property
    def ways(self) -> dict[str, str]:
        """How first and second derivatives were taken, where any were."""
        used = {"first": self._first, "second": self._probes or self._second}
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
        if needs_second and self._probing is not None:
            self._probes = self._probes or Probes(self._network, self._probing)
        elif needs_second and self._second is None:
            self._second = Differentiator(self._network, "second")
        for block in self.blocks(names, outputs):
            at = (block, inputs, count, outputs)
            first = self._first(*at) if self._first else None
            if self._probes is not None:
                self._add_estimates(block, h, first, inputs, count, sums)
                yield block
                continue
            second = self._second(*at) if self._second else None
            values = self._head.values(self._asked, h, first, second)
            sums.add(slice(block.start, block.stop), count, values)
            yield block

    def _add_estimates(self, block, h, u, inputs, count, sums) -> None:
        """Add estimates of V₂ and Cov, and the variance of what is added."""
        assert self._probes is not None
        exact = tuple(quantity for quantity in self._asked if quantity not in SECOND_ORDER)
        values = self._head.values(exact, h, u, None) if exact else {}
        found = [
            self._head.of_estimates(self._asked, h, u, one, other)
            for one, other in self._probes(block, inputs)
        ]
        place, errors = slice(block.start, block.stop), {}
        for quantity in found[0]:
            draws = torch.stack([one[quantity].double() for one in found])
            values[quantity] = draws.mean(0)
            errors[ERROR + quantity] = draws.sum(1).var(0) / len(draws)
        sums.add(place, count, values)
        sums.add_totals(place, count, len(h), errors, None)

    def _chunks(self, names, outputs) -> tuple[list[Block], int]:
        chunks = []
        needs_first, needs_second = self._head.orders(self._asked)
        if needs_first:
            width = self._head.width(self._network.dtype)
            chunks.append(first_order_chunks(self._network, names, outputs, self._limit, width))
        if needs_second and self._probing is not None:
            width = _COPIES_OF_PROBES * self._network.dtype.itemsize
            chunks.append(first_order_chunks(self._network, names, outputs, self._limit, width))
        elif needs_second:
            chunks.append(second_order_chunks(self._network, names, outputs, self._limit))
        return chunks[-1][0], min(rows for _, rows in chunks)
