"""Budgets of memory and what is taken: ``python -m benchmarks.memory``.

Every case runs in a fresh process. The baseline is the resident memory once the packages are
imported, network and data are there, and one input has gone forward and backward; to it comes
what stands for the whole call, the sums and two copies of the parameters (docs/engine.md).
What is compared with the budget is the peak less these.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import sys
from collections.abc import Callable
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from benchmarks.isolation import isolated, peak_memory, reset_peak
from benchmarks.networks import Transformer, mlp

MEGABYTE = 10**6
ALLOWED = 1.2
BUDGETS = ("2GB", "200MB", "50MB")
SECONDS = 900.0
FIRST = ("fisher", "variance_score_squared")


@dataclasses.dataclass(frozen=True)
class Case:
    """A network, and how many inputs of it are analyzed.

    Attributes:
        make: Builds the network.
        draw: Draws inputs.
        inputs: How many, without and with second derivatives.
        small: Builds a network of four features, to load what is loaded when first used.
        family: Output family.
    """

    make: Callable[[], nn.Module]
    draw: Callable[[int], Tensor]
    inputs: tuple[int, int]
    small: Callable[[], nn.Module] = lambda: mlp((4, 3, 2), nn.Tanh)
    family: str = "categorical"


class Words(nn.Module):
    """A table of words, the mean over positions of what it gives, two linear layers."""

    def __init__(self, words: int = 50_000, width: int = 64):
        super().__init__()
        self.table = nn.Embedding(words, width)
        self.first, self.last = nn.Linear(width, width), nn.Linear(width, 10)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens [batch, position] to logits."""
        return self.last(torch.tanh(self.first(self.table(tokens).mean(1))))


class Unusual(nn.Module):
    """Parameters that enter by operations no rule knows: what is left to autograd alone."""

    def __init__(self, width: int = 128):
        super().__init__()
        self.mix = nn.Bilinear(width, width, 16)
        self.up = nn.ConvTranspose1d(16, 16, 4)
        self.last = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Map [batch, width] to logits."""
        z = torch.tanh(self.mix(x, x.flip(1)))
        return self.last(torch.tanh(self.up(z.unsqueeze(-1))).flatten(1))


def images(activation: Callable[[], nn.Module]) -> nn.Module:
    """Return the convolutional network of the comparison with another activation."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), activation(),
        nn.Conv2d(16, 32, 3, padding=1), activation(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * 14 * 14, 10),
    )  # fmt: skip


def _normal(*shape: int) -> Callable[[int], Tensor]:
    return lambda count: torch.randn(count, *shape)


CASES = {
    "mlp": Case(lambda: mlp((784, 256, 256, 10), nn.Sigmoid), _normal(784), (4096, 2048)),
    "wide": Case(lambda: mlp((256, 512, 1000), nn.Sigmoid), _normal(256), (1024, 256)),
    "cnn": Case(lambda: images(nn.Tanh), _normal(1, 28, 28), (512, 64)),
    "transformer": Case(Transformer, _normal(16, 64), (512, 64)),
    "embedding": Case(Words, lambda count: torch.randint(50_000, (count, 32)), (256, 64)),
    "functional": Case(Unusual, _normal(128), (32, 8), lambda: Unusual(4)),
}


def measure(name: str, budget: str | None, every: bool) -> dict[str, float]:
    """Return bytes of the peak beyond the baseline, and of what stands for the whole call."""
    import fimsym

    torch.set_num_threads(1)
    torch.manual_seed(0)
    case = CASES[name]
    model, data = case.make().eval(), case.draw(case.inputs[every])
    model(data[:1]).sum().backward()
    model.zero_grad(set_to_none=True)
    given = {"quantities": "all" if every else FIRST, "progress": False}
    fimsym.analyze(case.small().eval(), torch.randn(3, 4), case.family, **given)
    gc.collect()
    reset_peak()
    before = peak_memory()
    fimsym.analyze(model, data, case.family, max_memory=budget, **given)
    count = sum(p.numel() for p in model.parameters())
    standing = count * (8 * (5 if every else 3) + 4 + 8)
    return {"peak": peak_memory() - before, "standing": standing}


@click.command()
@click.option("--only", help=f"Some of these, with commas: {', '.join(CASES)}.")
@click.option("--budgets", default=",".join(BUDGETS), show_default=True, help="With commas.")
@click.option("--default", "plain", is_flag=True, help="Without a budget, too.")
@click.option("--json", "path", type=click.Path(path_type=Path), help="Write JSON there.")
def main(only: str | None, budgets: str, plain: bool, path: Path | None) -> None:
    """Compare budgets with the peaks that were measured."""
    table = Table("case", "quantities", "budget", "peak MB", "standing MB", "beyond MB", "")
    found = []
    for name in only.split(",") if only else CASES:
        for every in (False, True):
            for budget in (*budgets.split(","), *([None] if plain else [])):
                outcome = isolated(measure, name, budget, every, seconds=SECONDS)
                if outcome.status != "ok":
                    table.add_row(
                        name, _named(every), budget or "-", outcome.status, outcome.message
                    )
                    continue
                row = {"case": name, "all": every, "budget": budget, **outcome.value}
                beyond = max(0.0, row["peak"] - row["standing"])
                limit = _bytes(budget) if budget else float("inf")
                row |= {"beyond": beyond, "holds": beyond <= ALLOWED * limit}
                found.append(row)
                sizes = (f"{row[part] / MEGABYTE:.1f}" for part in ("peak", "standing", "beyond"))
                verdict = "holds" if row["holds"] else "exceeded"
                table.add_row(name, _named(every), budget or "-", *sizes, verdict)
                print(
                    name,
                    _named(every),
                    budget,
                    f"{beyond / MEGABYTE:.1f} MB",
                    verdict,
                    file=sys.stderr,
                )
    Console().print(table)
    if path:
        path.write_text(json.dumps(found, indent=2) + "\n")


def _named(every: bool) -> str:
    return "all" if every else "I, V₁"


def _bytes(budget: str) -> float:
    from fimsym.engine.memory import budget as of

    return of(budget, torch.device("cpu"))


if __name__ == "__main__":
    main()
