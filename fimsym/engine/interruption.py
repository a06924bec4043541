"""Ctrl-C during a long computation: end it soon, with what there is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")


class Interruption:
    """While entered, takes the first SIGINT as a request to stop; the second one raises.

    Only in the main thread, and only where Python's own handler is installed: a program that
    handles the signal in another way keeps its way. The handler is put back on leaving.

    Attributes:
        requested: Whether the signal came.
        during_work: Whether it came otherwise than during a wait for the next item.
        told: Called when it comes.
    """

    def __init__(self) -> None:
        self.requested = False
        self.during_work = False
        self.told: Callable[[], object] = lambda: None
        self._waiting = False
        self._installed = False

    def __enter__(self) -> Interruption:
        in_main = threading.current_thread() is threading.main_thread()
        if in_main and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handle)
            self._installed = True
        return self

    def __exit__(self, *_: object) -> None:
        if self._installed:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self._installed = False

    def until_requested(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items until the signal comes; waiting for the next one is broken off.

        Workers of a DataLoader get the signal too and end, so that none is asked for more.
        """
        source = iter(items)
        while not self.requested:
            try:
                self._waiting = True
                item = next(source)
            except StopIteration:
                return
            except BaseException:
                if self.requested:
                    return
                raise
            finally:
                self._waiting = False
            yield item

    def _handle(self, number, frame):
        if self.requested:
            signal.default_int_handler(number, frame)
        self.requested = True
        self.told()
        if self._waiting:
            raise KeyboardInterrupt
        self.during_work = True
