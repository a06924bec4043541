"""Which rows of an operation belong to which example, found and checked by numbers.

A gradient at an operation's rows is ∂h_c/∂z of one example only if those rows influence
that example's output alone. That is not read off shapes: in float64, backward passes with a
random weight for every example must return that weight at its rows, and the uses of a
parameter together must give its plain gradient. The first chunk of every size, the
fourth, the 16th and so on are then compared with some of their examples run apart.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge

from fimsym.engine import graph as graphs
from fimsym.engine.graph import Graph
from fimsym.engine.network import Network
from fimsym.engine.sweep import Gradient, start_of
from fimsym.engine.uses import Use, split_rows

Uses = Mapping[str, list[Use]]
"""Every use of each parameter."""

_TOLERANCE = 1e-9
_PROBED = 8
_APART = 2


@dataclasses.dataclass
class Sizes:
    """How many numbers one input takes.

    Attributes:
        activations: Entries of the results of all uses.
        swept: Those of them at which a gradient of every output is held.
        patches: Entries of what convolutions see at every position.
    """

    activations: int = 0
    swept: int = 0
    patches: int = 0


@dataclasses.dataclass
class Known:
    """What has been found out about graphs of one signature.

    Attributes:
        orders: For each parameter the order of rows of each use.
        sizes: What one input takes.
    """

    orders: dict[str, list[str]]
    sizes: Sizes = dataclasses.field(default_factory=Sizes)


class Alignment:
    """Finds, per parameter, uses whose rows are known to belong to examples.

    Args:
        network: The network.
    """

    def __init__(self, network: Network):
        self._network = network
        self._double = network.double()
        self._known: dict[tuple, Known] = {}
        self._generator = torch.Generator().manual_seed(0)
        self._compared: dict[tuple, int] = {}

    def uses(self, graph: Graph, inputs: Tensor) -> dict[str, list[Use]]:
        """Return every use of each parameter for which all are known, with their orders."""
        orders = self.known(graph, inputs).orders
        return {name: _ordered(graph.uses[name], order) for name, order in orders.items()}

    def known(self, graph: Graph, inputs: Tensor) -> Known:
        """Return what holds for a graph, found out from some of its inputs."""
        if graph.signature not in self._known:
            few = inputs[:_PROBED] if len(inputs) > 1 else inputs.repeat_interleave(2, 0)
            found = self._probe(few, graph.signature) or self._probe(inputs, graph.signature)
            fine = self._fine_enough(graph, inputs[:_PROBED])
            self._known[graph.signature] = found if found and fine else Known({})
        return self._known[graph.signature]

    def _fine_enough(self, graph: Graph, inputs: Tensor) -> bool:
        """Tell whether h is what it is in float64, up to one part in a hundred."""
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        with torch.no_grad():
            exact = self._double.forward(inputs)
        return _near(graph.h.detach()[: len(inputs)].double(), exact, 1e-2)

    def forget(self, graph: Graph) -> None:
        """Leave every parameter of such graphs to the functional road."""
        self._known[graph.signature] = Known({})

    def _probe(self, inputs: Tensor, signature: tuple) -> Known | None:
        """Return what holds for graphs of this signature; None if these inputs have another."""
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        try:
            h, leaves = self._double.traced(inputs)
            graph = graphs.read(h, leaves)
            if graph.signature != signature:
                return None
            return _agreeing(graph, leaves)
        except (RuntimeError, NotImplementedError, AttributeError):
            return Known({})  # the functional road says what such a model lacks

    def holds(
        self,
        graph: Graph,
        uses: Uses,
        found: Mapping[Any, Gradient],
        inputs: Tensor,
        centred: bool,
    ) -> bool:
        """Tell whether some examples of a chunk, run apart, say the same.

        Where rounding alone may be why they do not, as next to the kink of a ReLU, the
        whole chunk is compared in float64.

        Args:
            graph: Graph of the chunk.
            uses: Every use to be trusted, for each parameter.
            found: Gradients of every output at each node.
            inputs: The chunk.
            centred: Something may have been subtracted from all outputs alike.
        """
        if len(inputs) <= 1 or not self._is_due(graph, len(inputs)):
            return True
        rows = torch.randint(len(inputs), (_APART,), generator=self._generator)
        rows = rows.to(inputs.device)
        w = _random(graph.h.shape[1], graph.h)
        w = w - w.mean() if centred else w

        def mixed(use):
            if use.node not in found:
                return None
            g = use.rows(found[use.node].outer)
            places = _places(g.shape[1], len(inputs), use.order, rows)
            along = torch.tensordot(w, g[:, places.flatten()], dims=1).unflatten(0, places.shape)
            slope = found[use.node].slope
            return along if slope is None else along * use.rows(slope[None])[0, places]

        if self._apart(self._network, graph, uses, mixed, inputs, rows, w):
            return True
        if self._network.dtype == torch.float64:
            return False
        plain = _along(graph, uses, w)
        for use in (use for named in uses.values() for use in named):
            one = plain[use.node]
            if use.node in found and one is not None:
                whole = torch.tensordot(w, found[use.node].whole, dims=1)
                if not _near(whole, one, _loose(w.dtype)):
                    return False
        return self._holds_in_double(graph, uses, inputs, rows, w.double())

    def _is_due(self, graph: Graph, batch: int) -> bool:
        """Tell whether to compare a chunk: the first, fourth, 16th, … of a graph and size."""
        key = graph.signature, batch
        self._compared[key] = number = self._compared.get(key, 0) + 1
        return math.log(number, 4).is_integer()

    def _holds_in_double(self, graph, uses, inputs, rows, w) -> bool:
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        h, leaves = self._double.traced(inputs)
        double = graphs.read(h, leaves)
        if double.signature != graph.signature:
            return False
        ordered = {
            name: _ordered(double.uses[name], [use.order for use in named])
            for name, named in uses.items()
        }
        slopes = _along(double, ordered, w)

        def mixed(use):
            g = slopes[use.node]
            if g is None:
                return None
            return _of_examples(use.rows(g[None])[0], len(inputs), use.order, rows)

        return self._apart(self._double, double, ordered, mixed, inputs, rows, w)

    def _apart(self, network, graph, uses, mixed, inputs, rows, w) -> bool:
        """Compare h, what each use holds, and gradients along w."""
        h, leaves = network.traced(inputs[rows])
        apart = graphs.read(h, leaves)
        eps = 1e3 * torch.finfo(h.dtype).eps
        if apart.signature != graph.signature or not _near(h, graph.h[rows], eps):
            return False
        twins = {
            name: _ordered(apart.uses[name], [use.order for use in named])
            for name, named in uses.items()
        }
        slopes = _along(apart, twins, w)
        for name, named in uses.items():
            for use, twin in zip(named, twins[name], strict=True):
                here, there = use.data, twin.data
                if here is not None and there is not None:
                    here = _of_examples(here, len(inputs), use.order, rows)
                    if not _near(split_rows(there, len(rows), use.order), here, eps):
                        return False
                one, other = mixed(use), slopes[twin.node]
                if one is not None and other is not None:
                    other = split_rows(twin.rows(other[None])[0], len(rows), use.order)
                    if not _near(other, one, _loose(h.dtype)):
                        return False
        return True


def _loose(dtype: torch.dtype) -> float:
    """Return how closely gradients agree that were rounded at every layer."""
    return (1e3 * torch.finfo(dtype).eps) ** 0.5


def _along(graph: Graph, uses: Uses, w: Tensor) -> dict[Any, Tensor | None]:
    """Return the gradients of Σ_b ⟨w, h_b⟩ at the nodes of the uses."""
    nodes = list({use.node for named in uses.values() for use in named})
    if not nodes:
        return {}
    edges = [GradientEdge(node, 0) for node in nodes]
    seed = w.expand_as(graph.h)
    given = {"retain_graph": True, "allow_unused": True}
    return dict(zip(nodes, torch.autograd.grad([graph.h], edges, [seed], **given), strict=True))


def _places(rows: int, batch: int, order: str, examples: Tensor) -> Tensor:
    """Return where the rows of some examples are, [example, position]."""
    return split_rows(torch.arange(rows, device=examples.device), batch, order)[examples]


def _of_examples(rows: Tensor, batch: int, order: str, examples: Tensor) -> Tensor:
    """Return those rows that belong to some examples, in the same order for any batch."""
    return split_rows(rows, batch, order)[examples]


def _agreeing(graph: Graph, leaves) -> Known:
    """Return the orders of rows of the parameters for which plain gradients agree."""
    h = graph.h
    batch, outputs = h.shape
    w, r = _random(outputs, h), _random(batch, h)
    known = {name: uses for name, uses in graph.uses.items() if uses is not None}
    nodes = list({use.node for uses in known.values() for use in uses})
    if not nodes:
        return Known({name: [] for name in known})
    edges = [GradientEdge(node, 0) for node in nodes]
    given = {"retain_graph": True, "allow_unused": True}
    seed = w.expand(batch, outputs)
    plain = dict(zip(nodes, torch.autograd.grad([h], edges, [seed], **given), strict=True))
    names = list(known)
    edges += [torch.autograd.graph.get_gradient_edge(leaves[name]) for name in names]
    found = torch.autograd.grad([h], edges, [r[:, None] * seed], **given)
    weighted = dict(zip(nodes, found, strict=False))
    truth = dict(zip(names, found[len(nodes) :], strict=True))
    agreeing = {}
    for name, uses in known.items():
        orders = [_order(use, plain[use.node], weighted[use.node], r) for use in uses]
        if None in orders:
            continue
        try:
            parts = [_summed(use, g) for use in uses if (g := weighted[use.node]) is not None]
            ruled = functools.reduce(torch.add, parts) if parts else h.new_zeros(())
        except (RuntimeError, ValueError, IndexError):
            continue
        one = truth[name]
        if one is None or _near(ruled, one.flatten(), _TOLERANCE):
            agreeing[name] = orders
    taken = {use.node: use for name in agreeing for use in known[name]}
    held = {
        node: g.numel() // batch for node, g in plain.items() if node in taken and g is not None
    }
    start = start_of(graph)
    swept = sum(size for node, size in held.items() if node not in (start.last, start.below))
    patches = sum(use.patches for use in taken.values()) // batch
    return Known(agreeing, Sizes(sum(held.values()), swept, patches))


def _order(use: Use, plain: Tensor | None, weighted: Tensor | None, r: Tensor) -> str | None:
    """Return which axis rows run over first, or None if they belong to no single example."""
    if plain is None or weighted is None:
        return "batch"
    try:
        one, other = use.rows(plain[None])[0], use.rows(weighted[None])[0]
    except RuntimeError:
        return None
    if len(one) % len(r):
        return None
    for order in ("batch", "position"):
        many = split_rows(one, len(r), order)
        scale = r.reshape(-1, *[1] * (many.ndim - 1))
        if _near(scale * many, split_rows(other, len(r), order), _TOLERANCE):
            return order
    return None


def _summed(use: Use, g: Tensor) -> Tensor:
    """Return the gradient of a use, summed over examples, flattened."""
    rows = use.rows(g[None]).unsqueeze(1)
    whole = slice(0, use.shape[0] if use.shape else 1)
    (alone,) = _ordered([use], ["batch"])
    return alone.jacobian(rows, whole).flatten()


def _ordered(uses, orders) -> list[Use]:
    return [dataclasses.replace(use, order=order) for use, order in zip(uses, orders, strict=True)]


def _near(one: Tensor, other: Tensor, tolerance: float) -> bool:
    """Tell whether two tensors agree relative to the largest entry."""
    if one.shape != other.shape:
        return False
    if not one.is_floating_point():
        return bool((one == other).all())
    other = other.to(one.dtype)
    size = other.abs().max() + torch.finfo(one.dtype).tiny if other.numel() else 0
    return not other.numel() or bool((one - other).abs().max() <= tolerance * size)


def _random(size: int, like: Tensor) -> Tensor:
    """Return fixed random numbers away from 0, like a tensor."""
    generator = torch.Generator().manual_seed(size)
    draws = torch.rand(size, generator=generator, dtype=torch.float64) + 0.5
    signs = torch.rand(size, generator=generator, dtype=torch.float64) - 0.5
    return (draws * signs.sign()).to(like.device, like.dtype)
