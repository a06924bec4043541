"""v = ∂²h/∂θ² of some inputs, for any rows and columns of a parameter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fimsym.engine import directions
from fimsym.engine import graph as graphs
from fimsym.engine.chain import start_of, unlinked
from fimsym.engine.classes import Classes
from fimsym.engine.network import Block, Network
from fimsym.engine.owners import owners
from fimsym.engine.probe import loose, near, random_weights
from fimsym.engine.recording import NoTape, Step
from fimsym.engine.replay import Replay
from fimsym.engine.sweep import Sweep
from fimsym.engine.tangents import LEAD, Pick, Tangent
from fimsym.engine.tape import Plan, Tape, record

_VIEWS = {torch.ops.aten.t, torch.ops.aten.transpose, torch.ops.aten.permute, torch.ops.aten.alias}

Some = slice | Sequence[int]
"""Rows or columns."""


class Expansion:
    """The tape of some inputs, with what second derivatives by any parameter need.

    Args:
        network: The network.
        inputs: The inputs, [batch, …].
        law: Take ∂²(h_c − Σ_j p_j h_j) instead, with p of this law held fixed.

    Attributes:
        tape: The tape.
        h: The network's output, [batch, output].
        owned: Numbers of the operations that bend of which it is known which entries are
            whose, once prepared.

    Raises:
        NoTape: the network does something that cannot be written down.
    """

    def __init__(self, network: Network, inputs: Tensor, law: Classes | None = None):
        self._network = network
        self._batch = len(inputs)
        self._law = law
        self._leaves = network.leaves()
        self.tape: Tape = record(lambda leaves: network.called(leaves, inputs), self._leaves)
        self.h = self.tape.values[self.tape.result]
        if self.h.ndim != 2 or len(self.h) != self._batch:
            raise NoTape("the result is not one row for each input")
        self._blocks = dict(network.parameters())
        self._replay: Replay | None = None
        self.owned: set[int] = set()

    @property
    def outputs(self) -> int:
        """Number of outputs, or of the law's directions."""
        return directions.number(self.h, self._law)

    def plan_of(self, name: str) -> Plan:
        """Return what there is to do when a parameter moves."""
        return self.tape.plan(self.tape.sources[name])

    def rows(self, name: str, rows: Some, columns: Some) -> Tensor | None:
        """Return v of some rows and columns of a parameter.

        Args:
            name: The parameter; all axes but the first are its columns.
            rows: Range of rows, or their numbers.
            columns: Range of columns, or their numbers.

        Returns:
            [batch, output, row, column]; None where it vanishes identically.

        Raises:
            NoTape: an operation mixes examples.
        """
        start, along, across = self._entries(name, rows, columns)
        return self._along(self.tape.sources[name], start, along, across)

    def slopes(self, name: str, rows: Some, columns: Some) -> tuple[Tensor, Tensor]:
        """Return u and v of some rows and columns, [batch, output, row, column]; see `rows`.

        These are of all outputs; under a law v is less its mean, and u is not.
        """
        start, along, across = self._entries(name, rows, columns)
        place, sizes = self.tape.sources[name], (len(along), len(across))
        with torch.no_grad():
            known = self.tape.plan(place, True)
            u, v = self.prepare().curvatures(known, {place: start}, *sizes)
        zero = self.h.detach().new_zeros(1, 1, *self.h.shape)
        if v is not None and self._law is not None:
            v = self._law.completed(v)
        u, v = ((zero if part is None else part).expand(*sizes, -1, -1) for part in (u, v))
        return u.permute(2, 3, 0, 1), v.permute(2, 3, 0, 1)

    def _entries(self, name: str, rows: Some, columns: Some) -> tuple[Tangent, Tensor, Tensor]:
        """Return the tangent of a parameter along its entries, and their rows and columns."""
        along, across = self._numbers(rows), self._numbers(columns)
        shape = self._network.shapes[name]
        picks, left = [], across
        if shape and shape[0] > 1:
            picks.append(Pick(0, 0, along))
        for axis in reversed(range(1, len(shape))):
            if shape[axis] > 1:
                picks.append(Pick(axis, 1, left % shape[axis]))
            left = left // shape[axis]
        return Tangent(shape, (self._one(shape),), tuple(picks)), along, across

    def looked_up(
        self, name: str, examples: Tensor, slots: Tensor, columns: slice
    ) -> Tensor | None:
        """Return v of those rows of a table that each example looks up.

        Args:
            name: The table, looked up once.
            examples: Which example every index is of, flat.
            slots: Rows of the table for each example, [batch, row], −1 for none.
            columns: Range of columns.

        Returns:
            [batch, output, row, column]; None where it vanishes identically.

        Raises:
            NoTape: an operation mixes examples, or the lookup is not found.
        """
        step = self._taker(self.tape.sources[name])
        place, indices = step.results[0], step.args[1]
        if step.name is not torch.ops.aten.embedding or not isinstance(indices, Tensor):
            raise NoTape("the lookup is not found")
        shape = self.tape.values[place].shape
        across = self._numbers(columns)
        mine = slots[examples.reshape(indices.shape)].movedim(-1, 0)
        hit = (mine == indices).to(self.h.dtype).unsqueeze(-1).unsqueeze(1)
        last = len(shape) - 1
        picks = (Pick(last, 1, across),) if shape[last] > 1 else ()
        rows = torch.arange(slots.shape[1], device=self.h.device)
        return self._along(place, Tangent(shape, (hit,), picks), rows, across)

    def block(self, block: Block) -> tuple[Tensor, Tensor]:
        """Return u and v of a range of a parameter, [batch, output, param].

        Args:
            block: Whole rows one after another, or part of one.

        Raises:
            NoTape: an operation mixes examples.
        """
        name = self._network.name_at(block.start)
        first, width = block.start - self._blocks[name].start, self.width(name)
        row, last = first // width, -(-(first + block.size) // width)
        columns = slice(first % width, first % width + block.size)
        columns = columns if last - row == 1 else slice(0, width)
        u, v = self.slopes(name, slice(row, last), columns)
        return u.flatten(2), v.flatten(2)

    def height(self, name: str) -> int:
        """Return how many rows a parameter has."""
        shape = self._network.shapes[name]
        return shape[0] if shape else 1

    def width(self, name: str) -> int:
        """Return how many columns a parameter has."""
        return self._blocks[name].size // self.height(name)

    def neurons(self, name: str, rows: slice) -> Tensor | None:
        """Return v of some results of the product that a weight is used in, once per example.

        Args:
            name: The weight.
            rows: Range of results.

        Returns:
            [batch, output, row]; None where it vanishes identically.

        Raises:
            NoTape: an operation mixes examples, or the product is not found.
        """
        place = self._layer(name)
        shape = self.tape.values[place].shape
        along = self._numbers(rows)
        if len(shape) != 2 or shape[0] != self._batch:
            raise NoTape("the layer is not found")
        picks = (Pick(1, 0, along),) if shape[1] > 1 else ()
        start = Tangent(shape, (self._one(shape),), picks)
        found = self._along(place, start, along, along[:1])
        return None if found is None else found.squeeze(-1)

    def _layer(self, name: str) -> int:
        """Return the place of the result of the only operation that takes a parameter."""
        place = self.tape.sources[name]
        while True:
            step = self._taker(place)
            place = step.results[0]
            if step.name not in _VIEWS:
                return place

    def _taker(self, place: int) -> Step:
        """Return the only operation that takes a value."""
        takers = [step for step in self.tape.steps if place in step.inputs]
        if len(takers) != 1 or takers[0].many:
            raise NoTape("the layer is not found")
        return takers[0]

    def _numbers(self, some: Some) -> Tensor:
        numbers = range(some.start, some.stop) if isinstance(some, slice) else some
        return torch.tensor(list(numbers), device=self.h.device)

    def _one(self, shape) -> Tensor:
        return torch.ones([1] * (LEAD + len(shape)), dtype=self.h.dtype, device=self.h.device)

    def _along(self, place: int, start: Tangent, rows: Tensor, columns: Tensor) -> Tensor | None:
        known = self.tape.plan(place)
        if not known.steps:
            return None
        with torch.no_grad():
            _, found = self.prepare().curvatures(known, {place: start}, len(rows), len(columns))
        if found is None:
            return None
        found = found.expand(len(rows), len(columns), *found.shape[LEAD:])
        return found.permute(2, 3, 0, 1)

    def prepare(self) -> Replay:
        """Take the gradients at every place where something bends, once."""
        if self._replay is not None:
            return self._replay
        tape = self.tape
        bent = sorted(set().union(*(self.plan_of(name).bent for name in tape.sources)))
        places = {tape.steps[number].results[0] for number in bent}
        around = places.union(*(tape.steps[number].inputs for number in bent))
        graph = graphs.read(self.h, self._leaves)
        adjoints = self._adjoints(graph, places, not graph.loops)
        if not graph.loops and not self._agree(adjoints):
            adjoints = self._adjoints(graph, places, False)
        if not self._agree(adjoints):
            raise NoTape("batched gradients are wrong")
        owned = owners(tape, sorted(around))
        results = ((number, tape.steps[number].results[0]) for number in bent)
        self.owned = {n for n, place in results if place in owned or adjoints[place] is None}
        self._replay = Replay(tape, adjoints, owned, self._batch)
        return self._replay

    def _adjoints(self, graph, places: set[int], batched: bool) -> dict[int, Tensor | None]:
        nodes = {place: self.tape.values[place].grad_fn for place in sorted(places)}
        start = unlinked(start_of(graph))
        wanted = set(nodes.values())
        inside = [node for node in graph.nodes if node in wanted and node is not start.last]
        found = Sweep(start, graph, inside, batched, self._law)
        adjoints: dict[int, Tensor | None] = {}
        for place, node in nodes.items():
            if node is start.last:
                adjoints[place] = directions.at_output(self.h.detach(), self._law)
            else:
                adjoints[place] = found.of(node) if node in found else None
        return adjoints

    def _agree(self, adjoints: Mapping[int, Tensor | None]) -> bool:
        """Compare gradients of all outputs with one plain backward pass."""
        if not adjoints:
            return True
        w = random_weights(self.outputs, self.h)
        seeds = directions.weighted(w, self.h, self._law)
        values = [self.tape.values[place] for place in adjoints]
        given: dict[str, Any] = {"retain_graph": True, "materialize_grads": True}
        plain = torch.autograd.grad([self.h], values, [seeds], allow_unused=True, **given)
        wholes = (torch.zeros_like(one) if g is None else torch.tensordot(w, g, dims=1)
                  for g, one in zip(adjoints.values(), plain, strict=True))  # fmt: skip
        limit = loose(self.h.dtype)
        return all(near(whole, one, limit) for whole, one in zip(wholes, plain, strict=True))
