"""The ``analyze`` command: a network's Fisher diagonal from files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from fimsym.errors import SpecError


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
    help="Comma-separated, or all.",
)
@click.option(
    "--groups",
    type=click.Choice(["layer", "parameter", "model"]),
    default="layer",
    show_default=True,
)
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
    max_memory: str | None,
    device: str | None,
    output: Path | None,
    as_json: bool,
) -> None:
    """Measure a network's exact Fisher diagonal and its estimators' variances.

    The table holds sums over each group of parameters; --output keeps every tensor.
    """
    from fimsym.cli.sources import load_data, load_model
    from fimsym.engine import analyze
    from fimsym.families.file import read
    from fimsym.report.files import check_writable

    if output is not None:
        check_writable(output)
    asked = "all" if quantities == "all" else tuple(q.strip() for q in quantities.split(","))
    result = analyze(
        load_model(model, weights),
        load_data(data),
        read(family),
        link,
        quantities=asked,
        groups=groups,
        max_memory=max_memory,
        device=device,
        progress=not as_json,
        **_constants(constants),
    )
    if output is not None:
        result.save(output)
    if as_json:
        record = {
            "family": result.family,
            "link": result.link,
            "constants": dict(result.constants),
            "inputs": result.inputs,
            "outputs": result.outputs,
            "groups": [{"name": g.name, "size": g.size, **g.sums} for g in result.groups],
            "roads": dict(result.roads),
            "frozen": list(result.frozen),
        }
        click.echo(json.dumps(record, indent=2, ensure_ascii=False))
        return
    click.echo(repr(result))
    if output is not None:
        click.echo(f"wrote {output}")


def _constants(given: tuple[str, ...]) -> dict[str, float]:
    found = {}
    for text in given:
        name, equals, value = text.partition("=")
        try:
            found[name] = float(value)
        except ValueError:
            equals = ""
        if not (name and equals):
            raise SpecError(f"expected --constant NAME=VALUE with a number; got {text!r}.")
    return found
