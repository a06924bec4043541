"""Random estimates of the Fisher diagonal, drawn as other code draws them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from fimsym.auditing import information
from fimsym.auditing.passes import Passes, Traced
from fimsym.engine.labels import scores
from fimsym.errors import DomainError, UnsupportedError
from fimsym.laws import Law

_ENTRIES = 2**26
"""Entries of diagonals that are held at a time."""
_TRIES = 10


class Noise:
    """Draws of estimates from the network's own law, each a flat vector [param] on the CPU.

    Args:
        passes: The network and its data.
        draws: How many to draw.
        seed: Of the draws.

    Attributes:
        why: Why no labels can be drawn, empty where they can.
    """

    def __init__(self, passes: Passes, draws: int, seed: int):
        self._passes = passes
        self.seed = seed
        self.draws = draws
        head = passes.head
        self._law, self.why = None, ""
        try:
            self._law = Law(head.spec, head.constants, head.link)
        except UnsupportedError as error:
            self.why = str(error)

    def chance_of_labels(self) -> float:
        """Return how probable the data's labels are as draws of the model; 0 for densities."""
        total, law = 0.0, self._law
        if law is None or not self._passes.labelled:
            return 0.0
        for inputs, labels, _ in self._passes.pieces():
            with torch.no_grad():
                outputs = self._passes.network.forward(inputs).double().cpu()
            assert labels is not None
            shape = outputs.shape if law.independent else outputs.shape[:1]
            if law.support(outputs[0]) is None or labels.numel() != shape.numel():
                return 0.0
            total += float(law.log_prob(outputs, labels.cpu().reshape(shape)).sum())
        return math.exp(total)

    def labels(self) -> Iterator[Tensor]:
        """Squared scores of one label for each input."""
        return self._drawn(self._label_seeds, self._passes.squares)

    def labels_by_position(self) -> Iterator[Tensor]:
        """The same with every position of a shared parameter an example of its own."""
        like = self._passes.network.theta.double()

        def squares(at: Traced, seed: Tensor) -> Tensor:
            return self._passes.squares_by_position(at, seed, torch.ones_like(like))

        return self._drawn(self._label_seeds, squares)

    def probes(self) -> Iterator[Tensor]:
        """Squared gradients seeded with normal vectors of the output's Fisher information."""
        generator = Generator().manual_seed(self.seed)

        def seeds(at: Traced, count: int) -> Iterator[Tensor]:
            for _ in range(count):
                yield information.probe(self._passes.head, at.outputs, generator)

        return self._drawn(seeds, self._passes.squares)

    def batches(self, size: int, draws: int) -> Iterator[Tensor]:
        """Squared gradients of means over batches of sampled labels, averaged over batches."""
        like = self._passes.network.theta.double()
        for count in self._parts(draws):
            total = [torch.zeros_like(like) for _ in range(count)]
            held = [torch.zeros_like(like) for _ in range(count)]
            batches, within = 0, 0
            for inputs, _, first in self._passes.within(size):
                with torch.no_grad():
                    outputs = self._passes.network.forward(inputs)
                for r, seed in enumerate(self._scores(outputs, count)):
                    held[r] += self._passes.gradient(inputs, lambda _, seed=seed: seed)
                within += len(inputs)
                if within == size or first + len(inputs) == self._passes.count:
                    for r in range(count):
                        total[r] += (held[r] / within).square()
                        held[r].zero_()
                    batches, within = batches + 1, 0
            yield from ((one / batches).cpu() for one in total)

    def parameter_probes(self) -> Iterator[Tensor]:
        """Products z ⊙ (F z) with random signs z over all parameters and F the Fisher matrix."""
        network, generator = self._passes.network, Generator().manual_seed(self.seed + 1)
        for count in self._parts():
            signs = torch.randint(2, (count, network.size), generator=generator)
            z = (2 * signs - 1).to(network.theta)
            total = torch.zeros_like(z, dtype=torch.float64)
            for inputs, _, _ in self._passes.pieces():
                for one, row in zip(z, total, strict=True):
                    row += self._times(inputs, one)
            yield from (z.double() * total / self._passes.count).cpu()

    def _times(self, inputs: Tensor, z: Tensor) -> Tensor:
        """Return Σ_b J_bᵀ M_b J_b z, [param]; J z by differentiating wᵀJ by w."""
        network = self._passes.network
        h, leaves = network.traced(inputs)
        given: dict[str, Any] = {"allow_unused": True, "materialize_grads": True}
        parameters = list(leaves.values())
        w = torch.zeros_like(h).requires_grad_()
        back = torch.autograd.grad(h, parameters, w, create_graph=True, **given)
        flat = torch.cat([g.reshape(-1) for g in back])
        (along,) = torch.autograd.grad(flat, w, z, retain_graph=True, **given)
        seed = information.times(self._passes.head, h, along).to(h)
        found = torch.autograd.grad(h, parameters, seed, **given)
        return torch.cat([g.reshape(-1) for g in found]).double()

    def _drawn(self, seeds: Callable, squares: Callable) -> Iterator[Tensor]:
        for count in self._parts():
            total = torch.zeros(count, self._passes.network.size, dtype=torch.float64)
            for at in self._passes.traced():
                for row, seed in zip(total, seeds(at, count), strict=True):
                    row += squares(at, seed).cpu()
            yield from total / self._passes.count

    def _parts(self, draws: int | None = None) -> Iterator[int]:
        """Yield how many draws to hold at a time."""
        most = max(1, _ENTRIES // self._passes.network.size)
        draws = draws or self.draws
        for start in range(0, draws, most):
            yield min(most, draws - start)

    def _label_seeds(self, at: Traced, count: int) -> Iterator[Tensor]:
        return self._scores(at.outputs, count)

    def _scores(self, outputs: Tensor, count: int) -> Iterator[Tensor]:
        """Yield ∂ log p(y|o)/∂o of labels drawn from the law."""
        given = self._given(outputs)
        for _ in range(count):
            yield self._score(given, outputs)

    def _score(self, law, outputs: Tensor) -> Tensor:
        for left in reversed(range(_TRIES)):
            try:
                y = law.sample().to(outputs.device)
                return scores(self._passes.head, outputs, y)
            except DomainError:  # a label was rounded to the edge of the law's domain
                if not left:
                    raise
        raise AssertionError

    def _given(self, outputs: Tensor):
        assert self._law is not None
        return self._law.given(outputs.detach().double().cpu())
