"""Random numbers that depend on the seed and on an input's row in the data, not on batches.

Rows are taken sixteen at a time: every such block has a generator of its own, seeded by a hash
of the seed, of what the numbers are for, and of the block. Whatever rows a batch, a chunk or a
process holds, they get the same numbers, on every device.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import torch
from torch import Generator, Tensor

BLOCK = 16
"""Rows that share a generator."""


class Noise:
    """Random numbers for rows of the data.

    Args:
        seed: Of everything drawn.
        purpose: What they are for; other purposes get independent numbers.
    """

    def __init__(self, seed: int, *purpose: object):
        self._key = (seed, *purpose)

    def uniform(self, rows: Tensor, draws: int, width: int) -> Tensor:
        """Return numbers between 0 and 1, both excluded, [draw, row, width], in float64.

        Args:
            rows: Rows of the data in increasing order, on the CPU.
            draws: How many to draw for each.
            width: Numbers of each draw.
        """
        drawn = self._each(
            rows,
            draws,
            width,
            lambda *s, generator: _open(torch.rand(*s, generator=generator, dtype=torch.float64)),
        )
        return drawn

    def normal(self, rows: Tensor, draws: int, width: int) -> Tensor:
        """Return standard normal numbers, likewise, in float32."""
        return self._each(rows, draws, width, torch.randn)

    def signs(self, rows: Tensor, draws: int, width: int) -> Tensor:
        """Return −1 or 1, likewise, in float32."""

        def fair(*shape: int, generator: Generator) -> Tensor:
            return torch.randint(2, shape, generator=generator, dtype=torch.int8)

        return 2.0 * self._each(rows, draws, width, fair) - 1

    def seed(self, row: int) -> int:
        """Return the seed of the block that starts with a row."""
        digest = hashlib.blake2b(repr((*self._key, row)).encode(), digest_size=8).digest()
        return int.from_bytes(digest) >> 1

    def _each(self, rows: Tensor, draws: int, width: int, draw: Callable[..., Tensor]) -> Tensor:
        parts = []
        blocks, sizes = torch.unique_consecutive(rows // BLOCK, return_counts=True)
        inside = (rows % BLOCK).split(sizes.tolist())
        for block, places in zip(blocks.tolist(), inside, strict=True):
            generator = Generator().manual_seed(self.seed(block * BLOCK))
            whole = draw(draws, BLOCK, width, generator=generator)
            parts.append(whole if len(places) == BLOCK else whole[:, places])
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _open(uniform: Tensor) -> Tensor:
    """Return numbers of [0, 1) moved away from 0, whose logarithm would be infinite."""
    return uniform.clamp_(min=2.0**-54)
