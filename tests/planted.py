"""Networks with random data, and diagonals of them that are right, or wrong in a known way."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.reference.diagonals import Bench, Named, by_position, roots


class Sequence(nn.Module):
    """Linear layers at every position of a sequence; the mean over positions is read out."""

    def __init__(self, features, hidden, outputs):
        super().__init__()
        self.enter = nn.Linear(features, hidden)
        self.inner = nn.Linear(hidden, hidden)
        self.leave = nn.Linear(hidden, outputs)

    def forward(self, x):
        return self.leave(torch.tanh(self.inner(torch.tanh(self.enter(x)))).mean(1))


class Attention(nn.Module):
    """One head of self-attention over a sequence."""

    def __init__(self, features, outputs):
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(features, features) for _ in range(3))
        self.leave = nn.Linear(features, outputs)

    def forward(self, x):
        scores = self.query(x) @ self.key(x).mT / x.shape[-1] ** 0.5
        return self.leave(torch.tanh(x + torch.softmax(scores, -1) @ self.value(x)).mean(1))


KINDS = (
    "mlp categorical", "mlp gaussian", "mlp bernoulli", "mlp poisson", "cnn categorical",
    "sequence categorical", "sequence gaussian", "attention categorical",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """A network on data that it does not fit.

    Attributes:
        kind: One of KINDS.
        bench: Network, data and law.
        batch: Size of the batches that code goes through.
    """

    kind: str
    bench: Bench
    batch: int

    @property
    def shared(self) -> bool:
        """Weights are used at several positions."""
        return not self.kind.startswith("mlp")

    @property
    def family(self) -> str:
        return self.kind.split()[1]


def setting(kind: str, seed: int) -> Setting:
    """Return a network of random sizes and weights, with 60 to 220 inputs."""
    generator = torch.Generator().manual_seed(seed)

    def between(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=generator))

    def one_of(*choices: Any) -> Any:
        return choices[between(0, len(choices) - 1)]

    body, family = kind.split()
    constants = {"sigma": one_of(0.3, 0.7, 1.7)} if family == "gaussian" else {}
    few = family in ("gaussian", "poisson")
    outputs = one_of(1, 3, 4) if few else between(3, 7)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        count, features = between(60, 220), between(4, 8)
        shape = {"mlp": (features,), "cnn": (1, 8, 8)}.get(body, (between(3, 6), features))
        model = _network(body, features, between(5, 9), outputs, one_of(nn.Tanh, nn.ReLU, nn.GELU))
        gain = 1 + 0.01 * between(0, 100)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(gain)
        inputs = torch.randn(count, *shape, dtype=torch.float64)
        bench = Bench(model.double().eval(), inputs, torch.zeros(0), family, **constants)
        other = bench.o + 0.7 * torch.randn_like(bench.o)
        bench.labels = bench.law.sample(other, **constants)
    return Setting(kind, bench, one_of(8, 10, 16, 20, 25, 32))


def _network(body, features, hidden, outputs, activation) -> nn.Module:
    if body == "sequence":
        return Sequence(features, hidden, outputs)
    if body == "attention":
        return Attention(features, outputs)
    if body == "cnn":
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), activation(), nn.AvgPool2d(2),
            nn.Conv2d(3, 4, 3), activation(), nn.Flatten(), nn.Linear(16, outputs),
        )  # fmt: skip
    return nn.Sequential(
        nn.Linear(features, hidden), activation(), nn.Linear(hidden, hidden), activation(),
        nn.Linear(hidden, outputs),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Planted:
    """A diagonal and what an audit should find.

    Attributes:
        compute: From a setting to the diagonal.
        expected: Names of findings that are right; several where they cannot be told apart.
        known: What the audit is told, from a setting.
        applies: To which settings.
    """

    compute: Callable[[Setting], Named | Tensor]
    expected: tuple[str, ...]
    known: Callable[[Setting], dict[str, Any]] = lambda s: {}
    applies: Callable[[Setting], bool] = lambda s: True


def _named(compute: Callable[[Setting], Tensor]) -> Callable[[Setting], Named]:
    return lambda s: s.bench.named(compute(s))


def _labels(draws: int) -> Callable[[Setting], Tensor]:
    return lambda s: s.bench.squares_of_labels(draws)


def _batch(s: Setting) -> dict[str, Any]:
    return {"batch_size": s.batch}


def _empirical(s: Setting) -> Tensor:
    return s.bench.score_rows(s.bench.labels).square().mean(0)


def _identity(s: Setting) -> Tensor:
    b = s.bench
    return b.each_of(torch.eye(b.outputs, dtype=b.o.dtype).expand(b.count, -1, -1)).mean(0)


def _last_batch(s: Setting) -> tuple[Tensor, Tensor, int]:
    each = s.bench.each()
    rest = s.bench.count % s.batch or s.batch
    return each.sum(0), each[-rest:].sum(0), rest


def _turned(named: Named) -> Named:
    return {name: v.T if v.ndim == 2 else v for name, v in named.items()}


def _has_matrix(s: Setting) -> bool:
    """A weight that does not look the same when it is transposed."""
    return s.kind != "cnn categorical"


def _other_weights(s: Setting, distance: float) -> Named:
    """Return I at weights that differ by so many standard deviations, of the same size."""
    b, model = s.bench, copy.deepcopy(s.bench.model)
    with torch.no_grad():
        for parameter in model.parameters():
            size = parameter.std(correction=0).clamp(min=0.05)
            parameter.add_(distance * size * torch.randn_like(parameter))
            parameter.div_((1 + distance**2) ** 0.5)
    other = Bench(model, b.inputs, b.labels, b.family, **b.constants)
    return other.named(other.fisher())


ANY = ("score_squared", "gaussian_probe", "parameter_probes", "other_estimate", "fisher")

RIGHT = {
    "exact": Planted(_named(lambda s: s.bench.fisher()), ("fisher",)),
    "float32": Planted(_named(lambda s: s.bench.fisher().float()), ("fisher",)),
    "bfloat16": Planted(_named(lambda s: s.bench.fisher().bfloat16()), ("fisher",)),
    "flat vector": Planted(lambda s: s.bench.fisher(), ("fisher",)),
    **{f"{n} labels": Planted(_named(_labels(n)), ANY) for n in (1, 3, 30, 300)},
    **{
        f"{n} output probes": Planted(_named(lambda s, n=n: s.bench.probes(n)), ANY)
        for n in (1, 5)
    },
    **{
        f"{n} parameter probes": Planted(_named(lambda s, n=n: s.bench.hutchinson(n)), ANY)
        for n in (5, 50)
    },
    **{
        f"XDiag, {n} vectors": Planted(_named(lambda s, n=n: s.bench.xdiag(n)), ANY)
        for n in (10, 30)
    },
}  # fmt: skip
"""Diagonals that are the Fisher's, or unbiased estimates of it."""

