"""The shared library of this folder: found, loaded by ctypes, and asked which of its kernels this processor can run."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.lazy import once

from ..compiled import open_library

Array: TypeAlias = NDArray[Any]
Function: TypeAlias = Callable[..., Any]

PATH = Path(__file__).with_name("kernels.so")

# Kernels by precision and processor, fastest first; both end the names of the functions made for them.
PROCESSORS: dict[str, tuple[str, ...]] = {
    "float32": ("avx512", "avx2", "neon", "plain"),
    "bfloat16": ("amx", "avx512bf16", "avx512", "avx2", "neonbf16", "neon", "plain"),
    "int8": ("amx", "avx512vnni", "avx512", "avx2", "neondotprod", "neon", "plain"),
}
# Of processors that have products alone: whose kernels in float32 do the rest.
REST = {"amx": "avx512", "avx512bf16": "avx512", "avx512vnni": "avx512", "neonbf16": "neon", "neondotprod": "neon"}
# Outputs of a packed weight that lie side by side, and what the words of two or four below them are a multiple of;
# common.h draws it.
PANEL, STEP = 32, 16
ACTIVATIONS = {"none": 0, "quick_gelu": 1, "gelu": 2, "relu": 3}

_pointer, _count, _int = ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int
_ROWS = (_pointer, _count)  # where the first row is, and how far apart rows are
# The parameters of each function, whose name goes on with precision and processor, as they stand in the C files.
_PARAMETERS: dict[str, tuple[Any, ...]] = {
    "product": (*_ROWS, _count, _count, _pointer, _count, _pointer, *_ROWS, *_ROWS, _int),
    "layer_norm": (*_ROWS, _count, _count, _pointer, _pointer, _pointer),
    "activate": (_pointer, _count, _pointer, _int),
    "avg_pool": (_pointer, _count, _count, _count, _count, _pointer),
    "attention": (*[_pointer] * 4, *[_count] * 9, _pointer),
    "convolve": (_pointer, *[_count] * 6, _pointer, _count, _pointer, _pointer, _pointer, _int),
}


class Heads(ctypes.Structure):
    """`struct heads` of attention.h."""

    _fields_ = (("first", _pointer), ("item", _count), ("head", _count), ("row", _count))


class Map(ctypes.Structure):
    """`struct map` of convolution.h."""

    _fields_ = (
        ("first", _pointer),
        *((name, _count) for name in ("row", "column", "channel", "height", "width", "channels")),
    )


@once
def library() -> ctypes.CDLL:
    """The library. Raises BackendError where it wasn't built, or can't be loaded."""
    return open_library(PATH)


def runs(processor: str) -> bool:
    """Whether this machine can run the kernels made for a processor. Raises BackendError as `library` does."""
    return bool(library().runs(processor.encode()))


def function(name: str, precision: str, processor: str) -> Function:
    """A function of the library with its parameters; one that returns less than 0 raises MemoryError."""
    found = getattr(library(), f"{name}_{precision}_{processor}")
    found.argtypes = _PARAMETERS[name]
    found.restype = _int if name in ("product", "attention", "convolve") else None
    if found.restype is None:
        return found  # type: ignore[no-any-return]

    def call(*arguments: Any) -> None:
        if found(*arguments) < 0:
            raise MemoryError(f"No room for what {name} needs beside its result.")

    return call


def address(x: Array) -> int:
    """Where an array's first number is."""
    found: int = x.__array_interface__["data"][0]
    return found


def aligned(shape: tuple[int, ...], dtype: Any) -> Array:
    """An array of whatever was there before, which begins where a line of the cache does."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    room = np.empty(size + 64, np.uint8)
    found: Array = np.ndarray(shape, dtype, room, -address(room) % 64)
    return found
