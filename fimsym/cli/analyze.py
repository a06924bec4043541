"""The ``analyze`` command: a network's Fisher diagonal from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimsym.cli.options import finite, network_options, opened, output_option
from fimsym.cli.printing import echo, print_json
from fimsym.cli.processes import INTERRUPTED

if TYPE_CHECKING:
    from fimsym.engine import Analysis


@click.command("analyze", short_help="Exact Fisher diagonal, and variances.")
@network_options
@click.option(
    "--quantities",
    default="fisher,variance_score_squared",
    show_default=True,
    help="Comma-separated: fisher, variance_score_squared, variance_negative_hessian, covariance; "
    "bounds, of those; empirical, which takes labels. Or all, the first four.",
)
@click.option(
    "--input-variance/--no-input-variance",
    default=True,
    show_default=True,
    help="Variance over the inputs, in --output.",
)
@click.option(
    "--second-derivative",
    type=click.Choice(["exact", "stochastic"]),
    default="exact",
    show_default=True,
    help="Estimate V₂ and Cov, with standard errors in --output, where exact ones take too long.",
)
@click.option("--probes", default=8, show_default=True, help="Pairs of probes, if stochastic.")
@click.option("--seed", default=0, show_default=True, help="Of the probes.")
@output_option
def analyze_command(
    quantities: str,
    input_variance: bool,
    second_derivative: str,
    probes: int,
    seed: int,
    **shared: Any,
) -> None:
    """Measure a network's exact Fisher diagonal and its estimators' variances.

    The table holds sums over each group of parameters; --output keeps every tensor.

    Ctrl-C ends the work: what is shown and written then covers the chunks of inputs that are
    complete, the first in any case, and the exit status is 130. A second Ctrl-C stops at once.

    Several processes share the inputs:

        torchrun --nproc-per-node 4 -m fimsym analyze …
    """
    asked = "all" if quantities == "all" else tuple(q.strip() for q in quantities.split(","))
    with opened(**shared) as given:
        from fimsym.engine import analyze
        from fimsym.engine.empirical import EMPIRICAL

        if EMPIRICAL not in asked:
            given = given.without_labels()
        result = given.call(
            analyze,
            quantities=asked,
            input_variance=input_variance,
            second_derivative=second_derivative,
            probes=probes,
            seed=seed,
        )
        if given.first:
            _show(result, given.output, given.as_json)
        if result.interrupted:
            sys.exit(INTERRUPTED)


def _show(result: Analysis, output: Path | None, as_json: bool) -> None:
    """Print a result, and write it."""
    if output is not None:
        result.save(output)
    if as_json:
        record = {
            "family": result.family,
            "link": result.link,
            "constants": dict(result.constants),
            "inputs": result.inputs,
            "outputs": result.outputs,
            "interrupted": result.interrupted,
            "expected_inputs": result.expected_inputs,
            "coverage": result.coverage,
            "groups": [
                {"name": g.name, **{n: finite(v) for n, v in g.row.items()}} for g in result.groups
            ],
            "roads": dict(result.roads),
            "ways": dict(result.ways),
            "estimated": list(result.standard_errors),
            "notes": list(result.notes),
            "frozen": list(result.frozen),
            "warnings": list(result.warnings),
        }
        print_json(record)
        return
    echo(repr(result))
    if output is not None:
        echo(f"wrote {output}")
