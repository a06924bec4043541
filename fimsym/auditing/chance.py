"""Explanations of a diagonal by random draws: estimates of the Fisher information, and mistakes."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from fimsym.auditing.evidence import Diagonal, Evidence
from fimsym.auditing.factors import Sizes
from fimsym.auditing.given import Reading
from fimsym.auditing.hypotheses import SIZES, Hypothesis
from fimsym.auditing.judge import Finding, Judge
from fimsym.auditing.match import CRITICAL, Draws
from fimsym.auditing.noise import Noise

Drawing = Callable[[], Iterator[Tensor]]
"""Draws diagonals, each a flat vector over all parameters."""

ESTIMATES = {
    "score_squared": "squared gradients of labels drawn from the model",
    "gaussian_probe": "squared gradients seeded with random vectors of the output's information",
    "parameter_probes": "products of random signs z with the Fisher matrix times z",
    "negative_hessian": "second derivatives of labels drawn from the model",
    "other_estimate": "errors of no estimator that is known here, which cancel",
}
"""Unbiased estimates of the Fisher diagonal, in words."""


FEWEST_DRAWS = 10
"""Draws that show what noise looks like."""
_PASSES = 4000
"""Backward passes that a mistake is drawn with at most."""
_CLEAR, _CLEAR_EACH = 10.0, 0.05
"""Log-likelihood, in all and per entry, by which another way of reading must be better."""
_NEGATIVE = 10.0
"""Expected number of negative entries of which none is too few."""


_CANCELLED = 4.0
"""Standard deviations by which sums of errors of an unknown kind may differ from theirs."""
_CLOSE = 0.12
"""Share of the trace that errors of an unknown kind make up at most."""


def _ratios(errors: Tensor) -> Tensor:
    """Return (Σ r)²/Σ r² of every row, one where there is none."""
    squares = errors.square().sum(1)
    return torch.where(squares > 0, errors.sum(1).square() / squares.clamp(min=1e-300), 1.0)


class Chance:
    """Compares a diagonal with random computations of it.

    Args:
        judge: Decides what fits.
        evidence: Diagonals of the model and its data.
        noise: Draws.
        readings: Ways of reading the diagonal, as given first.
        sizes: Numbers that turn up as factors.
        second: V₂/n; None if it was not computed.

    Attributes:
        note: What could not be looked at, in a sentence; or empty.
    """

    def __init__(
        self,
        judge: Judge,
        evidence: Evidence,
        noise: Noise,
        readings: list[Reading],
        sizes: Sizes,
        second: Diagonal | None,
    ):
        self._judge = judge
        self._evidence = evidence
        self._noise = noise
        self._readings = readings
        self._sizes = sizes
        self._second = second
        self.note = ""

    def estimates(self) -> list[Finding]:
        """Return how well every estimate of the Fisher information explains it, best first."""
        drawn = {
            "score_squared": self._labels, "gaussian_probe": self._probes,
            "parameter_probes": self._signs,
        }  # fmt: skip
        found = [
            self._judge.by_chance(self._hypothesis(name, ESTIMATES[name]), draws, 1.0)
            for name, draws in drawn.items()
        ]
        if self._second is not None:
            hypothesis = self._hypothesis("negative_hessian", ESTIMATES["negative_hessian"])
            found.append(self._judge.by_variance(hypothesis, self._second))
        found = [f if f.match.name != "parameter_probes" else self._with_signs(f) for f in found]
        if not any(finding.match.fits for finding in found):
            found.append(self._other())
        return sorted(found, key=lambda f: (not f.match.fits, -f.match.log_likelihood))

    def _with_signs(self, finding: Finding) -> Finding:
        """Refuse products with random signs z if their errors, z_i Σ_j F_ij z_j, do not cancel.

        Entries of which errors are the larger part are as often negative as positive.
        """
        match = finding.match
        if not match.fits or not match.draws:
            return finding
        given = self._readings[0].values
        diagonal = torch.cat([value.reshape(-1) for value in given.values()]) / match.scale
        fisher = torch.cat([self._evidence.fisher[name].reshape(-1) for name in given])
        error = (self._signs.variance / match.draws).sqrt().clamp(min=1e-300)
        negative = float(torch.special.ndtr(-fisher / error).sum())
        few = negative > _NEGATIVE and not bool((diagonal < 0).any())
        uncancelled = self._uncancelled(match.scale)
        deviation = max(match.deviation, uncancelled, math.inf if few else 0.0)
        fits = deviation <= CRITICAL and uncancelled <= _CANCELLED
        match = dataclasses.replace(match, fits=fits, deviation=deviation)
        return dataclasses.replace(finding, match=match)

    def _other(self) -> Finding:
        """Return whether the errors cancel as those of independent signs, with any variance."""
        name = "other_estimate"
        hypothesis = self._hypothesis(name, ESTIMATES[name])
        (finding,) = self._judge.exactly([hypothesis])
        given, fisher = self._readings[0].values, self._evidence.fisher
        apart = sum(float((value - fisher[n]).abs().sum()) for n, value in given.items())
        total = sum(float(fisher[n].sum()) for n in given)
        deviation = self._uncancelled()
        fits = deviation <= _CANCELLED and apart <= _CLOSE * total
        match = dataclasses.replace(finding.match, fits=fits, scale=1.0, deviation=deviation)
        return dataclasses.replace(finding, match=match, one=True, causes=(), unexplained=False)

    def _uncancelled(self, scale: float = 1.0) -> float:
        """Return how far sums of errors are from those of independent ones, in deviations.

        (Σ r)²/Σ r² is one on average, for every tensor, and for the rows and columns of all of
        them together; parameters of one neuron have errors of one sign if weights or inputs
        are others.
        """
        rows, columns, whole = [], [], []
        for name, value in self._readings[0].values.items():
            errors = value / scale - self._evidence.fisher[name]
            flat = errors.reshape(len(errors), -1) if errors.ndim > 1 else errors.reshape(1, -1)
            whole += [flat.reshape(1, -1), flat.sign().reshape(1, -1)]
            if min(flat.shape) > 1:
                rows.append(flat)
                columns.append(flat.T)
        whole.append(torch.cat([part.flatten() for part in whole[::2]])[None])
        found = [abs(float(_ratios(part)[0])) ** 0.5 for part in whole]
        for parts in (rows, columns):
            ratios = torch.cat([_ratios(part) for part in parts] or [torch.zeros(0)])
            if len(ratios):
                found.append(float((ratios - 1).sum()) / (2 * len(ratios)) ** 0.5)
        return max(found)

    def mistakes(self) -> Iterator[Finding]:
        """Yield how well mistakes in estimates explain the diagonal."""
        words = "an estimate from labels drawn from the model"
        labels = self._judge.by_chance(self._hypothesis("fisher", words), self._labels)
        yield labels
        yield from self.turned
        if self._evidence.shares:
            yield from self._positions()
        yield from self._batches(labels.match.scale)
        words = "an estimate from random signs over all parameters"
        signs = self._judge.by_chance(self._hypothesis("fisher", words), self._signs)
        if not signs.unexplained:
            yield self._with_signs(signs)

    @functools.cached_property
    def turned(self) -> list[Finding]:
        """How well labels explain the diagonal, read in other ways, best first."""
        fisher, found = self._evidence.fisher, []
        for reading in self._readings[1:]:
            hypothesis = Hypothesis(reading.name, reading.words, fisher, reading)
            draws = self._drawn(reading, fisher, self._noise.labels, self._evidence.noise)
            found.append(self._judge.by_chance(hypothesis, draws, 1.0))
        return sorted(found, key=lambda f: (not f.match.fits, -f.match.log_likelihood))

    def read_otherwise(self, estimate: Finding, gaps: bool) -> list[Finding]:
        """Return the finding, if any, that the diagonal is an estimate if read in another way.

        Args:
            estimate: What it is as given.
            gaps: As given, parameters have the wrong shape.
        """
        size = sum(value.numel() for value in self._readings[0].values.values())
        for finding in self.turned[:1]:
            gain = (finding.match.log_likelihood - estimate.match.log_likelihood) * size
            if finding.match.fits and (gaps or gain >= max(_CLEAR, _CLEAR_EACH * size)):
                return [finding]
        return []

    def _positions(self) -> Iterator[Finding]:
        apart, _ = self._evidence.positions
        words = "positions are taken for samples, with labels drawn from the model"
        yield self._mistake("positions_as_samples", words, apart, self._noise.labels_by_position)

    def _batches(self, scale: float) -> Iterator[Finding]:
        n, size, evidence = self._sizes.inputs, self._evidence.batch, self._evidence
        if size is None:
            if not 0 < scale < 1:
                return
            size = min((s for s in SIZES if s <= n), key=lambda s: abs(math.log(s * scale)))
        size = min(size, n)
        if size == 1:
            return
        draws = min(self._noise.draws, _PASSES // -(-n // size))
        if draws < FEWEST_DRAWS:
            self.note = (
                f"random batches of {size} of the {n} inputs were not looked at, as there are too "
                "many: audit fewer inputs"
            )
            return
        name, words = "squared_batch_mean_gradient", "squares of the gradient of a mean over "
        drawn = functools.partial(self._noise.batches, size, draws)
        share = evidence.share(size)
        prediction = {k: share * v for k, v in evidence.fisher.items()}
        sampled = f"{words}batches of {size} inputs, with labels drawn from the model"
        yield self._mistake(name, sampled, prediction, drawn)
        if evidence.empirical is not None and size < n:
            drawn = functools.partial(evidence.shuffles, size, draws)
            prediction = evidence.shuffled_batch_squares(size)
            yield self._mistake(
                name, f"{words}shuffled batches of {size} inputs", prediction, drawn
            )

    def _mistake(self, name: str, words: str, prediction: Diagonal, drawn: Drawing) -> Finding:
        draws = self._drawn(self._readings[0], prediction, drawn)
        hypothesis = Hypothesis(name, words, prediction, self._readings[0])
        return self._judge.by_chance(hypothesis, draws)

    @functools.cached_property
    def _labels(self) -> Draws:
        first, fisher = self._readings[0], self._evidence.fisher
        return self._drawn(first, fisher, self._noise.labels, self._evidence.noise)

    @functools.cached_property
    def _probes(self) -> Draws:
        first, evidence = self._readings[0], self._evidence
        return self._drawn(first, evidence.fisher, self._noise.probes, evidence.noise_of_probes)

    @functools.cached_property
    def _signs(self) -> Draws:
        return self._drawn(self._readings[0], self._evidence.fisher, self._noise.parameter_probes)

    def _drawn(
        self,
        reading: Reading,
        prediction: Diagonal,
        drawn: Drawing,
        expected: Diagonal | None = None,
    ) -> Draws:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self._noise.seed)
            return self._judge.draws(reading, prediction, drawn, expected)

    def _hypothesis(self, name: str, words: str) -> Hypothesis:
        return Hypothesis(name, words, self._evidence.fisher, self._readings[0])
