"""Parts of a diagonal, and how far it is from a predicted one in each."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping

import torch
from torch import Tensor

_MOST_BINS = 4
_FEWEST = 8
"""Entries of a part at least, where a tensor is cut."""
_ABSOLUTE = 1e-7
"""Share of the whole trace below which a part's residual is rounding."""


@dataclasses.dataclass(frozen=True)
class Parts:
    """Entries of a flat vector in parts: parameter tensors, or less.

    Attributes:
        names: Of the parts.
        owners: Which part each entry belongs to, [entry].
    """

    names: tuple[str, ...]
    owners: Tensor

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], most: int = _MOST_BINS) -> Parts:
        """Return the parts of some parameters.

        Args:
            tensors: The Fisher information of each, by the size of which it is cut.
            most: Into how many parts at most.
        """
        names, owners = [], []
        for name, fisher in tensors.items():
            bins = max(1, min(most, fisher.numel() // _FEWEST))
            rank = fisher.reshape(-1).argsort().argsort()
            owners.append(len(names) + rank * bins // max(1, fisher.numel()))
            names += [f"{name} ({k + 1} of {bins})" if bins > 1 else name for k in range(bins)]
        return cls(tuple(names), torch.cat(owners))

    @functools.cached_property
    def sizes(self) -> Tensor:
        """Number of entries of each part."""
        return torch.bincount(self.owners, minlength=len(self.names)).double()

    def sums(self, values: Tensor) -> Tensor:
        """Return the sum over each part, [part]."""
        return values.new_zeros(len(self.names)).index_add_(0, self.owners, values)

    def rounding(self, prediction: Tensor) -> Tensor:
        """Return what of Σ|μ| of each part is rounding of the whole."""
        whole = prediction.abs().sum()
        return _ABSOLUTE * whole * self.sizes / self.sizes.sum()

    def scales(self, diagonal: Tensor, prediction: Tensor) -> Tensor:
        """Return ⟨D, μ⟩/⟨μ, μ⟩ of each part; NaN where μ vanishes."""
        return self.sums(diagonal * prediction) / self.sums(prediction.square())

    def squares(self, diagonal: Tensor, prediction: Tensor) -> Tensor:
        """Return Σ (D − μ)² of each part."""
        return self.sums((diagonal - prediction).square())


def pooled_scale(parts: Parts, diagonal: Tensor, prediction: Tensor) -> float:
    """Return one scale for all parts: the median of theirs, weighted by the root of the trace."""
    scales = parts.scales(diagonal, prediction)
    weights = parts.sums(prediction.abs()).sqrt()
    known = scales.isfinite()
    if not bool(known.any()):
        return math.nan
    order = scales[known].argsort()
    cumulative = weights[known][order].cumsum(0)
    middle = int(torch.searchsorted(cumulative, cumulative[-1:] / 2)[0])
    return float(scales[known][order][middle])


def residuals(parts: Parts, diagonal: Tensor, prediction: Tensor) -> Tensor:
    """Return Σ|D − μ| of each part relative to Σ|μ|; rounding of the whole counts as none."""
    apart = parts.sums((diagonal - prediction).abs())
    size = parts.sums(prediction.abs())
    apart = (apart - parts.rounding(prediction)).clamp(min=0)
    return torch.where(apart == 0, 0.0, apart / size)


def log_likelihood(diagonal: Tensor, prediction: Tensor, noise: Tensor) -> float:
    """Return the largest log-likelihood of normal errors, per entry, in nats.

    Args:
        diagonal: D.
        prediction: cμ.
        noise: Variances of the errors up to one factor, which is the one that fits best.
    """
    # An error of one part in 1e8 is taken for rounding.
    mean = prediction.abs().mean()
    variance = noise + (1e-6 * mean).square() + 1e-300
    ratio = ((diagonal - prediction).square() + (1e-8 * mean).square()) / variance
    factor = float(ratio.mean()) + 1e-300
    return -(math.log(2 * math.pi * factor) + 1 + float(variance.log().mean())) / 2
