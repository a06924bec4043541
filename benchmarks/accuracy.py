"""Worst error of every evaluator against derivatives of F to forty digits.

Run ``python -m benchmarks.accuracy`` from the project's folder. The table in
``docs/accuracy.md`` is its output with ``--points 100000``.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor

import click
import torch
from torch import Tensor

import fimsym
from fimsym.errors import DomainError
from fimsym.report.progress import progress
from tests.cases import CASES, PARAMETERS, Case, points
from tests.reference import highprecision

QUANTITIES = {
    "fisher": "I",
    "variance_score_squared": "V₁",
    "variance_negative_hessian": "V₂",
    "third": "κ₃₀",
    "covariance": "Cov",
}
VARIANCES = 3
"""The first of the quantities are never negative."""
GOALS = {torch.float64: 1e-11, torch.float32: 2e-5}
PROCESSES = 2
CHUNK = 40


@dataclasses.dataclass
class Row:
    """What was found over the points of one family, dtype and region.

    Attributes:
        points: Their number.
        left_out: Points where a true value is too large or too small for the dtype.
        not_a_number: Results that are NaN.
        negative: Variances below zero.
        worst: Largest relative error of each quantity.
        inputs: Where that was.
    """

    points: int = 0
    left_out: int = 0
    not_a_number: int = 0
    negative: int = 0
    worst: list[float] = dataclasses.field(default_factory=lambda: [0.0] * len(QUANTITIES))
    inputs: list[str] = dataclasses.field(default_factory=lambda: [""] * len(QUANTITIES))

    def add(self, got: Tensor, truth: Tensor, dtype: torch.dtype, describe) -> None:
        """Compare results [point, quantity] with truths [2, point, quantity]."""
        errors, representable = relative_errors(got.double(), truth, dtype)
        self.points += len(got)
        self.left_out += int((~representable).any(-1).sum())
        self.not_a_number += int(got.isnan().sum())
        self.negative += int((got[:, :VARIANCES] < 0).sum())
        errors = torch.where(representable, errors.nan_to_num(math.inf), 0.0)
        for n, (worst, place) in enumerate(zip(*errors.max(0), strict=True)):
            if float(worst) > self.worst[n]:
                self.worst[n], self.inputs[n] = float(worst), describe(int(place))


def relative_errors(got: Tensor, truth: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the error of every result, and whether the dtype can hold its true value.

    Errors of the third cumulant and the covariance, which change sign, are relative to the
    largest they can be, √(I V₁) and √(V₁V₂).

    Args:
        got: Results [point, quantity].
        truth: True values as sums of two numbers, [2, point, quantity].
        dtype: Of the results.
    """
    sizes = truth[0].abs()
    roots = sizes[:, :VARIANCES].sqrt()
    limits = torch.stack([roots[:, 0] * roots[:, 1], roots[:, 1] * roots[:, 2]], -1)
    sizes[:, VARIANCES:] = torch.maximum(sizes[:, VARIANCES:], limits)
    kind = torch.finfo(dtype)
    representable = (sizes >= kind.tiny) & (sizes <= kind.max)
    return (got - truth[0] - truth[1]).abs() / sizes.clamp(min=kind.tiny), representable


def truths(task: tuple[str, dict, list]) -> list[list[tuple[float, float]]]:
    """Return every quantity at every point as the sum of two floats."""
    family, constants, chunk = task
    result = []
    for h, u, v in chunk:
        balls = highprecision.balls(family, h, u, v, **constants)
        pairs = []
        for name in QUANTITIES:
            first = float(balls[name])
            rest = float(balls[name] - first) if math.isfinite(first) else 0.0
            pairs.append((first, rest))
        result.append(pairs)
    return result


