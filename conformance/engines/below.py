"""Where an engine's file may be that isn't in the current folder: one below, as a starter's is that was just made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def find_below(names: Sequence[str]) -> str:
    """What to do, as " There is my_clip/my_clip.py: go there first, cd my_clip." of the first of some files that is
    not here, and that one folder below has; "" if there is none.
    """
    try:
        folders = sorted(Path().iterdir())
    except OSError:  # the current folder is gone, or may not be read
        return ""
    for name in names:
        if name and not os.path.isabs(name) and not _is_file(Path(name)):
            for folder in folders:
                if _is_file(folder / name):
                    return f" There is {folder / name}: go there first, cd {folder}."
    return ""


def _is_file(path: Path) -> bool:
    """Whether it is a file that can be seen: a word of a command may be longer than any name."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False
