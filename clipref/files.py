"""Files: read without surprise, and written whole or not at all; and the folder that keeps what clipref makes itself.

What is read is a regular file of bounded size: a named pipe, which would block, or a device, which never ends, is
refused. What is written is written beside its place, under a name that nobody can guess, and renamed. Permissions are
what the umask leaves.

A run that was killed leaves its scratch file or folder behind. The next run that writes into the same folder removes
it, and tells it from the scratch of a run that is still at work by the lock which that run holds (flock, which the
system takes back from a process that ends, however it ends). Where nothing can be locked, on Windows and NFS, scratch
stays.

Raises OSError, as `open` does, but for `home`; whoever knows what the file was to be makes a ClipError of it.
"""

from __future__ import annotations

import codecs
import errno
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError

try:
    import fcntl
except ImportError:  # on Windows
    fcntl = None  # type: ignore[assignment]

SCRATCH_SUFFIX = ".clipref-scratch"


def home() -> Path:
    """Where converted checkpoints are, `<home>/clip/ViT-B-32`: `$CLIPREF_HOME`, or the user's cache.

    Raises InputError if there is no such folder, because the user that it would be of has no home.
    """
    chosen = os.environ.get("CLIPREF_HOME")
    try:
        if chosen:
            return Path(chosen).expanduser()
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "clipref"
    except RuntimeError as error:  # pathlib's, for a user without a home
        given = f"CLIPREF_HOME is {chosen!r}, and that user" if chosen else "CLIPREF_HOME is not set, and this user"
        raise InputError(f"{given} has no home; set it to a folder where checkpoints can be kept.") from error


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A regular file, opened to read bytes. Raises OSError for a folder, a named pipe, a socket or a device."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:
        raise _impossible_name(path, error) from error
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


def stand_in(start: bytes) -> str | None:
    """The name of what came in the place of a file, by its first bytes: a pointer, a web page, nothing; or None."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "it is empty"
    if text.startswith(b"version https://git-lfs"):
        return "it is a Git LFS pointer, which stands for the file until `git lfs pull` has fetched it"
    if re.match(rb"<(!doctype|html|head|\?xml|!--)", text):
        return "it is a web page, not the file (on Hugging Face, files are under /resolve/, their pages under /blob/)"
    return None


def no_weights(start: bytes) -> str | None:
    """A name for what a file is instead of weights, told from its first bytes; None where it may have some."""
    if other := stand_in(start):
        return other
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start[:64]):  # a header's length is never text
        return f"it is text ({start[:40].decode()!r})"
    return None


def text_lines(data: bytes) -> list[str]:
    r"""The lines of a text in UTF-8, without a byte-order mark. Raises UnicodeDecodeError.

    A line ends with "\n" or "\r\n" and nowhere else: not at a form feed, as str.splitlines has it.
    """
    lines = data.removeprefix(codecs.BOM_UTF8).decode("utf-8").split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def parse_json(data: bytes) -> Any:
    """The value of a JSON text, if it has one, in numbers that a computer has. Raises ValueError for anything else.

    Refused, though Python reads them: a key that is there twice, NaN and infinity, whole numbers beyond 64 bits (which
    can't even be put into a message when they are long enough), and values nested deeper than Python can follow.
    """
    try:
        return json.loads(
            data.decode("utf-8-sig"),
            object_pairs_hook=_object,
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=_number,
        )
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"it has the key {key[:80]!r} twice")
        found[key] = value
    return found


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**63:
        raise ValueError(f"it has a number of {len(digits)} digits, {digits[:20]}...")
    return int(digits)


def _number(text: str) -> float:
    if not math.isfinite(float(text)):
        raise ValueError(f"it has the number {text[:20]}, which is not finite")
    return float(text)


@contextmanager
def write_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A path to write a file at, which becomes `path` at the end, or vanishes if anything goes wrong.

    A file that was at `path` is replaced, and the new one has its permissions; a link is replaced, not followed. What
    can't be renamed to, a pipe or a terminal such as /dev/stdout, is given as it is. Raises OSError before anything is
    written if there is no such folder, or nothing may be written there.
    """
    path = Path(path).absolute()  # which a change of folder before the end doesn't move
    before = _mode_of(path)
    if before is not None and stat.S_ISDIR(before):
        raise IsADirectoryError(errno.EISDIR, "it is a folder, not a file", str(path))
    if before is not None and not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, "it is there, and may not be written to", str(path))
    # /dev/stdout is a link, to a regular file where the output is redirected; root could replace it for everybody.
    system = path.is_symlink() and path.parts[1:2] in (("dev",), ("proc",))
    if system or (before is not None and not stat.S_ISREG(before)):
        yield path
        return
    with _scratch(path.parent, _new_file) as scratch:
        permissions = scratch.stat().st_mode if before is None else before
        yield scratch
        scratch.chmod(permissions & 0o777)  # whatever has written it: safetensors lets only the owner read its files
        os.replace(scratch, path)


