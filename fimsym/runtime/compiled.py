"""Evaluators that torch's compiler turns into one pass over u and v."""

from __future__ import annotations

import functools
import inspect
from types import ModuleType
from typing import Any

import torch

OPTIONS: dict[str, Any] = dict.fromkeys(
    ("realize_reads_threshold", "realize_acc_reads_threshold", "realize_opcount_threshold"), 10**6
)
"""Of torch's compiler: what follows from u is computed where it is needed, and not written down."""


@functools.cache
def compiled(module: ModuleType) -> ModuleType:
    """Return a module whose functions are those of another, compiled when they are first called."""
    found = ModuleType(f"{module.__name__}_compiled", module.__doc__)
    for name, value in vars(module).items():
        if not name.startswith("__"):
            own = inspect.isfunction(value) and value.__module__ == module.__name__
            setattr(found, name, torch.compile(value, options=OPTIONS) if own else value)
    links = {link: getattr(found, f.__name__) for link, f in module.LINKS.items()}
    setattr(found, "LINKS", links)  # noqa: B010
    return found
