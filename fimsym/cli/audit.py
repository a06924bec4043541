"""The ``audit`` command: is a diagonal in a file the Fisher's?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fimsym.cli.options import network_options, opened
from fimsym.cli.printing import console, plain, print_json, writing

if TYPE_CHECKING:
    from fimsym.auditing import Audit


@click.command("audit", short_help="Is a diagonal in a file the Fisher's?")
@click.argument("file", type=click.Path(path_type=Path))
@network_options
@click.option("--labels-per-input", type=int, help="Labels said to be drawn for each input.")
@click.option("--batch-size", type=int, help="Of the batches it was computed in.")
@click.option("--tolerance", type=float, help="Relative error that counts as rounding.")
@click.option("--draws", default=40, show_default=True, help="Of every estimator.")
@click.option("--seed", default=0, show_default=True, help="Of the draws.")
def audit_command(
    file: Path,
    labels_per_input: int | None,
    batch_size: int | None,
    tolerance: float | None,
    draws: int,
    seed: int,
    **shared: Any,
) -> None:
    """Tell whether the diagonal in FILE is that of the Fisher information.

    FILE holds a tensor for each parameter by name, or one vector in the order of
    model.parameters(): .safetensors, .npz, .npy or .pt. Where it is not, the likely mistake is
    named with its evidence.

    Exit status: 0 it is, up to rounding or as an unbiased estimate; 1 it is not; 2 bad input; 130
    ended by Ctrl-C, without a finding.
    """
    with opened(**shared) as given:
        from fimsym.auditing import audit

        result = given.call(
            audit,
            file,
            labels_per_input=labels_per_input,
            batch_size=batch_size,
            tolerance=tolerance,
            seed=seed,
            draws=draws,
        )
        if given.first and given.as_json:
            print_json(result.to_dict())
        elif given.first:
            _show(result)
    sys.exit(0 if result.is_fisher else 1)


@writing()
def _show(result: Audit) -> None:
    """Print a finding in words, and the groups as a table."""
    from rich import box
    from rich.table import Table

    shown = console()
    style = "bold green" if result.is_fisher else "bold red"
    shown.print(result.summary[:1].upper() + result.summary[1:], style=style, markup=False)
    for sentence in result.evidence:
        shown.print(f"• {sentence}", markup=False)
    table = Table(box=box.SIMPLE_HEAD)
    names = list(result.groups[0].deviations)
    for name in ("group", "size", "given", "Fisher", "scale", "residual", *names):
        table.add_column(name, justify="left" if name == "group" else "right")
    for group in result.groups:
        cells = [f"{value:.4g}" for value in (group.given, group.fisher, group.scale)]
        cells += [f"{value:.2g}" for value in (group.residual, *group.deviations.values())]
        table.add_row(plain(group.name), str(group.size), *cells)
    shown.print(table)
    n = result.labels_per_input
    labels = "one label" if n is None or n < 1.5 else f"{n:.3g} labels"
    shown.print(
        f"scale: ⟨D, I⟩/⟨I, I⟩; residual: Σ|D − I|/ΣI; {', '.join(names)}: root mean square of "
        f"D − I in standard deviations of that estimator from {labels} for each input",
        markup=False,
    )
