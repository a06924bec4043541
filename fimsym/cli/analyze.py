"""The ``analyze`` command: a network's Fisher diagonal from files."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimsym.errors import FimsymError, SpecError

if TYPE_CHECKING:
    import torch

    from fimsym.engine import Analysis

_INTERRUPTED = 130
"""Exit status of a command that SIGINT ended."""


@click.command("analyze")
@click.option("--model", required=True, metavar="PACKAGE.MODULE:FACTORY", help="What to analyze.")
@click.option("--weights", type=click.Path(path_type=Path), help="State dict, .safetensors or .pt.")
@click.option(
    "--data",
    required=True,
    type=click.Path(path_type=Path),
    help="Inputs: .npz, .npy, .csv, .pt or .safetensors.",
)
@click.option("--family", required=True, help="Output family: its name, or a TOML file.")
@click.option("--link", help="What the model puts out instead of natural parameters.")
@click.option(
    "--constant", "constants", multiple=True, metavar="NAME=VALUE", help="Such as sigma=0.5."
)
@click.option(
    "--quantities",
    default="fisher,variance_score_squared",
    show_default=True,
    help="Comma-separated, or all; empirical takes labels.",
)
@click.option(
    "--groups",
    type=click.Choice(["layer", "parameter", "model"]),
    default="layer",
    show_default=True,
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
@click.option("--max-memory", help="Budget such as 2GB.")
@click.option("--device", help="Where to compute, such as cuda.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Write tensors (.safetensors)."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def analyze_command(
    model: str,
    weights: Path | None,
    data: Path,
    family: str,
    link: str | None,
    constants: tuple[str, ...],
    quantities: str,
    groups: str,
    input_variance: bool,
    second_derivative: str,
    probes: int,
    seed: int,
    max_memory: str | None,
    device: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a network's exact Fisher diagonal and its estimators' variances.

    The table holds sums over each group of parameters; --output keeps every tensor.

    Ctrl-C ends the work after the chunk in hand: what is shown and written then covers the
    inputs up to there, and the exit status is 130. A second Ctrl-C stops at once.

    Several processes share the inputs:

        torchrun --nproc-per-node 4 -m fimsym analyze …
    """
    from fimsym.cli.sources import load_data, load_model, read_constants
    from fimsym.engine import analyze
    from fimsym.engine.distributed import launched, launched_rank
    from fimsym.families.file import read
    from fimsym.report.files import check_writable

    first = launched_rank() == 0
    if output is not None and first:
        check_writable(output)
    asked = "all" if quantities == "all" else tuple(q.strip() for q in quantities.split(","))
    given: dict[str, Any] = read_constants(constants)
    network, inputs, spec = load_model(model, weights), load_data(data), read(family)
    with launched(_device(device, network)) as place:
        try:
            result = analyze(
                network,
                inputs,
                spec,
                link,
                quantities=asked,
                groups=groups,
                max_memory=max_memory,
                device=place,
                progress=not as_json,
                input_variance=input_variance,
                second_derivative=second_derivative,
                probes=probes,
                seed=seed,
                **given,
            )
            if first:
                _show(result, output, as_json)
        except FimsymError as error:
            if first:
                click.echo(f"Error: {error}", err=True)
            sys.exit(2)
        if result.interrupted:
            sys.exit(_INTERRUPTED)


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
                {"name": g.name, "size": g.size, **{n: _finite(v) for n, v in g.sums.items()}}
                for g in result.groups
            ],
            "roads": dict(result.roads),
            "frozen": list(result.frozen),
            "warnings": list(result.warnings),
        }
        click.echo(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False))
        return
    click.echo(repr(result))
    if output is not None:
        click.echo(f"wrote {output}")


def _finite(value: float) -> float | None:
    """Return a number JSON can hold; it has no infinity."""
    return value if math.isfinite(value) else None


def _device(name: str | None, network: torch.nn.Module) -> torch.device:
    """Return the device of --device, or the network's own."""
    import torch

    if name is None:
        return next((p.device for p in network.parameters()), torch.device("cpu"))
    try:
        return torch.device(name)
    except RuntimeError:
        raise SpecError(f"--device must be cpu, cuda or cuda:N; got {name!r}.") from None
