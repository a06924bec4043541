"""Estimators that take second derivatives, and closed forms: every output is differentiated.

Î₂ of a label is Var(s) − w with w = ⟨v, t − η⟩, so that it takes u and v of every output; with
both at hand V₁, V₂ and Cov(Î₁, Î₂) are closed forms, and standard errors follow from them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from fimsym.engine.accumulate import Accumulator
from fimsym.engine.alignment import Alignment
from fimsym.engine.curvatures import Curvatures, Second
from fimsym.engine.derivatives import Differentiator, curvatures_along
from fimsym.engine.head import Head
from fimsym.engine.memory import at_a_time
from fimsym.engine.network import Block, Network
from fimsym.engine.probe import Sizes
from fimsym.engine.recording import NoTape
from fimsym.engine.tiles import ranges
from fimsym.engine.uses import Use
from fimsym.errors import UnsupportedError
from fimsym.estimation.piece import Piece
from fimsym.estimation.places import Places, Reduction

_ENTRIES = 2**18
"""Entries of derivatives that are taken at a time by the functional road."""

_HELD = 2**28
"""Bytes that second derivatives of a layer's neurons may hold at once."""

_COPIES = 16
"""Numbers that every output and direction of an input takes besides."""

_KINKED = ("Relu", "LeakyRelu", "PreluKernel", "Hardtanh", "Threshold", "MaxPool", "Abs")
"""How nodes of piecewise linear operations begin."""

Maker = Callable[[Piece, int, object], Reduction]
"""(inputs, draws, part) -> what is made of the derivatives of every output."""


