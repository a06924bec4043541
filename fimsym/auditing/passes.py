"""Passes over the data of an audit: sums of powers of seeded gradients, whole or by position."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from fimsym.engine import data as inputs_of
from fimsym.engine.checks import traced
from fimsym.engine.graph import Graph
from fimsym.engine.head import Head
from fimsym.engine.network import Network
from fimsym.engine.pieces import LOOKED_AT, grouped
from fimsym.engine.roads import Roads
from fimsym.engine.seeded import Uses, by_position, gradients, power_sums, row_parts
from fimsym.engine.uses import Affine, Convolution, Product, Use


@dataclasses.dataclass(frozen=True)
class Traced:
    """Some inputs with the graph of their forward pass.

    Attributes:
        graph: The graph; its ``h`` is what the network puts out, o.
        uses: Known uses of parameters.
        inputs: [batch, …].
        labels: Of the inputs, None without.
        outputs: o without its graph, [batch, output].
        first: Position of the first input in the data.
    """

    graph: Graph
    uses: Uses
    inputs: Tensor
    labels: Tensor | None
    outputs: Tensor
    first: int


Seeds = Callable[[Traced], Iterable[Tensor]]
"""From some inputs to seeds [batch, output]."""


class Passes:
    """A network and batches that can be gone through again and again.

    Args:
        network: The network.
        head: The law of the labels.
        batches: (inputs, labels or None).
        limit: Budget in bytes.

    Attributes:
        count: Number of inputs.
        outputs: Number of outputs.
    """

    def __init__(self, network: Network, head: Head, batches: list[inputs_of.Batch], limit: int):
        self.network = network
        self.head = head
        self.batches = batches
        self.count = sum(len(inputs) for inputs, _ in batches)
        self._roads = Roads(network, head, (), limit)
        first, _ = batches[0]
        inputs, _ = inputs_of.placed((first[:LOOKED_AT], None), network)
        graph = traced(network, inputs)
        self._rows = self._roads.rows(graph, inputs)[0]
        self.outputs = graph.h.shape[1]

    def of(self, inputs: Tensor, labels: Tensor) -> Passes:
        """Return the same over other data."""
        other = copy.copy(self)
        other.batches, other.count = [(inputs, labels)], len(inputs)
        return other

    @property
    def labelled(self) -> bool:
        """Whether every batch has labels."""
        return all(labels is not None for _, labels in self.batches)

    def pieces(self, size: int | None = None) -> Iterator[tuple[Tensor, Tensor | None, int]]:
        """Yield inputs, labels and the position of the first, `size` at a time in order."""
        first, rows = 0, size or self._rows
        for batch in grouped(self.batches, lambda _: rows):
            inputs, labels = inputs_of.placed(batch, self.network)
            yield inputs, labels, first
            first += len(inputs)

    def traced(self) -> Iterator[Traced]:
        """Yield all inputs with their graphs, as many at a time as fit."""
        for inputs, labels, first in self.pieces():
            graph = traced(self.network, inputs)
            uses = self._roads.uses(graph, inputs)
            yield Traced(graph, uses, inputs, labels, graph.h.detach(), first)

    def within(self, size: int) -> Iterator[tuple[Tensor, Tensor | None, int]]:
        """Yield pieces that end where batches of that size do, and elsewhere."""
        left = size
        for inputs, labels, first in self.pieces():
            start = 0
            while start < len(inputs):
                stop = min(len(inputs), start + left)
                part = slice(start, stop)
                yield inputs[part], None if labels is None else labels[part], first + start
                left = left - (stop - start) or size
                start = stop

    def gradient(self, inputs: Tensor, seed: Callable[[Tensor], Tensor]) -> Tensor:
        """Return Σ_b ∂⟨w_b, o_b⟩/∂θ, [param], by one plain backward pass.

        Args:
            inputs: [batch, …].
            seed: Returns w for o, both [batch, output].
        """
        h, leaves = self.network.traced(inputs)
        given: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
        found = torch.autograd.grad(h, list(leaves.values()), seed(h.detach()).to(h), **given)
        return torch.cat([g.reshape(-1) for g in found]).double()

    def totals(self, seeds: Seeds) -> Tensor:
        """Return Σ_b Σ_seeds s_b² over all inputs, [param]."""
        total = torch.zeros_like(self.network.theta, dtype=torch.float64)
        for at in self.traced():
            for seed in seeds(at):
                total += self.squares(at, seed)
        return total.cpu()

    def squares(self, at: Traced, seed: Tensor) -> Tensor:
        """Return Σ_b s_b² of one seed, [param]."""
        return power_sums(self.network, at.graph, at.uses, at.inputs, seed)[2]

    def totals_by_position(self, seeds: Seeds) -> tuple[Tensor, Tensor]:
        """Return Σ s² with every position of a shared parameter an example of its own.

        Returns:
            The sums over all inputs and seeds [param], and for each parameter at how many
            positions of an input it is used.
        """
        total = torch.zeros_like(self.network.theta, dtype=torch.float64)
        positions = torch.ones_like(total)
        for at in self.traced():
            for seed in seeds(at):
                total += self.squares_by_position(at, seed, positions)
        return total.cpu(), positions.cpu()

    def squares_by_position(self, at: Traced, seed: Tensor, positions: Tensor) -> Tensor:
        """Return Σ s² of one seed over examples and positions; write down how many these are."""
        found = self.squares(at, seed)
        given = gradients(at.graph, at.uses, seed.to(at.graph.h))
        blocks = dict(self.network.parameters())
        for name, uses in at.uses.items():
            live = [(use, given[use.node]) for use in uses if given[use.node] is not None]
            parts = [_Apart(use, g, len(seed)) for use, g in live]
            count = sum(part.positions for part in parts)
            if count > 1:
                place = slice(blocks[name].start, blocks[name].stop)
                found[place] = functools.reduce(torch.add, (part.squares() for part in parts))
                positions[place] = count
        return found

    def shares(self) -> bool:
        """Tell whether a parameter is used at more than one position of an input."""
        at = next(self.traced())
        positions = torch.ones_like(self.network.theta, dtype=torch.float64)
        self.squares_by_position(at, torch.ones_like(at.outputs), positions)
        return bool((positions > 1).any())


class _Apart:
    """One use of a parameter, every position an example of its own.

    As g_t a_tᵀ is rank one, squaring g and a squares it.

    Args:
        use: The use.
        g: Gradient at its result.
        batch: Number of examples.
    """

    def __init__(self, use: Use, g: Tensor, batch: int):
        self._use = _squared(use)
        self._batch = batch
        self._g = by_position(use, g.square(), batch)
        channels = self._g.shape[3:]
        if isinstance(use, Convolution):
            channels = channels[:1]
        elif isinstance(use, Affine):
            channels = torch.Size(use.along)
        self.positions = self._g[0, 0].numel() // channels.numel()

    def squares(self) -> Tensor:
        """Return Σ over examples and positions of (g_t a_t)², [param]."""
        with torch.no_grad():
            parts = [
                self._use.jacobian(self._g, part).double().sum((0, 1))
                for part in row_parts([self._use], self._batch)
            ]
        return torch.cat(parts)


def _squared(use: Use) -> Use:
    if isinstance(use, Convolution):
        return dataclasses.replace(use, inputs=use.inputs.square(), _patches=None)
    if isinstance(use, Product):
        return dataclasses.replace(use, inputs=use.inputs.square())
    if isinstance(use, Affine):
        factor = None if use.factor is None else use.factor.square()
        return dataclasses.replace(use, factor=factor, sign=1.0)
    return use
