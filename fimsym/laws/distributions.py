"""Laws that `torch.distributions` does not have, or not to full precision."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributions
from torch.distributions import constraints
from torch.distributions.utils import broadcast_all

from fimsym.errors import UnsupportedError


class InverseGaussian(distributions.Distribution):
    """p(y) = √(λ/2πy³) exp(−λ(y − μ)²/(2μ²y)) on y > 0.

    Args:
        mean: μ > 0.
        shape: λ > 0.
    """

    arg_constraints: Any = {}  # noqa: RUF012
    support: Any = constraints.positive

    def __init__(self, mean: Tensor, shape: Tensor, validate_args: bool | None = None):
        self._mean, self._shape = broadcast_all(mean, shape)
        super().__init__(self._mean.shape, validate_args=validate_args)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw labels by the transformation of Michael, Schucany and Haas (1976)."""
        shape = self._extended_shape(torch.Size(sample_shape))
        dtype = self._mean.dtype
        return self.transformed(torch.randn(shape, dtype=dtype), torch.rand(shape, dtype=dtype))

    def transformed(self, normal: Tensor, uniform: Tensor) -> Tensor:
        """Return the labels made of standard normal and uniform numbers, [*sample, *batch]."""
        with torch.no_grad():
            x = normal.square() * self._mean / (2 * self._shape)
            # The smaller root of a quadratic with product 1, without its cancellation.
            root = 1 / (1 + x + (x * (2 + x)).sqrt())
            return self._mean * torch.where(uniform * (1 + root) <= 1, root, 1 / root)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log p(y)."""
        log_scale = (self._shape / (2 * math.pi)).log() / 2 - 1.5 * value.log()
        return log_scale - self._shape * (value / self._mean - 1).square() / (2 * value)


class VonMises(distributions.VonMises):
    """torch's law with an accurate log p (its own has Bessel functions to 1e-7), and faster."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw angles in (−π, π] with NumPy, seeded by torch."""
        shape = tuple(self._extended_shape(torch.Size(sample_shape)))
        rng = np.random.default_rng(int(torch.randint(2**62, ())))
        loc, concentration = self.loc.detach().numpy(), self.concentration.detach().numpy()
        return torch.from_numpy(np.asarray(rng.vonmises(loc, concentration, shape)))

    def log_prob(self, value: Tensor) -> Tensor:
        """Return κ cos(y − φ) − log 2π − log I₀(κ)."""
        log_bessel = torch.special.i0e(self.concentration).log() + self.concentration
        along = self.concentration * torch.cos(value - self.loc)
        return along - math.log(2 * math.pi) - log_bessel


