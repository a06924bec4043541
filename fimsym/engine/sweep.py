"""Gradients of every output at chosen operations of the autograd graph.

m vector-Jacobian products give ∂h_c/∂z of every output c and example at once, since an
example's output depends on its own rows alone; weights need no gradient. They start at the
input of the output layer where there is one, so that no m×m identity is ever seeded, and go
down a chain of layers by matrix products; autograd does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fimsym.engine.allocations import out_of_memory
from fimsym.engine.backward import batched_vjp, vjp
from fimsym.engine.chain import Chain, Start, slope_between
from fimsym.engine.classes import Classes
from fimsym.engine.graph import Graph
from fimsym.engine.probe import loose, near, random_weights


class Sweep:
    """∂h_c/∂(result of each node), for every output c.

    Args:
        start: Where to begin.
        graph: The graph.
        nodes: Where gradients are wanted.
        batched: Let autograd take all outputs in one batched backward pass; where that may be
            wrong, it is compared with a plain one.
        law: Take ∂(h_c − Σ_j p_j h_j)/∂(result) instead, with p of this law held fixed, for each
            of its directions.
        second: Take second derivatives down the chain, too.

    Attributes:
        chain: Layers of a chain down to the deepest at which gradients are wanted.
        swept: Gradients at all other nodes, [output, *shape of the result].
    """

    def __init__(
        self,
        start: Start,
        graph: Graph,
        nodes: Sequence[Any],
        batched: bool,
        law: Classes | None,
        second: bool = False,
    ):
        linked = {link.node for link in start.links}
        rest = [node for node in nodes if node not in linked] if start.edge is not None else []
        depth = max((i for i, link in enumerate(start.links, 1) if link.node in nodes), default=0)
        depth = len(start.links) if rest else depth
        self.chain = Chain(start, depth, graph.h.detach(), law, second)
        self.swept: dict[Any, Tensor] = {}
        if rest:
            passed = graph.above(rest)
            places = [node if node in passed else graph.elementwise_after(node) or node
                      for node in rest]  # fmt: skip
            how = batched, not graph.ruled
            found = _swept(start.edge, rest, places, self.chain.end(), *how)
            self.swept = {node: g for node, g in zip(rest, found, strict=True) if g is not None}

    def __contains__(self, node: Any) -> bool:
        return node in self.chain.slopes or node in self.swept

    def release(self, nodes: Iterable[Any]) -> None:
        """Give back the gradients at nodes where they are no longer wanted."""
        for node in nodes:
            self.swept.pop(node, None)

    def of(self, node: Any) -> Tensor:
        """Return the gradients at a node, [output, *shape of the result]."""
        return self.swept[node] if node in self.swept else self.chain.of(node)


def _swept(edge, nodes, places, seeds, batched, compared) -> list[Tensor | None]:
    """Return the gradients at the result of every node for every seed, [seed, …].

    Where it need go no farther, autograd goes as far as the elementwise function behind a node,
    its place; the slope of that is the same for every seed.
    """
    ends = [GradientEdge(place, 0) for place in places]
    rows = _batched(edge, ends, seeds) if batched and len(seeds) > 1 else None
    if compared and rows is not None and not _add_up(edge, ends, seeds, rows):
        rows = None
    if rows is not None:
        slopes = _slopes(nodes, places, [None if g is None else g[0] for g in rows])
        pairs = zip(rows, slopes, strict=True)
        return [g if slope is None else g * slope for g, slope in pairs]
    found: list[Tensor | None] = []
    slopes: list[Tensor | None] = []
    for number, seed in enumerate(seeds):
        rows = vjp([edge], ends, [seed.contiguous()])
        if number == 0:
            slopes = _slopes(nodes, places, rows)
            found = [g if g is None else _by_example(len(seeds), g) for g in rows]
        for whole, g, slope in zip(found, rows, slopes, strict=True):
            if whole is None or g is None:
                continue
            if slope is None:
                whole[number].copy_(g)
            else:
                torch.mul(g, slope, out=whole[number])
    return found


def _batched(edge, ends, seeds) -> list[Any] | None:
    """Return the gradients for every seed in one pass, None if an operation does not allow that."""
    try:
        return batched_vjp(edge, ends, seeds)
    except RuntimeError as error:
        if out_of_memory(error):
            raise
        return None


def _add_up(edge, ends, seeds, rows) -> bool:
    """Tell whether gradients of every seed add up to that of a sum of the seeds."""
    w = random_weights(len(seeds), seeds)
    whole = vjp([edge], ends, [torch.tensordot(w, seeds, dims=1)])
    pairs = zip(rows, whole, strict=True)
    return all(
        near(torch.tensordot(w, g, dims=1), one, loose(one.dtype))
        for g, one in pairs if g is not None and one is not None
    )  # fmt: skip


def _slopes(nodes, places, likes) -> list[Tensor | None]:
    """Return the slopes between nodes and their places, None where they are the same."""
    return [
        None if like is None or place is node
        else slope_between(GradientEdge(place, 0), node, torch.ones_like(like))
        for node, place, like in zip(nodes, places, likes, strict=True)
    ]  # fmt: skip


def _by_example(outputs: int, like: Tensor) -> Tensor:
    """Return an empty tensor [output, …] in which all outputs of a row lie together."""
    return like.new_empty(len(like), outputs, *like.shape[1:]).transpose(0, 1)
