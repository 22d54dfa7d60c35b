"""A perceptual hash: 64 signs of a picture's lowest frequencies, the same for copies that were resized or recompressed.

The discrete cosine transform (DCT-II) of the picture's brightness, as the model sees it: the signs of the coefficients
of 0 to 7 half waves down and 1 to 8 across. Like pHash (C. Zauner, "Implementation and Benchmarking of Perceptual Image
Hash Functions", 2010, section 3.2.1), but with zero in the place of the median, so that the mirrored picture's hash
follows from the hash itself: an odd number of half waves across changes its sign.

It sees what the model sees, the square in the middle, so that it costs no second look at the file.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

DOWN, ACROSS = 8, 8
# ITU-R BT.601, which JPEG uses: what red, green and blue contribute to brightness.
BRIGHTNESS = (0.299, 0.587, 0.114)
# Bits of an odd number of half waves across: coefficients 1, 3, 5 and 7 of each row.
MIRRORED = np.uint64(int("10101010" * DOWN, 2))


@lru_cache(maxsize=4)
def waves(side: int) -> Array:
    """The DCT-II's first rows [9, R], without their scale."""
    half_waves, places = np.arange(ACROSS + 1)[:, None], np.arange(side)[None]
    cosines: Array = np.cos(np.pi * half_waves * (2 * places + 1) / (2 * side)).astype(np.float32)
    return cosines


def perceptual_hashes(pixels: Array, std: Sequence[float]) -> Array:
    """Pixels [N, 3, R, R], preprocessed with that standard deviation -> hashes [N] uint64."""
    weights = np.asarray(BRIGHTNESS, np.float32) * np.asarray(std, np.float32)
    brightness = np.einsum("c,nchw->nhw", weights, pixels)  # [N, R, R], but for what the mean adds, which is no wave
    basis = waves(pixels.shape[-1])
    coefficients = basis[:DOWN] @ brightness @ basis[1 : ACROSS + 1].T  # [N, 8, 8]
    # Sums of a flat picture are zero but for rounding, whose sign says nothing.
    least = 1e-5 * np.abs(brightness).sum(axis=(1, 2))[:, None]
    bits = coefficients.reshape(len(pixels), -1) > least  # [N, 64]
    packed: Array = np.packbits(bits, axis=1).view(">u8")[:, 0].astype(np.uint64)
    return packed


def distances(hashes: Array, one: np.uint64) -> Array:
    """How many of 64 bits differ between hashes [N] and another one, or its mirrored picture's, whichever is fewer."""
    straight = np.bitwise_count(hashes ^ one)
    nearest: Array = np.minimum(straight, np.bitwise_count(hashes ^ one ^ MIRRORED)).astype(np.int64)
    return nearest
