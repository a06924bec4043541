"""Variances of every estimator in closed form, from u and v of every output."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine.head import Head
from fimsym.engine.variance import best_mixture
from fimsym.estimation.curved import natural
from fimsym.estimation.hessians import FISHER, FISHER_SQUARED, VARIANCES
from fimsym.estimation.piece import Piece
from fimsym.estimation.places import At

_BEFORE, _THIRD, _SECOND = "variance_before_control", "third", "second"
_RADEMACHER = "variance_rademacher_probe"

QUANTITIES = (FISHER, FISHER_SQUARED, *VARIANCES, _BEFORE, _THIRD, _SECOND, _RADEMACHER)
"""Everything that is summed."""


class FromDerivatives:
    """From derivatives of every output to the closed forms that variances are made of.

    The coefficient of the control variate is one for each neuron, or parameter, but one for
    each input at the output itself, as in `control`.

    Args:
        head: The law of the labels.
        piece: The inputs.
    """

    degrees: Mapping[str, int] = {
        **dict.fromkeys(QUANTITIES, 4),
        FISHER: 2,
    }

    def __init__(self, head: Head, piece: Piece):
        self._head = head
        self._outputs = piece.outputs
        self._root = piece.graph.nodes[0]

    def __call__(self, u: Tensor, at: At) -> dict[str, Tensor]:
        """Return the quantities [row, param] of derivatives [row, output, param]."""
        head = self._head
        outputs = self._outputs if at.owner is None else self._outputs[at.owner]
        h, u, v = natural(head, outputs, u, at.second)
        moments = head.module.moments(h, u, v, **head.constants)
        values = {name: getattr(moments, name).double() for name in (FISHER, *VARIANCES)}
        fisher, one = values[FISHER], values[VARIANCES[0]]
        values[FISHER_SQUARED] = fisher.square()
        values[_BEFORE], values[_THIRD], values[_SECOND] = one, moments.third.double(), fisher
        if at.node is self._root:
            gain = torch.where(fisher > 0, values[_THIRD].square() / fisher, 0.0)
            values[_BEFORE] = _less(one, gain)
            values[_THIRD], values[_SECOND] = torch.zeros_like(one), torch.zeros_like(one)
        of_signs = head.module.variance_rademacher_probe(h, u, **head.constants)
        values[_RADEMACHER] = of_signs.double()
        return values


def variances(means: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the variance of one draw for one input, by estimator, mean over inputs.

    Args:
        means: Means over inputs of QUANTITIES, [param] each.
    """
    one, two, both = (means[name] for name in VARIANCES)
    third, second = means[_THIRD], means[_SECOND]
    gain = torch.where(second > 0, third.square() / second, 0.0)
    return {
        "score_squared": one,
        "negative_hessian": two,
        "mixed": best_mixture(one, two, both)[1],
        "score_squared_cv": _less(means[_BEFORE], gain),
        "gaussian_probe": 2 * means[FISHER_SQUARED],
        "rademacher_probe": means[_RADEMACHER],
        "exact": torch.zeros_like(one),
    }


def _less(variance: Tensor, gain: Tensor) -> Tensor:
    """Return what is left of a variance, 0 where that is rounding."""
    rest = variance - gain
    return torch.where(rest > 1e-12 * variance, rest, 0.0)
