"""From gradients at the operations of some inputs to sums over them.

A parameter of which u is rank one takes one matrix product for each quantity; u of any other
is built, of some rows of the parameter and some examples at a time.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fimsym.engine import directions, powers
from fimsym.engine.accumulate import Accumulator
from fimsym.engine.chain import Start
from fimsym.engine.classes import Classes
from fimsym.engine.graph import Graph
from fimsym.engine.head import Head
from fimsym.engine.network import Block
from fimsym.engine.parts import parts
from fimsym.engine.precision import vanish
from fimsym.engine.sweep import Sweep
from fimsym.engine.tables import pairs_of, put, seen
from fimsym.engine.uses import Affine, Lookup, Product, Use
from fimsym.engine.values import Values

_MANY_CLASSES = 32
"""So many that moments of columns cost less than gradients."""


class Chunk:
    """Some inputs, and the gradients of every output at every place a parameter enters.

    Args:
        head: The law of the labels.
        asked: The quantities to add up.
        blocks: Where each parameter is in the sums.
        graph: Graph of the forward pass.
        start: Where its backward passes began.
        found: What they returned.
        law: Whose mean was subtracted from them, if any.
        sums: What is added to.
        count: How many inputs it holds already.
        limit: Budget in bytes.
    """

    def __init__(
        self,
        head: Head,
        asked: tuple[str, ...],
        blocks: Mapping[str, Block],
        graph: Graph,
        start: Start,
        found: Sweep,
        law: Classes | None,
        sums: Accumulator,
        count: int,
        limit: int,
    ):
        self.head = head
        self.blocks = blocks
        self.graph = graph
        self.start = start
        self.found = found
        self.law = law
        self.sums = sums
        self.count = count
        self.limit = limit
        self.h: Tensor = graph.h.detach()
        self.batch: int = len(self.h)
        self.values = Values(head, asked, self.h, law)
        self.spread: bool = sums.squares is not None
        self.neurons: dict[Any, dict[str, Tensor]] = {}
        self.curved: dict[Any, Tensor] = {}
        self.bent: set[Any] = set()

    def add(self, name: str, uses: list[Use]) -> str:
        """Add a parameter's quantities; return the road it took."""
        block = self.blocks[name]
        uses = [use for use in uses if self.reaches(use)]
        if not uses:
            whole = slice(block.start, block.stop)
            self.sums.add_zeros(whole, self.count, self.batch)
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

    def reaches(self, use: Use) -> bool:
        """Tell whether h depends on a use."""
        return use.node in self.found or use.node is self.start.last

    def once(self, use: Use) -> bool:
        """Tell whether a use is one product, or one shift, per example."""
        if not self.reaches(use):
            return False
        if isinstance(use, Product):
            return len(use.inputs) == self.batch
        if not isinstance(use, Affine) or use.factor is not None or use.sign != 1:
            return False
        if len(use.along) != 1 or use.along != tuple(use.shape):
            return False
        if use.node is self.start.last or use.node in self.found.chain.slopes:
            return True
        return self.found.swept[use.node].shape[1:] == (self.batch, *use.along)

    def _add_once(self, block: Block, use: Use) -> None:
        """Sum value · a^degree over the batch: one matrix product for each quantity."""
        if use.node not in self.neurons:
            self.neurons[use.node] = self._neuron_values(use.node)
        values = self.neurons[use.node]
        if self.spread and vanish({"fisher": values["fisher"]}):  # its squares would
            values = {quantity: value.double() for quantity, value in values.items()}
        if isinstance(use, Product):
            totals, spread = self._of_product(use, values)
        else:
            totals = {q: value.sum(0) for q, value in values.items()}
            spread = None
            if "fisher" in values and self.spread:
                value = values["fisher"].double()
                spread = (value - totals["fisher"] / self.batch).square().sum(0)
        self._put(slice(block.start, block.stop), totals, spread)

    def _of_product(self, use, values) -> tuple[dict[str, Tensor], Tensor | None]:
        inputs = use.inputs.detach()
        totals = powers.summed(inputs, values, use.transposed)
        if "fisher" not in values or not self.spread:
            return totals, None
        return totals, powers.spread(inputs, values["fisher"], use.transposed)

    def _neuron_values(self, node) -> dict[str, Tensor]:
        """Return the quantities of every neuron of a node, [batch, neuron]."""
        if node is self.start.last:
            return self.values.of_outputs()
        if node in self.found.chain.slopes:
            self._add_chain()
            return self.neurons[node]
        u = self.found.swept[node].transpose(0, 1)
        if node in self.curved:
            return self.values.of_bent(u, self.curved[node], slice(None))
        return self.values.of(u)

    def _add_chain(self) -> None:
        """Take the quantities of every neuron down a chain, some examples at a time."""
        first = self.found.chain.links[0]
        by_columns = self._takes_columns
        if by_columns and self.law is not None and self.start.columns is not None:
            columns = self.head.columns(self.start.columns)
            values = self.values.of_law(self.law.moments_of_columns(columns))
            values = powers.scaled(values, self.found.chain.slopes[first.node])
            by_columns = not vanish(values)
            if by_columns:
                self.neurons[first.node] = values
            if by_columns and len(self.found.chain.links) == 1:
                return
        stored: set[Any] = set()
        for rows in self.found.chain.blocks():
            for node, u, v in self.found.chain.along(rows):
                if by_columns and node is first.node:
                    continue
                if self.values.stores and self._straight(node):
                    if node not in stored:
                        self.neurons[node] = self.values.empty(self.batch, u)
                        stored.add(node)
                    self.values.store(u, rows, self.neurons[node])
                else:
                    self._keep(node, rows, self._of_block(node, rows, u, v))
        for node in stored:
            self._check_stored(node)

    def _straight(self, node) -> bool:
        """Whether ∂²o/∂z² at a node vanishes, or is not asked for."""
        return node not in self.curved and node not in self.bent

    def _check_stored(self, node) -> None:
        """Complete what is stored of a node; take it anew, in float64, where it vanishes."""
        values = self.neurons.pop(node)
        if not vanish(values):
            self.neurons[node] = self.values.of_law(values)
            return
        for rows in self.found.chain.blocks():
            u = self.found.chain.of(node, rows).transpose(0, 1)
            self._keep(node, rows, self.values.of(u, rows))

    @property
    def _takes_columns(self) -> bool:
        """Whether the layer below the output layer is faster without gradients."""
        first = self.found.chain.links[0].node
        many = self.law is not None and self.h.shape[1] >= _MANY_CLASSES
        return many and bool(self.values.first) and self._straight(first)

    def _of_block(self, node, rows: slice, u: Tensor, v: Tensor | None) -> dict[str, Tensor]:
        if self._straight(node):
            return self.values.of(u, rows)
        v = self.curved[node][rows] if node in self.curved else v
        assert v is not None
        return self.values.of_bent(u, v, rows)

    def _keep(self, node, rows: slice, found: Mapping[str, Tensor]) -> None:
        """Store the quantities of some examples, with as many digits as any of them have."""
        kept = self.neurons.setdefault(node, {})
        for quantity, value in found.items():
            if quantity not in kept:
                kept[quantity] = value.new_empty(self.batch, value.shape[1])
            wide = torch.promote_types(kept[quantity].dtype, value.dtype)
            kept[quantity] = kept[quantity].to(wide)
            kept[quantity][rows] = value

    def _add_shared(self, block: Block, uses: list[Use]) -> None:
        """Build u of some rows of the parameter and some examples at a time, and add them up."""
        places = self.places(uses)
        row = uses[0].shape[1:].numel()
        taken = self.batch, directions.number(self.h, self.law)
        for part, examples in parts(uses, *taken, self.limit // self.h.element_size()):

            def built(part=part, examples=examples):
                found = (use.jacobian(g, part, examples) for use, g in places)
                return functools.reduce(torch.add, found)

            values = self.values.used_up(built(), examples, built, summed=True)
            at = slice(block.start + part.start * row, block.start + part.stop * row)
            self.sums.add(at, self.count + examples.start, values)
        for use in uses:
            use.release()

    def places(self, uses: list[Use]) -> list[tuple[Use, Tensor]]:
        """Return uses with the gradients there, [output, batch, position, *channels]."""
        return [(use, self._of_use(use)) for use in uses]

    def _of_use(self, use: Use) -> Tensor:
        """Return the gradients at a use, [output, batch, position, *channels]."""
        if use.node is self.start.last:
            g = directions.at_output(self.h, self.law)
        else:
            g = self.found.of(use.node)
        g = use.rows(g)
        if use.order == "batch":
            return g.unflatten(1, (self.batch, -1))
        return g.unflatten(1, (-1, self.batch)).transpose(1, 2)

    def _add_lookup(self, block: Block, use: Lookup) -> None:
        """Add the quantities of a table, for those rows that each example looks up."""
        found = pairs_of(use, self._of_use(use))
        values, columns = self.values.of(found.u, found.example), slice(0, use.shape[1])
        held = self.sums.held(slice(block.start, block.stop), use.shape[0], self.count)
        put(self.sums, block, use.shape, found.row, columns, values, held)
        if held is not None:
            held += seen(found.row, use.shape[0])

    def _put(self, where: slice | Tensor, totals, spread) -> None:
        totals = {quantity: total.flatten() for quantity, total in totals.items()}
        if spread is not None:
            spread = spread.flatten()
        self.sums.add_totals(where, self.count, self.batch, totals, spread)
