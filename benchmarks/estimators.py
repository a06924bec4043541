"""Estimators: what a draw takes, and whether a plan's errors are those of its estimates.

Run ``python -m benchmarks.estimators`` from the project's folder. Times are multiples of forward
and backward of a loss on the same batches, which is timed in turn with them.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click
import torch

import fimsym
from benchmarks.contenders import forward_backward
from benchmarks.networks import CASES
from fimsym.report.plots import agreement, svg
from fimsym.validation.tasks import TASKS, Task

TIMED = ("mlp", "cnn", "wide")
DRAWN = ("score_squared", "score_squared_cv", "gaussian_probe", "rademacher_probe")
CURVED = ("negative_hessian", "mixed")
DRAWS = 9
"""Draws per input in the long one of two runs, whose difference is the price of a draw."""


def seconds(calls: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Return the median time of every call, run in turns after a first round."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(spent[1:]) for name, spent in times.items()}


def prices(name: str, batches: int, rounds: int) -> dict[str, tuple[float, float | None]]:
    """Return for every estimator what one draw and each further one take.

    Args:
        name: A network of the comparison.
        batches: Number of batches.
        rounds: How often everything is timed.
    """
    case = CASES[name]
    model, data = case.model(), case.batches(batches)
    unit = forward_backward(model, case)
    calls: dict[str, Callable[[], object]] = {"": lambda: unit(data)}
    for estimator in (*DRAWN, "exact"):
        for draws in (1, DRAWS) if estimator in DRAWN else (1,):
            calls[f"{estimator} {draws}"] = lambda e=estimator, n=draws: fimsym.estimate(
                model, data, case.family, e, n, progress=False
            )
    found = seconds(calls, rounds)
    table: dict[str, tuple[float, float | None]] = {}
    for estimator in (*DRAWN, "exact"):
        one, many = found[f"{estimator} 1"], found.get(f"{estimator} {DRAWS}")
        each = None if many is None else (many - one) / (DRAWS - 1) / found[""]
        table[estimator] = one / found[""], each
    return table


def errors(task: Task, seeds: int, labels: int) -> dict[str, list[tuple[float, float]]]:
    """Return predicted and realised relative errors of every layer, by estimator."""
    given = {"link": task.link, "progress": False, **task.constants}
    plan = fimsym.plan(task.model, task.inputs, task.family, pilot=len(task.inputs), **given)
    exact = fimsym.analyze(task.model, task.inputs, task.family, quantities="fisher", **given)
    found: dict[str, list[tuple[float, float]]] = {}
    for estimator in (*DRAWN, *CURVED):
        squares = [0.0] * len(plan.groups)
        for seed in range(seeds):
            got = fimsym.estimate(
                task.model, task.inputs, task.family, estimator, labels, seed=seed, **given
            )
            for place, group in enumerate(plan.groups):
                one, truth = (
                    torch.cat([named[name].flatten() for name in group.parameters])
                    for named in (got.fisher, exact.fisher)
                )
                squares[place] += float((one - truth).norm() / truth.norm()) ** 2 / seeds
        found[estimator] = [
            (group.options[estimator].deviation / labels**0.5, square**0.5)
            for group, square in zip(plan.groups, squares, strict=True)
        ]
    return found


def tasks(inputs: int) -> list[Task]:
    """Return trained networks: ten classes, counts, and means with variances."""
    return [TASKS["categorical"][0](0, inputs), TASKS["poisson"][0](0, inputs),
            TASKS["gaussian_mean_variance"][0](0, inputs)]  # fmt: skip


@click.command()
@click.option("--batches", default=16, show_default=True, type=click.IntRange(min=1))
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(min=1))
@click.option("--seeds", default=40, show_default=True, help="Estimates for each error.")
@click.option("--labels", default=4, show_default=True, help="Draws per input of each.")
@click.option("--threads", default=2, show_default=True, help="Of torch.")
@click.option("--plot", type=click.Path(path_type=Path), help="Write predicted and realised there.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    batches: int,
    rounds: int,
    seeds: int,
    labels: int,
    threads: int,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Print the price of a draw, and errors predicted and realised on trained networks."""
    torch.set_num_threads(threads)
    times = {name: prices(name, batches, rounds) for name in TIMED}
    pairs: dict[str, list[tuple[float, float]]] = {}
    for task in tasks(100):
        for estimator, found in errors(task, seeds, labels).items():
            pairs.setdefault(estimator, []).extend(found)
    if plot is not None:
        drawn = {
            name: tuple(zip(*found, strict=True))
            for name, found in pairs.items()
            if any(x > 0 and y > 0 for x, y in found)
        }
        figure = agreement(drawn, "", ("predicted relative error", "realised, 40 seeds"))
        plot.write_text(svg(figure) + "\n")
    if as_json:
        click.echo(json.dumps({"prices": times, "errors": pairs}, indent=1))
        return
    click.echo("\n".join(lines(times, pairs)))


def lines(
    times: Mapping[str, Mapping[str, tuple[float, float | None]]],
    pairs: Mapping[str, list[tuple[float, float]]],
) -> list[str]:
    """Return both tables as Markdown."""
    found = [f"| estimator | {' | '.join(times)} |", "|---" * (1 + len(times)) + "|"]
    for estimator in (*DRAWN, "exact"):
        cells = [_cell(*times[name][estimator]) for name in times]
        found.append(f"| `{estimator}` | {' | '.join(cells)} |")
    found += ["", "| estimator | realised / predicted error |", "|---|---|"]
    for estimator, both in pairs.items():
        ratios = [realised / predicted for predicted, realised in both if predicted > 0]
        shown = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "exact"
        found.append(f"| `{estimator}` | {shown} |")
    return found


def _cell(one: float, each: float | None) -> str:
    return f"{one:.1f}" if each is None else f"{one:.1f}, then {each:.2f}"


if __name__ == "__main__":
    main()
