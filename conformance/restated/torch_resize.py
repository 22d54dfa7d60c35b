"""torch's resize of 8-bit images, stated a second time: what torchvision calls for tensors on the CPU.

The filter is Pillow's, widened as Pillow widens it; but weights are rounded to 16 bits, not 22, so that one value in a
hundred or less is another, by a level. Without antialias another cubic is taken, a = -0.75, and borders are repeated.

From aten/src/ATen/native/cpu/UpSampleKernel.cpp of https://github.com/pytorch/pytorch, where both loops, with AVX2 and
without, compute this (the latter but for results of one column). On a GPU, torch resizes floats and rounds once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np

from ..protocol import Array


def cubic(x: Array, a: float) -> Array:
    """The cubic convolution: 1 at 0, and 0 from 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    values: Array = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return values


def triangle(x: Array, a: float) -> Array:
    """The bilinear filter, which has no `a`: 1 at 0, and 0 from 1 on."""
    values: Array = np.maximum(1 - np.abs(x), 0.0)
    return values


# Filters by Pillow's names: how far each reaches, and the filter.
FILTERS: dict[str, tuple[int, Callable[[Array, float], Array]]] = {"BICUBIC": (2, cubic), "BILINEAR": (1, triangle)}


def resize(image: Array, size: tuple[int, int], filter: str, antialias: bool, vertical_first: bool = False) -> Array:
    """[H, W, C] uint8 -> [size[1], size[0], C] uint8, an axis a pass; an axis that keeps its length has no pass."""
    for axis in (0, 1) if vertical_first else (1, 0):
        length = size[1 - axis]
        if image.shape[axis] != length:
            image = _resize_axis(image, axis, length, filter, antialias)
    return image


def _resize_axis(image: Array, axis: int, length: int, filter: str, antialias: bool) -> Array:
    exact = weights(image.shape[axis], length, filter, antialias)
    bits = precision(float(exact.max()))
    whole = np.trunc(exact * (1 << bits) + np.copysign(0.5, exact))
    lines = np.moveaxis(image, axis, -1)
    # Products of whole numbers far below 2**53, and so exact; of two matrices, because BLAS is fast at those alone.
    sums = lines.reshape(-1, lines.shape[-1]).astype(np.float64) @ whole.T
    levels = np.clip(np.floor((sums + (1 << (bits - 1))) / (1 << bits)), 0, 255).astype(np.uint8)
    return np.moveaxis(levels.reshape(*lines.shape[:-1], length), -1, axis)


@lru_cache(maxsize=64)  # searches for a fault resize one picture hundreds of times
def weights(before: int, after: int, filter: str, antialias: bool) -> Array:
    """How much of each old pixel is in each new one, [after, before] float64, read-only; a row's sum is 1."""
    reach, function = FILTERS[filter]
    scale = before / after
    widened = max(scale, 1.0) if antialias else 1.0
    found = np.zeros((after, before))
    for i, row in enumerate(found):
        centre = scale * (i + 0.5)
        if antialias:
            first = max(int(centre - reach * widened + 0.5), 0)
            last = min(int(centre + reach * widened + 0.5), before)
            row[first:last] = function((np.arange(first, last) - centre + 0.5) / widened, -0.5)
        else:
            taps = np.floor(centre - 0.5) + np.arange(1 - reach, 1 + reach)
            at = np.clip(taps, 0, before - 1).astype(int)
            np.add.at(row, at, function(taps - centre + 0.5, -0.75))
        row /= row.sum()
    found.flags.writeable = False
    return found


def precision(largest: float) -> int:
    """With how many bits behind the point weights are kept, of which this is the largest: 16 have to be enough."""
    return next((bits for bits in range(22) if int(0.5 + largest * (1 << (bits + 1))) >= 1 << 15), 22)
