"""The functional road: any parameter of any module, by torch.func, some at a time."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import torch
from torch import Tensor

from fimsym.engine.accumulate import ERROR, Accumulator
from fimsym.engine.curvatures import Second
from fimsym.engine.derivatives import Differentiator, require_finite
from fimsym.engine.head import SECOND_ORDER, Head
from fimsym.engine.memory import first_order_chunks, second_order_chunks
from fimsym.engine.network import Block, Network
from fimsym.engine.quantities import by_group
from fimsym.engine.stochastic import Probes, Probing
from fimsym.engine.tiles import Cost, ranges
from fimsym.engine.work import Unit

_COPIES_OF_PROBES = 30
_PART_OF_GRADIENTS = 16
"""So many times may gradients of whole tensors be held: some operations copy them."""


class Functional:
    """Adds up the quantities of parameters by their Jacobians and Hessian diagonals.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to add up.
        limit: Budget in bytes.
        probing: How second derivatives are estimated; None to take them exactly.
        grouping: Over which groups of parameters estimates are summed too.

    Attributes:
        along_tape: Whether what was added came along a tape, for some parameter.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        asked: tuple[str, ...],
        limit: int,
        probing: Probing | None = None,
        grouping: str = "layer",
    ):
        self._network = network
        self._head = head
        self._asked = asked
        self._limit = limit
        self._taken: dict[str, Differentiator] = {}
        self._probing = probing
        self._probes: Probes | None = None
        groups = by_group(network.names, grouping).values()
        self._group = {name: number for number, names in enumerate(groups) for name in names}
        self.along_tape = False

    @property
    def ways(self) -> dict[str, str]:
        """How first and second derivatives were taken, where any were."""
        ways = {order: way.way for order, way in self._taken.items()}
        if self._probes is not None:
            ways["second"] = self._probes.way
        elif self.along_tape:
            for order in ("first", "second"):
                ways[order] = "; ".join(filter(None, ("tangents", ways.get(order))))
        return ways

    @property
    def stochastic(self) -> bool:
        """Whether second derivatives are estimated."""
        return self._probing is not None

    def rows(self, names: Collection[str], outputs: int) -> int:
        """Return how many inputs fit."""
        return self._chunks(names, outputs)[1]

    def units(
        self,
        names: Collection[str],
        h: Tensor,
        inputs: Tensor,
        count: int,
        sums: Accumulator,
        second: Second | None,
    ) -> dict[str, list[Unit]]:
        """Return the work that the quantities of some inputs take, by parameter or together.

        Args:
            names: Parameters.
            h: Outputs of the inputs.
            inputs: The inputs.
            count: How many `sums` holds already.
            sums: What is added to.
            second: Second derivatives of the inputs.
        """
        taped: list[str] = []
        if second is not None and names and self._probing is None:
            taped = [name for name in names if name in second.right and second.expansion]
        work: dict[str, list[Unit]] = {}
        for name in taped:
            assert second is not None
            blocks = self._blocks_of(name, second.cost(name), h)
            add = self._add_taped
            work[name] = [partial(add, block, h, count, sums, second) for block in blocks]
        rest = set(names) - set(taped)
        if rest:
            blocks, most = self._chunks(rest, h.shape[1])
            cuts = [slice(first, first + most) for first in range(0, len(h), most)]
            work["the other parameters"] = [
                partial(self._add, block, h[cut], inputs[cut], count + cut.start, sums)
                for block in blocks for cut in cuts
            ]  # fmt: skip
        return work

    def _blocks_of(self, name: str, cost: Cost, h: Tensor) -> list[Block]:
        """Cut a parameter into ranges of whole rows, or of part of one."""
        own = dict(self._network.parameters())[name]
        shape = self._network.shapes[name]
        rows = shape[0] if shape else 1
        width = own.size // rows
        outputs, size = h.shape[1], h.element_size()
        evaluated = outputs * self._head.width(h.dtype) / size
        held = cost.times(len(h), both=evaluated)
        cut = ranges(held, rows, width, self._limit, size)
        return [Block(own.start + a, own.start + b) for a, b in cut]

    def _add_taped(self, block, h, count, sums, second: Second) -> None:
        assert second.expansion is not None
        first, v = second.expansion.block(block)
        for order, found in (("first", first), ("second", v)):
            require_finite(self._network, block, found, order, count)
        self.along_tape = True
        values = self._head.values(self._asked, h, first, v)
        sums.add(slice(block.start, block.stop), count, values)

    def _add(self, block, h, inputs, count, sums) -> None:
        needs_first, needs_second = self._head.orders(self._asked)
        at = (block, inputs, count, h.shape[1])
        first = self._differentiated("first")(*at) if needs_first else None
        if needs_second and self._probing is not None:
            self._probes = self._probes or Probes(self._network, self._probing)
            self._add_estimates(block, h, first, inputs, count, sums)
            return
        second = self._differentiated("second")(*at) if needs_second else None
        values = self._head.values(self._asked, h, first, second)
        sums.add(slice(block.start, block.stop), count, values)

    def _differentiated(self, order: str) -> Differentiator:
        if order not in self._taken:
            limit = self._limit // _PART_OF_GRADIENTS
            self._taken[order] = Differentiator(self._network, order, limit)
        return self._taken[order]

    def _add_estimates(self, block, h, u, inputs, count, sums) -> None:
        """Add estimates of V₂ and Cov, and the variance of what is added."""
        assert self._probes is not None
        exact = tuple(quantity for quantity in self._asked if quantity not in SECOND_ORDER)
        values = self._head.values(exact, h, u, None) if exact else {}
        found = [
            self._head.of_estimates(self._asked, h, u, one, other)
            for one, other in self._probes(block, inputs, count)
        ]
        place, errors = slice(block.start, block.stop), {}
        for quantity in found[0]:
            draws = torch.stack([one[quantity].double() for one in found])
            values[quantity] = draws.mean(0)
            totals = draws.sum(1)
            errors[ERROR + quantity] = totals.var(0) / len(draws)
            # Signs of another block are independent of these, so that variances add up.
            self._add_of_groups(sums.of_groups[ERROR + quantity], block, totals)
        sums.add(place, count, values)
        sums.add_totals(place, count, len(h), errors, None)

    def _add_of_groups(self, variances: Tensor, block: Block, draws: Tensor) -> None:
        """Add the variance of the mean of some draws [draw, param] of a block, by group."""
        sums = draws.new_zeros(len(draws), len(variances))
        for name, own in self._network.parameters():
            first, end = max(own.start, block.start), min(own.stop, block.stop)
            if first < end:
                own_draws = draws[:, first - block.start : end - block.start]
                sums[:, self._group[name]] += own_draws.sum(1)
        variances += sums.var(0) / len(draws)

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
