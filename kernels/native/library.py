"""The shared library of this folder: found, loaded by ctypes, and asked which of its kernels this processor can run."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeAlias

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
# The parameters of each function, whose name goes on with precision and processor, as they stand in the C files.
_PARAMETERS: dict[str, tuple[Any, ...]] = {
    "activate": (_pointer, _count, _pointer, _int),
    "avg_pool": (_pointer, _count, _count, _count, _count, _pointer),
}


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class Product(ctypes.Structure):
    """`struct factors` of product.h."""

    _fields_ = (
        ("a", _pointer), *_fields(_count, "stride rows depth"), ("panels", _pointer), *_fields(_count, "panel outputs"),
        *_fields(_pointer, "bias residual"), ("residual_stride", _count), ("out", _pointer), ("out_stride", _count),
        ("activation", _int),
    )  # fmt: skip


class Norm(ctypes.Structure):
    """`struct norm` of rows.h."""

    _fields_ = (("x", _pointer), *_fields(_count, "stride width"), *_fields(_pointer, "weight bias out"))


class Heads(ctypes.Structure):
    """`struct heads` of attention.h."""

    _fields_ = (("first", _pointer), *_fields(_count, "item head row"))


class Attention(ctypes.Structure):
    """`struct queries` of attention.h."""

    _fields_ = (
        *_fields(Heads, "q k v"), ("visible", _pointer),
        *_fields(_count, "visible_item visible_row items heads queries keys channels"), ("out", _pointer),
    )  # fmt: skip


class Convolution(ctypes.Structure):
    """`struct convolution` of convolution.h, whose `struct map` comes first."""

    _fields_ = (
        ("first", _pointer), *_fields(_count, "row column channel height width channels"),
        *_fields(_count, "next items kernel stride padding rows columns"), ("panels", _pointer), ("outputs", _count),
        *_fields(_pointer, "bias residual out"), ("activation", _int),
    )  # fmt: skip


Occupied = _int * 1024  # `occupied` of helping.c: how many threads compute on each processor


class Place(ctypes.Structure):
    """`struct place` of helping.h."""

    _fields_ = (*_fields(_pointer, "compute job"), *_fields(_count, "begin end"), *_fields(_int, "result state awake"))


@once
def library() -> ctypes.CDLL:
    """The library. Raises BackendError where it wasn't built, or can't be loaded."""
    return open_library(PATH)


def runs(processor: str) -> bool:
    """Whether this machine can run the kernels made for a processor. Raises BackendError as `library` does."""
    return bool(library().runs(processor.encode()))


def function(name: str, precision: str, processor: str) -> Function:
    """A function of the library with its parameters."""
    found: Function = getattr(library(), f"{name}_{precision}_{processor}")
    found.argtypes, found.restype = _PARAMETERS[name], None  # type: ignore[attr-defined]
    return found


def part(name: str, precision: str, processor: str) -> int:
    """Where the function is that computes a part of an operation; `share` calls it."""
    found: int = ctypes.cast(getattr(library(), f"{name}_part_{precision}_{processor}"), _pointer).value  # type: ignore
    return found


@once
def helping() -> SimpleNamespace:
    """The functions `share`, `help`, `enter`, `occupy` and `vacate` of helping.c."""
    parameters = {
        "share": (_pointer, _count, _pointer, _pointer, _count, _pointer, _int),
        "help": (_pointer, ctypes.c_int64, _pointer),
        "enter": (_pointer,),
        "occupy": (_pointer,),
        "vacate": (_pointer, _int),
    }
    found = {name: getattr(library(), name) for name in parameters}
    for name, types in parameters.items():
        found[name].argtypes, found[name].restype = types, None if name in ("help", "vacate") else _int
    return SimpleNamespace(**found)


def address(x: Array) -> int:
    """Where an array's first number is; had sooner of an array that is contiguous and writeable."""
    flags = x.flags
    if flags.c_contiguous and flags.writeable and x.size:
        return ctypes.addressof(ctypes.c_char.from_buffer(x.data))
    found: int = x.__array_interface__["data"][0]
    return found
