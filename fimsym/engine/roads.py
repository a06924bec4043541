"""The structured and the shared road: closed forms without weight gradients.

Structured: a matrix product used once per example, z = W a, has u(W_ij) = (∂h/∂z_i) a_j and
v(W_ij) = (∂²h/∂z_i²) a_j². So I of a weight is that of its neuron times a_j², and V₁, V₂ and
Cov(Î₁, Î₂) those of its neuron times a_j⁴: the closed forms are evaluated once per neuron,
and one matrix product per quantity sums over inputs.

Shared: a parameter that is used at several positions or places has u = Σ_t g_t a_tᵀ summed
within each example, so that u itself is built, some rows of the parameter at a time.

Source: Soen & Sun (2024), section 5; chain rule.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fimsym.engine import bounded
from fimsym.engine import graph as graphs
from fimsym.engine.accumulate import Accumulator
from fimsym.engine.alignment import Alignment
from fimsym.engine.chain import Start, start_of
from fimsym.engine.chunk import Chunk
from fimsym.engine.curvatures import DIRECTIONS, Curvatures
from fimsym.engine.graph import Graph
from fimsym.engine.head import Head
from fimsym.engine.network import Network
from fimsym.engine.sweep import Sweep
from fimsym.engine.uses import Use

ROADS = ("structured", "shared", "functional")
"""From fast to slow."""

_LOOKED_AT = 8
_TARGET = 16 * 10**6
_TARGET_OF_SWEEPS = 64 * 10**6
_TARGET_OF_SERIES = 96 * 10**6


class Roads:
    """Adds up the quantities of every parameter of which all uses are known.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to add up.
        limit: Budget in bytes.
    """

    def __init__(self, network: Network, head: Head, asked: tuple[str, ...], limit: int):
        self.network = network
        self.head = head
        self.asked = asked
        self.limit = limit
        self.alignment = Alignment(network)
        self.second = head.orders(asked)[1]
        self.curvatures = Curvatures(network)
        self.blocks = dict(network.parameters())
        self.taken = dict.fromkeys(network.names, ROADS[0])

    def rows(self, inputs: Tensor) -> tuple[int, set[str]]:
        """Return how many inputs to take at a time, and what is left to the functional road."""
        inputs = inputs[:_LOOKED_AT]
        graph = self.trace(inputs)
        known = self.alignment.known(graph, inputs)
        directions = DIRECTIONS if self.second else 0
        sizes = known.sizes
        entries = 3 * graph.h.shape[1] * sizes.swept + 2 * sizes.patches
        entries += (8 + 6 * directions) * sizes.activations
        each = max(1, self.network.dtype.itemsize * entries)
        rest = set(self.blocks) - known.orders.keys()
        if self.second:
            rest |= {
                name
                for name, uses in graph.uses.items()
                if not _single(uses, inputs) and not self.curvatures.vanish(name, graph, inputs)
            }
        target = _TARGET_OF_SWEEPS if sizes.swept else _TARGET
        target = _TARGET_OF_SERIES if self.second else target
        return max(1, min(self.limit, target) // each), rest

    def trace(self, inputs: Tensor) -> Graph:
        """Run the network on some inputs, and read what it computed."""
        return graphs.read(*self.network.traced(inputs))

    def uses(self, graph: Graph, inputs: Tensor, compared: bool = False) -> dict[str, list[Use]]:
        """Return every use of the parameters of which all are known.

        Args:
            graph: Graph of a forward pass.
            inputs: Its inputs.
            compared: `add` has compared them with some examples run apart.
        """
        uses = self.alignment.uses(graph, inputs)
        if not compared and not self.alignment.holds(graph, uses, None, inputs, False):
            self.alignment.forget(graph)
            uses = {}
        for name in set(self.network.names) - uses.keys():
            self.taken[name] = "functional"
        return uses

    def add(self, graph: Graph, inputs: Tensor, count: int, sums: Accumulator) -> set[str]:
        """Add the quantities of some inputs, with `count` inputs already added.

        Returns:
            The names of the parameters that are left to the functional road.
        """
        uses = self.alignment.uses(graph, inputs)
        start = start_of(graph)
        nodes = _below(graph, uses, start)
        bounds = not bounded.NAMES.isdisjoint(self.asked)  # their norms change with centring
        law = None if bounds else self.head.classes(graph.h.detach())
        found = Sweep(start, graph, nodes, not graph.loops, law, self.second)
        centred = law is not None
        if not self.alignment.holds(graph, uses, found, inputs, centred):
            found = Sweep(start, graph, nodes, False, law, self.second)
            if graph.loops or not self.alignment.holds(graph, uses, found, inputs, centred):
                self.alignment.forget(graph)
                uses = {}
        chunk = Chunk(self.head, self.asked, self.blocks, graph, start, found, law, sums, count)
        if self.second:
            uses = self._with_curvatures(uses, chunk, inputs)
        rest = set(self.network.names) - uses.keys()
        for name, named in uses.items():
            with torch.no_grad():
                road = chunk.add(name, named)
            self.taken[name] = max(self.taken[name], road, key=ROADS.index)
        for name in rest:
            self.taken[name] = "functional"
        return rest

    def _with_curvatures(self, uses, chunk, inputs) -> dict[str, list[Use]]:
        """Take ∂²h/∂z² where rows are examples; return the parameters for which that is all.

        Where h is affine in a parameter there is nothing to take.
        """
        by_node, kept = {}, {}
        for name, named in uses.items():
            if self.curvatures.vanish(name, chunk.graph, inputs):
                kept[name] = named
            elif len(named) == 1 and chunk.once(named[0]):
                by_node.setdefault(named[0].node, []).append(name)
        for node, names in by_node.items():
            if node in chunk.found.chain.bends and self.curvatures.of_chain_hold(
                names[0], uses, inputs
            ):
                chunk.bent.add(node)
            elif node is not chunk.start.last:
                curved = self.curvatures.of_neurons(names, uses, inputs)
                if curved is None:
                    continue
                chunk.curved[node] = curved
            kept |= {name: uses[name] for name in names}
        return kept


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
