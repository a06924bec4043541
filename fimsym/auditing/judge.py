"""From explanations of a diagonal to a finding: which fit, and which fits best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from fimsym.auditing import hypotheses as of
from fimsym.auditing.evidence import Diagonal, Evidence
from fimsym.auditing.factors import Cause, Sizes, explained
from fimsym.auditing.given import Reading
from fimsym.auditing.hypotheses import Hypothesis
from fimsym.auditing.match import Draws, Verdict, judged
from fimsym.auditing.parts import Parts, log_likelihood, pooled_scale, residuals
from fimsym.auditing.record import Match

_ROUNDING = 1e-6
_EASY = 2.5
"""Standard deviations of the draws that are no reason to prefer another explanation."""
_ENTRIES = 30
"""As how many independent ones the entries of a diagonal count, whose errors go together."""
_SEVERAL = 4.0
_ABOUT = 1.6
"""How closely the number of labels is known from the size of the noise, as a ratio."""
_UNEVEN = 3.0
"""Times by which squares of errors may differ from their mean, or from each other."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """An explanation, and how well it fits.

    Attributes:
        match: In plain data.
        causes: What its factor comes from; empty for none.
        unexplained: It has a factor of unknown origin.
        one: The factor is one.
        others: Further causes that would give the same factor.
        reserve: What speaks against it though it fits, in nats.
    """

    match: Match
    causes: tuple[Cause, ...] = ()
    unexplained: bool = False
    one: bool = True
    others: tuple[tuple[Cause, ...], ...] = ()
    reserve: float = 0.0


class Judge:
    """Compares a diagonal with explanations.

    Args:
        names: Every trainable parameter, in order.
        evidence: Diagonals of the model and its data.
        sizes: Numbers that turn up as factors.
        tolerance: Relative error that counts as rounding.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        evidence: Evidence,
        sizes: Sizes,
        tolerance: float,
    ):
        self._names = names
        self._evidence = evidence
        self._sizes = sizes
        self._tolerance = tolerance

    def exactly(self, hypotheses: Iterable[Hypothesis]) -> list[Finding]:
        """Return how well explanations fit that leave nothing to chance."""
        return [self._exact(hypothesis) for hypothesis in hypotheses]

    def _exact(self, hypothesis: Hypothesis) -> Finding:
        at = self._laid(hypothesis.reading, hypothesis.prediction, 1)
        scale = 1.0 if hypothesis.whole else pooled_scale(at.parts, at.diagonal, at.prediction)
        match = self._match(hypothesis, at, scale, at.along(self._evidence.noise))
        if not match.fits or hypothesis.whole or abs(scale - 1) <= self._tolerance:
            return Finding(match)
        error = scale * (match.residual + _ROUNDING)
        return _with_causes(match, explained(scale, error, self._sizes))

    def _match(self, hypothesis: Hypothesis, at: _Laid, scale: float, noise: Tensor) -> Match:
        if not math.isfinite(scale) or scale <= 0:
            return Match(hypothesis.name, hypothesis.words, False, scale, math.inf, -math.inf)
        prediction = scale * at.prediction
        worst = float(residuals(at.tensors, at.diagonal, prediction).max())
        likelihood = log_likelihood(at.diagonal, prediction, noise) + hypothesis.reading.log_slope
        fits = worst <= self._tolerance
        return Match(hypothesis.name, hypothesis.words, fits, scale, worst, likelihood)

    def by_chance(
        self, hypothesis: Hypothesis, draws: Draws, scale: float | None = None
    ) -> Finding:
        """Return how well a mean of draws explains a diagonal.

        Args:
            hypothesis: Its prediction is the mean of the draws.
            draws: Their statistics.
            scale: The factor; None to fit one other than 1.
        """
        at = self._laid(hypothesis.reading, hypothesis.prediction)
        verdict = judged(at.parts, at.diagonal, at.prediction, draws, self._tolerance, scale)
        match = self._match(hypothesis, at, verdict.scale, draws.variance)
        match = dataclasses.replace(
            match, fits=verdict.fits, draws=verdict.draws, deviation=verdict.deviation
        )
        if not verdict.fits or scale is not None:
            return Finding(match, one=scale == 1, reserve=_reserve(verdict))
        found = explained(verdict.scale, verdict.scale_error, self._counted(verdict), most=1)
        if () in found and hypothesis.name == "fisher":  # which was looked at by itself
            return Finding(dataclasses.replace(match, fits=False))
        return dataclasses.replace(_with_causes(match, found), reserve=_reserve(verdict))

    def _counted(self, verdict: Verdict) -> Sizes:
        """Return the sizes, with the number of labels if noise and factor agree on one.

        Those that are any number at all are near too many factors that are not known exactly.
        """
        scale, sizes = verdict.scale, dataclasses.replace(self._sizes, trace=None, largest=None)
        if sizes.labels is not None or not scale > _ABOUT or verdict.draws < scale**0.5:
            return sizes  # one label for each input is nearer
        apart = abs(math.log(verdict.draws / scale))
        if apart > max(math.log(_ABOUT), _SEVERAL / 2 * verdict.draws_error):
            return sizes
        return dataclasses.replace(sizes, labels=scale)

    def by_variance(self, hypothesis: Hypothesis, variance: Diagonal) -> Finding:
        """Return how well an estimate of which the variances alone are known explains a diagonal.

        Errors of different entries may go together, so that no more than the sum of their
        deviations is allowed for the scale.

        Args:
            hypothesis: What is estimated.
            variance: Of an estimate from one label for each input.
        """
        at = self._laid(hypothesis.reading, hypothesis.prediction, 1)
        parts, diagonal, prediction = at.parts, at.diagonal, at.prediction
        noise = at.along(variance)
        match = self._match(hypothesis, at, 1.0, noise)
        expected = parts.sums(noise)
        live = expected > 0
        level = parts.squares(diagonal, prediction)[live] / expected[live]
        share = float(level.log().mean().exp()) if bool(live.any()) else math.inf
        bound = parts.sums(noise.sqrt() * prediction) / parts.sums(prediction.square())
        away = (parts.scales(diagonal, prediction) - 1).abs()[live]
        allowed = _SEVERAL * bound[live] * share**0.5 + self._tolerance
        silent = residuals(parts, diagonal, prediction)[~live] > self._tolerance
        fits = share <= _UNEVEN and bool((level <= _UNEVEN * share).all())
        fits = fits and bool((away <= allowed).all()) and not bool(silent.any())
        draws = 1 / share if share else math.inf
        return Finding(dataclasses.replace(match, fits=fits, draws=draws))

    def draws(
        self,
        reading: Reading,
        prediction: Diagonal,
        drawn: Callable[[], Iterable[Tensor]],
        variance: Diagonal | None = None,
    ) -> Draws:
        """Return the statistics of draws for the parameters of a reading.

        Args:
            reading: The diagonal as it is read.
            prediction: μ, the mean of the draws.
            drawn: Draws them, each a flat vector over all parameters.
            variance: Of one draw, where it is known.
        """
        at = self._laid(reading, prediction)
        keep = self._keep(at.names)
        known = None if variance is None else at.along(variance)
        return Draws.of(at.parts, (one[keep] for one in drawn()), at.prediction, known)

    def _laid(self, reading: Reading, prediction: Diagonal, most: int | None = None) -> _Laid:
        names = tuple(name for name in self._names if name in reading.values)
        fisher = {name: self._evidence.fisher[name] for name in names}
        tensors = Parts.of(fisher, 1)
        parts = tensors if most == 1 else Parts.of(fisher)
        return _Laid(names, tensors, parts, _flat(reading.values, names), _flat(prediction, names))

    def _keep(self, names: tuple[str, ...]) -> Tensor:
        """Return which entries of a flat vector over all parameters belong to some."""
        every = self._evidence.fisher
        return torch.cat([torch.full((every[n].numel(),), n in names) for n in self._names])