class Tabulated(distributions.Distribution):
    """π(y) exp(⟨t(y), h⟩) on a line, normalised by quadrature; the label is a node.

    The nodes are equally spaced in x with y = g(x), where the integrand falls to e^−45 of
    its largest value at both ends. There the trapezoidal rule is as exact as float64 for a
    smooth law, so the mean of a smooth function over nodes is its mean over the density.

    Args:
        log_weight: Returns log π(y), [*y].
        statistics: Returns t(y), [*y, statistic].
        support: Of the density, as in `Density`.
        natural: h, [*batch, statistic].
        largest: Largest count, None without one.
    """

    arg_constraints: Any = {}  # noqa: RUF012

    def __init__(
        self,
        log_weight: Callable[[Tensor], Tensor],
        statistics: Callable[[Tensor], Tensor],
        support: str,
        natural: Tensor,
        largest: float | None = None,
    ):
        self._log_weight = log_weight
        self._statistics = statistics
        self._natural = natural
        self.discrete = support == "counts"
        with torch.no_grad():
            if self.discrete:
                self.nodes, measure = self._counts(largest)
            elif support in _TRANSFORMS:
                self.nodes, measure = self._window(*_TRANSFORMS[support])
            else:
                raise UnsupportedError(
                    f"labels on {support!r} cannot be tabulated; expected a density on one of "
                    f"counts, {', '.join(_TRANSFORMS)}. Add a [sampler] to the family."
                )
            kept = self._integrand(self.nodes).isfinite()
            measure = measure + log_weight(self.nodes)
            self._measure = torch.where(kept, measure, -math.inf)
            self._at_nodes = torch.where(kept.unsqueeze(-1), statistics(self.nodes), 0.0)
        logits = self._measure + (self._at_nodes * natural.unsqueeze(-2)).sum(-1)
        self._log_normaliser = logits.logsumexp(-1)
        self.probabilities = (logits.detach() - self._log_normaliser.detach().unsqueeze(-1)).exp()
        super().__init__(natural.shape[:-1], validate_args=False)

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draw nodes by inversion."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return self.quantile(torch.rand(shape, dtype=self.nodes.dtype))

    def quantile(self, uniform: Tensor) -> Tensor:
        """Return the nodes at numbers between 0 and 1, [*sample, *batch]."""
        with torch.no_grad():
            per_law = uniform.reshape(-1, self.probabilities[..., 0].numel()).T.contiguous()
            cumulative = self.probabilities.flatten(0, -2).cumsum(-1)
            index = torch.searchsorted(cumulative, per_law * cumulative[:, -1:])
            labels = self.nodes.flatten(0, -2).gather(1, index.clamp(max=cumulative.shape[1] - 1))
            return labels.T.reshape(uniform.shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return ⟨t(y), h⟩ + log π(y) less the logarithm of its integral."""
        along = (self._statistics(value) * self._natural).sum(-1)
        return along + self._log_weight(value) - self._log_normaliser

    def _integrand(self, y: Tensor) -> Tensor:
        along = (self._statistics(y) * self._natural.detach().unsqueeze(-2)).sum(-1)
        value = self._log_weight(y) + along
        return torch.where(value.isfinite(), value, -math.inf)

    def _counts(self, largest):
        """Return 0, 1, 2, … up to the largest or a negligible count, and log 1."""
        stop = 64 if largest is None else round(largest) + 1
        while True:
            y = torch.arange(stop, dtype=self._natural.dtype)
            value = self._integrand(y.expand(*self._natural.shape[:-1], stop))
            rest = value[..., -stop // 4 :].amax(-1) - value.amax(-1)
            if largest is not None or bool((rest < -_NEGLIGIBLE).all()):
                self._refuse_overflow(y, value)
                return y.expand_as(value), torch.zeros_like(value)
            if stop > _MOST_COUNTS:
                raise UnsupportedError(
                    f"labels beyond {_MOST_COUNTS:,} are still likely; expected a density that "
                    "falls. Add a [sampler] to the family, or a domain that keeps F finite."
                )
            stop *= 2

    def _window(self, low, high, transform, log_slope):
        """Return nodes y and the logarithms of their weights, both [*batch, node]."""
        batch = self._natural.shape[:-1]
        places = torch.arange(_NODES, dtype=self._natural.dtype) / _NODES
        low = self._natural.new_full((*batch, 1), low)
        width = self._natural.new_full((*batch, 1), high) - low
        for _ in range(_ZOOMS):
            x = low + width * places
            value = self._integrand(transform(x)) + log_slope(x)
            inside = value > value.amax(-1, keepdim=True) - _NEGLIGIBLE
            first = (inside.int().argmax(-1, keepdim=True) - 1).clamp(min=0)
            last = _NODES - inside.flip(-1).int().argmax(-1, keepdim=True)
            low, width = low + width * first / _NODES, width * (last - first) / _NODES
        x = low + width * places
        value = self._integrand(transform(x)) + log_slope(x)
        self._refuse_overflow(transform(x), value)
        return transform(x), log_slope(x) + (width / _NODES).log()

    def _refuse_overflow(self, y, value):
        """Refuse values that are lost to overflow where the law is not negligible."""
        lost = value.isinf()
        beside = torch.zeros_like(lost)
        beside[..., :-1] |= lost[..., 1:]
        beside[..., 1:] |= lost[..., :-1]
        floor = value.amax(-1, keepdim=True) - _NEGLIGIBLE / 2
        cut = beside & ~lost & (value > floor)
        if bool(cut.any()):
            at = float(y.expand_as(value)[cut][0])
            raise UnsupportedError(
                f"the base measure is zero or overflows beside y = {at:g}, where the law is not "
                "negligible. Write it with smaller numbers, or add a [sampler] to the family."
            )


_NODES = 2001
_ZOOMS = 12
_NEGLIGIBLE = 45.0
_MOST_COUNTS = 100_000

_TRANSFORMS = {
    "real": (-300.0, 300.0, torch.sinh, lambda x: torch.cosh(x).log()),
    "positive": (-300.0, 300.0, torch.exp, lambda x: x),
    "unit": (
        -300.0,
        36.0,
        torch.sigmoid,
        lambda x: torch.nn.functional.logsigmoid(x) + torch.nn.functional.logsigmoid(-x),
    ),
    "angle": (-math.pi, math.pi, lambda x: x, torch.zeros_like),
}
"""Range of x, y = g(x) and log g'(x) of each continuous support."""
