"""Pillow's bicubic resize of 8-bit images in plain numpy, equal to it bit for bit.

It is here to be read: `clipref.preprocess` calls Pillow, and the tests hold the two together. No other filter, no other
depth, no speed.

Each output pixel is a weighted mean of the input pixels under a cubic kernel. Shrinking stretches the kernel by the
same factor, so that no input pixel is left out (antialiasing); that is where resizes of torch and cv2 differ.
Weights are rounded to 22 fractional bits and sums are whole numbers. The horizontal pass comes first, and rounds to 8
bits: so did Pillow up to 12.0. Later ones may take the vertical pass first, and then some pixels differ by a few units
(https://github.com/python-pillow/Pillow/pull/9549). A resize of one axis at a time is the same in all.

Truth: Pillow's src/libImaging/Resample.c (filter, order of operations) and Convert.c (premultiplied alpha).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .errors import InputError

_PRECISION_BITS = 32 - 8 - 2  # 8 for the pixel, 2 because sums leave 0..255 on both sides
_SUPPORT = 2.0  # the kernel is zero from here on, in output pixels when shrinking, in input pixels otherwise

Pixels = NDArray[np.uint8]


def resize_bicubic(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """[H, W] or [H, W, C] uint8 -> [height, width(, C)] uint8 for `size` = (width, height); channels do not mix.

    As Pillow in modes L, RGB, CMYK and others of independent 8-bit channels. Raises InputError.
    """
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or not pixels.size:
        raise InputError(f"pixels are {pixels.dtype} of shape {pixels.shape}; expected uint8 [H, W] or [H, W, C].")
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"size is {width} x {height}; expected at least 1 x 1.")
    across = _resize_rows(pixels.swapaxes(0, 1), width).swapaxes(0, 1)  # [H, W, ...] -> [H, width, ...]
    resized: Pixels = np.array(_resize_rows(across, height), order="C")  # [height, width, ...]
    return resized


def resize_bicubic_alpha(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    """[H, W, 2 or 4] uint8 -> [height, width, 2 or 4] uint8; the last channel is alpha. As Pillow in modes LA and RGBA.

    Colours are multiplied by alpha before the resize and divided by it afterwards, so that what is transparent lends
    no colour to its neighbours. Both steps round to 8 bits. An image that has the size already is left alone.
    """
    if pixels.ndim != 3 or pixels.shape[2] not in (2, 4):
        raise InputError(f"pixels have shape {pixels.shape}; expected [H, W, 2] or [H, W, 4].")
    if pixels.shape[1::-1] == tuple(size):
        return np.array(pixels)
    product = pixels[..., :-1] * pixels[..., -1:].astype(np.int32) + 128
    colours = ((product >> 8) + product) >> 8  # colour * alpha / 255, rounded, without a division
    resized = resize_bicubic(np.concatenate([colours.astype(np.uint8), pixels[..., -1:]], axis=2), size)
    colours, alpha = resized[..., :-1].astype(np.int32), resized[..., -1:]
    divided = np.minimum(255 * colours // np.maximum(alpha, 1), 255)
    return np.concatenate([np.where(alpha == 0, colours, divided).astype(np.uint8), alpha], axis=2)


def _resize_rows(pixels: Pixels, size_out: int) -> Pixels:
    """[N, ...] -> [size_out, ...]."""
    size_in = len(pixels)
    if size_in == size_out:
        return pixels
    first, weights = axis_weights(size_in, size_out, 0, size_out)
    total = np.full((size_out, *pixels.shape[1:]), 1 << (_PRECISION_BITS - 1))  # one half: the shift below rounds
    for tap, weight in enumerate(weights):
        rows = np.minimum(first + tap, size_in - 1)  # past the edge the weight is zero
        total += weight.reshape(-1, *[1] * (pixels.ndim - 1)) * pixels[rows]
    rounded: Pixels = np.clip(total >> _PRECISION_BITS, 0, 255).astype(np.uint8)
    return rounded


def axis_weights(size_in: int, size_out: int, begin: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The weights that make outputs `begin` to `end` (n of them) of `size_out` from `size_in` inputs.

    First input pixel of each [n], and the fixed-point weights [taps, n] from there on, 2^22 being one.
    """
    scale = size_in / size_out
    stretch = max(scale, 1.0)
    support = _SUPPORT * stretch
    centre = (np.arange(begin, end) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centre + support + 0.5).astype(np.int64), size_in)
    pixel = first + np.arange((last - first).max())[:, None]  # [taps, n]
    weights = np.where(pixel < last, _kernel((pixel - centre + 0.5) * (1.0 / stretch)), 0.0)
    weights /= np.cumsum(weights, axis=0)[-1]  # cumsum adds in order, as C does; sum may add in pairs
    return first, np.trunc(weights * (1 << _PRECISION_BITS) + np.copysign(0.5, weights)).astype(np.int64)


def _kernel(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cubic convolution kernel with a = -0.5 (Keys 1981); other libraries take -0.75."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1.0, near, np.where(x < 2.0, far, 0.0))
