"""Moments of the columns of a matrix under laws of its rows: products with their powers."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDING = 2e-5
"""Largest bound on the relative error of central moments in float32; else float64 is taken."""


class Columns:
    """Columns w of a matrix and their powers up to the fourth, side by side.

    Args:
        matrix: W, [output, param].
    """

    def __init__(self, matrix: Tensor):
        self._matrix = matrix
        self.powers = self._taken(matrix.dtype)

    @property
    def precise(self) -> Tensor:
        """The powers in float64."""
        return self._taken(torch.float64)

    def _taken(self, dtype: torch.dtype) -> Tensor:
        """Return the powers, taken in float64."""
        w = self._matrix.double()
        w = w - w.mean(0)
        found = w.new_empty(len(w), 4, w.shape[1], dtype=dtype)
        square = w.square()
        found[:, 0], found[:, 1] = w, square
        found[:, 2], found[:, 3] = w.mul_(square), square.square_()
        return found.flatten(1)


def central(p: Tensor, powers: Tensor, top: Tensor, about: Tensor) -> tuple[Tensor, ...]:
    """Return I and V₁, and for which inputs rounding is known to be small.

    Args:
        p: Probabilities, without that of the likeliest class where moments are about it.
        powers: w, w², w³ and w⁴, [output, 4 param].
        top: The likeliest class.
        about: One where moments are about it, zero where they are about 0, [batch, 1].
    """
    p, about = p.to(powers.dtype), about.to(powers.dtype)
    first, second, third, fourth = (p @ powers).chunk(4, 1)
    rest = p.sum(-1, keepdim=True)
    t = powers[top, : first.shape[1]] * about
    # Σ_c p_c (w_c − t)^k by Horner's scheme in −t
    about_4 = fourth - t * (4 * third - t * (6 * second - t * (4 * first - t * rest)))
    about_3 = third - t * (3 * second - t * (3 * first - t * rest))
    about_2 = second - t * (2 * first - t * rest)
    mean = first - t * rest
    fisher = about_2 - mean.square()
    variance = about_4 - mean * (4 * about_3 - mean * (6 * about_2 - 3 * mean.square()))
    variance = variance - fisher.square()
    # |Σ p (w_c − t)^k| ≤ 2^(k−1) (Σ p |w_c|^k + Σ p |t|^k), and so are the sizes of its terms.
    far = t.square()
    eps = 4 * torch.finfo(p.dtype).eps / _ROUNDING
    fine = eps * 2 * (second + rest * far) <= fisher
    fine &= eps * 8 * (fourth + rest * far.square()) <= variance
    return fisher.clamp_(min=0), variance.clamp_(min=0), fine.all(1)
