"""Which entries of the values of a tape belong to which example, found by numbers."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor

from fimsym.engine.backward import vjp
from fimsym.engine.probe import near, random_weights
from fimsym.engine.sites import Owner
from fimsym.engine.tape import Tape

_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-2}


def owners(tape: Tape, places: Collection[int]) -> dict[int, Owner]:
    """Return the owners of the entries at some places; a place that mixes examples has none.

    A backward pass with a random weight for every example must return that weight at its
    entries.

    Args:
        tape: Of some inputs.
        places: Where they are wanted.
    """
    if not places:
        return {}
    h, places = tape.values[tape.result], list(places)
    values = [tape.values[place] for place in places]
    w, r = random_weights(h.shape[1], h), random_weights(len(h), h)
    seed = w.expand_as(h)
    plain = vjp([h], values, [seed])
    weighted = vjp([h], values, [r[:, None] * seed])
    pairs = zip(places, plain, weighted, strict=True)
    found = {place: _owner(one, other, r) for place, one, other in pairs}
    return {place: owner for place, owner in found.items() if owner is not None}


def _owner(plain: Tensor | None, weighted: Tensor | None, r: Tensor) -> Owner | None:
    if plain is None or weighted is None:
        return None
    count = len(r)
    for axis, size in enumerate(plain.shape):
        if size % count:
            continue
        for order, sizes in (("batch", (count, -1)), ("position", (-1, count))):
            shape = [1] * (plain.ndim + 1)
            shape[axis + (order == "position")] = count
            scaled = plain.unflatten(axis, sizes) * r.reshape(shape)
            if near(scaled, weighted.unflatten(axis, sizes), _TOLERANCE[r.dtype]):
                return Owner(axis, order)
    return None
