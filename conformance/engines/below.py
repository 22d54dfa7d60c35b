"""Where an engine's file may be that isn't in the current folder: one below, as a starter's is that was just made."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path


def find_below(names: Sequence[str]) -> str:
    """What to do, as " There is my_clip/my_clip.py: go there first, cd my_clip." of the first of some files that is
    not here, and that one folder below has; "" if there is none.
    """
    for name in names:
        if not name or os.path.isabs(name) or Path(name).is_file():
            continue
        try:
            found = sorted(folder for folder in Path().iterdir() if (folder / name).is_file())
        except OSError:  # the current folder is gone, or may not be read
            return ""
        if found:
            return f" There is {found[0] / name}: go there first, cd {found[0]}."
    return ""
