"""The control variate of the squared score: c s, of mean 0, added to s².

Any c that does not depend on the draws leaves the mean of s² + c s as it is; its variance is
least at c = −κ₃₀/κ₂₀ = −E s³/E s². At a neuron, of which s(W_ij) = g_i a_j, the coefficient of
a weight is c_i a_j, so that one number per neuron serves all its weights and every input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fimsym.estimation.places import At


@dataclasses.dataclass
class Coefficients:
    """Coefficients c of every parameter.

    Attributes:
        neurons: By the first parameter that the neurons feed, [neuron].
        flat: Of parameters that are not taken by neuron, [param]; None without such.
        exact: By operation, one for each input, [batch, neuron]; where there are any they
            are used.
    """

    neurons: Mapping[str, Tensor]
    flat: Tensor | None
    exact: Mapping[Any, Tensor] = dataclasses.field(default_factory=dict)

    def of(self, at: At) -> Tensor | float:
        """Return c, to be multiplied with derivatives [row, draw, param]; 0 if not known."""
        if at.node is not None:
            if at.node in self.exact:
                return self.exact[at.node].unsqueeze(1)
            return self.neurons.get(at.name, 0.0)
        if self.flat is None:
            return 0.0
        found = self.flat[at.places]
        return found.unsqueeze(1) if found.ndim > 1 else found


class Pilot:
    """A reduction that sums nothing, and learns coefficients from the draws it is shown.

    Args:
        size: Number of parameters.
    """

    degrees: Mapping[str, int] = {}

    def __init__(self, size: int):
        self._size = size
        self._neurons: dict[str, Tensor] = {}
        self._flat: Tensor | None = None

    def __call__(self, u: Tensor, at: At) -> dict[str, Tensor]:
        """Add up s³ and s² of derivatives [row, draw, param]."""
        s = u.double()
        moments = torch.stack([s.pow(3).sum(1), s.square().sum(1)], dim=-1)
        if at.node is not None:
            seen = self._neurons.get(at.name)
            self._neurons[at.name] = moments.sum(0) + (0.0 if seen is None else seen)
            return {}
        if self._flat is None:
            self._flat = s.new_zeros(self._size, 2)
        if isinstance(at.places, Tensor):
            self._flat.index_add_(0, at.places.flatten(), moments.flatten(0, 1))
        else:
            self._flat[at.places] += moments.sum(0)
        return {}

    def coefficients(self) -> Coefficients:
        """Return −Σ s³/Σ s², 0 where every s was 0."""
        neurons = {name: _ratio(moments) for name, moments in self._neurons.items()}
        return Coefficients(neurons, None if self._flat is None else _ratio(self._flat))


def _ratio(moments: Tensor) -> Tensor:
    cubes, squares = moments.unbind(-1)
    return torch.where(squares > 0, -cubes / squares, 0.0)
