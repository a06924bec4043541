"""Gradients of every output at chosen operations of the autograd graph.

m vector-Jacobian products give ∂h_c/∂z of every output c and example at once, since an
example's output depends on its own rows alone; weights need no gradient. They start at the
input of the output layer where there is one, so that no m×m identity is ever seeded. Down a
chain of matrix products joined by elementwise functions they are matrix products themselves,
taken for some examples at a time; autograd does the rest.

Source: chain rule; for z' = φ(z) W, ∂h/∂z = (∂h/∂z' Wᵀ) ∘ φ'(z).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fimsym.engine.classes import Classes
from fimsym.engine.graph import ELEMENTWISE, Graph

_PRODUCTS = ("AddmmBackward0", "MmBackward0")
_ENTRIES = 2**18
"""Entries of a gradient that are taken at a time down a chain: they stay in the cache."""


@dataclasses.dataclass
class Link:
    """A layer z = a W whose result elementwise functions φ alone pass on.

    Attributes:
        node: The product, whose result is z.
        width: Number of features of z.
        top: Where φ(z) is taken as an input.
        down: Wᵀ, [features of z, features of a]; None if nothing trainable is below.
    """

    node: Any
    width: int
    top: GradientEdge
    down: Tensor | None


@dataclasses.dataclass
class Start:
    """Where backward passes begin, with ∂h_c/∂(there) known.

    Attributes:
        edge: The place below all links; None if nothing trainable is below it.
        columns: ∂h_c/∂(input of the output layer), [output, features]; None without one.
        last: The output layer's node, if it is one.
        links: Layers in a chain below it, from the last to the first.
    """

    edge: GradientEdge | None
    columns: Tensor | None
    last: Any = None
    links: list[Link] = dataclasses.field(default_factory=list)


def start_of(graph: Graph) -> Start:
    """Return where to begin: at the input of the output layer if h comes from one."""
    root = graph.nodes[0]
    if not _is_layer(root):
        return Start(GradientEdge(root, 0), None)
    edge, below = _input_of(root), _transposed(root)
    start = Start(edge, below, root)
    while edge is not None and below is not None:
        node = edge.node
        while node.name() in ELEMENTWISE and node.next_functions[0][0] is not None:
            node = node.next_functions[0][0]
        if node is edge.node or not _is_layer(node):
            break
        start.links.append(Link(node, below.shape[1], edge, _transposed(node)))
        edge, below = _input_of(node), start.links[-1].down
    start.edge = edge
    return start


def _is_layer(node) -> bool:
    """Tell whether a node is a product with a parameter, plus a parameter or nothing."""
    if node.name() == "AddmmBackward0":
        (bias, _), _, (weight, _) = node.next_functions
        if not node._saved_alpha == node._saved_beta == 1:
            return False
    elif node.name() == "MmBackward0":
        (bias, (weight, _)) = None, node.next_functions[1]
    else:
        return False
    if weight is not None and weight.name() == "TBackward0":
        weight = weight.next_functions[0][0]
    return all(fn is None or hasattr(fn, "variable") for fn in (bias, weight))


def _input_of(layer) -> GradientEdge | None:
    """Return where a layer's input comes from, if that depends on a parameter."""
    fn, number = layer.next_functions[1 if layer.name() == "AddmmBackward0" else 0]
    return None if fn is None else GradientEdge(fn, number)


def _transposed(layer) -> Tensor | None:
    """Return Wᵀ of a layer a W, if autograd keeps it for the gradient of a."""
    weight = layer._saved_mat2
    return None if weight is None else weight.detach().T


