"""Some inputs of the data, and what their forward pass computed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from fimsym.engine.backward import at_nodes
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
        each = [at_nodes(self.graph.h, nodes, seed.to(self.graph.h)) for seed in seeds]
        return {
            node: None if each[0][node] is None else torch.stack([one[node] for one in each])
            for node in nodes
        }
