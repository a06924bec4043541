"""Progress bars on standard error, shown only where someone is watching."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

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
_STOPPING = "stopping; Ctrl-C again ends at once"


@dataclasses.dataclass(frozen=True)
class Shown:
    """A bar; called with a number of steps, by default one, it moves on.

    Attributes:
        advance: Moves it on by a number of steps.
        say: Prints a line on standard error, above the bar if there is one.
        stopping: Shows that Ctrl-C was seen.
    """

    advance: Callable[[float], None]
    say: Callable[[str], None]
    stopping: Callable[[], None]

    def __call__(self, steps: float = 1) -> None:
        """Move it on."""
        self.advance(steps)


@contextlib.contextmanager
def progress(description: str, total: int | None, enabled: bool) -> Iterator[Shown]:
    """Show a bar and the time left while the block runs.

    Args:
        description: What is being done.
        total: Number of steps; None when unknown, which shows the time spent instead.
        enabled: False hides it; it is also hidden when standard error is no terminal.
    """
    console = Console(stderr=True)
    plain: dict[str, Any] = {"markup": False, "highlight": False, "soft_wrap": True}

    def say(text: str) -> None:
        if enabled:
            console.print(text, **plain)

    if not (enabled and console.is_terminal):
        yield Shown(advance=lambda steps: None, say=say, stopping=lambda: None)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn() if total is None else TimeRemainingColumn(),
    )
    bar = Progress(
        *columns,
        console=console,
        transient=True,
        speed_estimate_period=_SPEED_OVER,
    )
    with bar:
        task = bar.add_task(description, total=total)
        yield Shown(
            advance=lambda steps: bar.advance(task, steps),
            say=say,
            stopping=lambda: bar.update(task, description=_STOPPING),
        )
