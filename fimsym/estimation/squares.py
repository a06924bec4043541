"""Sums of squared gradients of random outputs over the draws of each input."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from fimsym.estimation.control import Coefficients
from fimsym.estimation.places import At

TOTAL, WITHIN, SECOND = "total", "within", "second"
"""Σ x, Σ (x − x̄)² over the draws of each input, and Σ x²; each summed over the inputs."""


class Squares:
    """From derivatives s of random outputs to sums of x = s², or x = s² + c s.

    Args:
        second: Whether Σ x² is wanted, from which the scatter over inputs follows.
        coefficients: Of the control variate, None without one.
    """

    degrees: Mapping[str, int] = {TOTAL: 2, WITHIN: 4, SECOND: 4}

    def __init__(self, second: bool, coefficients: Coefficients | None = None):
        self._second = second
        self._coefficients = coefficients

    def __call__(self, u: Tensor, at: At) -> dict[str, Tensor]:
        """Return the sums [row, param] of derivatives [row, draw, param]."""
        s = u.double()
        x = s.square()
        if self._coefficients is not None:
            x += self._coefficients.of(at) * s
        total = x.sum(1)
        values = {TOTAL: total}
        if self._second:
            values[SECOND] = x.square().sum(1)
        draws = x.shape[1]
        if draws > 1:
            values[WITHIN] = x.sub_(total.unsqueeze(1) / draws).square_().sum(1)
        return values
