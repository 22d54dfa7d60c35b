"""Pixels in a coarse precision: rounded, or of other levels.

A precision is no grade of pixels, because a coarse one has room for a level and more. Rounding spares next to no value,
and moves not all of them to another level; a wrong step spares some, or moves all.
"""

from __future__ import annotations

import hashlib

import numpy as np

from clipref.numerics import rms

from ..protocol import Array, Exact, Units
from ..restated import preprocessing
from .verdicts import MARGIN

# Shares of values. Measured of float16, TF32, bfloat16 and int8, in all pictures, with constants rounded or not, in
# every order of the arithmetic: of pictures of many levels at least 0.907 of the values aren't float32's, of others
# 0.667; at most 0.667 are nearer to another level.
_ROUNDED, _ROUNDED_OF_FEW, _MOVED = 0.9, 0.5, 0.8
_FEW = 16  # different values


def are_rounded(found: Array, right: Array, units: Units) -> bool:
    """Whether pixels [3, R, R] are others in float32, or rounded, but of the right levels."""
    off = np.abs(found - right)
    coarse = float((off > MARGIN * units["pixels"]["float32"] * rms(right)).mean())
    moved = float((in_levels(off) > 0.5).mean())
    least = _ROUNDED if len(np.unique(right)) >= _FEW else _ROUNDED_OF_FEW
    return not coarse or (coarse >= least and moved <= _MOVED)


def in_levels(difference: Array) -> Array:
    """How far pixels [3, R, R] are apart, in levels of 0 to 255, without mean and standard deviation."""
    levels: Array = np.abs(difference) * np.array(preprocessing.Steps.std)[:, None, None] * 255
    return levels


def known_by_digest(exact: Exact, found: Array, side: int) -> Exact:
    """The right pixels, with their bits, if their levels are those that were found; else only their shape."""
    if found.shape == (3, side, side) and np.isfinite(found).all():
        steps = preprocessing.Steps
        x = (found.astype(np.float64).transpose(1, 2, 0) * steps.std + steps.mean) * steps.scale
        levels = np.ascontiguousarray(np.clip(np.rint(x), 0, 255), np.uint8)
        if hashlib.sha256(levels.tobytes()).hexdigest() == exact.digest:
            right = {"pixels": preprocessing.normalise(levels, dtype=np.float64)}
            return Exact(right, exact.units, {"pixels": preprocessing.normalise(levels)})
    return Exact({"pixels": np.zeros((3, side, side))}, exact.units)
