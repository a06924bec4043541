"""fimsym against other packages: ``python -m benchmarks``."""

from __future__ import annotations

import json
from pathlib import Path

import click
import torch
from rich.console import Console

from benchmarks import table
from benchmarks.isolation import GIB, default_memory
from benchmarks.measure import Settings
from benchmarks.runner import PARTS, run
from fimsym.errors import FimsymError, SpecError, nearest

DOCUMENT = Path("docs/benchmarks.md")


@click.command()
@click.option("--only", help=f"Some of these, with commas: {', '.join(PARTS)}.")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(min=1))
@click.option("--seconds", default=120.0, show_default=True, help="Time limit of a contender.")
@click.option("--memory", default=None, type=float, help="GiB a contender may take.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1))
@click.option("--device", default="cpu", show_default=True, help="Torch device, such as cuda.")
@click.option("--quick", is_flag=True, help="Two rounds and 20 seconds at most: a look.")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="Write JSON there.")
@click.option(
    "--document",
    type=click.Path(path_type=Path),
    help=f"Write the page there; {DOCUMENT} when everything is run on the CPU, else nowhere.",
)
def main(only, rounds, seconds, memory, threads, device, quick, json_path, document):
    """Compare speed and memory of fimsym with other packages' exact Fisher diagonals."""
    limit = default_memory() if memory is None else int(memory * GIB)
    rounds, seconds = (min(rounds, 2), min(seconds, 20.0)) if quick else (rounds, seconds)
    if document is None and only is None and not quick and device == "cpu":
        document = DOCUMENT
    progress = Console(stderr=True)
    try:
        parts = chosen(only)
        check_device(device)
    except FimsymError as error:
        raise click.ClickException(str(error)) from None
    settings = Settings(device, threads, rounds, seconds, limit)
    record = run(parts, settings, lambda text: progress.print(text, style="dim", markup=False))
    table.show(record, Console(width=None if Console().is_terminal else 160))
    if json_path:
        plain = table.as_dict(record)
        json_path.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n")
    if document:
        document.write_text(table.markdown(record))
        progress.print(f"wrote {document}", markup=False)


def chosen(only: str | None) -> tuple[str, ...]:
    """Return the parts named with commas, all without a name.

    Raises:
        SpecError: there is no such part.
    """
    names = tuple(name.strip() for name in only.split(",")) if only else PARTS
    for name in names:
        if name not in PARTS:
            expected = ", ".join(PARTS)
            raise SpecError(
                f"unknown part {name!r}; expected some of {expected}.{nearest(name, PARTS)}"
            )
    return names


def check_device(device: str) -> None:
    """Raise SpecError unless torch has the device."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SpecError(f"torch cannot use the device {device!r}: {error}") from None


if __name__ == "__main__":
    main()
