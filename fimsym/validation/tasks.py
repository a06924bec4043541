"""The real data and small networks that validation runs on, one task per family."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from fimsym.errors import DomainError, UnsupportedError
from fimsym.families import family
from fimsym.validation.law import Law


@dataclasses.dataclass(frozen=True)
class Task:
    """A trained network and held-out inputs.

    Attributes:
        name: Of the data set.
        title: The network and data in words.
        family: Name of the output family.
        constants: Values of its constants.
        model: The network, float64, in evaluation mode.
        inputs: Held-out inputs, [input, feature].
        quality: How well it does on held-out data, in words.
    """

    name: str
    title: str
    family: str
    constants: dict[str, float]
    model: nn.Module
    inputs: Tensor
    quality: str


def digits(seed: int, inputs: int) -> Task:
    """Train a sigmoid network on scikit-learn's handwritten digits, ten classes."""
    data = _scikit("load_digits")
    features, labels = data.data / 16, data.target
    train, test = _split(len(features), seed)
    x, y = torch.from_numpy(features[train]), torch.from_numpy(labels[train])
    sizes = [64, 16, 16, 10]
    model = _train(_sigmoid_network(sizes, seed), Law(family("categorical"), {}), x, y)
    with torch.no_grad():
        guess = model(torch.from_numpy(features[test])).argmax(1).numpy()
    accuracy = float((guess == labels[test]).mean())
    held_out = _choose("digits", torch.from_numpy(features[test]), inputs)
    title = f"digits, sigmoid network {'-'.join(map(str, sizes))}, categorical"
    quality = f"held-out accuracy {accuracy:.1%}"
    return Task("digits", title, "categorical", {}, model, held_out, quality)


def diabetes(seed: int, inputs: int) -> Task:
    """Train a sigmoid network on scikit-learn's diabetes data, two Gaussian outputs.

    Targets are the disease's progression and the average blood pressure; inputs are the
    other nine measurements.
    """
    data = _scikit("load_diabetes")
    pressure = data.feature_names.index("bp")
    features = _standardise(np.delete(data.data, pressure, axis=1))
    target = _standardise(np.column_stack([data.target, data.data[:, pressure]]))
    train, test = _split(len(features), seed)
    design = np.column_stack([features[train], np.ones(len(train))])
    weights = np.linalg.lstsq(design, target[train], rcond=None)[0]
    residual = target[train] - design @ weights
    sigma = round(float(residual.std()), 3)
    law = Law(family("gaussian"), {"sigma": sigma})
    x, y = torch.from_numpy(features[train]), torch.from_numpy(target[train])
    sizes = [9, 8, 2]
    model = _train(_sigmoid_network(sizes, seed), law, x, y)
    with torch.no_grad():
        guess = sigma**2 * model(torch.from_numpy(features[test])).numpy()
    error = float(np.sqrt(((guess - target[test]) ** 2).mean()))
    held_out = _choose("diabetes", torch.from_numpy(features[test]), inputs)
    title = f"diabetes, sigmoid network {'-'.join(map(str, sizes))}, gaussian (σ = {sigma})"
    quality = f"held-out error {error:.2f} of the targets' deviation"
    return Task("diabetes", title, "gaussian", {"sigma": sigma}, model, held_out, quality)


TASKS: dict[str, Callable[[int, int], Task]] = {"categorical": digits, "gaussian": diabetes}
"""The task that validates each family."""


def _scikit(loader: str):
    try:
        from sklearn import datasets
    except ImportError:
        raise UnsupportedError(
            "validation on real data needs scikit-learn, which is not installed. "
            "Run: pip install scikit-learn."
        ) from None
    return getattr(datasets, loader)()


def _split(count, seed):
    order = np.random.default_rng(seed).permutation(count)
    return order[: int(0.75 * count)], order[int(0.75 * count) :]


def _standardise(values):
    return (values - values.mean(0)) / values.std(0)


def _choose(name, held_out, inputs):
    if not 1 <= inputs <= len(held_out):
        raise DomainError(
            f"inputs must be between 1 and {len(held_out)}, the held-out rows of {name}; "
            f"got {inputs}."
        )
    return held_out[:inputs].contiguous()


def _sigmoid_network(sizes, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for wide, narrow in itertools.pairwise(sizes):
            layers += [nn.Linear(wide, narrow), nn.Sigmoid()]
        return nn.Sequential(*layers[:-1]).double()


def _train(model, law, inputs, labels, steps=300):
    """Minimise the mean of −log p with a little weight decay, so that p stays moderate."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.03, weight_decay=0.02)
    for _ in range(steps):
        optimizer.zero_grad()
        (-law.log_prob(model(inputs), labels).mean()).backward()
        optimizer.step()
    return model.eval()
