"""Calls that share nothing, on several threads.

Threads within an operation of torch wait for each other after every pass over a block; threads
that take a block each wait once.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor
from torch._C._functorch import maybe_current_level

Argument = TypeVar("Argument")
Result = TypeVar("Result")

_MOST = 8
"""Threads that one interpreter keeps busy; of the others each of them gets as many."""


def within() -> int:
    """Return how many of torch's threads each call in `shared` has."""
    return max(1, torch.get_num_threads() // _MOST)


def shared(
    work: Callable[[Argument], Result], arguments: Iterable[Argument], tensors: Iterable[Tensor]
) -> Iterator[Result]:
    """Yield the result of each call in turn, like `map`, from as many threads as torch has.

    What torch keeps for each thread, whether gradients are recorded and the like, is handed
    on; where it cannot be, one thread does all.

    Args:
        work: Called with each argument.
        arguments: One for each call.
        tensors: What the calls read.
    """
    number = min(_MOST, torch.get_num_threads())
    if number == 1 or not _may_leave(tensors):
        yield from map(work, arguments)
        return
    recorded, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def call(argument: Argument) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(recorded):
            return work(argument)

    executor = _executor(os.getpid(), number, within())
    pending = [executor.submit(call, argument) for argument in arguments]
    try:
        for future in pending:
            yield future.result()
    finally:
        for future in pending:
            future.cancel()


def _may_leave(tensors: Iterable[Tensor]) -> bool:
    """Tell whether nothing but plain torch is at work, which any thread does alike."""
    return not (
        any(type(tensor) is not Tensor for tensor in tensors)
        or maybe_current_level()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch.is_autocast_enabled("cpu")
    )


@functools.lru_cache(maxsize=1)
def _executor(process: int, number: int, each: int) -> ThreadPoolExecutor:
    """Return a pool of this process whose threads are all running."""
    del process  # a forked process has none of the threads
    before = torch.get_num_threads()
    running = threading.Barrier(number)

    def start():
        torch.set_num_threads(each)
        torch.get_num_threads()  # a thread takes over what was set last anywhere once, here
        running.wait()

    executor = ThreadPoolExecutor(number, "fimsym", start)
    list(executor.map(lambda _: None, range(number)))
    torch.set_num_threads(before)
    return executor
