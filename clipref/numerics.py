"""How far numbers are from others, how alike directions are, rounding to fewer digits: one measure for everybody."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def rms(x: Array) -> float:
    """The root mean square of all values, summed in float64."""
    return float(np.sqrt(np.square(x, dtype=np.float64).mean()))


def rms_error(found: Array, exact: Array) -> float:
    """The largest difference, relative to the root mean square of what is exact; inf for another shape, or NaN.

    Where all that is exact is 0, the largest difference itself.
    """
    if found.shape != exact.shape or not np.isfinite(found).all():
        return float("inf")
    return float(np.abs(found - exact).max() / (rms(exact) or 1.0))


def unit_rows(x: Array) -> Array:
    """Rows [..., E] scaled to length 1; the dtype stays."""
    y: Array = x / np.linalg.norm(x, axis=-1, keepdims=True)
    return y


def cosines(x: Array, y: Array) -> Array:
    """The cosine of each row of x [N, E] with each row of y [M, E] -> [N, M]."""
    products: Array = unit_rows(x) @ unit_rows(y).T
    return products


def round_mantissa(x: Array, bits: int) -> Array:
    """float32 values rounded to a mantissa of so many bits, to nearest, ties to even. Infinity and NaN stay."""
    drop = 23 - bits
    words = np.ascontiguousarray(x, np.float32).view(np.uint32).reshape(np.shape(x))
    half = (1 << (drop - 1)) - 1
    even = (words >> drop) & 1
    rounded = (words + half + even) & np.uint32(0xFFFFFFFF << drop & 0xFFFFFFFF)
    kept: Array = np.where(np.isfinite(x), rounded.view(np.float32), np.asarray(x, np.float32))
    return kept


def to_bfloat16(x: Array) -> Array:
    """float32 values as bfloat16 has them, still as float32."""
    return round_mantissa(x, 7)
