"""What threads share while they open images, and what a fork makes of it.

No lock is held here while a user's file is read, but the one of that very file. A child of a fork has none of its
parent's other threads, so a lock that one of them held would never be released in it: a fork waits for the short
stretches under `_guard`, which are all within `no_fork`, and the child forgets the turns and the room that those
threads had.
"""

from __future__ import annotations

import os
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from .lazy import no_fork

# A lock held for moments, while a number below is changed, and only within `no_fork`; never while a file is read or
# decoded.
_guard = threading.RLock()

# Locks of the objects that are worked with, by id, and how many threads hold each or wait for it.
_turns: dict[int, tuple[threading.RLock, list[None]]] = {}

_FILTER: tuple[Any, ...] = ("ignore", None, Warning, re.compile(r"PIL\.(?#while clipref opens an image)"), 0)
_silent = 0  # calls that are under way and want no warnings from Pillow

DECODING_BYTES = 2**30


def pillow() -> ModuleType:
    """`PIL.Image` with all of its formats imported, so that no later call imports anything while a fork may happen."""
    with no_fork:
        from PIL import Image

        Image.init()
        return Image


@contextmanager
def turn(thing: object) -> Iterator[None]:
    """A turn at one object, one thread at a time: two would read each other's part of a file."""
    with no_fork, _guard:
        lock, users = _turns.setdefault(id(thing), (threading.RLock(), []))
        users.append(None)
    try:
        with lock:
            yield
    finally:
        with no_fork, _guard:
            users.pop()
            if not users:
                _turns.pop(id(thing), None)


@contextmanager
def pillow_silenced() -> Iterator[None]:
    """Without Pillow's warnings: `max_pixels` stands for the one about size; the others concern metadata.

    Warning filters belong to the process. Here one filter, for Pillow's modules alone, is there as long as any thread
    is inside; `warnings.catch_warnings` would need a lock around all of the work, or lose what other threads set.
    """
    global _silent
    with no_fork, _guard:
        _silent += 1
        if _FILTER not in warnings.filters:
            warnings.filterwarnings("ignore", module=_FILTER[3].pattern)
    try:
        yield
    finally:
        with no_fork, _guard:
            _silent -= 1
            _restore_warnings()


def _restore_warnings() -> None:
    if not _silent and _FILTER in warnings.filters:
        filters: Any = warnings.filters
        filters[:] = [entry for entry in filters if entry != _FILTER]


class Room:
    """Bytes that threads share: who needs more than is left waits until others are done."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold `amount` bytes, or all there are if it is more."""
        amount = min(amount, self._size)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= amount)
            self._free -= amount
        try:
            yield
        finally:
            with self._changed:
                self._free += amount
                self._changed.notify_all()


_room = Room(DECODING_BYTES)


def decoding_room(amount: int) -> Any:
    """Memory to decode an image in, within what all threads together may take."""
    return _room.hold(amount)


def _after_fork_in_child() -> None:
    global _silent, _room
    _turns.clear()
    _silent = 0
    _restore_warnings()
    _room = Room(DECODING_BYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
