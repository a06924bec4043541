"""A command that several processes of torchrun carry out: its errors are told once."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from fimsym.cli.failures import placed
from fimsym.errors import FimsymError

if TYPE_CHECKING:
    import torch

INTERRUPTED = 130
"""Exit status of a command that SIGINT ended."""


def started() -> tuple[int, int] | None:
    """Return this process's rank and how many torchrun has started; None without torchrun.

    Like `fimsym.engine.distributed.launched_rank`, but without importing torch.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return None
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


def print_error(text: str) -> None:
    """Print an error that this process alone knows of, with its rank if there are more."""
    at = started()
    where = f"rank {at[0]} of {at[1]}: " if at is not None and at[1] > 1 else ""
    click.echo(f"Error: {where}{text}", err=True)


def print_interruption(text: str) -> None:
    """Print what Ctrl-C has left, which all processes know of; the first one does."""
    if (started() or (0, 1))[0] == 0:
        click.echo(text, err=True)


@contextlib.contextmanager
def together(device: torch.device) -> Iterator[torch.device]:
    """Join the processes that torchrun has started, and yield the device of this one.

    Inside belongs what all of them know the errors of, since they compute and fail together;
    the first process prints one. Whatever may fail in one process alone, such as reading a
    file, belongs before: that process prints its error, and torchrun ends the others.
    """
    from fimsym.engine.distributed import launched, launched_rank

    with launched(device) as place:
        try:
            yield place
        except FimsymError as error:
            if launched_rank() == 0:
                click.echo(f"Error: {placed(error)}", err=True)
            sys.exit(2)
