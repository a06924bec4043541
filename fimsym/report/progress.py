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
    TimeRemainingColumn,
)


@contextlib.contextmanager
def progress(description: str, total: int | None, enabled: bool) -> Iterator[Callable]:
    """Show a bar while the block runs; yields ``advance(steps=1)``.

    Args:
        description: What is being done.
        total: Number of steps, None when unknown.
        enabled: False hides it; it is also hidden when standard error is no terminal.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    hidden = not (enabled and console.is_terminal)
    with Progress(*columns, console=console, transient=True, disable=hidden) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps=1: bar.advance(task, steps)
