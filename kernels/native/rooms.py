"""Memory for results. What one was in serves the next, because what the system gives anew, it gives page by page."""

from __future__ import annotations

import math
import sys
import threading
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .library import address

Array: TypeAlias = NDArray[Any]

LINE = 64  # bytes of a line of the cache, at which arrays begin
LARGE = 1 << 16  # bytes from which memory is kept
MOST = 1 << 26  # bytes that a thread keeps


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of whatever was there before, which begins where a line of the cache does."""
    room, begin = new_room(math.prod(shape) * np.dtype(dtype).itemsize)
    found: Array = np.ndarray(shape, dtype, room, begin)
    return found


def for_result(shape: tuple[int, ...]) -> Array:
    """The same in float32, in memory where another result of this thread was, if there is some that nobody has."""
    room, begin = _kept.room(4 * math.prod(shape))
    found: Array = np.ndarray(shape, np.float32, room, begin)
    return found


def new_room(size: int) -> tuple[Array, int]:
    """Bytes [S] uint8, and where among them `size` begin with a line of the cache."""
    room = np.empty(size + LINE, np.uint8)
    return room, -address(room) % LINE


class Rooms(threading.local):
    """A thread's rooms. One is free when nothing but this refers to it; each view of it does.

    Sizes are powers of two, so that results of different sizes share rooms. Where all together would be more than
    `MOST` bytes, it lets go of them and begins anew; memory that somebody has stays theirs.
    """

    def __init__(self) -> None:
        self._rooms: dict[int, list[tuple[Array, int]]] = {}  # by size
        self._size = 0  # of all together

    def room(self, size: int) -> tuple[Array, int]:
        """As `new_room`, with whatever was there before; one that is kept and free, if there is one of that size."""
        if size < LARGE:
            return new_room(size)
        size = 1 << (size - 1).bit_length()
        for room in self._rooms.get(size, ()):
            if sys.getrefcount(room[0]) == _ALONE:
                return room
        return self._keep(size, new_room(size))

    def _keep(self, size: int, room: tuple[Array, int]) -> tuple[Array, int]:
        if self._size + size > MOST:
            self._rooms, self._size = {}, 0
        if size <= MOST:
            self._rooms.setdefault(size, []).append(room)
            self._size += size
        return room


_NOBODYS = (np.empty(0, np.uint8), 0)
_ALONE = sys.getrefcount(_NOBODYS[0])  # what Python counts of a room that nobody has
_kept = Rooms()
