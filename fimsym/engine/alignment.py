"""Which rows of an operation belong to which example, proven or found, and checked by numbers.

A gradient at an operation's rows is ∂h_c/∂z of one example only if those rows influence
that example's output alone. That is not read off shapes: the rules of the operations place every
example, or else, in float64, backward passes with a random weight for every example must return
that weight at its rows. The uses of a parameter together must give its plain gradient. The first
chunk of every size, the fourth, the 16th and so on are then compared with some of their examples
run apart; which one it is counts over all calls where no data can change what was found out.

What one call has found out about a network holds for the next ones, whatever its parameters are
by then: it is about operations and rows, and gradients that vanish have shown nothing.
"""

from __future__ import annotations

import weakref
from collections import ChainMap
from collections.abc import Callable, Hashable, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from fimsym.engine import directions
from fimsym.engine import graph as graphs
from fimsym.engine.backward import at_nodes
from fimsym.engine.classes import Classes
from fimsym.engine.due import Due, due
from fimsym.engine.graph import Graph
from fimsym.engine.network import Network
from fimsym.engine.probe import Known, agreeing, loose, near, ordered, random_weights
from fimsym.engine.sweep import Sweep
from fimsym.engine.uses import Use, split_rows
from fimsym.errors import UnsupportedError

Uses = Mapping[str, list[Use]]
"""Every use of each parameter."""

_PROBED = 8
_LASTING = 100
"""Most graphs of a model that are remembered."""
_OF_MODELS: MutableMapping[nn.Module, dict[tuple, Known]] = weakref.WeakKeyDictionary()
"""What earlier calls have found out, for each model that still exists."""