class Curved:
    """Sums of what follows from first and second derivatives of every output.

    Args:
        network: The network.
        head: The law of the labels.
        alignment: Finds uses of parameters, and compares them with examples run apart.
        quantities: Names of the sums.
        make: What is made of derivatives.

    Attributes:
        shown: How many inputs `start` looks at.
        lacking: Why there is no second derivative, for each parameter that has none.
        last: Parameters of the output layer.
        kinked: Whether an operation of the network has kinks, such as a ReLU.
        passed: Backward passes and directions taken, counted by input.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        alignment: Alignment,
        quantities: tuple[str, ...],
        make: Maker,
    ):
        self.quantities = quantities
        self.shown = 8
        self.lacking: dict[str, str] = {}
        self.last: set[str] = set()
        self.kinked = False
        self.passed = 0
        self._network = network
        self._head = head
        self._alignment = alignment
        self._make = make
        self._curvatures = Curvatures(network)
        self._blocks = dict(network.parameters())
        self._derivatives: dict[str, Differentiator] = {}

    @property
    def ways(self) -> dict[str, str]:
        """How derivatives of parameters whose uses are not known were taken."""
        return {order: taken.way for order, taken in self._derivatives.items()}

    def entries(self, sizes: Sizes, outputs: int) -> int:
        """Return how many numbers one input takes."""
        held = 16 * outputs * sizes.activations + 2 * sizes.patches
        return held + 392 * sizes.activations + 8 * outputs * outputs

    def start(self, piece: Piece) -> None:
        """Find out which parameters have no second derivative, and which the output adds."""
        root = piece.graph.nodes[0]
        self.kinked = any(node.name().startswith(_KINKED) for node in piece.graph.nodes)
        self.last = {name for name, uses in piece.uses.items() if [u.node for u in uses] == [root]}
        zero = self._curvatures.of(piece.graph, piece.inputs).zero
        for name in self._network.names:
            if name in zero:
                continue
            try:
                self._try_second(name, piece)
            except UnsupportedError as error:
                self.lacking[name] = str(error)

    def _try_second(self, name: str, piece: Piece) -> None:
        example = piece.inputs[:1]
        example = example.double() if example.is_floating_point() else example
        along = torch.linspace(0.5, 1.5, piece.outputs.shape[1], dtype=torch.float64)[None]
        block = self._blocks[name]
        curvatures_along(self._network.double, block, example, along.to(example.device), [0])

    def add(self, piece: Piece, draws: int, part: object, sums: Accumulator) -> dict[str, str]:
        """Add what some inputs give; return the road each parameter took."""
        reduce = self._make(piece, draws, part)
        second = self._curvatures.of(piece.graph, piece.inputs)
        found = self._every_output(piece)
        uses, seconds = self._with_curvatures(piece, found, second)
        places = Places(self._blocks, len(piece.inputs), sums)
        with torch.no_grad():
            roads = places.add(uses, found, reduce, seconds)
        rest = [name for name in self._network.names if name not in roads]
        bent = [name for name in rest if self._is_bent(name, second)]
        self._count(piece, seconds, bent)
        straight = [name for name in rest if name not in bent]
        apart = [name for name in bent if not self._add_taped(name, second, reduce, places, sums)]
        self._add_functional(piece, straight, False, reduce, places)
        self._add_functional(piece, apart, True, reduce, places)
        return roads | dict.fromkeys(rest, "functional")

    def _count(self, piece: Piece, seconds: Mapping[Any, Tensor], bent: Collection[str]) -> None:
        neurons = sum(second.shape[-1] for second in seconds.values())
        entries = sum(self._blocks[name].size for name in bent)
        self.passed += (piece.outputs.shape[1] + neurons + entries) * len(piece.inputs)

    def _is_bent(self, name: str, second: Second) -> bool:
        """Tell whether v of a parameter has to be taken."""
        return name not in self.lacking and name not in second.zero

    def _every_output(self, piece: Piece) -> dict[Any, Tensor | None]:
        """Return gradients of every output at each use, [output, *shape of its result]."""
        batch, outputs = piece.outputs.shape
        seeds = (functional.one_hot(c, outputs).expand(batch, -1) for c in torch.arange(outputs))
        found = piece.gradients(seeds, root=False)
        first = {node: None if g is None else g[0] for node, g in found.items()}
        seed = functional.one_hot(torch.tensor(0), outputs).to(piece.outputs).expand(batch, -1)
        at = piece.graph, piece.uses, first, piece.inputs, seed
        due = self._alignment.due(piece.graph, piece.inputs, "outputs")
        if due and not self._alignment.holds_along(due, *at):
            self._alignment.forget(piece.graph)
            piece.uses = {}
            return {}
        eye = torch.eye(outputs).to(piece.outputs)
        return {**found, piece.graph.nodes[0]: eye.unsqueeze(1).expand(outputs, batch, outputs)}

    def _with_curvatures(
        self, piece: Piece, found: Mapping[Any, Tensor | None], second: Second
    ) -> tuple[dict[str, list[Use]], dict[Any, Tensor]]:
        """Return the uses for which all is known, and v of their neurons where it is not zero."""
        places = Places(self._blocks, len(piece.inputs), Accumulator((), 0, self._network.device))
        by_node: dict[Any, list[str]] = {}
        kept: dict[str, list[Use]] = {}
        for name, named in piece.uses.items():
            if not self._is_bent(name, second):
                kept[name] = named
                continue
            (use, *others) = named
            g = found.get(use.node)
            if g is not None and not others and places.once(use, g):
                by_node.setdefault(use.node, []).append(name)
        seconds: dict[Any, Tensor] = {}
        for node, names in by_node.items():
            curved = self._curvatures.of_neurons(names, piece.uses, second, _HELD)
            if curved is not None:
                seconds[node] = curved
                kept |= {name: piece.uses[name] for name in names}
        return {name: kept[name] for name in piece.uses if name in kept}, seconds

    def _add_taped(self, name: str, second: Second, reduce, places: Places, sums) -> bool:
        """Add a parameter by tangents along a tape of the forward pass, if there is one."""
        expansion = second.expansion
        if expansion is None or name not in second.right:
            return False
        h, own = expansion.h, self._blocks[name]
        cost = second.cost(name).times(len(h), both=_COPIES * h.shape[1])
        cut = ranges(cost, expansion.height(name), expansion.width(name), _HELD, h.element_size())
        whole = slice(own.start, own.stop)
        restore = sums.saved([whole])
        try:
            with torch.no_grad():
                for first, last in cut:
                    block = Block(own.start + first, own.start + last)
                    u, v = expansion.block(block)
                    places.add_block(block, u, reduce, v)
        except NoTape:
            restore()
            return False
        return True

    def _add_functional(self, piece: Piece, names, bent: bool, reduce, places: Places) -> None:
        if not names:
            return
        batch, outputs = piece.outputs.shape
        at = (piece.inputs, piece.first, outputs)
        most = at_a_time(_ENTRIES, piece.inputs.device)
        for block in self._network.blocks(max(1, most // (batch * outputs)), names):
            u = self._take("first")(block, *at)
            second = self._take("second")(block, *at) if bent else None
            with torch.no_grad():
                places.add_block(block, u, reduce, second)

    def _take(self, order: str) -> Differentiator:
        if order not in self._derivatives:
            self._derivatives[order] = Differentiator(self._network, order)
        return self._derivatives[order]


def natural(
    head: Head, outputs: Tensor, first: Tensor, second: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return h, u = g'[o'] and v = g''[o', o'] + g'[o''] in float64; None for a zero o''."""
    outputs, first = outputs.double(), first.double()
    second = torch.zeros_like(first) if second is None else second.double()
    link = head.spec.link(head.link)
    if link is None:
        return outputs, first, second
    return head.module.LINKS[link.name](outputs, first, second, **head.constants)
