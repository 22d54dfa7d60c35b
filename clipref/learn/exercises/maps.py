"""Chapter 6: what a map is worth."""

from __future__ import annotations

import numpy as np

from ..grading import Array, Exercise

_random = np.random.Generator(np.random.PCG64(3))


def _auc(values: Array, mask: Array) -> Array:
    """How often a cell of the object has the larger value than one beside it, equal ones counting half."""
    inside, outside = values[mask][:, None], values[~mask][None]
    return np.mean((inside > outside) + 0.5 * (inside == outside))


def _share_right(values: Array, mask: Array) -> Array:
    return np.mean((values > values.mean()) == mask)


def _losses(cosines: Array, whole: float) -> Array:
    side = int(np.sqrt(len(cosines)))
    return (whole - cosines).reshape(side, side)


_TIED = np.round(_random.standard_normal((4, 4)) * 1.5)
_MASK = _random.random((4, 4)) < 0.4
_FINE = _random.standard_normal((5, 5)) + np.eye(5)

EXERCISES = {
    "auc": Exercise(
        "How often a cell of the mask [rows, columns] bool has a larger value in the map than one outside.",
        _auc,
        [(_FINE, np.eye(5, dtype=bool)), (_TIED, _MASK), (np.zeros((4, 4)), _MASK)],
        {
            "it is upside down: large values belong inside": lambda x, m: _auc(-x, m),
            "a tie counts half; here it counts nothing": lambda x, m: np.mean(x[m][:, None] > x[~m][None]),
            "a tie counts half; here it counts as won, so that a map that is the same everywhere looks perfect": (
                lambda x, m: np.mean(x[m][:, None] >= x[~m][None])
            ),
            "that is how many cells a threshold gets right, which depends on the threshold": _share_right,
            "that is the share of the map that lies inside, which a large object has by itself": lambda x, m: (
                x[m].sum() / x.sum() if x.sum() else np.float64(np.nan)
            ),
        },
    ),
    "occlusion": Exercise(
        "The map [rows, columns] of a square picture from the cosines [rows * columns] with each cell hidden, row by "
        "row, and the cosine of the whole.",
        _losses,
        [(_random.random(9), 0.4), (_random.random(16), 0.3)],
        {
            "it is upside down: what matters is what the cosine loses, whole less hidden": lambda c, w: -_losses(c, w),
            "those are the cosines themselves; the map is what is lost": lambda c, w: _losses(-c, 0.0),
            "rows and columns are exchanged": lambda c, w: _losses(c, w).T,
            "that is a share of the whole; cosines are subtracted": lambda c, w: _losses(c, w) / w,
        },
    ),
}
