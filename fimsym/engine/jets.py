"""First and second derivatives along many directions at once, by second-order Taylor series.

A `Jet` carries x(0), x'(0) and x''(0) through a module in one forward sweep. A derivative
that vanishes identically is None and costs nothing: it is proven zero, by the structure of
the computation, and not a tensor of zeros. An operation without an exact rule raises
`NoJetRule`, and the caller takes derivatives another way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from fimsym.engine import jet_attention, jet_layers, jet_operations, jet_picks
from fimsym.engine.jet_table import RULES, NoJetRule
from fimsym.engine.jet_tensor import Jet, Shifted, parts

_ENTERED = (jet_attention, jet_layers, jet_operations, jet_picks)  # each enters its rules

__all__ = ["RULES", "Jet", "NoJetRule", "Shifted", "is_affine_along", "second_order"]


def second_order(
    run: Callable[[Any], Tensor], directions: Any, chunk_size: int | None = None
) -> tuple[Tensor | None, Tensor | None]:
    """Return h'(0) and h''(0) of h(t) = network(θ + t·direction), for every direction.

    Args:
        run: Maps one direction to h. It builds ``Jet(value, direction)`` or
            ``Shifted(weight, direction)`` and calls the network with it, for example by
            ``torch.func.functional_call``.
        directions: Tensor [direction, …], or a dict or tuple of such.
        chunk_size: How many directions to take at once; None for all.

    Returns:
        h' and h'', [direction, *h.shape] each, or None where it vanishes identically.

    Raises:
        NoJetRule: an operation on the way has no exact rule, or cannot be vmapped.
    """
    present: list[bool] = []

    def one(direction):
        _, *moving = parts(run(direction))
        present[:] = [c is not None for c in moving]
        return tuple(torch.zeros(0) if c is None else c for c in moving)

    try:
        # Under vmap torch hands over custom autograd functions too, which are then refused;
        # outside of it they would pass for constants.
        with torch.no_grad():
            found = torch.vmap(one, chunk_size=chunk_size)(directions)
    except (NoJetRule, torch.OutOfMemoryError):
        raise
    except (RuntimeError, NotImplementedError) as error:
        raise NoJetRule(f"second-order jets: {str(error).splitlines()[0]}") from error
    first, second = (c if here else None for c, here in zip(found, present, strict=True))
    return first, second


def is_affine_along(run: Callable[[Any], Tensor], direction: Any) -> bool:
    """Return whether h''(0) is proven to vanish identically, by one sweep.

    What counts is which arguments move, not how far: the answer for one direction in a
    parameter holds for every direction in it, and for every value off the kinks of
    piecewise linear operations. False means not proven.

    Args:
        run: As for `second_order`.
        direction: One direction (or a dict or tuple of such).

    Raises:
        NoJetRule: an operation on the way has no exact rule.
    """
    single = tree_map(lambda e: e.unsqueeze(0), direction)
    return second_order(run, single)[1] is None
