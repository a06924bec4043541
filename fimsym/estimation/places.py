"""From gradients at the operations of some inputs to sums over them, one parameter at a time.

A matrix product z = W a used once per example has ∂o/∂W_ij = g_i a_j, so that a quantity of
degree d in derivatives is that of its neuron times a_jᵈ: one matrix product for each quantity,
however many random outputs were drawn. What is used at several positions is built, some rows
of the parameter at a time, with the positions of one example added up.

Source: chain rule; the engine's structured and shared roads, for any outputs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from fimsym.engine.accumulate import Accumulator
from fimsym.engine.memory import at_a_time
from fimsym.engine.network import Block
from fimsym.engine.parts import unit_of
from fimsym.engine.powers import in_memory
from fimsym.engine.uses import Affine, Lookup, Product, Use, split_rows

STRUCTURED, SHARED = "structured", "shared"

_BLOCK = 2**19
"""Entries of derivatives that are built at a time."""
_PRODUCT = 2**22
"""Entries of a matrix product that are added at a time."""


@dataclasses.dataclass(frozen=True)
class At:
    """What derivatives belong to.

    Attributes:
        name: A parameter; for neurons the first that they feed.
        node: The operation whose result the neurons are; None for parameters.
        places: Positions in the flat vector of parameters: a range, or [pair, param]. None
            for neurons.
        owner: Which input of the batch each row belongs to; None for all in order.
        second: Second derivatives [row, output, param]; None where they vanish.
    """

    name: str
    node: Any = None
    places: slice | Tensor | None = None
    owner: Tensor | None = None
    second: Tensor | None = None


class Reduction(Protocol):
    """Turns derivatives into the quantities that are summed over inputs."""

    @property
    def degrees(self) -> Mapping[str, int]:
        """Degree in derivatives of every quantity."""
        ...

    def __call__(self, u: Tensor, at: At) -> dict[str, Tensor]:
        """Return quantities [row, param], in float64, of derivatives [row, output, param]."""
        ...


class Places:
    """Every known place at which parameters enter, for some inputs.

    Args:
        blocks: Where each parameter is in the sums.
        batch: Number of inputs.
        sums: What is added to.
    """

    def __init__(self, blocks: Mapping[str, Block], batch: int, sums: Accumulator):
        self._blocks = blocks
        self._batch = batch
        self._sums = sums
        self._powers: dict[tuple, tuple[Tensor, float]] = {}

    def add(
        self,
        uses: Mapping[str, list[Use]],
        found: Mapping[Any, Tensor | None],
        reduce: Reduction,
        seconds: Mapping[Any, Tensor] | None = None,
    ) -> dict[str, str]:
        """Add the quantities of every parameter.

        Args:
            uses: Every use of each.
            found: Gradients of the outputs at each operation, [output, *shape of its result].
            reduce: From derivatives to quantities.
            seconds: Second derivatives by neurons [batch, output, neuron], where there are any.

        Returns:
            The road each parameter took.
        """
        neurons: dict[Any, dict[str, Tensor]] = {}
        roads = {}
        for name, named in uses.items():
            live = [(use, g) for use in named if (g := found.get(use.node)) is not None]
            roads[name] = STRUCTURED
            if not live:
                continue
            use, g = live[0]
            if len(live) == 1 and self.once(use, g):
                if use.node not in neurons:
                    at = At(name, use.node, second=(seconds or {}).get(use.node))
                    neurons[use.node] = reduce(g.transpose(0, 1), at)
                self._add_once(name, use, neurons[use.node], reduce.degrees)
                continue
            roads[name] = SHARED
            if len(live) == 1 and isinstance(use, Lookup):
                self._add_lookup(name, use, g, reduce)
            else:
                self._add_shared(name, live, reduce)
        return roads

    def add_block(
        self, block: Block, u: Tensor, reduce: Reduction, second: Tensor | None = None
    ) -> None:
        """Add the quantities of derivatives [batch, output, param] of a block of parameters."""
        at = At("", places=slice(block.start, block.stop), second=second)
        for quantity, value in reduce(u, at).items():
            self._put(block.start, quantity, value.sum(0))

    def once(self, use: Use, g: Tensor) -> bool:
        """Tell whether a use is one product, or one shift, per example."""
        if isinstance(use, Product):
            return len(use.inputs) == self._batch
        if not isinstance(use, Affine) or use.factor is not None or use.sign != 1:
            return False
        if len(use.along) != 1 or use.along != tuple(use.shape):
            return False
        return g.shape[1:] == (self._batch, *use.along)

    def _add_once(self, name, use: Use, values: Mapping[str, Tensor], degrees) -> None:
        start = self._blocks[name].start
        for quantity, value in values.items():
            if isinstance(use, Product):
                self._add_product(start, use, quantity, value, degrees[quantity])
            else:
                total = value.sum(0)
                self._put(start, quantity, total)

    def _add_product(self, start: int, use: Product, quantity: str, value: Tensor, degree: int):
        """Add Σ_b value_b a_bᵈ, both factors divided by their largest entries."""
        power, scale = self._power(use.inputs, degree)
        size = float(value.abs().max())
        if size == 0 or scale == 0:
            return
        left, right = (value / size).to(power.dtype), power
        if not use.transposed:
            left, right = right, left
        width = right.shape[1]
        rows = max(1, _PRODUCT // width)
        for first in range(0, left.shape[1], rows):
            product = left[:, first : first + rows].T @ right
            self._put(start + first * width, quantity, product, size * scale)

    def _power(self, inputs: Tensor, degree: int) -> tuple[Tensor, float]:
        """Return (a / max|a|)ᵈ and max|a|ᵈ, d = 2 or 4; small numbers keep their powers so."""
        key = in_memory(inputs), degree
        if key not in self._powers:
            largest = float(inputs.detach().abs().max())
            power = (inputs.detach() / (largest or 1.0)).square_()
            self._powers[key] = power if degree == 2 else power.square_(), largest**degree
        return self._powers[key]

    def _put(self, start: int, quantity: str, total: Tensor, scale: float = 1.0) -> None:
        """Add a multiple of a total to the sums from one position on."""
        place = self._sums.sums[quantity][start : start + total.numel()]
        place.add_(total.flatten(), alpha=scale)

    def _add_shared(self, name, live: list[tuple[Use, Tensor]], reduce: Reduction) -> None:
        shape, block = live[0][0].shape, self._blocks[name]
        height = shape[0] if shape else 1
        row = block.size // max(1, height)
        unit = unit_of(use for use, _ in live)
        outputs = live[0][1].shape[0]
        most = at_a_time(_BLOCK, live[0][1].device)
        size = max(1, most // (self._batch * outputs * row * unit)) * unit
        placed = [(use, self._by_position(use, g)) for use, g in live]
        for first in range(0, height, size):
            part = slice(first, min(first + size, height))
            parts = (use.jacobian(g, part) for use, g in placed)
            u = functools.reduce(torch.add, parts)
            places = slice(block.start + first * row, block.start + part.stop * row)
            for quantity, value in reduce(u, At(name, places=places)).items():
                self._put(places.start, quantity, value.sum(0))

    def _by_position(self, use: Use, g: Tensor) -> Tensor:
        """Return gradients at a use as [output, batch, position, *channels]."""
        g = use.rows(g)
        if use.order == "batch":
            return g.unflatten(1, (self._batch, -1))
        return g.unflatten(1, (-1, self._batch)).transpose(1, 2)

    def _add_lookup(self, name, use: Lookup, g: Tensor, reduce: Reduction) -> None:
        """Add the quantities of a table, for those rows that each example looks up."""
        g = self._by_position(use, g)
        height, width = use.shape
        looked_up = split_rows(use.indices, self._batch, use.order)
        example, position = (looked_up != use.padding).nonzero(as_tuple=True)
        keys = example * height + looked_up[example, position]
        keys, inverse = keys.unique(return_inverse=True)
        picked = g[:, example, position].transpose(0, 1)
        u = g.new_zeros(len(keys), *picked.shape[1:]).index_add_(0, inverse, picked)
        owner, row = keys // height, keys % height
        start = self._blocks[name].start
        columns = torch.arange(width, device=row.device)
        at = At(name, places=start + row[:, None] * width + columns, owner=owner)
        for quantity, value in reduce(u, at).items():
            total = value.new_zeros(height, width).index_add_(0, row, value)
            self._put(start, quantity, total)
