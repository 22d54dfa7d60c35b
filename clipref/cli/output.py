"""What `--out` writes: opened before the work, there afterwards whole or not at all.

Of embeddings, a .safetensors file holds both, the tensor `embeddings` and the names. A .npy file can hold no names, so
they are beside it, as .names.json. The two are exchanged so that no pair is ever torn: the old names are removed, then
the array is replaced, then the new names appear. Whoever finds both has a pair; an array without names is that of a
run which was ended in between, and is to be made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..files import lock_folder, write_whole
from .texts import json_text, reason

Array: TypeAlias = NDArray[Any]
T = TypeVar("T")
Write: TypeAlias = Callable[[Array, list[str]], None]

# The library reads no header that is longer; it would write one.
MAX_SAFETENSORS_HEADER = 100_000_000


@contextmanager
def embeddings_file(out: Path) -> Iterator[Write]:
    """A writer of embeddings [N, E] and their N names to `out`, where they are when this ends well.

    Raises InputError at once if a file can't be written there.
    """
    kinds = {".npy": _npy, ".safetensors": _safetensors}
    if out.suffix not in kinds:
        raise InputError(f"--out {out}: expected a name that ends in .npy or .safetensors.")
    with _enter(out, kinds[out.suffix](out)) as write:
        yield write


@contextmanager
def text_file(out: Path, option: str = "--out") -> Iterator[Callable[[str], None]]:
    """What writes a text, as UTF-8, to `out`, where it is when this ends well.

    Raises InputError, which names `option`, at once if a file can't be written there.
    """
    with _enter(out, write_whole(out), option) as scratch:

        def write(text: str) -> None:
            with _refusal_told(out, option):
                scratch.write_bytes(text.encode("utf-8"))

        yield write


@contextmanager
def _enter(out: Path, context: AbstractContextManager[T], option: str = "--out") -> Iterator[T]:
    """The context, with an InputError if it can't be entered or left well; other errors in it are not its own."""
    with ExitStack() as stack:
        with _refusal_told(out, option):
            _check_place(out, option)
            opened = stack.enter_context(context)
        yield opened
        with _refusal_told(out, option):
            stack.close()


@contextmanager
def _refusal_told(out: Path, option: str = "--out") -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(
            f"{option} {out} can't be written: {reason(error)}. Make room, or choose another place."
        ) from error


def _check_place(out: Path, option: str = "--out") -> None:
    """Raise InputError if there is no folder for a file, or something else than a file in its place."""
    if not out.name:
        raise InputError(f"{option} {str(out)!r}: expected the name of a file.")
    if not out.absolute().parent.is_dir():
        raise InputError(f"{option} {out}: there is no folder {out.absolute().parent}; make it first.")
    if out.exists() and not out.is_file():
        raise InputError(f"{option} {out}: there is something else than a file; choose another name.")


def check_room(out: Path, count: int, embed_dim: int, names: list[str]) -> None:
    """Raise InputError if there is no room for so many embeddings, in float32, and their names."""
    length = len(json_text(names).encode())
    if out.suffix == ".safetensors" and length > 0.9 * MAX_SAFETENSORS_HEADER:
        raise InputError(
            f"--out {out}: the names take {length} bytes, and a .safetensors file has no room for over "
            f"{0.9 * MAX_SAFETENSORS_HEADER:.0f}; take a name that ends in .npy."
        )
    needed, free = 4 * count * embed_dim + length, shutil.disk_usage(out.absolute().parent).free
    if needed > free:
        raise InputError(f"--out {out} needs {needed} bytes, and {free} are free there; choose another place.")


@contextmanager
def _npy(out: Path) -> Iterator[Write]:
    """The array, and its names in .names.json."""
    names_path = out.with_suffix(".names.json")
    _check_place(names_path)
    with ExitStack() as exchange, write_whole(names_path) as names_scratch, write_whole(out) as scratch:

        def write(embeddings: Array, names: list[str]) -> None:
            with _refusal_told(out), open(scratch, "wb") as file:
                names_scratch.write_bytes(json_text(names, indent=0).encode("utf-8"))
                np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(embeddings))
                file.write(np.ascontiguousarray(embeddings).data)  # np.save loses the reason for an error

        yield write
        exchange.enter_context(lock_folder(out.absolute().parent))  # until both are in their places
        names_path.unlink(missing_ok=True)


@contextmanager
def _safetensors(out: Path) -> Iterator[Write]:
    """The tensor `embeddings`, and the names as JSON in the metadata."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    with write_whole(out) as scratch:

        def write(embeddings: Array, names: list[str]) -> None:
            with _refusal_told(out):
                try:
                    save_file({"embeddings": embeddings}, scratch, {"names": json_text(names)})
                except SafetensorError as error:
                    raise OSError(str(error)) from error

        yield write