@dataclasses.dataclass(frozen=True)
class _Laid:
    """A diagonal and a prediction as flat vectors over the same parameters."""

    names: tuple[str, ...]
    tensors: Parts
    parts: Parts
    diagonal: Tensor
    prediction: Tensor

    def along(self, diagonal: Diagonal) -> Tensor:
        """Return another diagonal likewise."""
        return _flat(diagonal, self.names)


def _flat(diagonal: Mapping[str, Tensor], names: tuple[str, ...]) -> Tensor:
    return torch.cat([diagonal[name].reshape(-1) for name in names]).double()


def _with_causes(match: Match, found: list[tuple[Cause, ...]]) -> Finding:
    if not found:
        return Finding(match, unexplained=True, one=False)
    return Finding(match, found[0], one=not found[0], others=tuple(found[1:]))


def _reserve(verdict: Verdict) -> float:
    return max(0.0, verdict.deviation - _EASY) ** 2 / 2 + max(0.0, verdict.excess) ** 2 / 2


def best(findings: list[Finding]) -> list[Finding]:
    """Return findings: those that fit first, then by likelihood.

    Of those that fit, ones that leave nothing to chance come first, in the order given; then
    ones with a known cause; then by likelihood, less what speaks against them.
    """

    def key(finding: Finding):
        if finding.match.draws is None:
            return (finding.unexplained, 0, 0.0)
        return (
            finding.unexplained, 1, finding.reserve - _ENTRIES * finding.match.log_likelihood
        )  # fmt: skip

    fitting = sorted((f for f in findings if f.match.fits), key=key)
    others = [f for f in findings if not f.match.fits]
    others.sort(key=lambda f: -f.match.log_likelihood)
    return fitting + others


def every_exact(evidence: Evidence, readings: list[Reading], count: int):
    """Yield every explanation that leaves nothing to chance, the simplest first."""
    first = readings[0]
    yield from of.of_fisher(evidence, readings)
    yield from of.of_labels(evidence, first, count)
    yield from of.of_positions(evidence, first)
    yield from of.of_laws(evidence, first)
    yield from of.of_batches(evidence, first, count)
    yield from of.of_functions(evidence, first)
    yield from of.of_scales(evidence, first)
