"""Pillow's bicubic resize and the crop after it, seven times as fast, with its very bits: a function in C.

Only rows and columns that the crop keeps are computed, and a picture is read a strip of rows at a time, so that no copy
of it is made. The C (pixels.c) is compiled with the package where there is a compiler, and runs on x86-64 with AVX2.
Pillow resizes what isn't served here. `clipref.bicubic` says what is computed, in numpy, and makes the weights.
"""

from __future__ import annotations

import ctypes
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipref.bicubic import axis_weights
from clipref.errors import BackendError

from .compiled import open_library

if TYPE_CHECKING:
    from PIL.Image import Image

# Modes in which Pillow has four bytes a pixel, and what their colours are multiplied into before they are resized.
MODES = {"RGB": ("RGB", "RGBX"), "RGBA": ("RGBa", "RGBa")}

STRIP_BYTES = 2**17  # stays in the cache; smaller ones hand the interpreter to and fro more often
BLOCK = 8  # pixels that pixels.c goes down at a time
MAX_WEIGHTS = 2**16  # of an axis: pictures that need more are resized by Pillow
REMEMBERED = 32  # axes


@cache
def library() -> Any:
    """The compiled pixels.c. Raises BackendError where there is none, or the processor isn't one of its kind."""
    found = open_library(Path(__file__).with_name("_pixels.so"))
    if not found.runs():
        raise BackendError("pixels.c needs a processor with AVX2.")
    return found


class Axis(NamedTuple):
    """The weights of one axis of a resize, for n of its outputs.

    Of all inputs, those from `start` up to `stop` are needed. `first` [n] counts from `start`; from there on `taps`
    inputs are read, and where these are beyond `stop`, their weights are 0.
    """

    start: int
    stop: int
    taps: int
    first: NDArray[np.int32]
    weights: NDArray[np.int32]


@lru_cache(REMEMBERED)
def down_axis(size_in: int, size_out: int, begin: int, end: int) -> Axis:
    """Weights [n, taps]."""
    first, weights = axis_weights(size_in, size_out, begin, end)  # [n], [taps, n]
    start, taps = int(first[0]), len(weights)
    stop = min(int(first[-1]) + taps, size_in)
    return Axis(start, stop, taps, (first - start).astype(np.int32), weights.T.astype(np.int32, order="C"))


@lru_cache(REMEMBERED)
def across_axis(size_in: int, size_out: int, begin: int, end: int) -> Axis:
    """Weights [n, taps, 4], one for each channel; taps are even and n a whole number of blocks."""
    start, stop, taps, first, few = down_axis(size_in, size_out, begin, end)
    more, odd = -len(first) % BLOCK, taps % 2
    weights = np.zeros((len(first) + more, taps + odd, 4), np.int32)
    weights[: len(first), :taps] = few[..., None]
    return Axis(start, stop, taps + odd, np.pad(first, (0, more), mode="edge"), weights)


def resized_crop(image: Image, width: int, height: int, box: tuple[int, int, int, int]) -> NDArray[np.uint8] | None:
    """`image.resize((width, height), BICUBIC).crop(box).convert("RGB")` as an array, the horizontal pass first.

    `box` (left, top, right, bottom) is inside. Gives uint8 [bottom - top, right - left, 3], or None for what isn't
    served: another mode than RGB and RGBA, a side that keeps its length, an extreme shape.
    """
    left, top, right, bottom = box
    sides = ((image.width, width, right - left), (image.height, height, bottom - top))
    if image.mode not in MODES or any(before == after for before, after, _ in sides):
        return None
    if any((4 * before / after + 6) * (kept + BLOCK) > MAX_WEIGHTS for before, after, kept in sides):
        return None
    mode, raw = MODES[image.mode]
    across = across_axis(image.width, width, left, right)
    down = down_axis(image.height, height, top, bottom)
    columns = len(across.first)
    middle = np.empty((down.stop - down.start + down.taps, columns, 4), np.uint8)  # some are read with the weight 0
    beyond = bytes(4 * across.taps)  # as here
    step = max(STRIP_BYTES // (4 * (across.stop - across.start)), 1)
    for y in range(down.start, down.stop, step):
        strip = image.crop((across.start, y, across.stop, min(y + step, down.stop)))
        pixels = (strip if mode == strip.mode else strip.convert(mode)).tobytes("raw", raw) + beyond
        library().across(
            pixels, _long(strip.height), _long(strip.width), _pointer(across.first), _pointer(across.weights),
            _long(across.taps), _long(columns), _pointer(middle[y - down.start :]),
        )  # fmt: skip
    found = np.empty((bottom - top, columns, 4), np.uint8)
    library().down(
        _pointer(middle), _long(4 * columns), _pointer(down.first), _pointer(down.weights), _long(down.taps),
        _long(bottom - top), _pointer(found),
    )  # fmt: skip
    found = found[:, : right - left]
    if mode == "RGB":
        return found[..., :3]
    from PIL.Image import frombuffer

    multiplied = frombuffer(mode, (right - left, bottom - top), np.ascontiguousarray(found), "raw", raw, 0, 1)
    return np.asarray(multiplied.convert("RGBA").convert("RGB"))


_long = ctypes.c_int64


def _pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)
