"""C libraries of this package, which are compiled when it is installed if there is a compiler (setup.py)."""

from __future__ import annotations

import ctypes
from pathlib import Path

from clipref.errors import BackendError


def open_library(path: Path) -> ctypes.CDLL:
    """The library in a file. Raises BackendError where it wasn't built, or can't be loaded."""
    if not path.is_file():
        raise BackendError(
            "Its C library wasn't built, for want of a C compiler when clipref was installed: install gcc or clang, "
            "then clipref once more, from source: pip install --force-reinstall --no-binary clipref clipref."
        )
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BackendError(
            f"Its C library can't be loaded ({error}): install clipref once more, from source."
        ) from error
