"""How well a diagonal D agrees with a predicted one μ: up to rounding, or up to random draws.

Agreement up to rounding is a residual Σ|D − cμ| that is small against Σ|cμ| in every parameter
tensor. Agreement up to random draws is judged by draws of the very computation: of each part,
the scale A = ⟨D, μ⟩/⟨μ, μ⟩ and the square S = Σ(D − μ)². A mean of N draws has a scale within
sd(A)/√N of 1, and squares of E S/N in every part with the same N ≥ 1.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

import torch
from torch import Tensor

from fimsym.auditing.parts import Parts, residuals

CRITICAL = 5.0
"""Standard deviations that are too many: draws are few, and their tails are heavy."""
_LOUD = 1.25
"""Weight of noise that is more than one draw's, which sums over all parts know best."""
_REPRESENTATIVE = 0.5
"""Mean S of the draws relative to E S, from which on they show what there is to see."""
_FLOOR = 0.1
"""Standard deviation of a logarithm below which few draws do not show it."""


def away_of_positive(scale: Tensor, variance: Tensor) -> Tensor:
    """Return how far a positive number of mean one is from it, in standard deviations.

    It is as skewed as the log-normal law of that variance.
    """
    width = variance.log1p()
    return (scale.clamp(min=1e-30).log() + width / 2).abs() / width.sqrt()


