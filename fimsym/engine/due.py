"""Which chunks are compared with some of their examples run apart: the 1st, 4th, 16th and so on."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Hashable, MutableMapping

import torch
from torch import Tensor

_APART = 2


@dataclasses.dataclass
class Due:
    """A comparison that is to be made.

    Attributes:
        counts: How many chunks of every kind there were.
        kind: Of this chunk.
        number: Which chunk of its kind it is.
    """

    counts: MutableMapping[Hashable, int]
    kind: Hashable
    number: int

    def rows(self, inputs: Tensor) -> Tensor:
        """Return some examples of the chunk, others each time."""
        rows = torch.randint(len(inputs), (_APART,), generator=self._generator)
        return rows.to(inputs.device)

    def note(self) -> None:
        """Note that the comparison has been made, else it is due again."""
        self.counts[self.kind] = self.number

    @functools.cached_property
    def _generator(self) -> torch.Generator:
        return torch.Generator().manual_seed(self.number)


def due(counts: MutableMapping[Hashable, int], kind: Hashable) -> Due | None:
    """Count a chunk of a kind; return the comparison that it is up for, if any."""
    number = counts.get(kind, 0) + 1
    if math.log(number, 4).is_integer():
        return Due(counts, kind, number)
    counts[kind] = number
    return None
