"""Per-example gradients of random outputs, for parameters whose uses are not known."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from fimsym.engine.derivatives import Differentiator
from fimsym.engine.memory import at_a_time
from fimsym.engine.network import Block, Network

_ENTRIES = 2**21
"""Entries of derivatives that are built at a time."""


class Projection(Network):
    """⟨r_k(x), o(x)⟩ of some inputs, as a network whose inputs are their positions.

    Args:
        network: The network o.
    """

    def __init__(self, network: Network):
        self._whole = network
        self._given: list[Tensor] = []
        self.__dict__.update((k, v) for k, v in network.__dict__.items() if k != "double")

    @functools.cached_property
    def double(self) -> Projection:
        """The same in float64, of the same inputs."""
        copied = Projection(self._whole.double)
        copied._given = self._given
        return copied

    def load(self, inputs: Tensor, seeds: Tensor) -> None:
        """Set the inputs [batch, …] and the vectors r [output k, batch, output of o]."""
        self._given[:] = inputs, seeds.transpose(0, 1)

    def with_block(self, block: Block, values: Tensor, inputs: Tensor) -> Tensor:
        """Return ⟨r_k, o⟩ [batch, k] at positions, with parameters of `block` set to `values`."""
        found, seeds = (x.index_select(0, inputs) for x in self._given)
        if found.is_floating_point():
            found = found.to(values.dtype)
        outputs = super().with_block(block, values, found)
        return torch.einsum("bko,bo->bk", seeds.to(values.dtype), outputs)


class Projected:
    """Takes derivatives of random outputs, checked as the engine checks its own.

    Args:
        network: The network.
    """

    def __init__(self, network: Network):
        self._projection = Projection(network)
        self._take = Differentiator(self._projection, "first")

    @property
    def way(self) -> str:
        """How derivatives are taken."""
        return self._take.way

    def __call__(
        self, names: Collection[str], inputs: Tensor, seeds: Tensor, first_row: int
    ) -> Iterator[tuple[Block, Tensor]]:
        """Yield ∂⟨r_k, o⟩/∂θ of each block of parameters, [batch, k, param].

        Args:
            names: The parameters.
            inputs: [batch, …].
            seeds: r, [k, batch, output].
            first_row: Position of the first input in the data, for messages.
        """
        self._projection.load(inputs, seeds)
        positions = torch.arange(len(inputs), device=inputs.device)
        most = at_a_time(_ENTRIES, inputs.device)
        largest = max(1, most // (len(inputs) * len(seeds)))
        for block in self._projection.blocks(largest, names):
            yield block, self._take(block, positions, first_row, len(seeds))
