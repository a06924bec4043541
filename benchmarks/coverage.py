"""Which modules each package gets right: ``python -m benchmarks.coverage``.

Small networks, one for each kind of module, through the adapters of the speed comparison, in
float32, which all take. What a package returns is compared with one gradient per input and label
(`benchmarks.truth.enumerated`), which shares no code with any of them.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable

import click
import torch
from torch import Tensor, nn

from benchmarks import peers, truth
from benchmarks.contenders import ours
from benchmarks.networks import Case, Transformer, mlp

INPUTS = 5


class Bare(nn.Module):
    """A parameter that belongs to no layer, and a residual branch."""

    def __init__(self):
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 4), nn.Linear(4, 3)
        self.scale = nn.Parameter(torch.tensor([0.7]))

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, 4] to [batch, 3]."""
        return self.leave(x + self.scale * torch.tanh(self.enter(x)))


class Twice(nn.Module):
    """A linear layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.inner, self.leave = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, 4] to [batch, 3]."""
        return self.leave(torch.tanh(self.inner(torch.tanh(self.inner(x)))))


class Words(nn.Module):
    """An embedding, and the mean over positions."""

    def __init__(self):
        super().__init__()
        self.embed, self.leave = nn.Embedding(7, 4), nn.Linear(4, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [batch, position] to [batch, 3]."""
        return self.leave(torch.tanh(self.embed(tokens.long())).mean(1))


class Recurrent(nn.Module):
    """A gated recurrent unit, and its last state."""

    def __init__(self):
        super().__init__()
        self.cell, self.leave = nn.GRU(4, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, position, 4] to [batch, 3]."""
        return self.leave(self.cell(x)[0][:, -1])


class Positions(nn.Module):
    """A linear layer over positions, and their mean."""

    def __init__(self):
        super().__init__()
        self.inner, self.leave = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs [batch, position, 4] to [batch, 3]."""
        return self.leave(torch.tanh(self.inner(x)).mean(1))


def images(*layers: nn.Module) -> nn.Module:
    """Return layers for images [1, 6, 6] with a linear layer to three classes behind them."""
    inner = nn.Sequential(*layers)
    size = inner.eval()(torch.zeros(2, 1, 6, 6)).flatten(1).shape[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, 3))


def normed(norm: nn.Module) -> nn.Module:
    """Return a network with a norm whose statistics and scales are not the initial ones."""
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return nn.Sequential(nn.Linear(4, 4), norm, nn.Tanh(), nn.Linear(4, 3))


MODULES: dict[str, tuple[tuple[int, ...], Callable[[], nn.Module]]] = {
    "linear, sigmoid": ((4,), lambda: mlp((4, 5, 3), nn.Sigmoid)),
    "linear, GELU": ((4,), lambda: mlp((4, 5, 3), nn.GELU)),
    "convolution": ((1, 6, 6), lambda: images(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh())),
    "convolution in groups": ((1, 6, 6), lambda: images(
        nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Conv2d(4, 4, 3, groups=2), nn.Tanh())),
    "batch norm, evaluating": ((4,), lambda: normed(nn.BatchNorm1d(4))),
    "layer norm": ((4,), lambda: normed(nn.LayerNorm(4))),
    "linear over positions": ((3, 4), Positions),
    "embedding": ((3,), Words),
    "attention": ((3, 4), lambda: Transformer(4, 6, 3)),
    "GRU": ((3, 4), Recurrent),
    "layer used twice": ((4,), Twice),
    "bare parameter, residual": ((4,), Bare),
}  # fmt: skip


def verdict(case: Case, inputs: Tensor, prepare: Callable) -> str:
    """Return ``right``, ``wrong``, ``incomplete`` or ``refused`` for a package on a network."""
    true = truth.enumerated(case.model(), inputs, case.family)["fisher"]
    try:
        found = prepare(case.model())([inputs])
    except Exception:  # whatever another package raises
        return "refused"
    return truth.judge(found, true).status.replace("ok", "right")


def contenders() -> dict[str, Callable[[Case], Callable]]:
    """Return what is compared: name → case → function of a model, as the adapters prepare it."""
    found = {"fimsym": lambda case: lambda model: ours()(model, case)}
    for peer in peers.PEERS:
        found[peer.name] = functools.partial(
            lambda peer, case: lambda model: peer.prepare(model, case.family), peer
        )
    return found


def inputs_of(name: str) -> Tensor:
    """Return the inputs for a kind of module."""
    shape, _ = MODULES[name]
    generator = torch.Generator().manual_seed(0)
    if name == "embedding":
        return torch.randint(7, (INPUTS, *shape), generator=generator)
    return torch.randn(INPUTS, *shape, generator=generator)


def rows() -> list[list[str]]:
    """Return the table: a row for each kind of module, a column for each package."""
    table = []
    for name, (shape, make) in MODULES.items():
        case = Case(name, name, "categorical", INPUTS, shape, 3, make)
        inputs = inputs_of(name)
        cells = [verdict(case, inputs, prepare(case)) for prepare in contenders().values()]
        table.append([name, *cells])
    return table


@click.command()
def main() -> None:
    """Print which modules each package gets right, as Markdown."""
    warnings.filterwarnings("ignore")
    head = ["module", *contenders()]
    lines = [head, ["---"] * len(head), *rows()]
    click.echo("\n".join(f"| {' | '.join(line)} |" for line in lines))


if __name__ == "__main__":
    main()