class Sweep:
    """∂h_c/∂(result of each node), for every output c.

    Args:
        start: Where to begin.
        graph: The graph.
        nodes: Where gradients are wanted.
        batched: Let autograd take all outputs in one batched backward pass.
        law: Take ∂(h_c − Σ_j p_j h_j)/∂(result) instead, with p of this law held fixed.

    Attributes:
        chain: Those layers of a chain down to the deepest at which gradients are wanted.
        slopes: φ'(z) of each of them, [batch, features].
        swept: Gradients at all other nodes, [output, *shape of the result].
    """

    def __init__(
        self, start: Start, graph: Graph, nodes: Sequence[Any], batched: bool, law: Classes | None
    ):
        self._start = start
        self._h = graph.h.detach()
        self._law = law
        linked = {link.node for link in start.links}
        rest = [node for node in nodes if node not in linked]
        depth = max((i for i, link in enumerate(start.links, 1) if link.node in nodes), default=0)
        self.chain = start.links if rest and start.edge is not None else start.links[:depth]
        batch = len(self._h)
        self.slopes = {
            link.node: _slope(link.top, link.node, self._h.new_ones(batch, link.width))
            for link in self.chain
        }
        self.swept: dict[Any, Tensor] = {}
        if rest and start.edge is not None:
            self._sweep(graph, rest, batched)

    def __contains__(self, node: Any) -> bool:
        return node in self.slopes or node in self.swept

    def of(self, node: Any) -> Tensor:
        """Return the gradients at a node, [output, *shape of the result]."""
        if node in self.swept:
            return self.swept[node]
        found = next(g for other, g in self.chained(slice(None)) if other is node)
        return found.transpose(0, 1)

    def chained(self, rows: slice | Tensor) -> Iterator[tuple[Any, Tensor]]:
        """Yield each node of the chain and ∂h_c/∂z of some examples, [example, output, feature].

        To be used up before the next one is asked for.
        """
        return ((link.node, g) for link, g in self._walk(rows))

    def blocks(self) -> Iterator[slice]:
        """Yield ranges of examples so small that their gradients stay in the cache."""
        batch, outputs = self._h.shape
        widest = max((link.width for link in self.chain), default=1)
        size = max(1, _ENTRIES // (outputs * widest))
        size = math.ceil(batch / math.ceil(batch / size))
        for first in range(0, batch, size):
            yield slice(first, min(first + size, batch))

    def _walk(self, rows: slice | Tensor) -> Iterator[tuple[Link, Tensor]]:
        """Yield ∂h_c/∂z of some examples down the chain, [example, output, feature]."""
        g = self._seeds(rows)
        for place, link in enumerate(self.chain):
            slope = self.slopes[link.node][rows].unsqueeze(1)
            g = g.mul_(slope) if g.is_contiguous() else g * slope
            yield link, g
            if link.down is not None and place + 1 < len(self.chain):
                g = g @ link.down

    @functools.cached_property
    def _columns(self) -> Tensor:
        """∂h_c/∂(input of the output layer); without what all outputs share, if that cancels."""
        columns = self._start.columns
        if columns is None:
            columns = torch.eye(self._h.shape[1], dtype=self._h.dtype, device=self._h.device)
        return columns if self._law is None else columns - columns.mean(0)

    @functools.cached_property
    def _lag(self) -> Tensor:
        """How far the mean of the columns is from that of the likeliest class."""
        return self._law.lag(self._columns)

    def _seeds(self, rows: slice | Tensor) -> Tensor:
        """Return ∂h_c/∂(input of the output layer), [example, output, feature]."""
        if self._law is not None:
            return self._law[rows].centred(self._columns, self._lag[rows])
        count = len(self._h[rows])
        return self._columns.expand(count, *self._columns.shape)

    def _sweep(self, graph, nodes, batched) -> None:
        """Let autograd go on where the chain ends."""
        seeds = self._seeds(slice(None))
        for link, g in self._walk(slice(None)):
            seeds = g @ link.down
        places = [graph.elementwise_after(node) or node for node in nodes]
        found = _swept(self._start.edge, nodes, places, seeds.transpose(0, 1), batched)
        self.swept = {node: g for node, g in zip(nodes, found, strict=True) if g is not None}


def _slope(edge: GradientEdge, node: Any, ones: Tensor) -> Tensor:
    """Return φ' of the elementwise functions between a node and what they end in."""
    (slope,) = torch.autograd.grad([edge], [GradientEdge(node, 0)], [ones], retain_graph=True)
    return slope


def _swept(edge, nodes, places, seeds, batched) -> list[Tensor | None]:
    """Return the gradients at the result of every node for every seed, [seed, …].

    Autograd goes as far as the elementwise function behind a node, its place; the slope of
    that is the same for every seed.
    """
    ends = [GradientEdge(place, 0) for place in places]
    given = {"retain_graph": True, "allow_unused": True}
    if batched and len(seeds) > 1:
        rows = torch.autograd.grad([edge], ends, [seeds], is_grads_batched=True, **given)
        slopes = _slopes(nodes, places, [None if g is None else g[0] for g in rows])
        pairs = zip(rows, slopes, strict=True)
        return [g if slope is None else g.mul_(slope) for g, slope in pairs]
    found: list[Tensor | None] = []
    slopes: list[Tensor | None] = []
    for number, seed in enumerate(seeds):
        rows = torch.autograd.grad([edge], ends, [seed.contiguous()], **given)
        if number == 0:
            slopes = _slopes(nodes, places, rows)
            found = [g if g is None else _by_example(len(seeds), g) for g in rows]
        for whole, g, slope in zip(found, rows, slopes, strict=True):
            if whole is not None and slope is None:
                whole[number].copy_(g)
            elif whole is not None:
                torch.mul(g, slope, out=whole[number])
    return found


def _slopes(nodes, places, likes) -> list[Tensor | None]:
    """Return the slopes between nodes and their places, None where they are the same."""
    return [
        None if like is None or place is node
        else _slope(GradientEdge(place, 0), node, torch.ones_like(like))
        for node, place, like in zip(nodes, places, likes, strict=True)
    ]  # fmt: skip


def _by_example(outputs: int, like: Tensor) -> Tensor:
    """Return an empty tensor [output, …] in which all outputs of a row lie together."""
    return like.new_empty(len(like), outputs, *like.shape[1:]).transpose(0, 1)
