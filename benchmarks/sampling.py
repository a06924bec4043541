"""How fast `fimsym validate` draws labels: ``python -m benchmarks.sampling``.

On the digits network its moments of Î₁ and Î₂ are timed against a loop that differentiates
log p at one label after the other; at the output, against drawing the labels alone. Both sides
of a ratio take turns, and the median of the ratios is shown.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import click
import torch

from fimsym.families import family
from fimsym.laws import Law
from fimsym.validation.cells import cells, measure
from fimsym.validation.draws import draw
from fimsym.validation.montecarlo import derivatives
from fimsym.validation.network import OfNetwork
from fimsym.validation.output import random_points
from fimsym.validation.simulate import Drawing, listed
from fimsym.validation.streams import BLOCK, Stream
from fimsym.validation.tasks.digits import digits

FASTER = 500
"""How many times the labels per second of the loop it should draw."""
OVERHEAD = 3
"""How many times the time of the random numbers alone it may take at the output."""
LABELS = 10**6
"""Labels for each parameter of the network: the fewest that a run chooses by itself."""
_LOOPED = 50
_BLOCKS = 8
_FAMILIES = ("gaussian", "exponential", "gamma", "beta", "inverse_gaussian", "von_mises",
             "gaussian_mean_variance", "multivariate_gaussian", "dirichlet")  # fmt: skip


def seconds(function: Callable[[], object]) -> float:
    """Return the processor time of a call on one thread."""
    start = time.process_time()
    function()
    return time.process_time() - start


def of_network(rounds: int) -> tuple[list[float], list[float], list[float]]:
    """Return labels per second: those of validation, of a loop for Î₁, and of one for both.

    A label counts when every parameter has had one.
    """
    question = digits(0, 1)
    model, example = question.model, question.inputs[0]
    parameters = [p for p in model.parameters() if p.requires_grad]
    law = Law(question.family, {})

    def whole() -> None:
        subject = OfNetwork(question, 0)
        for cell in cells(subject, LABELS, "main"):
            measure(subject, cell, LABELS, 0)

    def label() -> torch.Tensor:
        with torch.no_grad():
            return law.given(model(example.unsqueeze(0))[0]).sample()

    def first() -> None:
        for _ in range(_LOOPED):
            score = law.log_prob(model(example.unsqueeze(0))[0], label())
            squares = [g.square() for g in torch.autograd.grad(score, parameters)]
            assert len(squares) == len(parameters)

    def both() -> None:
        class Score(torch.nn.Module):
            def forward(self, inputs: torch.Tensor) -> torch.Tensor:
                return law.log_prob(model(inputs)[0], label()).reshape(1, 1)

        at = derivatives(_Named(Score(), model), example)
        assert at.u.shape[1] == sum(p.numel() for p in parameters)

    rates: tuple[list[float], ...] = ([], [], [])
    for _ in range(rounds):
        for found, function, labels in zip(
            rates, (whole, first, both), (LABELS, _LOOPED, 1), strict=True
        ):
            found.append(labels / seconds(function))
    return rates


class _Named(torch.nn.Module):
    """A score together with the network whose parameters it depends on."""

    def __init__(self, score: torch.nn.Module, model: torch.nn.Module):
        super().__init__()
        self.score = score
        self.model = model

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return self.score(inputs)


def of_family(name: str, rounds: int) -> tuple[float, list[float]] | None:
    """Return nanoseconds per label, and the ratios to drawing alone; None where counts are drawn.

    Args:
        name: Of the family.
        rounds: How often both are timed.
    """
    spec = family(name)
    point = random_points(spec, 0)[0]
    law = Law(spec, point.constants)
    if listed(law, point.at.h) is not None:
        return None
    given = law.given(point.at.h)

    def streams(*purpose: str | int) -> Stream:
        return Stream(0, name, *purpose)

    drawing = Drawing(law, point.at, streams)

    def moments() -> None:
        drawing.moments(_BLOCKS * BLOCK, range(_BLOCKS), [0])

    def alone() -> None:
        with torch.no_grad():
            for block in range(_BLOCKS):
                draw(given, streams(0).generator(block), BLOCK)

    moments(), alone()
    pairs = [(seconds(moments), seconds(alone)) for _ in range(rounds)]
    each = statistics.median(one for one, _ in pairs) / (_BLOCKS * BLOCK) * 1e9
    return each, [one / other for one, other in pairs]


@click.command()
@click.option("--rounds", default=9, show_default=True, type=click.IntRange(min=1))
def main(rounds: int) -> None:
    """Time the drawing of labels, and say whether the goals are met."""
    torch.set_num_threads(1)
    ours, first, both = of_network(rounds)
    met = []
    for text, others in (("Î₁ alone", first), ("Î₁ and Î₂", both)):
        ratio = statistics.median(a / b for a, b in zip(ours, others, strict=True))
        met.append(ratio >= FASTER)
        click.echo(
            f"digits network, labels per second: {statistics.median(ours):,.0f}; autograd at each "
            f"label, {text}: {statistics.median(others):,.0f}; ratio {ratio:,.0f}, goal {FASTER}"
        )
    for name in _FAMILIES:
        found = of_family(name, rounds)
        if found is None:
            continue
        ratio = statistics.median(found[1])
        met.append(ratio <= OVERHEAD)
        click.echo(
            f"{name:24} {found[0]:6.0f} ns per label, {ratio:.2f} times drawing alone, "
            f"goal {OVERHEAD}"
        )
    click.echo("all goals are met" if all(met) else "goals are missed")
    sys.exit(0 if all(met) else 1)


if __name__ == "__main__":
    main()