@contextmanager
def write_folder_whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, which becomes `path` at the end, or vanishes if anything goes wrong.

    Raises OSError if a folder with something in it is at `path`, or a file, before or after it is filled.
    """
    path = Path(path).absolute()
    if os.path.lexists(path) and (path.is_symlink() or not path.is_dir() or any(path.iterdir())):
        raise FileExistsError(errno.EEXIST, "there is something already", str(path))
    with _scratch(path.parent, _new_folder) as scratch:
        yield scratch
        os.rename(scratch, path)


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """A folder for what nobody keeps, where the system has such, for its owner only; removed at the end.

    That of a run which was killed is removed by the next run that makes one, where tempfile's would stay for ever.
    """
    with _scratch(Path(tempfile.gettempdir()).absolute(), _new_private_folder) as scratch:
        yield scratch


def remove_abandoned(folder: str | os.PathLike[str], recursive: bool = False) -> None:
    """Remove the scratch files and folders in `folder` whose run has ended without removing them.

    `recursive`: in its subfolders too. What can't be looked at or removed stays.
    """
    if not fcntl:
        return
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in list(entries):
            if entry.is_symlink():
                continue
            if entry.name.endswith(SCRATCH_SUFFIX):
                _remove_unless_locked(entry.path)
            elif recursive and entry.is_dir():
                remove_abandoned(entry.path, recursive)


@contextmanager
def _scratch(folder: Path, new: Callable[[Path], None]) -> Iterator[Path]:
    """A new scratch file or folder in `folder`; locked while in use, removed at the end unless it was renamed."""
    remove_abandoned(folder)
    scratch, descriptor = _new_scratch(folder, new)
    try:
        yield scratch
    finally:
        _remove(scratch)  # before its lock goes
        if descriptor is not None:
            os.close(descriptor)


def _new_scratch(folder: Path, new: Callable[[Path], None]) -> tuple[Path, int | None]:
    """A new scratch file or folder, and the descriptor that holds its lock where there are locks."""
    while True:
        scratch = folder / f".{secrets.token_hex(8)}{SCRATCH_SUFFIX}"
        new(scratch)
        if not fcntl:  # Windows renames no open file, so none is kept open
            return scratch, None
        with suppress(FileNotFoundError):  # before it was locked, another run took it for an abandoned one: once more
            descriptor = os.open(scratch, os.O_RDONLY | os.O_NOFOLLOW)
            with suppress(OSError):  # a file system without locks, where nobody removes it either
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.lexists(scratch):
                return scratch, descriptor
            os.close(descriptor)


def _new_file(scratch: Path) -> None:
    os.close(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))


def _new_folder(scratch: Path) -> None:
    os.mkdir(scratch)


def _new_private_folder(scratch: Path) -> None:
    os.mkdir(scratch, 0o700)


def _mode_of(path: Path) -> int | None:
    """The mode of what is at `path`, or of what a link there leads to; None without either."""
    try:
        return os.stat(path).st_mode
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise _impossible_name(path, error) from error


def _impossible_name(path: str | os.PathLike[str], error: ValueError) -> OSError:
    """The error for a name with a null character, or with a lone surrogate, which the system calls no OSError."""
    return OSError(errno.EINVAL, f"no file can have this name ({error})", os.fspath(path))


def _remove_unless_locked(path: str) -> None:
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(Path(path))
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    """Remove a file or a folder, if it is there and can be removed."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: str | os.PathLike[str]) -> Iterator[None]:
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
