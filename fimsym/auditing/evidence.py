"""Diagonals that code may compute instead of the Fisher information."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from fimsym.auditing import information
from fimsym.auditing.passes import Passes, Traced
from fimsym.engine import Analysis
from fimsym.engine.labels import scores, several
from fimsym.errors import FimsymError

Diagonal = dict[str, Tensor]
"""A float64 tensor for every trainable parameter, on the CPU."""
OTHERS = ("gaussian", "categorical", "bernoulli", "poisson")
"""Laws whose curvature is taken for that of another."""


class Evidence:
    """What the Fisher information is, and what is easily taken for it.

    Every diagonal is computed when it is asked for, and once; a mean over the inputs.

    Args:
        passes: The network and its data.
        analysis: Of the same network and data.
        batch: Inputs per batch; None if it is not known.
        run: Calls `analyze` with further arguments.

    Attributes:
        batch: Likewise.
    """

    def __init__(
        self, passes: Passes, analysis: Analysis, batch: int | None, run: Callable[..., Analysis]
    ):
        self._passes = passes
        self._analysis = analysis
        self._run = run
        self.batch = batch

    @property
    def fisher(self) -> Diagonal:
        """I."""
        return dict(self._analysis.fisher)

    @property
    def empirical(self) -> Diagonal | None:
        """Squared scores of the data's labels; None without labels."""
        return dict(self._analysis.empirical) if "empirical" in self._analysis.values else None

    @property
    def noise(self) -> Diagonal:
        """V₁/n, the variance of an estimate from one label for each input."""
        n = self._passes.count
        return {k: v / n for k, v in self._analysis.variance_score_squared.items()}

    @property
    def noise_of_probes(self) -> Diagonal:
        """2 E_x I(x)²/n, the variance of an estimate from one normal probe for each input."""
        n, analysis = self._passes.count, self._analysis
        spread = analysis.input_variance if n > 1 else dict.fromkeys(self.fisher, 0.0)
        return {
            name: 2 / n * (spread[name] * (n - 1) / n + value.square())
            for name, value in self.fisher.items()
        }

    @functools.cached_property
    def mean_gradient(self) -> Diagonal:
        """The gradient of the mean log-likelihood of the data's labels."""
        return self._split(self._of_batches(self._passes.count)[1])

    @functools.cache  # noqa: B019
    def batch_squares(self, size: int) -> Diagonal:
        """Squared gradients of means over batches of the data in order, averaged over batches."""
        return self._split(self._of_batches(size)[0])

    def shuffled_batch_squares(self, size: int) -> Diagonal:
        """The mean of `batch_squares` over every order of the data.

        With s̄ the mean gradient and E s² the empirical Fisher it is E s²/B + (1 − 1/B) times
        the mean product of two different examples, (n s̄² − E s²)/(n − 1).
        """
        n, empirical, share = self._passes.count, self.empirical, self.share(size)
        assert empirical is not None
        return {
            name: share * own + (1 - share) * (n * self.mean_gradient[name] ** 2 - own) / (n - 1)
            for name, own in empirical.items()
        }

    def share(self, size: int) -> float:
        """Return the mean over batches of one through the number of inputs."""
        n = self._passes.count
        full, rest = divmod(n, size)
        return (full / size + (1 / rest if rest else 0.0)) / (full + (rest > 0))

    @functools.cached_property
    def shares(self) -> bool:
        """Whether a parameter is used at several positions of an input."""
        return self._passes.shares()

    @functools.cached_property
    def positions(self) -> tuple[Diagonal, Diagonal]:
        """I with every position an example of its own, and the number of positions."""
        return self._by_position(lambda at: information.root(self._passes.head, at.outputs))

    @functools.cached_property
    def empirical_positions(self) -> Diagonal:
        """Squared scores of the data's labels, every position an example of its own."""
        return self._by_position(self.scores)[0]

    @functools.cached_property
    def uniform(self) -> Diagonal | None:
        """Squared scores averaged over all classes alike; None for other laws."""
        head, m = self._passes.head, self._passes.outputs
        if head.spec.name != "categorical" or not head.identity:
            return None

        def seeds(at: Traced) -> Iterator[Tensor]:
            for k in range(m):
                y = torch.full((len(at.outputs),), k, device=at.outputs.device)
                yield scores(head, at.outputs, y) / m**0.5

        return self._split(self._passes.totals(seeds) / self._passes.count)

    @functools.cached_property
    def others(self) -> Mapping[str, Diagonal]:
        """The Fisher information of other laws with the same outputs, by name."""
        own, found = self._passes.head, {}
        for name in OTHERS:
            if (name == own.spec.name and own.identity) or (
                name == "categorical" and self._passes.outputs < 2
            ):
                continue
            with contextlib.suppress(FimsymError):
                found[name] = dict(self._run(family=name, link=None, constants={}).fisher)
        return found

    @functools.cache  # noqa: B019
    def part(self, first: int, last: int) -> Diagonal:
        """I of a range of the inputs alone."""
        inputs = [(x, y, start) for x, y, start in self._passes.pieces()]
        kept = []
        for x, _, start in inputs:
            low, high = max(0, first - start), min(len(x), last - start)
            if low < high:
                kept.append(x[low:high])
        return dict(self._run(data=kept).fisher)

    def scores(self, at: Traced) -> list[Tensor]:
        """Return the scores of the data's labels at the output."""
        head, outputs = self._passes.head, at.outputs
        found = several(head, at.labels, outputs.shape[1], at.first)
        return [scores(head, outputs, one, at.first) / len(found) ** 0.5 for one in found]

    def shuffles(self, size: int, count: int) -> Iterator[Tensor]:
        """Yield `batch_squares` for random orders of the data, each a flat vector [param]."""
        pieces = [(x, y) for x, y, _ in self._passes.pieces()]
        inputs = torch.cat([x for x, _ in pieces])
        labels = torch.cat([y for _, y in pieces if y is not None])
        for _ in range(count):
            order = torch.randperm(len(inputs))
            shuffled = self._passes.of(inputs[order], labels[order])
            yield Evidence(shuffled, self._analysis, size, self._run)._of_batches(size)[0].cpu()

    def _of_batches(self, size: int) -> tuple[Tensor, Tensor]:
        """Return the mean over batches of squared mean gradients, and the mean gradient."""
        head, network = self._passes.head, self._passes.network
        squares = torch.zeros_like(network.theta, dtype=torch.float64)
        total, batches, held, within = squares.clone(), 0, squares.clone(), 0
        for inputs, labels, first in self._passes.within(size):
            assert labels is not None

            def seed(outputs, labels=labels, first=first):
                found = several(head, labels, outputs.shape[1], first)
                return torch.stack([scores(head, outputs, one, first) for one in found]).mean(0)

            held += self._passes.gradient(inputs, seed)
            within += len(inputs)
            if within == size or first + len(inputs) == self._passes.count:
                squares += (held / within).square()
                total += held
                batches += 1
                held, within = torch.zeros_like(held), 0
        return squares / batches, total / self._passes.count

    def _by_position(self, seeds) -> tuple[Diagonal, Diagonal]:
        total, positions = self._passes.totals_by_position(seeds)
        return self._split(total / self._passes.count), self._split(positions)

    def _split(self, flat: Tensor) -> Diagonal:
        return self._passes.network.split(flat.cpu())
