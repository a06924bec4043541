"""Some inputs of the data, and what their forward pass computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fimsym.engine.graph import Graph
from fimsym.engine.uses import Use


@dataclasses.dataclass
class Piece:
    """Some inputs with the graph of their forward pass.

    Attributes:
        graph: What the network computed.
        inputs: [batch, …].
        labels: Labels of the data, None without.
        rows: Row of each input in the data, on the CPU.
        first: Position of the first among this process's inputs.
        uses: Known uses of parameters.
    """

    graph: Graph
    inputs: Tensor
    labels: Tensor | None
    rows: Tensor
    first: int
    uses: dict[str, list[Use]]

    @property
    def outputs(self) -> Tensor:
        """What the network put out, [batch, output]."""
        return self.graph.h.detach()

    def gradients(self, seeds: Iterable[Tensor], root: bool = True) -> dict[Any, Tensor | None]:
        """Return ∂⟨r_k, o⟩/∂z at the result z of every use, [k, *shape of z].

        One backward pass for each k and all inputs, down to these results alone: an input's
        output depends on its own rows.

        Args:
            seeds: r of each k, [batch, output].
            root: Also at o itself.
        """
        nodes = list({use.node: None for named in self.uses.values() for use in named})
        nodes = [node for node in nodes if root or node is not self.graph.nodes[0]]
        if not nodes:
            return {}
        edges = [GradientEdge(node, 0) for node in nodes]
        given = {"retain_graph": True, "allow_unused": True}
        each = [
            torch.autograd.grad([self.graph.h], edges, [seed.to(self.graph.h)], **given)
            for seed in seeds
        ]
        found = zip(nodes, zip(*each, strict=True), strict=True)
        return {
            node: None if of_draws[0] is None else torch.stack(of_draws) for node, of_draws in found
        }
