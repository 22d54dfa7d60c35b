"""The results that were asked for last, so that they need not be computed again; and freed memory, given back."""

from __future__ import annotations

import sys
from collections import OrderedDict
from collections.abc import Hashable
from contextlib import suppress
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Memory(Generic[K, V]):
    """At most `limit` values; the one that was not asked for the longest goes first. Safe to use from several threads.

    No lock is needed, so none can be held at a fork: each step is one call of OrderedDict, which is whole by itself,
    and a thread that loses a race computes a value twice, or remembers one less.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._values: OrderedDict[K, V] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: K) -> V | None:
        """The value, or None if it isn't remembered."""
        value = self._values.get(key)
        with suppress(KeyError):  # not there, or another thread has just removed it
            self._values.move_to_end(key)
        return value

    def put(self, key: K, value: V) -> None:
        """Remember a value, and forget the oldest where there are too many."""
        self._values[key] = value
        with suppress(KeyError):
            self._values.move_to_end(key)
        while len(self._values) > self.limit:
            with suppress(KeyError):
                self._values.popitem(last=False)

    def clear(self) -> None:
        """Forget everything."""
        self._values.clear()


def trim() -> None:
    """Give what was freed back to the system, where the C library keeps it else: glibc, malloc_trim(3).

    glibc keeps freed blocks of up to 32 MB for later ones, and the copies that weights are made from are such blocks.
    """
    if sys.platform != "linux":
        return
    with suppress(ImportError):  # a Python may be built without ctypes
        import ctypes

        give_back = getattr(ctypes.CDLL(None), "malloc_trim", None)  # which other C libraries don't have
        if give_back is not None:
            give_back(0)
