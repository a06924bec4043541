"""The layers next to the output: matrix products joined by elementwise functions.

Down such a chain gradients of every output are matrix products themselves, taken for some
examples at a time, and so are second derivatives along single neurons: only the φ between
layers bend, each by as much as it moves.

Source: chain rule; for z' = φ(z) W, ∂h/∂z = (∂h/∂z' Wᵀ) ∘ φ'(z), and along neuron k of z
∂²h/∂z_k² = Σ_y Σ_j ∂h/∂φ(y_j) φ''(y_j) (∂y_j/∂z_k)² over z itself and all layers y above it.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fimsym.engine import directions
from fimsym.engine.backward import vjp
from fimsym.engine.classes import Classes
from fimsym.engine.graph import Graph
from fimsym.engine.memory import at_a_time
from fimsym.engine.placement import ACTIVATIONS, kind_of

_PRODUCTS = ("AddmmBackward0", "MmBackward0")
_ENTRIES = 2**19
"""Entries of a gradient, or of a Jacobian, that are taken at a time: they stay in the cache."""


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
        while kind_of(node) in ACTIVATIONS and node.next_functions[0][0] is not None:
            node = node.next_functions[0][0]
        if node is edge.node or not _is_layer(node):
            break
        start.links.append(Link(node, below.shape[1], edge, _transposed(node)))
        edge, below = _input_of(node), start.links[-1].down
    start.edge = edge
    return start


def unlinked(start: Start) -> Start:
    """Return where to begin if all layers below the output layer are left to autograd."""
    edge = start.links[0].top if start.links else start.edge
    return Start(edge, start.columns, start.last)


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


def _of(link: Link) -> Tensor:
    """Return Wᵀ of a layer with another one below it."""
    assert link.down is not None
    return link.down


def _transposed(layer) -> Tensor | None:
    """Return Wᵀ of a layer a W, if autograd keeps it for the gradient of a."""
    weight = layer._saved_mat2
    return None if weight is None else weight.detach().T


class Chain:
    """∂h_c/∂z, and ∂²h_c/∂z_k² of single neurons, down a chain of layers, for every output c.

    Args:
        start: Where to begin.
        depth: Number of layers.
        h: What the network put out, [batch, output].
        law: Take ∂(h_c − Σ_j p_j h_j)/∂z instead, with p of this law held fixed.
        second: Take second derivatives, too.

    Attributes:
        links: The layers.
        slopes: φ'(z) of each, [batch, features].
        bends: φ''(z) of each, if second derivatives are taken.
    """

    def __init__(self, start: Start, depth: int, h: Tensor, law: Classes | None, second: bool):
        self.links = start.links[:depth]
        self.slopes: dict[Any, Tensor] = {}
        self.bends: dict[Any, Tensor] = {}
        self._start = start
        self._h = h
        self._law = law
        for link in self.links:
            ones = h.new_ones(len(h), link.width)
            if second:
                self.slopes[link.node], self.bends[link.node] = _bend(link.top, link.node, ones)
            else:
                self.slopes[link.node] = slope_between(link.top, link.node, ones)

    def blocks(self) -> Iterator[slice]:
        """Yield ranges of examples so small that their gradients stay in the cache."""
        batch = len(self._h)
        widest = max((link.width for link in self.links), default=1)
        most = at_a_time(_ENTRIES, self._h.device)
        size = max(1, most // (directions.number(self._h, self._law) * widest))
        size = math.ceil(batch / math.ceil(batch / size))
        for first in range(0, batch, size):
            yield slice(first, min(first + size, batch))

    def along(
        self, rows: slice | Tensor, depth: int | None = None
    ) -> Iterator[tuple[Any, Tensor, Tensor | None]]:
        """Yield each node with ∂h_c/∂z and, if they are taken, ∂²h_c/∂z² of some examples.

        They are [example, output, feature], the caller's own.

        Args:
            rows: The examples.
            depth: How many layers to go down; all if None.
        """
        outer, above = self.seeds(rows), []
        links = self.links[:depth]
        for place, link in enumerate(links):
            slope, v = self.slopes[link.node][rows].unsqueeze(1), None
            if self.bends:
                above.append(outer * self.bends[link.node][rows].unsqueeze(1))
                v = self._bent(above, rows)
            own = place or self._law is not None  # else these are the network's weights
            u = outer.mul_(slope) if own else outer * slope
            last = link.down is None or place + 1 == len(links)
            outer = u if last else u @ _of(link)
            yield link.node, u, v

    def _bent(self, terms: list[Tensor], rows: slice | Tensor) -> Tensor:
        """Return ∂²h_c/∂z² at the last of some layers, [example, output, feature].

        Args:
            terms: ∂h_c/∂φ(y) φ''(y) at every layer down to it.
            rows: The examples.
        """
        if len(terms) == 1:
            return terms[0].clone()
        *links, last = self.links[: len(terms)]
        slope = self.slopes[last.node][rows].unsqueeze(1)
        down = _of(links[-1])
        found = terms[-2] @ down.square()
        if len(links) > 1:
            slopes = [self.slopes[link.node][rows] for link in links]
            most = at_a_time(_ENTRIES, found.device)
            size = max(1, most // max(_of(link).numel() for link in links))
            for first in range(0, len(found), size):
                some = slice(first, first + size)
                moved = down.expand(len(found[some]), *down.shape)
                for place in range(len(links) - 2, -1, -1):
                    moved = _of(links[place]) @ (slopes[place + 1][some].unsqueeze(-1) * moved)
                    found[some] += terms[place][some] @ moved.square()
        return torch.addcmul(terms[-1], found, slope.square())

    def of(self, node: Any, rows: slice = slice(None)) -> Tensor:
        """Return ∂h_c/∂z of some examples at one node, [output, batch, feature]."""
        depth = 1 + [link.node for link in self.links].index(node)
        return self._last(rows, depth).transpose(0, 1)

    def _last(self, rows: slice, depth: int) -> Tensor:
        return collections.deque(self.along(rows, depth), maxlen=1).pop()[1]

    def end(self) -> Tensor:
        """Return ∂h_c/∂(the place below all layers), [output, batch, feature]."""
        if not self.links:
            return self.seeds(slice(None), together=False).transpose(0, 1)
        g, down = self._last(slice(None), len(self.links)), self.links[-1].down
        return (g if down is None else g @ down).transpose(0, 1)

    def seeds(self, rows: slice | Tensor, together: bool = True) -> Tensor:
        """Return ∂h_c/∂(input of the output layer), [example, output, feature].

        Args:
            rows: The examples.
            together: See `Classes.centred`; without a law it does not matter.
        """
        if self._law is not None:
            law = self._law[rows]
            few = isinstance(rows, Tensor)
            lag = law.lag(self._centred) if few else self._lag[rows]
            return law.centred(self._centred, lag, together)
        count = len(self._h[rows])
        return self._columns.expand(count, *self._columns.shape)

    @functools.cached_property
    def _columns(self) -> Tensor:
        if self._start.columns is not None:
            return self._start.columns
        return torch.eye(self._h.shape[1], dtype=self._h.dtype, device=self._h.device)

    @functools.cached_property
    def _centred(self) -> Tensor:
        """The columns without what they share."""
        return self._columns - self._columns.mean(0)

    @functools.cached_property
    def _lag(self) -> Tensor:
        """How far the means of all examples are from the likeliest class."""
        assert self._law is not None
        return self._law.lag(self._centred)


def slope_between(edge: GradientEdge, node: Any, ones: Tensor) -> Tensor:
    """Return φ' of the elementwise functions between a node and a place above it."""
    (slope,) = vjp([edge], [GradientEdge(node, 0)], [ones])
    return slope


def _bend(edge: GradientEdge, node: Any, ones: Tensor) -> tuple[Tensor, Tensor]:
    """Return φ' and φ''."""
    ends = [GradientEdge(node, 0)]
    (slope,) = vjp([edge], ends, [ones], create_graph=True)
    if not slope.requires_grad:
        return slope, torch.zeros_like(slope)
    (bend,) = vjp([slope], ends, [ones])
    return slope.detach(), torch.zeros_like(slope) if bend is None else bend
