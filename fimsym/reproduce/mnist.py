"""A network of four layers trained on handwritten digits: what Figure 2 follows."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from fimsym.datasets.mnist import Digits
from fimsym.engine import Analysis, analyze

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "softplus": nn.Softplus,
    "gelu": nn.GELU,
}
"""The paper's, and the variants of its appendix."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the network is trained and measured.

    Attributes:
        activation: Between the layers, a name in `ACTIVATIONS`.
        epochs: Passes over the training images.
        hidden: Widths of the hidden layers.
        batch: Images for a step.
        rate: Learning rate of Adam.
        measured: Most held-out images to measure on.
    """

    activation: str = "sigmoid"
    epochs: int = 20
    hidden: tuple[int, ...] = (128, 128, 128)
    batch: int = 64
    rate: float = 1e-3
    measured: int = 1000


def train(digits: Digits, settings: Settings, seed: int) -> Iterator[nn.Module]:
    """Yield the network before training and after every epoch; it is the same module."""
    rng = torch.Generator().manual_seed(seed)
    images, labels = torch.from_numpy(digits.images), torch.from_numpy(digits.labels)
    model = network(images.shape[1], settings, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.rate)
    yield model
    for _ in range(settings.epochs):
        for chosen in torch.randperm(len(images), generator=rng).split(settings.batch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images[chosen]), labels[chosen]).backward()
            optimizer.step()
        yield model


def network(pixels: int, settings: Settings, seed: int) -> nn.Module:
    """Return the network with random weights as torch initialises them; it puts out 10 logits."""
    sizes = [pixels, *settings.hidden, 10]
    layers: list[nn.Module] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for wide, narrow in itertools.pairwise(sizes):
            layers += [nn.Linear(wide, narrow), ACTIVATIONS[settings.activation]()]
    return nn.Sequential(*layers[:-1])


def measured(digits: Digits, settings: Settings, seed: int) -> Tensor:
    """Return the held-out images to measure on, [image, pixel], float64."""
    rng = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(digits.held_out), generator=rng)[: settings.measured]
    return torch.from_numpy(digits.held_out)[chosen].double()


def diagonal(model: nn.Module, inputs: Tensor) -> Analysis:
    """Return the exact I, V₁ and V₂ of every parameter with the bounds of Theorem 4.1."""
    return analyze(
        copy.deepcopy(model).to(inputs),
        inputs,
        family="categorical",
        quantities=(
            "fisher",
            "variance_score_squared",
            "variance_negative_hessian",
            "bounds",
        ),
        input_variance=False,
        progress=False,
    )


def held_out_quality(model: nn.Module, digits: Digits) -> dict[str, Any]:
    """Return cross-entropy and accuracy over the held-out images."""
    images, labels = torch.from_numpy(digits.held_out), torch.from_numpy(digits.held_out_labels)
    with torch.no_grad():
        logits = model(images)
    return {
        "test_loss": float(nn.functional.cross_entropy(logits, labels)),
        "accuracy": float((logits.argmax(1) == labels).double().mean()),
    }
