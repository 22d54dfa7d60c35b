"""Entry points of what is installed. All of it is looked through once for a group of them, and again only after an
installation: that takes longer than opening a small model.
"""

from __future__ import annotations

import os
import sys
from functools import lru_cache
from importlib import metadata


def entry_points(*, group: str) -> metadata.EntryPoints:
    """The entry points of a group, as importlib.metadata finds them."""
    return _found(group, tuple(map(_state, sys.path)))


@lru_cache(maxsize=16)
def _found(group: str, state: tuple[object, ...]) -> metadata.EntryPoints:
    return metadata.entry_points(group=group)


def _state(path: str) -> tuple[str, int]:
    """A folder that is looked through, and when its list of files last changed: when a package came or went."""
    try:
        return path, os.stat(path or ".").st_mtime_ns
    except OSError:
        return path, 0