@dataclasses.dataclass(frozen=True)
class Draws:
    """What draws of a computation say.

    Attributes:
        scales: A, [draw, part].
        squares: S, [draw, part].
        variance: Of one draw, [entry].
        expected: E S, [part].
        seen: Mean S of the draws relative to E S, at most one: less where they miss labels too
            rare to be drawn, [part].
        hidden: Largest standard deviation of A that such labels can give, [part].
        live: Which parts are random, and more than rounding of the whole, [part].
    """

    scales: Tensor
    squares: Tensor
    variance: Tensor
    expected: Tensor
    seen: Tensor
    hidden: Tensor
    live: Tensor

    @classmethod
    def of(
        cls,
        parts: Parts,
        drawn: Iterable[Tensor],
        prediction: Tensor,
        variance: Tensor | None = None,
    ) -> Draws:
        """Return the statistics of draws.

        Args:
            parts: The parts.
            drawn: One diagonal for each draw.
            prediction: μ, their mean.
            variance: Their variance where it is known; rare events may be missing from draws.
        """
        scales, squares, found = [], [], torch.zeros_like(prediction)
        for one in drawn:
            scales.append(parts.scales(one, prediction))
            squares.append(parts.squares(one, prediction))
            found += (one - prediction).square()
        found /= len(scales)
        drawn_scales, seen = torch.stack(scales), torch.ones(len(parts.names), dtype=found.dtype)
        if variance is not None:
            total = parts.sums(variance).clamp(min=1e-300)
            seen = (torch.stack(squares).mean(0) / total).clamp(1e-12, 1)
            found = torch.maximum(found, variance)
        expected = parts.sums(found)
        # If errors of all entries go together the deviation of a sum is the sum of theirs.
        most = parts.sums(prediction.abs() * found.sqrt()) / parts.sums(prediction.square())
        hidden = (1 - seen / _REPRESENTATIVE).clamp(min=0).sqrt() * most
        live = (expected > 0) & drawn_scales.isfinite().all(0)
        live &= parts.sums(prediction.abs()) > parts.rounding(prediction)
        return cls(drawn_scales, torch.stack(squares), found, expected, seen, hidden, live)

    @property
    def spread(self) -> Tensor:
        """Standard deviation of A, [part]: more than that of draws that miss rare labels."""
        return (self.scales.var(0) / self.seen + self.hidden.square()).sqrt()

    def away(self, scales: Tensor, share: float, more: float) -> Tensor:
        """Return how far scales of parts are from 1, [part], in standard deviations.

        Args:
            scales: [part].
            share: 1/N, by which variances are smaller than those of one draw.
            more: Further relative variance.
        """
        variance = self.spread.square() * share + more
        linear = (scales - 1).abs() / variance.sqrt()
        positive = (self.scales > 0).all(0)
        return torch.where(
            self.live, torch.where(positive, away_of_positive(scales, variance), linear), 0.0
        )

    def logs(self, squares: Tensor) -> Tensor:
        """Return log S/E S, [*, part], zero where nothing is random."""
        ratio = (squares / self.expected).clamp(min=1e-30)
        return torch.where(self.live, ratio.log(), 0.0)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a diagonal may be a mean of draws.

    Attributes:
        scale: c, fixed or fitted.
        scale_error: Standard error of a fitted c.
        draws: N for which the noise is as large as it is.
        draws_error: Standard error of log N.
        deviation: Largest deviation, in standard deviations of the draws.
        excess: How far N is below one, likewise.
    """

    scale: float
    scale_error: float
    draws: float
    draws_error: float
    deviation: float
    excess: float = 0.0

    @property
    def fits(self) -> bool:
        """The diagonal may be such a mean."""
        return self.deviation <= CRITICAL


def judged(
    parts: Parts,
    diagonal: Tensor,
    prediction: Tensor,
    draws: Draws,
    tolerance: float,
    scale: float | None = None,
) -> Verdict:
    """Tell whether D may be c times a mean of draws.

    Args:
        parts: The parts.
        diagonal: D.
        prediction: μ.
        draws: Draws with mean μ.
        tolerance: Relative error of D that is not random.
        scale: c; None to fit it.
    """
    live = draws.live
    weights = torch.where(live, 1 / (draws.spread.square() + tolerance**2), 0.0)
    found = torch.where(live, parts.scales(diagonal, prediction), 0.0)
    total = float(weights.sum())
    fitted = float(found @ weights) / total if total else math.nan
    own = fitted if scale is None else scale
    if not (own > 0 and total):
        return Verdict(fitted, math.inf, math.nan, math.inf, math.inf)
    noise = _Noise(parts, diagonal / own, prediction, draws, tolerance)
    pooled = torch.where(live, draws.scales, 0.0) @ weights / total
    hidden = float(torch.where(live, draws.hidden, 0.0) @ weights) / total
    pooled_variance = (float(pooled.var()) + hidden**2) * noise.share + tolerance**2
    pooled_error = pooled_variance**0.5
    more = tolerance**2 + (pooled_error**2 if scale is None else 0.0)
    away = draws.away(found / own, noise.share, more)
    deviations = [float(away.max()), _LOUD * noise.excess, noise.unevenness]
    if scale is not None:
        positive = bool((draws.scales > 0).all())
        ratio = torch.tensor([fitted / own, pooled_variance], dtype=torch.float64)
        linear = abs(fitted / own - 1) / pooled_error
        deviations.append(float(away_of_positive(*ratio)) if positive else linear)
    silent = residuals(parts, diagonal / own, prediction)[~live]
    if bool((silent > tolerance).any()):
        deviations.append(math.inf)
    count = math.exp(-noise.level)
    return Verdict(own, own * pooled_error, count, noise.error, max(deviations), noise.excess)


class _Noise:
    """The size of D − μ in every part, next to that of draws.

    Attributes:
        level: log 1/N.
        error: Its standard deviation.
        share: 1/N, at most one.
        excess: How far 1/N is above one, in standard deviations.
        unevenness: How far a part's is from it at most, likewise.
    """

    def __init__(self, parts: Parts, diagonal: Tensor, prediction: Tensor, draws: Draws, tolerance):
        squares = parts.squares(diagonal, prediction)
        logs, drawn = draws.logs(squares), draws.logs(draws.squares)
        missed = draws.seen.log().clamp(max=0)
        missed = torch.where(draws.seen < _REPRESENTATIVE, missed, 0.0)
        weights = 1 / (drawn.var(0) + _FLOOR**2 + missed.square())
        weights = torch.where(draws.live, weights, 0.0)
        weights = weights / weights.sum()
        pooled = drawn @ weights
        self.level = float(logs @ weights - pooled.mean())
        self.error = math.hypot(float(pooled.std()), _FLOOR, float(missed @ weights))
        self.share = math.exp(min(self.level, 0.0))
        self.excess = self.level / self.error
        # Cube roots of sums of squares are nearly normal (Wilson and Hilferty, 1931).
        roots = ((drawn - pooled[:, None] + pooled.mean()) / 3).exp()
        own = ((logs - logs @ weights + pooled.mean()) / 3).exp()
        away = (own - roots.mean(0)) / (roots.var(0) + (_FLOOR / 3) ** 2).sqrt()
        # A part of which the noise is below rounding says nothing, nor one whose labels are rare.
        loud = (
            draws.live & (missed == 0) & (squares > parts.sums((tolerance * prediction).square()))
        )
        self.unevenness = float(torch.where(loud, away.abs(), 0.0).max())
