"""The networks of the comparison: float32, random weights and inputs from fixed seeds."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

BATCHES = 16


@dataclasses.dataclass(frozen=True)
class Case:
    """A network and the data it is measured on.

    Attributes:
        name: What the tables call it.
        description: Its layers.
        family: Output family.
        batch: Inputs per batch B.
        shape: Shape of one input.
        outputs: Number of outputs C.
        make: Builds the module.
    """

    name: str
    description: str
    family: str
    batch: int
    shape: tuple[int, ...]
    outputs: int
    make: Callable[[], nn.Module]

    def model(self, seed: int = 0) -> nn.Module:
        """Return the network in evaluation mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make().eval()

    def batches(self, count: int = BATCHES, batch: int | None = None) -> list[Tensor]:
        """Return `count` batches of standard normal inputs [batch, *shape]."""
        generator = torch.Generator().manual_seed(1)
        size = (batch or self.batch, *self.shape)
        return [torch.randn(size, generator=generator) for _ in range(count)]

    def targets(self, batches: list[Tensor]) -> list[Tensor]:
        """Return labels for a loss: classes, or numbers [batch, output] for the Gaussian."""
        generator = torch.Generator().manual_seed(2)
        if self.family == "gaussian":
            return [torch.randn(len(x), self.outputs, generator=generator) for x in batches]
        return [torch.randint(self.outputs, (len(x),), generator=generator) for x in batches]


def mlp(sizes: tuple[int, ...], activation: Callable[[], nn.Module]) -> nn.Module:
    """Return linear layers of these sizes with an activation between each two."""
    layers: list[nn.Module] = []
    for wide, narrow in itertools.pairwise(sizes):
        layers += [nn.Linear(wide, narrow), activation()]
    return nn.Sequential(*layers[:-1])


def cnn() -> nn.Module:
    """Return two convolutions, a 2×2 pool and a linear layer for 28×28 images."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 14 * 14, 10),
    )  # fmt: skip


class Transformer(nn.Module):
    """One pre-norm attention block, the mean over positions, and a linear layer."""

    def __init__(self, width: int = 64, hidden: int = 256, outputs: int = 10):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.down = nn.Linear(hidden, width)
        self.classify = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, position, width] to logits [batch, output]."""
        z = self.norm1(x)
        query, key, value = self.query(z), self.key(z), self.value(z)
        weights = torch.softmax(query @ key.transpose(-1, -2) / math.sqrt(x.shape[-1]), dim=-1)
        x = x + self.out(weights @ value)
        x = x + self.down(self.gelu(self.up(self.norm2(x))))
        return self.classify(x.mean(dim=-2))


def perceptron(name, sizes, activation, batch, family="categorical") -> Case:
    """Return the case of a multilayer perceptron."""
    description = f"{'-'.join(map(str, sizes))}, {activation.__name__.lower()}"
    make = lambda: mlp(sizes, activation)  # noqa: E731
    return Case(name, description, family, batch, sizes[:1], sizes[-1], make)


CASES: dict[str, Case] = {
    case.name: case
    for case in (
        perceptron("mlp", (784, 256, 256, 10), nn.Sigmoid, 128),
        perceptron("gaussian", (64, 256, 256, 1), nn.Tanh, 128, family="gaussian"),
        Case("cnn", "conv 3×3 1→16, relu, conv 3×3 16→32, relu, max pool 2×2, linear →10",
             "categorical", 64, (1, 28, 28), 10, cnn),
        perceptron("wide", (256, 512, 1000), nn.Sigmoid, 32),
        perceptron("wide2", (256, 512, 512, 1000), nn.Sigmoid, 32),
        Case("transformer", "layer norm, attention, layer norm, 64→256→64 gelu, mean, linear →10;"
             " 16 positions", "categorical", 16, (16, 64), 10, Transformer),
    )
}  # fmt: skip
