"""How many bytes of tensors a piece of code holds at its worst."""

from __future__ import annotations

import contextlib
import ctypes
import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out, and so nothing about a model."""
    said = ("not enough memory", "can't allocate memory", "ALLOC_FAILED")
    return isinstance(error, torch.OutOfMemoryError) or any(text in str(error) for text in said)


def give_back() -> None:
    """Return memory that is free to the system, where the C library can."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


class Allocations(TorchDispatchMode):
    """Counts the memory of tensors made while it is entered, and the most at any one time.

    What an operation holds inside, and what an allocator keeps, is not seen.

    Attributes:
        held: Bytes that are held now.
        peak: The most that were.
    """

    def __init__(self) -> None:
        super().__init__()
        self.held = 0
        self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the compiler would be imported, for seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.is_view or func._schema.is_mutable:
            return found
        for leaf in (found,) if isinstance(found, Tensor) else tree_leaves(found):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self._known:
                    self._count(storage, storage._cdata)
        return found

    def _count(self, storage: torch.UntypedStorage, key: int) -> None:
        size = storage.nbytes()
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)

        def free():
            self._known.discard(key)
            self.held -= size

        weakref.finalize(storage, free)
