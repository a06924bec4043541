"""Text, tables and JSON on standard output."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from fimsym.errors import DomainError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text


@contextlib.contextmanager
def writing() -> Iterator[None]:
    """Say of an error inside that standard output cannot be written.

    Raises:
        DomainError: the system refused to write.
    """
    try:
        yield
    except OSError as error:
        why = error.strerror or str(error) or type(error).__name__
        raise DomainError(
            f"cannot write the output: {why}. Look at where standard output goes."
        ) from None


@writing()
def echo(text: str, newline: bool = True) -> None:
    """Print text."""
    click.echo(text, nl=newline)


def print_json(value: Any) -> None:
    """Print plain data as JSON."""
    echo(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False))


def console() -> Console:
    """Return the console for tables; without a terminal it is 120 wide."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def plain(text: str, style: str = "") -> Text:
    """Return text in which brackets and colons mean nothing."""
    from rich.text import Text

    return Text(text, style=style)


@writing()
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
    from rich.table import Table

    above = plain(title, "table.title") if title else None
    table = Table(title=above, title_justify="left", box=box.SIMPLE_HEAD)
    right = range(len(header))[numbers]
    for place, name in enumerate(header):
        justify = "right" if place in right else "left"
        table.add_column(name, justify=justify, overflow="fold", no_wrap=name == "name")
    for cells in rows:
        style = "bold red" if "DISAGREES" in cells else None
        table.add_row(*map(plain, cells), style=style)
    console().print(table)