def results(case: Case, h: Tensor, u: Tensor, v: Tensor, constants: dict) -> Tensor:
    """Return the evaluator's results [point, quantity], a point being one column of u."""
    module = fimsym.evaluator(case.family)
    try:
        got = module.moments(h, u, v, **constants)
    except DomainError:  # a result is not finite; under vmap values are not checked
        got = torch.func.vmap(lambda *point: module.moments(*point, **constants))(h, u, v)
    return torch.stack([getattr(got, name) for name in QUANTITIES], -1).flatten(0, 1)


def measure(pool, row: Row, case: Case, dtype: torch.dtype, cell: tuple, batch: int) -> Iterator:
    """Add one cell's points to a row; yields the number done after each chunk."""
    region, outputs, constants = cell
    seed = sum(map(ord, f"{case.family}{cell}{dtype}"))
    h, u, v = points(case, outputs, region, seed, batch, dtype)
    got = results(case, h, u, v, constants)
    bound = fimsym.family(case.family).bind(constants)
    flat = [
        (row_h, *column)
        for row_h, row_u, row_v in zip(h.tolist(), u.mT.tolist(), v.mT.tolist(), strict=True)
        for column in zip(row_u, row_v, strict=True)
    ]
    chunks = [flat[start : start + CHUNK] for start in range(0, len(flat), CHUNK)]
    truth: list = []
    for done in pool.map(truths, [(case.family, bound, chunk) for chunk in chunks]):
        truth += done
        yield len(done)
    exact = torch.tensor(truth, dtype=torch.float64).permute(2, 0, 1)
    row.add(got, exact, dtype, lambda n: f"h, u, v = {flat[n]}, constants {constants}")


def table(rows: dict[tuple, Row]) -> Iterator[str]:
    """Yield the lines of the Markdown table."""
    header = ["family", "dtype", "region", *QUANTITIES.values()]
    header += ["NaN", "negative", "left out", "points"]
    yield "| " + " | ".join(header) + " |"
    yield "|" + "---|" * len(header)
    for (family, dtype, region), row in rows.items():
        texts = [family, str(dtype).removeprefix("torch."), region]
        texts += [f"{worst:.0e}" for worst in row.worst]
        texts += map(str, (row.not_a_number, row.negative, row.left_out, row.points))
        yield "| " + " | ".join(texts) + " |"


def above_goal(rows: dict[tuple, Row]) -> Iterator[str]:
    """Yield the inputs of every worst error above the goal."""
    for (family, dtype, region), row in rows.items():
        for symbol, worst, where in zip(QUANTITIES.values(), row.worst, row.inputs, strict=True):
            if worst > GOALS[dtype]:
                yield f"{family} {dtype} {region} {symbol}: {worst:.1e} at {where}"


@click.command()
@click.option("--points", "count", default=2000, show_default=True, help="For a family and dtype.")
@click.option("--family", "names", multiple=True, type=click.Choice(list(CASES)), help="Only this.")
@click.option("--inputs", is_flag=True, help="Print the inputs of every error above the goal.")
def main(count: int, names: tuple[str, ...], inputs: bool) -> None:
    """Print the worst error of every family, dtype and region as a Markdown table.

    Left out of the errors, and counted, are points where a true value is too large or too
    small for the dtype.
    """
    torch.set_num_threads(1)
    cases = [CASES[name] for name in names or CASES]
    rows: dict[tuple, Row] = {}
    with (
        ProcessPoolExecutor(PROCESSES, multiprocessing.get_context("spawn")) as pool,
        progress("measuring", 2 * count * len(cases), True) as advance,
    ):
        for case in cases:
            twins = [f"{region}, along h" for region in case.regions if case.cancels]
            cells = list(itertools.product([*case.regions, *twins], case.outputs, case.constants))
            batch = math.ceil(count / len(cells) / PARAMETERS)
            for dtype, cell in itertools.product(GOALS, cells):
                row = rows.setdefault((case.family, dtype, cell[0]), Row())
                for done in measure(pool, row, case, dtype, cell, batch):
                    advance(done)
    click.echo("\n".join([*table(rows), *(above_goal(rows) if inputs else ())]))


if __name__ == "__main__":
    main()
