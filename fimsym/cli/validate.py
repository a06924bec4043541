"""The ``validate`` command: closed forms against Monte Carlo."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimsym.cli.asked import asked
from fimsym.cli.printing import echo, print_json, print_table
from fimsym.cli.processes import INTERRUPTED, print_interruption, together

if TYPE_CHECKING:
    from fimsym.validation import Validation

_FULL = 8
"""Subjects of which every table is printed."""
_PATH = click.Path(path_type=Path)


@click.command("validate")
@click.argument("names", nargs=-1, metavar="[NAME_OR_FILE]...")
@click.option("--all", "everything", is_flag=True, help="Every built-in family, as without names.")
@click.option(
    "--relative-error",
    type=float,
    help="Error that every row catches with probability 0.99; fixes the number of labels before "
    "the run.  [default: 0.02]",
)
@click.option("--samples", type=int, help="Labels for each input and parameter of a network.")
@click.option("--output-samples", type=int, help="Labels for each point and direction of a law.")
@click.option("--seed", default=0, show_default=True, help="Of everything random.")
@click.option("--inputs", default=16, show_default=True, help="Inputs of each network.")
@click.option(
    "--parameters",
    default=2000,
    show_default=True,
    help="Parameters of a network to test, at most.",
)
@click.option("--points", type=_PATH, help="h, u and v at which to check one family's law (.npz).")
@click.option("--model", metavar="PACKAGE.MODULE:FACTORY", help="A network to validate instead.")
@click.option("--weights", type=_PATH, help="Its state dict, .safetensors or .pt.")
@click.option("--data", type=_PATH, help="Its inputs: .npz, .npy, .csv, IDX, .pt or .safetensors.")
@click.option("--family", help="Its output family: a name, or a TOML file.")
@click.option("--link", help="What it puts out instead of natural parameters.")
@click.option(
    "--constant", "constants", multiple=True, metavar="NAME=VALUE", help="Such as sigma=0.5."
)
@click.option(
    "--checkpoint",
    type=_PATH,
    default=Path("fimsym-validation.checkpoint"),
    show_default=True,
    help="Folder for what is done, from which the same command goes on; deleted at the end.",
)
@click.option("--no-checkpoint", is_flag=True, help="Keep nothing until the end.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--report",
    type=_PATH,
    default=Path("fimsym-validation.html"),
    show_default=True,
    help="Where to write the HTML report.",
)
@click.option("--no-report", is_flag=True, help="Write no HTML report.")
@click.option("--junit", type=_PATH, help="Write JUnit XML.")
@click.option("-o", "--output", type=_PATH, help="Write every parameter's numbers (.safetensors).")
@click.pass_context
def validate_command(
    context: click.Context,
    names: tuple[str, ...],
    checkpoint: Path,
    no_checkpoint: bool,
    as_json: bool,
    report: Path,
    no_report: bool,
    junit: Path | None,
    output: Path | None,
    **options: Any,
) -> None:
    """Check closed forms against Monte Carlo.

    Every NAME_OR_FILE is a family or a TOML file that specifies one; without any, all
    built-in families are checked: their laws at random points, their links, and networks
    trained on real data. With --model, --data and --family a network of yours is. Exit status 1
    means that a closed form was rejected.

    The number of labels is fixed before any is drawn. A run that is ended, in whatever way,
    goes on with the same command and ends with the same digits. Several processes share the
    work, and give these digits too:

        torchrun --nproc-per-node 2 -m fimsym validate …
    """
    from fimsym.engine.distributed import launched_rank
    from fimsym.report.files import check_writable
    from fimsym.report.plots import require_matplotlib

    first = launched_rank() == 0
    page = None if no_report else report
    if first:
        if page is not None:
            require_matplotlib("or pass --no-report")
        for path in (page, junit, output):
            if path is not None:
                check_writable(path)
    import torch

    command = _command()
    kept = None if no_checkpoint else checkpoint
    call = asked(names, options, _given(context))
    try:
        with together(torch.device("cpu")):
            result = call(checkpoint=kept, command=command, progress=not as_json)
            if first:
                _write(result, page, junit, output, command)
                _print(result, as_json, page)
                _forget(result, kept, command)
            if result.interrupted:
                sys.exit(INTERRUPTED)
            sys.exit(0 if result.agrees else 1)
    except KeyboardInterrupt:
        if kept is None or not kept.is_dir() or not any(kept.iterdir()):
            raise
        print_interruption(f"interrupted; what is finished is in {kept}. {_go_on(kept, command)}")
        sys.exit(INTERRUPTED)


def _given(context: click.Context) -> set[str]:
    """Return the names of the options that are on the command line."""
    default = click.core.ParameterSource.DEFAULT
    return {name for name in context.params if context.get_parameter_source(name) is not default}


def _write(
    result: Validation, page: Path | None, junit: Path | None, output: Path | None, command: str
) -> None:
    """Write what was asked for; nothing when the run was interrupted."""
    from fimsym.report.files import write
    from fimsym.validation.junit import junit as as_junit
    from fimsym.validation.page import page as as_page

    if result.interrupted:
        return
    if page is not None:
        write(page, as_page(result, command))
    if junit is not None:
        write(junit, as_junit(result))
    if output is not None:
        result.save(output)


def _print(result: Validation, as_json: bool, page: Path | None) -> None:
    from fimsym.validation import table

    if as_json:
        print_json(result.to_dict())
        return
    if len(result.models) > _FULL:
        rows = [table.overview(model) for model in result.models]
        print_table(table.OVERVIEW, rows, numbers=slice(2, -1))
    for model in result.models:
        if len(result.models) <= _FULL or not model.agrees:
            rows = [table.row(comparison) for comparison in model.comparisons]
            print_table(table.HEADER, rows, table.title(model), numbers=slice(2, -1))
    verdict = "agreed" if result.agrees else "DISAGREED"
    verdict = "interrupted" if result.interrupted else verdict
    echo(f"{verdict}: {table.summary(result)}, {result.seconds:.0f} s")
    if not result.interrupted:
        echo(table.weakest(result))
        if page is not None:
            echo(f"report: {page}")


def _forget(result: Validation, kept: Path | None, command: str) -> None:
    """Say how to go on after an interruption, else delete the checkpoint."""
    from fimsym.validation.checkpoint import remove

    if result.interrupted:
        print_interruption(_go_on(kept, command))
    elif kept is not None:
        remove(kept)


def _go_on(kept: Path | None, command: str) -> str:
    goes = "it starts again" if kept is None else "it goes on from here"
    return f"Run the same command and {goes}: {command}"


def _command() -> str:
    """Return the command line that started this."""
    words = ["fimsym", *sys.argv[1:]]
    world = os.environ.get("LOCAL_WORLD_SIZE")
    if world is not None:
        words = ["torchrun", "--nproc-per-node", world, "-m", *words]
    return shlex.join(words)
