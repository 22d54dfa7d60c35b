"""Starters: programs around an engine that answer as they stand, for its author to put the engine into."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

from clipref.errors import InputError
from clipref.files import write_whole

_STARTERS = Path(__file__).with_name("starters")


def languages() -> list[str]:
    """Languages that there are starters in; "http" is a server, in Python."""
    return sorted(folder.name for folder in _STARTERS.iterdir() if (folder / _COMMANDS).is_file())


_COMMANDS = "README.md"


def write_starter(language: str, folder: Path) -> str:
    """Write the files of a starter into a folder, made if it isn't there; returns what to do with them.

    Links of its README.md to clipref's own pages lead to where clipref is installed. Raises InputError if one of the
    files exists already, or none can be written there.
    """
    files = sorted(path for path in (_STARTERS / language).iterdir() if path.is_file())
    for file in files:
        if os.path.lexists(folder / file.name):
            raise InputError(f"{folder / file.name} exists already; remove it, or choose another folder.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            with write_whole(folder / file.name) as scratch:
                if file.name == _COMMANDS:
                    scratch.write_text(_with_paths(file), encoding="utf-8")
                else:
                    shutil.copyfile(file, scratch)
    except OSError as problem:
        raise InputError(f"{folder} can't be written to: {problem.strerror}. Choose another folder.") from problem
    return (folder / _COMMANDS).read_text(encoding="utf-8").rstrip()


def _with_paths(page: Path) -> str:
    """A page as it reads elsewhere: "the guide, /.../GUIDE.md" for a link to ../../GUIDE.md."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"\[([^]]+)\]\((?!https?:)([^)]+)\)", lambda m: f"{m[1]}, {(page.parent / m[2]).resolve()}", text)
