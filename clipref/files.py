"""Files: read without surprise, and written whole or not at all.

What is read is a regular file of bounded size: a named pipe, which would block, or a device, which never ends, is
refused. What is written is written beside its place and renamed, under a name that nobody can guess and that follows no
link. A run that was killed leaves its scratch behind; the next one in the same folder removes it, and tells it from the
scratch of a run that is still at work by the lock which that one holds.

Raises OSError, as `open` does; whoever knows what the file was to be makes a ClipError of it.
"""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has none; there, scratch of killed runs stays
    fcntl = None  # type: ignore[assignment]

SCRATCH_SUFFIX = ".clipref-scratch"


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened to read bytes. Raises OSError for a folder, a named pipe, a socket or a device."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a named pipe", stat.S_IFSOCK: "a socket"}
            raise OSError(f"it is {kinds.get(stat.S_IFMT(mode), 'a device')}, not a file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def read_bytes(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file. Raises OSError, also if it has more than `limit` bytes."""
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise OSError(f"it has over {limit} bytes")
    return data


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file at, which becomes `path` at the end, or vanishes if anything goes wrong.

    A file that was at `path` is replaced. The new one has the permissions that the umask leaves.
    """
    path = Path(path)
    with _scratch(path, os.O_RDWR | os.O_CREAT | os.O_EXCL) as scratch:
        yield scratch
        os.replace(scratch, path)


@contextmanager
def folder_written_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end, or vanishes if anything goes wrong.

    Raises OSError if a folder with something in it is at `path`.
    """
    path = Path(path)
    with _scratch(path, None) as scratch:
        yield scratch
        os.rename(scratch, path)


@contextmanager
def _scratch(path: Path, flags: int | None) -> Iterator[Path]:
    """A new file (opened with `flags`) or folder (None) beside `path`; locked while in use, removed at the end."""
    prefix = f".{path.name[:100]}."
    remove_abandoned(path.parent, prefix)
    scratch, descriptor = _made(path, prefix, flags)
    while fcntl and not scratch.exists():  # taken for an abandoned one before it was locked
        os.close(descriptor)
        scratch, descriptor = _made(path, prefix, flags)
    try:
        yield scratch
    finally:
        if descriptor >= 0:
            os.close(descriptor)
        _remove(scratch)


def _made(path: Path, prefix: str, flags: int | None) -> tuple[Path, int]:
    """A new scratch file or folder, and the descriptor that holds its lock (-1: none)."""
    scratch = path.with_name(f"{prefix}{secrets.token_hex(8)}{SCRATCH_SUFFIX}")
    if flags is None:
        os.mkdir(scratch)
        descriptor = os.open(scratch, os.O_RDONLY) if fcntl else -1
    else:
        descriptor = os.open(scratch, flags, 0o666)
    if fcntl:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    return scratch, descriptor


def remove_abandoned(folder: Path, prefix: str = ".") -> None:
    """Remove the scratch files and folders in `folder` whose run has ended without removing them."""
    if not fcntl:
        return
    with suppress(OSError):
        found = [entry for entry in os.scandir(folder) if entry.name.endswith(SCRATCH_SUFFIX)]
        for entry in (entry for entry in found if entry.name.startswith(prefix) and not entry.is_symlink()):
            with suppress(OSError):
                descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    _remove(Path(entry.path))
                finally:
                    os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def alone(folder: str | os.PathLike[str]) -> Iterator[None]:
    """While in here, no other process is in here for the same folder; for files that are to change together.

    Windows, and folders of other machines that know no locks, don't promise it.
    """
    descriptor = os.open(folder, os.O_RDONLY) if fcntl else -1
    try:
        if fcntl:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)
