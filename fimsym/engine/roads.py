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

import functools
from typing import Any

import torch
from torch import Tensor

from fimsym.engine import classes
from fimsym.engine import graph as graphs
from fimsym.engine.accumulate import Accumulator
from fimsym.engine.alignment import Alignment
from fimsym.engine.curvatures import DIRECTIONS, Curvatures
from fimsym.engine.graph import Graph
from fimsym.engine.head import Head
from fimsym.engine.network import Block, Network
from fimsym.engine.sweep import Gradient, Start, every_output, start_of
from fimsym.engine.uses import Affine, Lookup, Product, Use, split_rows

ROADS = ("structured", "shared", "functional")
"""From fast to slow."""

_POWERS = {
    "fisher": 2,
    "variance_score_squared": 4,
    "variance_negative_hessian": 4,
    "covariance": 4,
}
"""Degree of every quantity in u, of which v counts two."""

_LOOKED_AT = 8
_TARGET = 32 * 10**6
_TARGET_OF_SERIES = 96 * 10**6
_BLOCK = 2**19


class Roads:
    """Adds up the quantities of every parameter of which all uses are known.

    Args:
        network: The network.
        head: The law of the labels.
        asked: The quantities to add up.
        limit: Budget in bytes.
        spread: Also add up the variance of I over inputs.
    """

    def __init__(
        self, network: Network, head: Head, asked: tuple[str, ...], limit: int, spread: bool
    ):
        self.network = network
        self.head = head
        self.asked = asked
        self.limit = limit
        self.spread = spread
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
            rest |= {name for name, uses in graph.uses.items() if not _single(uses, inputs)}
        target = _TARGET_OF_SERIES if self.second else _TARGET
        return max(1, min(self.limit, target) // each), rest

    def trace(self, inputs: Tensor) -> Graph:
        """Run the network on some inputs, and read what it computed."""
        return graphs.read(*self.network.traced(inputs))

    def add(self, graph: Graph, inputs: Tensor, count: int, sums: Accumulator) -> set[str]:
        """Add the quantities of some inputs, with `count` inputs already added.

        Returns:
            The names of the parameters that are left to the functional road.
        """
        uses = self.alignment.uses(graph, inputs)
        start = start_of(graph)
        nodes = _below(graph, uses, start)
        centred = self.head.is_centred(graph.h)
        found = every_output(start, graph, nodes, not graph.loops, centred)
        if not self.alignment.holds(graph, uses, found, inputs, centred):
            found = every_output(start, graph, nodes, False, centred)
            if graph.loops or not self.alignment.holds(graph, uses, found, inputs, centred):
                self.alignment.forget(graph)
                uses = {}
        chunk = _Chunk(self, graph, start, found, inputs, count, sums)
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
        """Take ∂²h/∂z² where rows are examples; return the parameters for which that is all."""
        by_node = {}
        for name, named in uses.items():
            if len(named) == 1 and chunk.once(named[0]):
                by_node.setdefault(named[0].node, []).append(name)
        kept = {}
        for node, names in by_node.items():
            if node is not chunk.start.last:
                curved = self.curvatures.of_neurons(names, uses, inputs)
                if curved is None:
                    continue
                chunk.curved[node] = curved
            kept |= {name: uses[name] for name in names}
        return kept


class _Chunk:
    """Some inputs, and the gradients of every output at every place a parameter enters."""

    def __init__(self, roads, graph, start, found, inputs, count, sums):
        self.roads: Roads = roads
        self.graph: Graph = graph
        self.start: Start = start
        self.found: dict[Any, Gradient] = found
        self.count: int = count
        self.sums: Accumulator = sums
        self.batch: int = len(inputs)
        self.h: Tensor = graph.h.detach()
        self.centred: bool = roads.head.is_centred(self.h)
        self.neurons: dict[Any, dict[str, Tensor]] = {}
        self.powers: dict[Any, dict[int, Tensor]] = {}
        self.curved: dict[Any, Tensor] = {}

    def add(self, name: str, uses: list[Use]) -> str:
        """Add a parameter's quantities; return the road it took."""
        block = self.roads.blocks[name]
        uses = [use for use in uses if use.node in self.found or use.node is self.start.last]
        if not uses:
            return "structured"
        first, *others = uses
        if not others and self.once(first):
            self._add_once(block, first)
            return "structured"
        if not others and isinstance(first, Lookup):
            self._add_lookup(block, first)
        else:
            self._add_shared(block, uses)
        return "shared"

    def once(self, use: Use) -> bool:
        """Tell whether a use is one product, or one shift, per example."""
        if isinstance(use, Product):
            return len(use.inputs) == self.batch
        if not isinstance(use, Affine) or use.factor is not None or use.sign != 1:
            return False
        if len(use.along) != 1 or use.along != tuple(use.shape):
            return False
        if use.node is self.start.last:
            return True
        return self.found[use.node].outer.shape[1:] == (self.batch, *use.along)

    def _add_once(self, block: Block, use: Use) -> None:
        """Sum value · a^degree over the batch: one matrix product for each quantity."""
        if use.node not in self.neurons:
            self.neurons[use.node] = self._neuron_values(use.node)
        values = self.neurons[use.node]
        if isinstance(use, Product):
            key = use.inputs.data_ptr()
            powers = self.powers.setdefault(key, _powers_of(use.inputs.detach()))
            pairs = {q: (v, powers[_POWERS[q]].to(v.dtype)) for q, v in values.items()}
            totals = {q: value.T @ a if use.transposed else a.T @ value
                      for q, (value, a) in pairs.items()}  # fmt: skip
            spread = None
            if "fisher" in values and self.roads.spread:
                left, right = pairs["fisher"]
                spread = _spread(left, right) if use.transposed else _spread(right, left)
        else:
            totals = {q: value.double().sum(0) for q, value in values.items()}
            spread = None
            if "fisher" in values and self.roads.spread:
                value = values["fisher"].double()
                spread = (value - totals["fisher"] / self.batch).square().sum(0)
        self._put(block, totals, spread)

    def _neuron_values(self, node) -> dict[str, Tensor]:
        """Return the quantities of every neuron of a node, [batch, neuron]."""
        if node is self.start.last:
            return self.roads.head.of_outputs(self.roads.asked, self.h)
        gradient, asked, head = self.found[node], self.roads.asked, self.roads.head
        if node in self.curved:
            u = gradient.whole.transpose(0, 1)
            return head.values(asked, self.h, u, self.curved[node])
        if node is self.start.below:
            values = head.along_columns(asked, self.h, gradient.outer[:, 0])
        else:
            values = self._values(self.h, gradient.outer.transpose(0, 1))
        if gradient.slope is None:
            return values
        square = gradient.slope.square()
        scales = {2: square, 4: square.square()}
        return {q: value * scales[_POWERS[q]].to(value.dtype) for q, value in values.items()}

    def _add_shared(self, block: Block, uses: list[Use]) -> None:
        """Build u of some rows of the parameter at a time, and add its quantities."""
        shape = uses[0].shape
        height = shape[0] if shape else 1
        row = block.size // max(1, height)
        unit = max(use.unit for use in uses)
        size = max(1, _BLOCK // (self.batch * self.h.shape[1] * row * unit)) * unit
        places = [(use, self._of_use(use)) for use in uses]
        for first in range(0, height, size):
            part = slice(first, min(first + size, height))
            u = functools.reduce(torch.add, (use.jacobian(g, part) for use, g in places))
            values = self._values(self.h, u)
            at = slice(block.start + first * row, block.start + part.stop * row)
            self.sums.add(at, self.count, values)

    def _values(self, h: Tensor, u: Tensor) -> dict[str, Tensor]:
        """Return the quantities asked for, of which none needs v, each [batch, param]."""
        head, asked = self.roads.head, self.roads.asked
        return (
            head.values_of_centred(asked, h, u) if self.centred else head.values(asked, h, u, None)
        )

    def _of_use(self, use: Use) -> Tensor:
        """Return the gradients at a use, [output, batch, position, *channels]."""
        if use.node is self.start.last:
            gradient = Gradient(torch.eye(self.h.shape[1]).to(self.h).unsqueeze(1))
        else:
            gradient = self.found[use.node]
        if self.centred and use.node in (self.start.last, self.start.below):
            outer = classes.centred(self.h, gradient.outer[:, :1])
            gradient = Gradient(outer, gradient.slope)
        g = gradient.whole
        g = g.expand(-1, self.batch, -1) if use.node is self.start.last else g
        g = use.rows(g)
        if use.order == "batch":
            return g.unflatten(1, (self.batch, -1))
        return g.unflatten(1, (-1, self.batch)).transpose(1, 2)

    def _add_lookup(self, block: Block, use: Lookup) -> None:
        """Add the quantities of a table, for those rows that each example looks up."""
        g = self._of_use(use)  # output, batch, position, feature
        places = split_rows(use.indices, self.batch, use.order)
        example, position = (places != use.padding).nonzero(as_tuple=True)
        keys = example * use.shape[0] + places[example, position]
        keys, inverse = keys.unique(return_inverse=True)
        outputs, features = g.shape[0], g.shape[-1]
        picked = g[:, example, position].transpose(0, 1)
        u = g.new_zeros(len(keys), outputs, features).index_add_(0, inverse, picked)
        owner, row = keys // use.shape[0], keys % use.shape[0]
        values = self._values(self.h[owner], u)
        totals, spread = {}, None
        for quantity, value in values.items():
            value = value.double()
            totals[quantity] = _into(row, value, use.shape[0])
            if quantity == "fisher" and self.roads.spread:
                mean = totals[quantity] / self.batch
                seen = _into(row, torch.ones_like(value), use.shape[0])
                about = _into(row, (value - mean[row]).square(), use.shape[0])
                spread = (about + (self.batch - seen) * mean.square()).flatten()
        self._put(block, totals, spread)

    def _put(self, block: Block, totals, spread) -> None:
        where = slice(block.start, block.stop)
        totals = {quantity: total.flatten() for quantity, total in totals.items()}
        if spread is not None:
            spread = spread.flatten()
        self.sums.add_totals(where, self.count, self.batch, totals, spread)


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


def _powers_of(inputs: Tensor) -> dict[int, Tensor]:
    squares = inputs.square()
    return {2: squares, 4: squares.square()}


def _into(rows: Tensor, values: Tensor, height: int) -> Tensor:
    """Return values [pair, feature] summed into the rows of a table."""
    return values.new_zeros(height, values.shape[1]).index_add_(0, rows, values)


def _spread(left: Tensor, right: Tensor) -> Tensor:
    """Return Σ_b (x_b − x̄)² of x_b = f_b a_b, each product of small deviations."""
    f, a = left.mean(0), right.mean(0)
    df, da = left - f, right - a
    about = df.square().T @ right.square()
    about += 2 * f[:, None] * (df.T @ (right * da)) + f.square()[:, None] * da.square().sum(0)
    return (about - (df.T @ da).square() / len(left)).clamp(min=0)