class Alignment:
    """Finds, per parameter, uses whose rows are known to belong to examples.

    Args:
        network: The network.
    """

    def __init__(self, network: Network):
        self._network = network
        shapes = tuple(network.shapes.items())
        self._network_key = network.theta.dtype, network.theta.device.type, shapes
        self._lasting = _OF_MODELS.setdefault(network.model, {})
        self._known: ChainMap[tuple, Known] = ChainMap({}, self._lasting)
        self._lately: tuple[Callable[[], Graph | None], Known] = lambda: None, Known({})
        self._noted: dict[tuple, Known] = {}

    def uses(self, graph: Graph, inputs: Tensor) -> dict[str, list[Use]]:
        """Return every use of each parameter for which all are known, with their orders."""
        orders = self.known(graph, inputs).orders
        return {name: ordered(graph.uses[name], order) for name, order in orders.items()}

    def known(self, graph: Graph, inputs: Tensor) -> Known:
        """Return what holds for a graph, found out from some of its inputs.

        It is found out anew from all inputs where others may have shown too little, or where
        rows may go elsewhere each time.
        """
        key = self._key(graph)
        found = self._known.get(key)
        if found is not None and found.sure:
            return found
        lately, held = self._lately
        if lately() is graph:
            return held
        several = inputs if len(inputs) > 1 else inputs.repeat_interleave(2, 0)
        fixed = graph.layout is not None
        if found is None and fixed:
            found = self._probe(several[:_PROBED], graph)
        if found is None or not found.sure:
            found = self._probe(several, graph) or self._probe(inputs, graph) or Known({})
        self._lately = weakref.ref(graph), found
        if fixed:
            self._known[key] = found
            if found.sure and found.orders and len(self._lasting) < _LASTING:
                self._lasting[key] = found
        return found

    def forget(self, graph: Graph) -> None:
        """Leave every parameter of such graphs to the functional road."""
        self._known[self._key(graph)] = Known({})
        self._lasting.pop(self._key(graph), None)

    def _key(self, graph: Graph) -> tuple:
        return *self._network_key, *_key(graph), graph.layout

    def _probe(self, inputs: Tensor, graph: Graph) -> Known | None:
        """Return what holds for such graphs; None if these inputs have another.

        Nothing holds unless h is what it is in float64, up to one part in a hundred.
        """
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        try:
            h, leaves = self._network.double.traced(inputs)
            exact = graphs.read(h, leaves)
            elsewhere = len(graph.h) > 1 and exact.layout != graph.layout
            if _key(exact) != _key(graph) or elsewhere:
                return None
            rows = min(len(h), len(graph.h))
            fine = near(graph.h.detach()[:rows].double(), h.detach()[:rows], 1e-2)
            return agreeing(exact, leaves) if fine else Known({})
        except UnsupportedError:
            raise
        except (RuntimeError, NotImplementedError, AttributeError):
            return Known({})  # the functional road says what such a model lacks

    def due(self, graph: Graph, inputs: Tensor, way: Hashable, swept: bool = True) -> Due | None:
        """Return the comparison due of a chunk: the first, fourth, 16th, … of a way and size.

        Batched backward passes of some operations are wrong at some sizes only. Chunks of earlier
        calls count if what they have shown lasts.

        Args:
            graph: Graph of the chunk.
            inputs: The chunk.
            way: How its gradients are taken.
            swept: Whether autograd has taken backward passes; else sizes count together.
        """
        if len(inputs) <= 1:
            return None
        return due(self._lasting_of(graph).compared, (way, len(inputs) if swept else 0))

    def looped(self, graph: Graph) -> bool:
        """Tell whether backward passes have to be taken one by one."""
        return graph.loops or self._lasting_of(graph).looped

    def distrust(self, graph: Graph) -> None:
        """Have backward passes of such graphs taken one by one."""
        self._lasting_of(graph).looped = True

    def _lasting_of(self, graph: Graph) -> Known:
        """Return where to note what was found about graphs: beyond this call if it lasts."""
        key = self._key(graph)
        known = self._known.get(key)
        if known is not None and known.sure:
            return known
        return self._noted.setdefault(key, Known({}))

    def holds(
        self,
        due: Due,
        graph: Graph,
        uses: Uses,
        found: Sweep | None,
        inputs: Tensor,
        law: Classes | None,
    ) -> bool:
        """Tell whether some examples of a chunk, run apart, say the same.

        Where rounding alone may be why they do not, as next to the kink of a ReLU, the
        whole chunk is compared in float64.

        Args:
            due: The comparison.
            graph: Graph of the chunk.
            uses: Every use to be trusted, for each parameter.
            found: Gradients of every output at each node; None to leave them out.
            inputs: The chunk.
            law: Whose directions gradients are taken along; None for all outputs.
        """
        rows = due.rows(inputs)
        w = random_weights(directions.number(graph.h, law), graph.h)
        seeds = directions.weighted(w, graph.h, law)

        along = () if found is None else found.chain.along(rows)
        chained = {node: (w @ g).unsqueeze(1) for node, g, _ in along}

        def mixed(use):
            if found is None or use.node not in found.swept:
                return chained.get(use.node)
            g = use.rows(found.swept[use.node])
            places = _places(g.shape[1], len(inputs), use.order, rows)
            return torch.tensordot(w, g[:, places.flatten()], dims=1).unflatten(0, places.shape)

        if self._apart(self._network, graph, uses, mixed, inputs, rows, seeds):
            due.note()
            return True
        if self._network.dtype == torch.float64:
            return False
        plain = _along(graph, uses, seeds)
        for use in (use for named in uses.values() for use in named):
            one = plain[use.node]
            if found is not None and use.node in found and one is not None:
                whole = torch.tensordot(w, found.of(use.node), dims=1)
                if not near(whole, one, loose(w.dtype)):
                    return False
        fine = self._holds_in_double(graph, uses, inputs, rows, seeds.double())
        if fine:
            due.note()
        return fine

    def holds_along(
        self,
        due: Due,
        graph: Graph,
        uses: Uses,
        found: Mapping[Any, Tensor | None],
        inputs: Tensor,
        seed: Tensor,
    ) -> bool:
        """Tell whether some examples of a chunk, run apart, have the same gradients.

        Args:
            due: The comparison.
            graph: Graph of the chunk.
            uses: Every use to be trusted, for each parameter.
            found: Gradients of Σ_b ⟨r_b, h_b⟩ at each node.
            inputs: The chunk.
            seed: r, [batch, output].
        """
        rows = due.rows(inputs)

        def mixed(use):
            g = found.get(use.node)
            if g is None:
                return None
            return _of_examples(use.rows(g[None])[0], len(inputs), use.order, rows)

        fine = self._apart(self._network, graph, uses, mixed, inputs, rows, seed) or (
            self._network.dtype != torch.float64
            and self._holds_in_double(graph, uses, inputs, rows, seed.double())
        )
        if fine:
            due.note()
        return fine

    def _holds_in_double(self, graph, uses, inputs, rows, seeds) -> bool:
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        h, leaves = self._network.double.traced(inputs)
        double = graphs.read(h, leaves)
        if _key(double) != _key(graph):
            return False
        in_order = {
            name: ordered(double.uses[name], [use.order for use in named])
            for name, named in uses.items()
        }
        slopes = _along(double, in_order, seeds)

        def mixed(use):
            g = slopes[use.node]
            if g is None:
                return None
            return _of_examples(use.rows(g[None])[0], len(inputs), use.order, rows)

        return self._apart(self._network.double, double, in_order, mixed, inputs, rows, seeds)

    def _apart(self, network, graph, uses, mixed, inputs, rows, seeds) -> bool:
        """Compare h, what each use holds, and gradients of Σ_b ⟨seed_b, h_b⟩."""
        h, leaves = network.traced(inputs[rows])
        apart = graphs.read(h, leaves)
        eps = 1e3 * torch.finfo(h.dtype).eps
        if _key(apart) != _key(graph) or not near(h, graph.h[rows], eps):
            return False
        twins = {
            name: ordered(apart.uses[name], [use.order for use in named])
            for name, named in uses.items()
        }
        slopes = _along(apart, twins, seeds[rows])
        for name, named in uses.items():
            for use, twin in zip(named, twins[name], strict=True):
                here, there = use.data, twin.data
                if here is not None and there is not None:
                    here = _of_examples(here, len(inputs), use.order, rows)
                    if not near(split_rows(there, len(rows), use.order), here, eps):
                        return False
                one, other = mixed(use), slopes[twin.node]
                if one is not None and other is not None:
                    other = split_rows(twin.rows(other[None])[0], len(rows), use.order)
                    if not near(other, one, loose(h.dtype)):
                        return False
        return True


def _key(graph: Graph) -> tuple:
    """Return the same for graphs of the same operations on as many rows for each example."""
    return graph.signature, tuple(graph.positions.items())


def _along(graph: Graph, uses: Uses, seeds: Tensor) -> dict[Any, Tensor | None]:
    """Return the gradients of Σ_b ⟨seed_b, h_b⟩ at the nodes of the uses."""
    nodes = list({use.node for named in uses.values() for use in named})
    return at_nodes(graph.h, nodes, seeds)


def _places(rows: int, batch: int, order: str, examples: Tensor) -> Tensor:
    """Return where the rows of some examples are, [example, position]."""
    return split_rows(torch.arange(rows, device=examples.device), batch, order)[examples]


def _of_examples(rows: Tensor, batch: int, order: str, examples: Tensor) -> Tensor:
    """Return those rows that belong to some examples, in the same order for any batch."""
    return split_rows(rows, batch, order)[examples]
