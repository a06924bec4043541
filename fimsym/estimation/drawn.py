"""Estimators that draw: one backward pass for each label or probe, and a mean of squares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fimsym.engine.accumulate import Accumulator
from fimsym.engine.alignment import Alignment
from fimsym.engine.head import Head
from fimsym.engine.network import Network
from fimsym.engine.probe import Sizes
from fimsym.estimation.control import Coefficients, Pilot
from fimsym.estimation.piece import Piece
from fimsym.estimation.places import Places, Reduction
from fimsym.estimation.projection import Projected
from fimsym.estimation.seeds import Labels
from fimsym.estimation.squares import SECOND, TOTAL, WITHIN, Squares

TOGETHER = 8
"""Most draws that are held at a time; the scatter within each such group is pooled."""
PILOT = 256
"""Most inputs from which coefficients of the control variate are learnt."""
_LEARNT_FROM = 2048
"""Draws from which they are learnt in all."""

Source = Callable[[Tensor, Tensor, int, object], Tensor]
"""(outputs, rows, draws, part) -> random vectors at the output, [draw, batch, output]."""


def groups(draws: int) -> list[int]:
    """Return sizes of groups of at most eight draws, each of two at least if possible."""
    count = -(-draws // TOGETHER)
    return [draws // count + (number < draws % count) for number in range(count)]


def pilot_draws(inputs: int) -> int:
    """Return how many draws of each of so many inputs coefficients are learnt from."""
    return -(-_LEARNT_FROM // inputs)


class Drawn:
    """Sums of squared gradients of random outputs.

    Args:
        network: The network.
        head: The law of the labels.
        alignment: Finds uses of parameters, and compares them with examples run apart.
        source: Draws random vectors; None for those of the data's own labels.
        given: Returns the vectors of labels of the data, if `source` is None.
        controlled: Use the score as a control variate.
        second: Whether the scatter over inputs is wanted.

    Attributes:
        shown: How many inputs `start` looks at.
        passed: Backward passes taken, counted by input.
        of_outputs: Σ_x I and Σ_x V₁ of the outputs themselves, in closed form, [2, output];
            empty unless labels are drawn.
    """

    def __init__(
        self,
        network: Network,
        head: Head,
        alignment: Alignment,
        source: Source | None,
        given: Callable[[Piece], Tensor] | None = None,
        controlled: bool = False,
        second: bool = False,
    ):
        self.quantities = (TOTAL, WITHIN, *((SECOND,) if second else ()))
        self.shown = PILOT
        self.passed = 0
        self.of_outputs = torch.zeros(2, 0, dtype=torch.float64, device=network.device)
        self._network = network
        self._head = head
        self._alignment = alignment
        self._source = source
        self._given = given
        self._controlled = controlled
        self._coefficients: Coefficients | None = None
        self._second = second
        self._projected: Projected | None = None
        self._blocks = dict(network.parameters())

    @property
    def ways(self) -> dict[str, str]:
        """How derivatives of parameters whose uses are not known were taken."""
        return {} if self._projected is None else {"first": self._projected.way}

    def entries(self, sizes: Sizes, outputs: int) -> int:
        """Return how many numbers one input takes."""
        held = (8 + 3 * TOGETHER) * sizes.activations + 2 * sizes.patches
        return held + 8 * TOGETHER * outputs

    def start(self, piece: Piece) -> None:
        """Learn coefficients of the control variate from labels that are not used again."""
        if not self._controlled:
            return
        assert self._source is not None
        pilot = Pilot(self._network.size)
        nothing = Accumulator((), self._network.size, self._network.device, False)
        places = Places(self._blocks, len(piece.inputs), nothing)
        for number, size in enumerate(groups(pilot_draws(len(piece.inputs)))):
            seeds = self._source(piece.outputs, piece.rows, size, ("pilot", number))
            self._add_seeds(piece, seeds, pilot, places)
        self._coefficients = pilot.coefficients()

    def add(self, piece: Piece, draws: int, part: object, sums: Accumulator) -> dict[str, str]:
        """Add draws of every input; return the road each parameter took.

        Args:
            piece: The inputs.
            draws: How many for each.
            part: Which part of all draws these are.
            sums: What is added to.
        """
        reduce = Squares(self._second, self._with_exact(piece))
        if isinstance(self._source, Labels) and part == 0:
            self._add_outputs(piece)
        places = Places(self._blocks, len(piece.inputs), sums)
        roads: dict[str, str] = {}
        for number, size in enumerate(groups(draws)):
            if self._source is None:
                assert self._given is not None
                seeds = self._given(piece)
            else:
                seeds = self._source(piece.outputs, piece.rows, size, (part, number))
            roads = self._add_seeds(piece, seeds, reduce, places, check=number == 0)
        return roads

    def _add_outputs(self, piece: Piece) -> None:
        found = self._head.of_outputs(("fisher", "variance_score_squared"), piece.outputs)
        sums = torch.stack([value.double().sum(0) for value in found.values()])
        self.of_outputs = sums + (self.of_outputs if self.of_outputs.numel() else 0)

    def _with_exact(self, piece: Piece) -> Coefficients | None:
        """Return the coefficients, those of the outputs themselves from closed forms."""
        if self._coefficients is None:
            return None
        found = self._head.of_outputs(("fisher", "third"), piece.outputs)
        fisher, third = found["fisher"].double(), found["third"].double()
        exact = torch.where(fisher > 0, -third / fisher, 0.0)
        self._coefficients.exact = {piece.graph.nodes[0]: exact}
        return self._coefficients

    def _add_seeds(
        self, piece: Piece, seeds: Tensor, reduce: Reduction, places: Places, check: bool = False
    ) -> dict[str, str]:
        found = piece.gradients(seeds)
        self.passed += len(seeds) * len(piece.inputs)
        if check and not self._holds(piece, found, seeds):
            self._alignment.forget(piece.graph)
            piece.uses, found = {}, {}
        with torch.no_grad():
            roads = places.add(piece.uses, found, reduce)
        rest = [name for name in self._network.names if name not in roads]
        if rest:
            self._projected = self._projected or Projected(self._network)
            seeds = seeds.to(piece.graph.h)
            for block, u in self._projected(rest, piece.inputs, seeds, piece.first):
                with torch.no_grad():
                    places.add_block(block, u, reduce)
        return roads | dict.fromkeys(rest, "functional")

    def _holds(self, piece: Piece, found: dict[Any, Tensor | None], seeds: Tensor) -> bool:
        due = self._alignment.due(piece.graph, piece.inputs, len(seeds))
        if due is None:
            return True
        first = {node: None if g is None else g[0] for node, g in found.items()}
        seed = seeds[0].to(piece.graph.h)
        at = piece.graph, piece.uses, first, piece.inputs, seed
        return self._alignment.holds_along(due, *at)


def dof(draws: Sequence[int]) -> int:
    """Return the degrees of freedom of Σ (x − x̄)² per input, of parts of so many draws."""
    return sum(size - 1 for part in draws for size in groups(part))
