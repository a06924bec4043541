"""Networks of every kind of layer, and estimators run on draws of the tests' own choice."""

import itertools

import torch
from torch import nn

import fimsym
from fimsym.engine.accumulate import Accumulator
from fimsym.engine.alignment import Alignment
from fimsym.engine.graph import read
from fimsym.engine.head import Head
from fimsym.engine.network import Network
from fimsym.estimation.curved import Curved
from fimsym.estimation.drawn import Drawn
from fimsym.estimation.hessians import ESTIMATES, FISHER, FISHER_SQUARED, VARIANCES, FromLabels
from fimsym.estimation.piece import Piece
from fimsym.estimation.seeds import Labels
from fimsym.laws import Law
from tests.networks import build, flat, inputs
from tests.reference import enumeration


class Kinds(nn.Module):
    """An embedding, a convolution, an unusual product and linear layers.

    `embed` and `mix` (a convolution) are shared, `turn` is functional, the others structured.
    """

    def __init__(self, outputs=3, activation=torch.tanh):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.mix = nn.Conv1d(3, 2, 2)
        self.turn = nn.Parameter(torch.randn(2, 2))
        self.inner, self.leave = nn.Linear(4, 3), nn.Linear(3, outputs)
        self.activation = activation

    def forward(self, tokens):
        z = self.activation(self.mix(self.embed(tokens).transpose(1, 2)))
        z = torch.einsum("bct,cd->bdt", z, self.turn).flatten(1)
        return self.leave(self.activation(self.inner(z)))


def tokens(count):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 4, (count, 3), generator=generator)


LAWS = {
    "categorical": ("categorical", None, 3, {}),
    "bernoulli": ("bernoulli", None, 1, {}),
    "poisson": ("poisson", "log_rate", 1, {}),
    "gaussian": ("gaussian", "mean", 1, {"sigma": 0.5}),
    "binomial": ("binomial", "log_odds", 1, {"n": 3}),
    "gaussian_mean_variance": ("gaussian_mean_variance", "mean_log_variance", 2, {}),
}
"""Family, link, outputs of one label, constants."""


def network(law, activation=torch.tanh):
    return build(lambda: Kinds(LAWS[law][2], activation))


class Bench:
    """A network with all that an estimator needs, for one batch."""

    def __init__(self, model, data, family, link=None, constants=None):
        self.network = Network(model)
        self.head = Head(family, link, constants or {})
        self.alignment = Alignment(self.network)
        self.data = data
        self.law = Law(self.head.spec, self.head.constants, self.head.link)
        self.piece = self.of(data)

    def of(self, data, first=0):
        graph = read(*self.network.traced(data))
        rows = torch.arange(first, first + len(data))
        return Piece(graph, data, None, rows, first, self.alignment.uses(graph, data))

    def drawn(self, source, **options):
        return Drawn(self.network, self.head, self.alignment, source, **options)

    def add(self, method, draws, part=0, piece=None):
        """Return the sums of a method over the batch, or another piece."""
        sums = Accumulator(method.quantities, self.network.size, self.network.device, False)
        method.add(piece or self.piece, draws, part, sums)
        return sums.sums

    def squares(self, seeds, piece, coefficients=None, exact=True):
        """Return x of one input for each of some random vectors [seed, output], [seed, param].

        With coefficients of a control variate, those at the output are exact if wanted.
        """
        found = []
        for seed in seeds:
            method = self.drawn(lambda *_, s=seed: s.reshape(1, 1, -1))
            method._coefficients = coefficients
            if not exact:
                method._with_exact = lambda _: coefficients
            found.append(self.add(method, 1, piece=piece)["total"])
        return torch.stack(found)

    def curved(self, labels, second=False):
        wanted = (*ESTIMATES, *VARIANCES, *((FISHER, FISHER_SQUARED) if second else ()))
        return Curved(
            self.network, self.head, self.alignment, wanted,
            lambda *at: FromLabels(self.head, labels, wanted, *at),
        )  # fmt: skip


class Given(Labels):
    """Draws what it is told to."""

    def __init__(self, head):
        super().__init__(head, 0)
        self.label = None

    def drawn(self, outputs, rows, draws, part):
        return self.label


def every_label(law, outputs):
    """Return the labels [label, 1, …] of one input's outputs, and their probabilities.

    From the reference: all of them, all but negligible ones, or nodes of a quadrature.
    """
    family, link, _, constants = LAWS[law]
    given = fimsym.family(family).bind(constants)
    labels, weight = enumeration.likelihood(enumeration.LAWS[family], link, outputs, given)
    if family == "categorical":
        return labels.argmax(-1).unsqueeze(1), weight
    return labels.reshape(len(labels), 1, -1), weight


def all_signs(outputs):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=outputs)), dtype=torch.float64)


__all__ = ["LAWS", "Bench", "Given", "Kinds", "every_label", "flat", "inputs", "network", "tokens"]
