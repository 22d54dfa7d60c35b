"""Who computes what: a batch's items, or one operation's outputs, shared out to threads of Python's own.

The C functions hold no lock and start no thread, and ctypes lets other Python threads run meanwhile. So a forked child
finds nothing that its parent left behind, and makes a pool of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, TypeVar

from clipref.lazy import once_a_process

T = TypeVar("T")


class Sharing:
    """So many threads, the calling one among them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._pool = once_a_process(lambda: ThreadPoolExecutor(threads, thread_name_prefix="native"))
        self._busy = threading.local()

    def ranges(self, work: Callable[[int, int], Any], length: int) -> None:
        """Call work(begin, end) for ranges that together are 0 to `length`, a thread each.

        A thread that already computes its share of a batch does it all.
        """
        parts = min(self.threads, length)
        if parts <= 1 or getattr(self._busy, "items", False):
            work(0, length)
            return
        bounds = [length * i // parts for i in range(parts + 1)]
        others = [self._pool().submit(work, *bounds[i : i + 2]) for i in range(1, parts)]
        try:
            work(bounds[0], bounds[1])
        finally:
            wait(others)
        for other in others:
            other.result()

    def items(self, work: Callable[..., T], parts: Iterable[tuple[Any, ...]]) -> list[T]:
        """The results of work(*part), each computed by one thread."""

        def alone(part: tuple[Any, ...]) -> T:
            self._busy.items = True
            try:
                return work(*part)
            finally:
                self._busy.items = False

        return list(self._pool().map(alone, parts))
