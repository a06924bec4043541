"""Progress bars on standard error, shown only where someone is watching."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SPEED_OVER = 600
"""Seconds over which the time left is estimated: single steps may take a minute."""


@contextlib.contextmanager
def progress(description: str, total: int | None, enabled: bool) -> Iterator[Callable]:
    """Show a bar and the time left while the block runs; yields ``advance(steps=1)``.

    Args:
        description: What is being done.
        total: Number of steps; None when unknown, which shows the time spent instead.
        enabled: False hides it; it is also hidden when standard error is no terminal.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn() if total is None else TimeRemainingColumn(),
    )
    hidden = not (enabled and console.is_terminal)
    bar = Progress(
        *columns,
        console=console,
        transient=True,
        disable=hidden,
        speed_estimate_period=_SPEED_OVER,
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield lambda steps=1: bar.advance(task, steps)