WRONG = {
    "summed over inputs": Planted(
        _named(lambda s: s.bench.count * s.bench.fisher()), ("sum_for_mean",)
    ),
    "summed over inputs, sampled": Planted(
        _named(lambda s: s.bench.count * s.bench.squares_of_labels(1)), ("sum_for_mean",)
    ),
    "times the batch size": Planted(
        _named(lambda s: s.batch * s.bench.fisher()), ("batch_size_factor",), _batch
    ),
    "over the batch size, sampled": Planted(
        _named(lambda s: s.bench.squares_of_labels(1) / s.batch), ("batch_size_factor",), _batch
    ),
    "summed over 3 labels, stated": Planted(
        _named(lambda s: 3 * s.bench.squares_of_labels(3)),
        ("label_count_factor",),
        lambda s: {"labels_per_input": 3},
    ),
    "summed over 5 labels": Planted(
        _named(lambda s: 5 * s.bench.squares_of_labels(5)), ("label_count_factor",)
    ),
    "empirical": Planted(_named(_empirical), ("empirical_labels",)),
    "empirical, summed": Planted(
        _named(lambda s: s.bench.count * _empirical(s)), ("empirical_labels",)
    ),
    "squared batch means": Planted(
        _named(lambda s: s.bench.batch_squares(s.bench.labels, s.batch)),
        ("squared_batch_mean_gradient",),
        _batch,
    ),
    "squared batch means, size unknown": Planted(
        _named(lambda s: s.bench.batch_squares(s.bench.labels, s.batch)),
        ("squared_batch_mean_gradient",),
    ),
    "squared mean of all": Planted(
        _named(lambda s: s.bench.batch_squares(s.bench.labels, s.bench.count)),
        ("squared_batch_mean_gradient",),
    ),
    "squared batch means, shuffled": Planted(
        _named(lambda s: s.bench.batch_squares(s.bench.labels, s.batch,
                                               torch.randperm(s.bench.count))),
        ("squared_batch_mean_gradient",),
        _batch,
    ),
    "squared batch means, sampled": Planted(
        _named(lambda s: s.bench.batch_squares(s.bench.sampled(), s.batch)),
        ("squared_batch_mean_gradient",),
        _batch,
    ),
    "squared batch means, sampled, size unknown": Planted(
        _named(lambda s: s.bench.batch_squares(s.bench.sampled(), s.batch)),
        ("squared_batch_mean_gradient",),
    ),
    "positions as samples": Planted(
        lambda s: by_position(s.bench, roots(s.bench)),
        ("positions_as_samples",),
        applies=lambda s: s.shared,
    ),
    "positions as samples, empirical": Planted(
        lambda s: by_position(s.bench, [s.bench.law.score(s.bench.labels, s.bench.o,
                                                          **s.bench.constants)]),
        ("positions_as_samples",),
        applies=lambda s: s.shared,
    ),
    "positions as samples, sampled": Planted(
        lambda s: by_position(s.bench, [s.bench.law.score(s.bench.sampled(), s.bench.o,
                                                          **s.bench.constants)]),
        ("positions_as_samples",),
        applies=lambda s: s.shared,
    ),
    "half of the loss": Planted(_named(lambda s: s.bench.fisher() / 2), ("loss_factor",)),
    "twice the loss": Planted(_named(lambda s: 2 * s.bench.fisher()), ("loss_factor",)),
    "twice the loss, squared, sampled": Planted(
        _named(lambda s: 4 * s.bench.squares_of_labels(1)), ("loss_factor",)
    ),
    "σ taken for 1": Planted(
        _named(_identity), ("likelihood_scale",), applies=lambda s: s.family == "gaussian"
    ),
    "transposed": Planted(
        lambda s: _turned(s.bench.named(s.bench.fisher())),
        ("transposed_weights",),
        applies=_has_matrix,
    ),
    "transposed, sampled": Planted(
        lambda s: _turned(s.bench.named(s.bench.squares_of_labels(1))),
        ("transposed_weights",),
        applies=_has_matrix,
    ),
    "transposed in a vector": Planted(
        lambda s: torch.cat([v.reshape(-1) for v in
                             _turned(s.bench.named(s.bench.fisher())).values()]),
        ("transposed_weights",),
    ),
    "classes averaged alike": Planted(
        _named(lambda s: s.bench.uniform()),
        ("averaged_over_classes",),
        applies=lambda s: s.family == "categorical",
    ),
    "over the number of classes": Planted(
        _named(lambda s: s.bench.fisher() / s.bench.outputs),
        ("averaged_over_classes", "loss_factor"),
        applies=lambda s: s.bench.outputs > 1,
    ),
    "Gauss–Newton of squared errors": Planted(
        _named(lambda s: 2 * _identity(s)),
        ("other_loss",),
        applies=lambda s: s.family != "gaussian",
    ),
    "last batch twice": Planted(
        _named(lambda s: sum(_last_batch(s)[:2]) / (s.bench.count + _last_batch(s)[2])),
        ("last_batch_twice",),
        _batch,
    ),
    "last batch twice, over n": Planted(
        _named(lambda s: sum(_last_batch(s)[:2]) / s.bench.count), ("last_batch_twice",), _batch
    ),
    "other weights": Planted(lambda s: _other_weights(s, 1.0), ("unknown",)),
    "nearby weights": Planted(lambda s: _other_weights(s, 0.5), ("unknown",)),
    "damping": Planted(
        _named(lambda s: s.bench.fisher() + 0.1 * s.bench.fisher().mean()), ("damping",)
    ),
    "posterior variance": Planted(
        _named(lambda s: 1 / (s.bench.count * s.bench.fisher() + 1)), ("reciprocal",)
    ),
    "square root": Planted(_named(lambda s: s.bench.fisher().sqrt()), ("square_root",)),
    "over its largest entry": Planted(
        lambda s: {n: v / v.max() for n, v in s.bench.named(s.bench.fisher()).items()},
        ("normalised",),
    ),
    "over its sum": Planted(
        _named(lambda s: s.bench.fisher() / s.bench.fisher().sum()), ("normalised",)
    ),
    "one parameter missing": Planted(
        lambda s: dict(list(s.bench.named(s.bench.fisher()).items())[1:]),
        ("missing_parameters",),
    ),
}  # fmt: skip
"""Diagonals that are wrong, and what is wrong with them."""


def planted(s: Setting, recipe: Planted, seed: int) -> Named | Tensor:
    """Return the diagonal of a recipe, whose labels and probes are drawn from a seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000_003 * seed + 1)
        return recipe.compute(s)
