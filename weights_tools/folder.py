"""Checkpoint folders, written tensor by tensor and whole or not at all.

The safetensors library writes only checkpoints that are in memory, so its format's documentation is put into code here
(https://github.com/huggingface/safetensors, "Format"): the length of a JSON header, the header, the tensors' bytes.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipref.config import ClipConfig, Shape
from clipref.errors import InputError
from clipref.files import write_folder_whole, write_whole
from clipref.weights import FLOATS


def refuse_existing(path: str | os.PathLike[str]) -> None:
    """Raise InputError if there is something at `path`."""
    if os.path.lexists(path):
        raise InputError(f"{path} exists already; remove it, or choose another path.")


@contextmanager
def new_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A folder to fill, made beside `path` and renamed to it at the end; removed if anything goes wrong.

    Raises InputError if `path` exists, before or after.
    """
    path = Path(path)
    refuse_existing(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with write_folder_whole(path) as scratch:
            yield scratch
    except OSError:
        refuse_existing(path)
        raise


def write_tensors(
    path: Path, layout: Mapping[str, tuple[str, Shape]], tensors: Iterable[tuple[str, NDArray[Any]]]
) -> None:
    """A safetensors file. `layout` has each tensor's dtype, as safetensors calls it, and shape; `tensors` their values
    in the same order and in the dtype that FLOATS has for it. No more than one of them need be in memory.
    """
    header: dict[str, Any] = {}
    end = 0
    for name, (dtype, shape) in layout.items():
        begin, end = end, end + math.prod(shape) * FLOATS[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        for (name, (dtype, shape)), (given, tensor) in zip(layout.items(), tensors, strict=True):
            assert (given, tensor.dtype, tensor.shape) == (name, FLOATS[dtype], shape), f"{given}: not as laid out"
            file.write(np.ascontiguousarray(tensor).data)


def write_config(folder: Path, config: ClipConfig) -> None:
    """The folder's config.json."""
    write_json(folder / "config.json", config.to_dict())


def write_json(path: Path, value: Any) -> None:
    """JSON for people to read, in which bytes of a file's name that are no UTF-8 are escapes."""
    text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
    with write_whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8", errors="backslashreplace")
