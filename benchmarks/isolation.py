"""Run a function in a fresh process under a memory limit and a time limit."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import multiprocessing
import os
import re
import resource
import signal
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch  # before the limits are set: its address space does not count

GIB = 2**30
PATH = re.compile(r"(?<![\w.])/(?:[\w.+-]+/)+")
"""Folders in a message: they say where this machine keeps things."""
OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "out of memory", "bad_alloc")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a call.

    Attributes:
        status: ``ok``, ``refused``, ``out of memory`` or ``too slow``.
        value: What the function returned.
        message: Why it did not return, in a line.
    """

    status: str
    value: Any = None
    message: str = ""


def default_memory() -> int:
    """Return the bytes a process may take: 60 % of the machine's memory."""
    return int(0.6 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))


def isolated(
    function: Callable[..., Any], *args: Any, seconds: float, memory: int | None = None
) -> Outcome:
    """Return the outcome of ``function(*args)`` in a process of its own.

    Args:
        function: Importable by name; its arguments and result are pickled.
        *args: Its arguments.
        seconds: Time limit, start of the interpreter included.
        memory: Bytes of address space beyond what the process starts with; None for no limit.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(sender, memory, function, args), daemon=True)
    process.start()
    sender.close()
    deadline = time.monotonic() + seconds
    try:
        if not receiver.poll(max(0.0, deadline - time.monotonic())):
            return Outcome("too slow", message=f"stopped after {seconds:.0f} s")
        outcome = receiver.recv()
        process.join(timeout=5.0)  # it cleans up after itself
        return outcome
    except EOFError:
        process.join()
        return _death(process.exitcode)
    finally:
        process.kill()
        process.join()
        receiver.close()


class _Stopped(BaseException):
    """A time limit is over; no handler of exceptions takes it for one."""


def within(function: Callable[..., Any], *args: Any, seconds: float) -> Outcome:
    """Return the outcome of ``function(*args)`` in this process, stopped between two operations.

    A new process on a GPU takes seconds to start; the memory there is its allocator's to tell.
    """

    def stop(*_: object) -> None:
        raise _Stopped

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        return Outcome("ok", function(*args))
    except _Stopped:
        return Outcome("too slow", message=f"stopped after {seconds:.0f} s")
    except Exception as error:
        return _failure(error)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        gc.collect()
        torch.cuda.empty_cache()


def _death(code: int | None) -> Outcome:
    """Return the outcome of a process that ended without a word."""
    if code in (-6, -9, -11):  # abort, kill or fault: how native code ends without memory
        return Outcome("out of memory", message=f"ended by signal {-code}")
    return Outcome("refused", message=f"ended with exit code {code}")


def _child(sender, memory, function, args):
    """Call the function under its limits and send what happened."""
    if memory is not None:
        limit = _address_space() + memory
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    try:
        outcome = Outcome("ok", function(*args))
    except MemoryError as error:
        outcome = Outcome("out of memory", message=str(error)[:200])
    except Exception as error:
        outcome = _failure(error)
    with contextlib.suppress(BrokenPipeError):
        sender.send(outcome)


def _failure(error: Exception) -> Outcome:
    text = "".join(traceback.format_exception_only(error)).strip().splitlines()
    message = PATH.sub("", text[0])[:200]
    low = " ".join(text).lower()
    short = any(words in low for words in OUT_OF_MEMORY)
    return Outcome("out of memory" if short else "refused", message=message)


def _address_space() -> int:
    """Return the address space taken so far, in bytes; 0 where it is not known."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def reset_peak() -> None:
    """Forget the peak of resident memory so far, where the system can."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def peak_memory() -> int:
    """Return the peak of resident memory, in bytes.

    On Linux this is VmHWM: ``ru_maxrss`` there starts from the parent's peak.
    """
    try:
        with open("/proc/self/status") as file:
            lines = dict(line.split(":", 1) for line in file)
        return int(lines["VmHWM"].split()[0]) * 1024
    except (OSError, KeyError):
        unit = 1 if os.uname().sysname == "Darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
