"""The structured and the shared road: closed forms without weight gradients.

Structured: a matrix product used once per example, z = W a, has u(W_ij) = (∂h/∂z_i) a_j and
v(W_ij) = (∂²h/∂z_i²) a_j². So I of a weight is that of its neuron times a_j², and V₁, V₂ and
Cov(Î₁, Î₂) those of its neuron times a_j⁴: the closed forms are evaluated once per neuron,
and one matrix product per quantity sums over inputs.

Shared: a parameter that is used at several positions or places has u = Σ_t g_t a_tᵀ summed
within each example, so that u itself is built, of some rows of the parameter and some examples
at a time.

Source: Soen & Sun (2024), section 5; chain rule.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from fimsym.engine import bounded, directions
from fimsym.engine.accumulate import Accumulator
from fimsym.engine.alignment import Alignment
from fimsym.engine.bent import Bent
from fimsym.engine.chain import Start, start_of
from fimsym.engine.chunk import Chunk
from fimsym.engine.curvatures import Curvatures, Second
from fimsym.engine.graph import Graph
from fimsym.engine.head import Head
from fimsym.engine.memory import at_a_time
from fimsym.engine.network import Network
from fimsym.engine.sweep import Sweep
from fimsym.engine.tables import places_of
from fimsym.engine.uses import Lookup, Use
from fimsym.engine.work import Unit

ROADS = ("structured", "shared", "functional")
"""From fast to slow."""

_TARGET = 48 * 10**6
_TARGET_OF_SWEEPS = 166 * 10**6
_TARGET_OF_SERIES = 96 * 10**6


@dataclasses.dataclass(frozen=True)
class Prepared:
    """What some inputs take.

    Attributes:
        add: Adds what takes little.
        later: Work that second derivatives of shared parameters take, by parameter.
        touched: Where that work adds to the sums.
        rest: Parameters that are left to the functional road.
        second: Second derivatives of the inputs, if any are wanted.
    """

    add: Callable[[], None]
    later: dict[str, list[Unit]]
    touched: list[slice | Tensor]
    rest: set[str]
    second: Second | None


class Roads:
    """Adds up the quantities of every parameter of which all uses are known.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to add up.
        limit: Budget in bytes.
        exact: Take second derivatives of shared parameters here, not by the functional road.

    Attributes:
        heavy: Whether some parameter takes long.
    """

    def __init__(
        self, network: Network, head: Head, asked: tuple[str, ...], limit: int, exact: bool = True
    ):
        self.network = network
        self.head = head
        self.asked = asked
        self.limit = limit
        self.exact = exact
        self.heavy = False
        self.alignment = Alignment(network)
        self.second = head.orders(asked)[1]
        self.curvatures = Curvatures(network)
        self.blocks = dict(network.parameters())
        self.taken = dict.fromkeys(network.names, ROADS[0])

    def rows(self, graph: Graph, inputs: Tensor) -> tuple[int, set[str]]:
        """Return how many inputs to take at a time, and what is left to the functional road.

        Args:
            graph: Graph of a forward pass of some inputs.
            inputs: These inputs.
        """
        known = self.alignment.known(graph, inputs)
        sizes = known.sizes
        entries = 3 * graph.h.shape[1] * sizes.swept + 3 * sizes.patches + 8 * sizes.activations
        rest = set(self.blocks) - known.orders.keys()
        if self.second:
            second = self.curvatures.of(graph, inputs)
            bent = {name for name, uses in graph.uses.items()
                    if name not in second.zero and not _single(uses, inputs)}  # fmt: skip
            rest |= bent - second.right if bent and self.exact else bent
            entries += int(second.record.base) if bent else 0
            self.heavy = bool(bent)
        each = max(1, self.network.dtype.itemsize * entries)
        target = _TARGET_OF_SWEEPS if sizes.swept else _TARGET
        target = _TARGET_OF_SERIES if self.second else target
        self.heavy |= bool(rest)
        target = at_a_time(target, self.network.device)
        return max(1, min(self.limit, target) // each), rest

    def uses(self, graph: Graph, inputs: Tensor, compared: bool = False) -> dict[str, list[Use]]:
        """Return every use of the parameters of which all are known.

        Args:
            graph: Graph of a forward pass.
            inputs: Its inputs.
            compared: `add` has compared them with some examples run apart.
        """
        uses = self.alignment.uses(graph, inputs)
        due = None if compared else self.alignment.due(graph, inputs, "uses")
        if due and not self.alignment.holds(due, graph, uses, None, inputs, None):
            self.alignment.forget(graph)
            uses = {}
        for name in set(self.network.names) - uses.keys():
            self.taken[name] = "functional"
        return uses

    def prepare(self, graph: Graph, inputs: Tensor, count: int, sums: Accumulator) -> Prepared:
        """Return what is to be added for some inputs, with `count` inputs already added."""
        uses = self.alignment.uses(graph, inputs)
        start = start_of(graph)
        nodes = _below(graph, uses, start)
        bounds = not bounded.NAMES.isdisjoint(self.asked)  # their norms change with centring
        looped = self.alignment.looped(graph)
        fewer = looped and not self.second
        law = None if bounds else self.head.classes(graph.h.detach(), fewer)
        found = Sweep(start, graph, nodes, not looped, law, self.second)
        way = directions.number(graph.h, law), law is None
        due = self.alignment.due(graph, inputs, way, bool(found.swept))
        if due and not self.alignment.holds(due, graph, uses, found, inputs, law):
            found = Sweep(start, graph, nodes, False, law, self.second)
            if looped or not self.alignment.holds(due, graph, uses, found, inputs, law):
                self.alignment.forget(graph)
                uses = {}
            else:
                self.alignment.distrust(graph)
        at = graph, start, found, law, sums, count
        chunk = Chunk(self.head, self.asked, self.blocks, *at, self.limit)
        second = self.curvatures.of(graph, inputs, law) if self.second else None
        later = {} if second is None else self._bent(uses, chunk, second, inputs)
        rest = set(self.network.names) - uses.keys()
        self.taken |= dict.fromkeys(rest, "functional")

        def add() -> None:
            waiting = collections.Counter(use.node for named in uses.values() for use in named)
            for name, named in uses.items():
                road = "shared"
                if name not in later:
                    with torch.no_grad():
                        road = chunk.add(name, named)
                    waiting.subtract(use.node for use in named)
                    found.release(use.node for use in named if not waiting[use.node])
                self.taken[name] = max(self.taken[name], road, key=ROADS.index)

        touched = [self._touched(name, uses[name]) for name in later]
        return Prepared(add, later, touched, rest, second)

    def _touched(self, name: str, uses: list[Use]) -> slice | Tensor:
        """Return where in the sums the uses of a parameter add."""
        block = self.blocks[name]
        if len(uses) == 1 and isinstance(uses[0], Lookup):
            return places_of(uses[0], block)
        return slice(block.start, block.stop)

    def _bent(
        self, uses: dict[str, list[Use]], chunk: Chunk, second: Second, inputs: Tensor
    ) -> dict[str, list[Unit]]:
        """Take ∂²h/∂z² where rows are examples; return the work that shared parameters take.

        Parameters without a way that holds are taken out of `uses`. Where h is affine in a
        parameter there is nothing to take.
        """
        by_node: dict[Any, list[str]] = {}
        later: dict[str, list[Unit]] = {}
        bent = None
        for name, named in list(uses.items()):
            if name in second.zero or not any(map(chunk.reaches, named)):
                continue
            if len(named) == 1 and chunk.once(named[0]):
                by_node.setdefault(named[0].node, []).append(name)
            elif self.exact and second.expansion is not None and name in second.right:
                bent = bent or Bent(chunk, second, self.limit)
                later[name] = bent.units(name, named)
            else:
                del uses[name]
        for node, names in by_node.items():
            hold = self.curvatures.of_chain_hold
            if node in chunk.found.chain.bends and hold(names[0], uses, inputs):
                chunk.bent.add(node)
            elif node is not chunk.start.last:
                curved = self.curvatures.of_neurons(names, uses, second, self.limit)
                if curved is not None:
                    chunk.curved[node] = curved
                    continue
                for name in names:
                    del uses[name]
        return later


def _single(uses: list[Use] | None, inputs: Tensor) -> bool:
    """Tell whether the only use of a parameter may be once per example."""
    if uses is None or len(uses) != 1:
        return False
    data = uses[0].data
    return data is None or len(data) == len(inputs)


def _below(graph: Graph, uses, start: Start) -> list[Any]:
    """Return the nodes at which gradients are wanted, in the order of the graph."""
    wanted = {use.node for named in uses.values() for use in named} - {start.last}
    return [node for node in graph.nodes if node in wanted]
