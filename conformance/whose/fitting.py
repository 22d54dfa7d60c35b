"""How far stored vectors are from what a variant gives, as a multiple of what is explained: by rounding alone.

Two things may lie between a vector and its store. The precision it was stored in, which is known from the numbers: each
may be off by half a step of its grid, never by more. And the arithmetic of the engine: a correct one errs by about one
unit, which is measured (our float32 against our float64), and by at most MARGIN units, as everywhere in the suite. The
error of a variant is the largest difference of any number, divided by the sum of both: 1 and less is explained,
anything above is not. There is no other threshold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from clipref.numerics import rms

from ..grading.rounding import EPSILON
from ..grading.verdicts import MARGIN
from ..protocol import Array
from .vectors import Grid


@dataclass(frozen=True)
class Form:
    """What was done with an embedding before it was stored: made a unit vector, cut to its first numbers, both."""

    unit: bool | None  # None: of whole numbers without their step, nobody can tell
    cut: int | None = None
    cut_first: bool = False  # and then made a unit vector

    def apply(self, embedding: Array) -> Array:
        """An embedding [E] -> what is stored of it, [D]."""
        cut = embedding if self.cut is None else embedding[: self.cut]
        return cut / np.linalg.norm(cut if self.cut_first else embedding) if self.unit else cut

    def describe(self, storage: str, of: int) -> str:
        """The precision, and what was cut off, in words."""
        if self.cut is None:
            return storage
        when = "" if not self.unit else ", before it was normalised" if self.cut_first else ", after it was normalised"
        return f"{storage}, the first {self.cut} of {of} numbers{when}"


def forms(stored: int, embed_dim: int) -> list[Form]:
    """The forms in which an embedding can have been stored as so many numbers."""
    if stored > embed_dim:
        return []
    if stored == embed_dim:
        return [Form(False), Form(True)]
    return [Form(False, stored), Form(True, stored), Form(True, stored, cut_first=True)]


def slack(unit: float, precision: str = "float32") -> float:
    """What an engine of a precision may err, relative to the root mean square, where a float32 one errs by `unit`."""
    return MARGIN * unit * EPSILON[precision] / EPSILON["float32"]


def misfit(grid: Grid, row: int, expected: Array, form: Form, tolerance: float) -> float:
    """How far a stored vector is from the expected one [D], as a multiple of what is explained."""
    found, half = grid.values[row], grid.half[row]
    off = tolerance * rms(expected)
    if grid.storage != "int8":
        return float((np.abs(found - expected) / (half + off)).max())
    scale, error = _best_scale(found, half, expected, off)
    step = float(grid.steps[row]) if grid.steps is not None else np.nan
    if np.isnan(step) or form.unit is None:
        return error
    # The step is known, and the scale of a raw vector is another one than that of a unit vector.
    return max(error, _error_at(1 / step, found, half, expected, off)) if scale > 0 else np.inf


def _error_at(scale: float, found: Array, half: Array, expected: Array, off: float) -> float:
    return float((np.abs(found - scale * expected) / (half + abs(scale) * off)).max())


def _best_scale(found: Array, half: Array, expected: Array, off: float) -> tuple[float, float]:
    """The factor from numbers to steps under which they fit best, and the error: a convex function's minimum."""
    guess = float(found @ expected / (expected @ expected))
    if guess <= 0:
        return guess, np.inf
    # No factor leaves a smaller sum of squares than `guess`, so none a smaller largest difference than their mean.
    least = float(np.sqrt(np.square(found - guess * expected).mean()) / (half.max() + 1.5 * guess * off))
    if least > 1:
        return guess, least
    low, high = guess * 0.5, guess * 1.5
    for _ in range(60):
        third = (high - low) / 3
        if _error_at(low + third, found, half, expected, off) <= _error_at(high - third, found, half, expected, off):
            high -= third
        else:
            low += third
    scale = (low + high) / 2
    return scale, _error_at(scale, found, half, expected, off)


# How many standard deviations of summed rounding errors: beyond it once in a thousand million.
_DEVIATIONS = 6.0
# Digits to which a match has to be beyond chance, after all variants that were tried.
_DIGITS = 6.0


def gram_misfit(grid: Grid, rows: Sequence[int], expected: Array, unit: bool, tolerance: float) -> float:
    """As `misfit`, of the products between vectors [N, E], which no rotation changes.

    A rounding error of half a step h has the variance h² / 3, and those of different numbers don't depend on each
    other, so that what a product errs by is a sum of known variance.
    """
    found, exact, deviation = _products(grid, rows, expected, unit)
    size = np.linalg.norm(expected, axis=1)
    off = 2 * tolerance * (np.ones((len(rows), len(rows))) if unit else size[:, None] * size)
    return float((np.abs(found - exact) / (_DEVIATIONS * deviation + off)).max())


def _products(grid: Grid, rows: Sequence[int], expected: Array, unit: bool) -> tuple[Array, Array, Array]:
    values, half = grid.values[list(rows)], grid.half[list(rows)]
    steps = None if grid.steps is None else grid.steps[list(rows)]
    if steps is not None and not np.isnan(steps).any():
        values, half = values * steps[:, None], half * steps[:, None]
    if unit:
        sizes = np.linalg.norm(values, axis=1, keepdims=True)
        values, half = values / sizes, half / sizes
        expected = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    variance = half**2 / 3
    deviation = np.sqrt(values**2 @ variance.T + variance @ (values**2).T + variance @ variance.T)
    return values @ values.T, expected @ expected.T, deviation


def gram_digits(grid: Grid, rows: Sequence[int], expected: Array, unit: bool, tolerance: float) -> float:
    """To how many decimal digits it is beyond chance that products agree: of each pair, how rare it would be.

    What a wrong model's products are spread over is taken to be what the right one's are.
    """
    _, exact, deviation = _products(grid, rows, expected, unit)
    pairs = [exact[i, j] for i, j in itertools.combinations(range(len(rows)), 2)]
    if len(pairs) < 2:
        return 0.0
    spread = float(np.std(pairs))
    digits = 0.0
    for i, j in itertools.combinations(range(len(rows)), 2):
        width = 2 * (_DEVIATIONS * deviation[i, j] + 2 * tolerance * (1.0 if unit else abs(exact[i, i])))
        digits += max(0.0, float(np.log10(max(spread, 1e-300) / width)))
    return digits


def is_beyond_chance(digits: float, tried: int) -> bool:
    """Whether products that agree to so many digits can't be one of `tried` wrong variants."""
    return digits >= _DIGITS + float(np.log10(max(tried, 1)))
