"""The command: parse, call, print."""

from fimsym.cli.commands import main

__all__ = ["main"]
