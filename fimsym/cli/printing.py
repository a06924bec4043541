"""Tables and JSON on standard output."""

from __future__ import annotations

import json
import sys
from typing import Any

import click


def print_json(value: Any) -> None:
    """Print plain data as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def print_table(
    header: tuple[str, ...],
    rows: list[tuple[str, ...]],
    title: str = "",
    numbers: slice = slice(0, 0),
) -> None:
    """Print a table; a row that disagrees is red where there are colours.

    Args:
        header: Names of the columns.
        rows: Their cells.
        title: Above the table.
        numbers: Which columns are aligned to the right.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)
    table = Table(title=title or None, title_justify="left", box=box.SIMPLE_HEAD)
    right = range(len(header))[numbers]
    for place, name in enumerate(header):
        justify = "right" if place in right else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name == "name")
    for cells in rows:
        style = "bold red" if "DISAGREES" in cells else None
        table.add_row(*(cell.replace("[", r"\[") for cell in cells), style=style)
    console.print(table)
