"""A network trained on real data: what validation runs on beside the law alone."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.errors import DomainError, UnsupportedError
from fimsym.families import family as family_of
from fimsym.laws import Law
from fimsym.validation.network import Question


@dataclasses.dataclass(frozen=True)
class Data:
    """Rows for training and held-out rows.

    Attributes:
        name: Of the data set.
        features: Inputs for training, [row, feature].
        labels: Labels for training, [row] and a label's own axes.
        held_out: Held-out inputs.
        held_out_labels: Their labels.
    """

    name: str
    features: Tensor
    labels: Tensor
    held_out: Tensor
    held_out_labels: Tensor


def divided(name: str, features: np.ndarray, labels: np.ndarray, seed: int) -> Data:
    """Return three quarters of the rows for training and the others as held-out ones."""
    order = np.random.default_rng(seed).permutation(len(features))
    train, test = order[: int(0.75 * len(order))], order[int(0.75 * len(order)) :]
    parts = (features[train], labels[train], features[test], labels[test])
    return Data(name, *(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))


def fitted(
    data: Data,
    law: Law,
    sizes: Sequence[int],
    seed: int,
    steps: int = 300,
    activation: Callable[[], nn.Module] = nn.Sigmoid,
) -> nn.Module:
    """Return a network of those layer sizes, trained on the data."""
    return _train(_perceptron(sizes, seed, activation), law, data, steps)


def task(
    data: Data,
    what: str,
    family: str,
    sizes: Sequence[int],
    seed: int,
    inputs: int,
    link: str | None = None,
    constants: Mapping[str, float] | None = None,
    steps: int = 300,
) -> Question:
    """Train a sigmoid network and judge it by its held-out likelihood.

    Args:
        data: Rows to train on and to hold out.
        what: The data set and its labels in words.
        family: Name of the output family.
        sizes: Number of inputs, hidden units and outputs.
        seed: Seed of the initial weights.
        inputs: Number of held-out inputs.
        link: What the network puts out.
        constants: Constants of the family.
        steps: How long to train; fewer where there are few rows.

    Raises:
        DomainError: more inputs than held-out rows.
    """
    held_out = chosen(data, inputs)
    constants = dict(constants or {})
    law = Law(family_of(family), constants, link)
    model = fitted(data, law, sizes, seed, steps)
    with torch.no_grad():
        own = float(law.log_prob(model(data.held_out), data.held_out_labels).mean())
    base = _without_inputs(law, data, sizes[-1])
    title = f"{what}, sigmoid network {'-'.join(map(str, sizes))}, {described(family, constants)}"
    if link is not None:
        title += f", link {link}"
    quality = f"held-out log-likelihood {own:.3f} per label, {base:.3f} without inputs"
    return Question(data.name, title, family_of(family), constants, model, held_out, quality, link)


def described(family: str, constants: Mapping[str, Any]) -> str:
    """Return a family's name with its constants."""
    shown = ", ".join(f"{'σ' if k == 'sigma' else k} = {v:g}" for k, v in constants.items())
    return f"{family} ({shown})" if shown else family


def chosen(data: Data, inputs: int) -> Tensor:
    """Return the first held-out inputs.

    Raises:
        DomainError: more are asked for than there are.
    """
    if not 1 <= inputs <= len(data.held_out):
        raise DomainError(
            f"inputs must be between 1 and {len(data.held_out)}, the held-out rows of "
            f"{data.name}; got {inputs}."
        )
    return data.held_out[:inputs].contiguous()


def standardised(values: np.ndarray) -> np.ndarray:
    """Return columns with mean 0 and deviation 1."""
    return (values - values.mean(0)) / values.std(0)


def scikit(loader: str) -> Any:
    """Return a data set of scikit-learn.

    Raises:
        UnsupportedError: scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise missing("scikit-learn") from None
    return getattr(datasets, loader)()


def statsmodels(name: str) -> Any:
    """Return a data set of statsmodels as a pandas frame.

    Raises:
        UnsupportedError: statsmodels is not installed.
    """
    try:
        from statsmodels import datasets
    except ImportError:
        raise missing("statsmodels") from None
    return getattr(datasets, name).load_pandas().data


def missing(package: str) -> UnsupportedError:
    """Return the error for a package of data sets that is not installed."""
    return UnsupportedError(
        f"validation on real data needs {package}, which is not installed. "
        'Run: pip install "fimsym[data]".'
    )


def _train(model: nn.Module, law: Law, data: Data, steps: int) -> nn.Module:
    """Minimise the mean of −log p with a little weight decay, so that p stays moderate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        (-law.log_prob(model(data.features), data.labels).mean()).backward()
        optimizer.step()
    return model.eval()


class _Constant(nn.Module):
    def __init__(self, size: int):
        super().__init__()
        self.output = nn.Parameter(torch.zeros(size, dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.output.expand(len(inputs), -1)


def _without_inputs(law: Law, data: Data, size: int) -> float:
    """Return the held-out log-likelihood of the best constant output."""
    model = _train(_Constant(size), law, data, 300)
    with torch.no_grad():
        return float(law.log_prob(model(data.held_out), data.held_out_labels).mean())


def _perceptron(sizes: Sequence[int], seed: int, activation: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(sizes):
            layers += [nn.Linear(wide, narrow), activation()]
        return nn.Sequential(*layers[:-1]).double()
