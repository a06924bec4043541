"""Random vectors at the output whose squared gradients estimate the Fisher information.

With r = t(y) − η of a label, or r = L g of a probe with I(h) = LLᵀ and E ggᵀ = 1, the mean of
⟨u, r⟩² over r is uᵀ I(h) u. A backward pass with g'(o)ᵀ r at the network's output o gives
⟨u, r⟩ of every parameter; h = g(o) is the link.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributions

from fimsym.engine.head import Head
from fimsym.errors import SpecError
from fimsym.estimation.noise import BLOCK, Noise
from fimsym.estimation.piece import Piece
from fimsym.laws import Law, inversion


class Labels:
    """Scores of labels drawn from the network's own law.

    Labels of laws with an inverse depend on the seed and their row alone. Those of others are
    drawn sixteen rows at a time, and depend on how many processes share the rows, too.

    Args:
        head: The law of the labels.
        seed: Of the labels.
    """

    def __init__(self, head: Head, seed: int):
        self._law = Law(head.spec, head.constants, head.link)
        self._of_natural = Law(head.spec, head.constants)
        self._seed = seed

    def __call__(self, outputs: Tensor, rows: Tensor, draws: int, part: object) -> Tensor:
        """Return ∂ log p(y|o)/∂o of labels, [draw, batch, output], in float64.

        Args:
            outputs: o, [batch, output].
            rows: Row of each input in the data, increasing.
            draws: How many labels to draw for each input.
            part: Which part of all draws these are.
        """
        return self.of(outputs, self.drawn(outputs, rows, draws, part))

    def of(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return ∂ log p(y|o)/∂o of labels [draw, batch, …], likewise."""
        return self._law.scores(outputs.detach().double(), labels)

    def natural(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Return t(y) − η of labels [draw, batch, …], likewise."""
        h = self._law.natural(outputs.detach().double())
        return self._of_natural.scores(h, labels)

    def of_data(self, piece: Piece) -> Tensor:
        """Return ∂ log p(y|o)/∂o of the data's labels, one per input, [1, batch, output].

        Raises:
            SpecError: there are none.
        """
        outputs, labels = piece.outputs, piece.labels
        if labels is None:
            raise SpecError(
                "the empirical Fisher squares the scores of the data's own labels; expected "
                "(inputs, labels), got inputs alone. Pass a pair, or choose another estimator."
            )
        law = self._law.given(outputs[:1].detach().double())
        labels = labels.reshape(1, len(outputs), *law.event_shape)
        classes = isinstance(law, distributions.Categorical)
        return self.of(outputs, labels.long() if classes else labels.double())

    def drawn(self, outputs: Tensor, rows: Tensor, draws: int, part: object) -> Tensor:
        """Return labels [draw, batch, …]; arguments as for calling this."""
        outputs = outputs.detach().double()
        noise = Noise(self._seed, "labels", part)
        width = inversion.width(self._law.given(outputs[:1]))
        if width is None:
            return self._by_blocks(outputs.cpu(), rows, draws, noise).to(outputs.device)
        uniform = noise.uniform(rows, draws, width).to(outputs.device)
        return inversion.labels(self._law.given(outputs), uniform)

    def _by_blocks(self, outputs, rows, draws, noise) -> Tensor:
        """Draw by torch's own samplers, seeded for every block of rows."""
        _, counts = torch.unique_consecutive(rows // BLOCK, return_counts=True)
        starts = [0, *counts.cumsum(0).tolist()[:-1]]
        labels = []
        with torch.random.fork_rng(devices=[]):
            for start, of_block in zip(starts, outputs.split(counts.tolist()), strict=True):
                torch.default_generator.manual_seed(noise.seed(int(rows[start])))
                labels.append(self._law.given(of_block).sample((draws,)))
        return torch.cat(labels, dim=1)


class Probes:
    """Random vectors of covariance I(h), without labels.

    Args:
        head: The law of the labels.
        seed: Of the probes.
        signs: Draw g from −1 and 1 instead of N(0, 1).
    """

    def __init__(self, head: Head, seed: int, signs: bool):
        self._head = head
        self._seed = seed
        self._signs = signs

    def __call__(self, outputs: Tensor, rows: Tensor, draws: int, part: object) -> Tensor:
        """Return g'(o)ᵀ L g, [draw, batch, output], in float64; as for `Labels`."""
        outputs = outputs.detach().double()
        noise = Noise(self._seed, "signs" if self._signs else "normal", part)
        drawn = noise.signs if self._signs else noise.normal
        g = drawn(rows, draws, outputs.shape[1]).to(outputs.device, torch.float64)
        return self.of(outputs, g)

    def of(self, outputs: Tensor, g: Tensor) -> Tensor:
        """Return g'(o)ᵀ L g for given g [draw, batch, output]."""
        head = self._head
        with torch.enable_grad():
            at = outputs.detach().requires_grad_()
            h = head.natural(at)
            probes = g.movedim(0, -1)
            r = head.module.root(h.detach().double(), probes, **head.constants).movedim(-1, 0)
            if h is at:
                return r
            return torch.stack([torch.autograd.grad(h, at, one, retain_graph=True)[0] for one in r])
