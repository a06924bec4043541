"""The ``estimate`` command: a Fisher diagonal with standard errors, from files."""

from __future__ import annotations

import dataclasses
import sys
from typing import TYPE_CHECKING, Any

import click

from fimsym.cli.options import finite, network_options, opened, output_option
from fimsym.cli.printing import echo, print_json
from fimsym.cli.processes import INTERRUPTED

if TYPE_CHECKING:
    from fimsym.estimation import Estimate


@click.command("estimate", short_help="A Fisher diagonal with standard errors.")
@network_options
@click.option(
    "--estimator",
    default="score_squared",
    show_default=True,
    help="score_squared, score_squared_cv, gaussian_probe, rademacher_probe, negative_hessian, "
    "mixed, exact or empirical.",
)
@click.option(
    "--labels-per-input", default=1, show_default=True, help="Labels, or probes, to draw for each."
)
@click.option("--target", type=float, help="Draw until every group has this relative error.")
@click.option(
    "--confidence", default=0.95, show_default=True, help="With which the target is reached."
)
@click.option("--max-labels", default=4096, show_default=True, help="Draws at which to give up.")
@click.option(
    "--random-inputs", is_flag=True, help="Let standard errors cover the inputs as a sample, too."
)
@click.option("--seed", default=0, show_default=True, help="Of all that is drawn.")
@output_option
def estimate_command(
    estimator: str,
    labels_per_input: int,
    target: float | None,
    confidence: float,
    max_labels: int,
    random_inputs: bool,
    seed: int,
    **shared: Any,
) -> None:
    """Estimate a network's Fisher diagonal, with a standard error for every parameter.

    The table holds sums over each group of parameters and the relative error of the group;
    --output keeps every tensor. Exit status 1: a target error was not reached.

    Ctrl-C ends the work with what is done, and the exit status is 130.

    Several processes share the inputs:

        torchrun --nproc-per-node 4 -m fimsym estimate …
    """
    with opened(**shared) as given:
        from fimsym.estimation import estimate

        result = given.call(
            estimate,
            estimator=estimator,
            labels_per_input=labels_per_input,
            target_relative_error=target,
            seed=seed,
            confidence=confidence,
            max_labels=max_labels,
            random_inputs=random_inputs,
        )
        if given.first:
            if given.output is not None:
                result.save(given.output)
            if given.as_json:
                print_json(record(result))
            else:
                echo(repr(result))
                if given.output is not None:
                    echo(f"wrote {given.output}")
        if result.interrupted:
            sys.exit(INTERRUPTED)
        if not all(result.reached.values()):
            sys.exit(1)


def record(result: Estimate) -> dict[str, Any]:
    """Return what is known of an estimate but its tensors, as JSON can hold it."""
    left_out = ("fisher", "standard_error", "ways")
    known = {
        field.name: getattr(result, field.name)
        for field in dataclasses.fields(result)
        if field.name not in left_out
    }
    groups = [
        {
            name: finite(x) if isinstance(x, float) else x
            for name, x in dataclasses.asdict(g).items()
        }
        for g in result.groups
    ]
    return {**known, "groups": groups}
