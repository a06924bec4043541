"""One registry of family cases; every property runs on every family through it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

Point = tuple[Tensor, Tensor, Tensor]


@dataclasses.dataclass(frozen=True)
class Case:
    """Regions of a family's domain and values of its constants.

    Attributes:
        family: Name.
        outputs: Numbers of outputs to try.
        constants: Values of its constants to try.
        natural: (generator, batch, outputs, scale) -> h, float64.
        scales: Sizes of h, from nearly uniform to extreme.
    """

    family: str
    outputs: tuple[int, ...]
    constants: tuple[dict[str, float], ...]
    natural: Callable[[torch.Generator, int, int, float], Tensor]
    scales: tuple[float, ...]


def _normal(generator: torch.Generator, batch: int, outputs: int, scale: float) -> Tensor:
    return scale * torch.randn(batch, outputs, generator=generator, dtype=torch.float64)


CASES = {
    "gaussian": Case(
        "gaussian", (1, 2, 7), ({}, {"sigma": 0.3}, {"sigma": 25.0}), _normal, (1e-3, 1.0, 1e4)
    ),
    "categorical": Case("categorical", (2, 3, 10), ({},), _normal, (0.1, 1.0, 10.0, 100.0, 1e4)),
}


def points(case: Case, outputs: int, scale: float, seed: int = 0, batch: int = 20) -> Point:
    """Return random h [batch, output], u and v [batch, output, 3] in a region of a case."""
    generator = torch.Generator().manual_seed(seed)
    h = case.natural(generator, batch, outputs, scale)
    shape = (batch, outputs, 3)
    sizes = 10 ** (4 * torch.rand(batch, 1, 3, generator=generator, dtype=torch.float64) - 2)
    u = sizes * torch.randn(shape, generator=generator, dtype=torch.float64)
    v = sizes * torch.randn(shape, generator=generator, dtype=torch.float64)
    return h, u, v
