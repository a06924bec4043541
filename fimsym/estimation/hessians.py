"""Î₁ and Î₂ from the same labels, with their variances in closed form."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from fimsym.engine.head import Head
from fimsym.engine.variance import best_mixture
from fimsym.estimation.curved import natural
from fimsym.estimation.drawn import TOGETHER
from fimsym.estimation.piece import Piece
from fimsym.estimation.places import At
from fimsym.estimation.seeds import Labels

ESTIMATES = ("score_squared", "negative_hessian")
VARIANCES = ("variance_score_squared", "variance_negative_hessian", "covariance")
FISHER, FISHER_SQUARED = "fisher", "fisher_squared"
"""I and I² of each input, from which the scatter over inputs follows."""


class FromLabels:
    """From derivatives of every output to the estimates of some labels and their variances.

    Args:
        head: The law of the labels.
        labels: Draws them.
        wanted: Names of the quantities.
        piece: The inputs.
        draws: How many labels to draw for each.
        part: Which part of all labels these are.
    """

    degrees: Mapping[str, int] = {
        **dict.fromkeys((*ESTIMATES, FISHER), 2),
        **dict.fromkeys((*VARIANCES, FISHER_SQUARED), 4),
    }

    def __init__(
        self,
        head: Head,
        labels: Labels,
        wanted: tuple[str, ...],
        piece: Piece,
        draws: int,
        part: object,
    ):
        self._head = head
        self._wanted = wanted
        self._outputs = piece.outputs
        drawn = labels.drawn(piece.outputs, piece.rows, draws, part)
        self._residuals = labels.natural(piece.outputs, drawn).movedim(0, 1)

    def __call__(self, u: Tensor, at: At) -> dict[str, Tensor]:
        """Return quantities [row, param] of derivatives [row, output, param], times the draws."""
        every = slice(None) if at.owner is None else at.owner
        r = self._residuals[every]  # row, draw, output
        draws = r.shape[1]
        h, u, v = natural(self._head, self._outputs[every], u, at.second)
        moments = self._head.module.moments(h, u, v, **self._head.constants)
        values = {name: getattr(moments, name) for name in (FISHER, *VARIANCES)}
        values["negative_hessian"] = moments.fisher - (r.mean(1, keepdim=True) @ v).squeeze(1)
        values[FISHER_SQUARED] = moments.fisher.square()
        if "score_squared" in self._wanted:
            squares = [(some @ u).square().sum(1) for some in r.split(TOGETHER, dim=1)]
            values["score_squared"] = torch.stack(squares).sum(0) / draws
        return {name: draws * values[name].double() for name in self._wanted}


def mixed(values: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return αÎ₁ + (1 − α)Î₂ and its variance, both for the best α of every parameter.

    α follows from closed forms, not from the labels, so that the mixture has no bias.

    Args:
        values: Of ESTIMATES and VARIANCES.
    """
    one, two, both = (values[name] for name in VARIANCES)
    first, second = (values[name] for name in ESTIMATES)
    weight, variance = best_mixture(one, two, both)
    return weight * first + (1 - weight) * second, variance
