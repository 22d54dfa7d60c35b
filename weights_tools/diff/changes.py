"""What happened to one tensor, told from its numbers before and after. Every bound is one of rounding.

Tried in this order, and the first that explains every number is the answer:

- "identical": the same bits;
- "cast to float16", "cast to float16 and back", and the same of bfloat16, float32 and float64: rounding to nearest,
  every number;
- "rows permuted", "columns permuted", "permuted": the same numbers in another order;
- "quantised to int8" or "int4", by tensor, row or column, symmetric or with a zero point: every number a whole
  multiple of a step, and at most half a step from where it was;
- "low-rank change (rank R)": the difference's singular values beyond R are what rounding leaves, and R is at most a
  quarter of what it could be;
- "retrained (P % of its size)": none of these, P being the root mean square of the difference relative to the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from clipref.numerics import rms

from ..convert import cast
from ..stored import Array

_NAMES = {"F16": "float16", "BF16": "bfloat16", "F32": "float32", "F64": "float64"}
# Binary digits of each dtype's numbers.
_DIGITS = {"F16": 11, "BF16": 8, "F32": 24, "F64": 53}
# The distance of each dtype's smallest numbers.
_TINY = {"F16": 2.0**-24, "BF16": 2.0**-133, "F32": 2.0**-149, "F64": 2.0**-1074}
# How improbable it has to be, in doublings, that numbers lie on a grid of steps by chance.
_BITS = 60
_SMALLEST_MATRIX = 8
# What a quantiser's own divisions and products in float32 may err.
_ARITHMETIC = 4 * 2.0**-24


def change_of(before: Array, dtype: str, after: Array, after_dtype: str) -> str:
    """What became of a stored tensor, in words; both have one shape. See this file's head."""
    if dtype == after_dtype and before.tobytes() == after.tobytes():
        return "identical"
    a, b = cast(before, dtype, "F64"), cast(after, after_dtype, "F64")
    for find in (_cast, _permutation, _quantisation, _low_rank):
        if (found := find(a, dtype, b, after_dtype)) is not None:
            return found
    size = rms(a)
    return f"retrained ({100 * rms(b - a) / size:.3g} % of its size)" if size else "retrained"


def _in_dtype(x: Array, dtype: str) -> Array:
    """Numbers as a dtype has them, in float64; what it can't hold is infinite."""
    with np.errstate(over="ignore"):
        if dtype == "BF16":
            single = x.astype(np.float32)
            bits = single.view(np.uint32)
            words = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint32) << 16
            return words.view(np.float32).astype(np.float64)
        return x.astype({"F16": np.float16, "F32": np.float32, "F64": np.float64}[dtype]).astype(np.float64)


def _cast(a: Array, dtype: str, b: Array, after_dtype: str) -> str | None:
    if np.array_equal(a, b):
        return f"cast to {_NAMES[after_dtype]}" if dtype != after_dtype else None
    for through in _coarser(dtype, after_dtype):
        if np.array_equal(_in_dtype(_in_dtype(a, through), after_dtype), b):
            back = "" if through == after_dtype else f" and back to {_NAMES[after_dtype]}"
            return f"cast to {_NAMES[through]}{back}"
    for through in _coarser(after_dtype, dtype):
        if np.array_equal(_in_dtype(_in_dtype(b, through), dtype), a):
            return f"the first is this cast to {_NAMES[through]}"
    return None


def _coarser(given: str, kept: str) -> Iterator[str]:
    """Dtypes that lose digits of one dtype, and that another one can hold, the finest first."""
    for through in ("F32", "F16", "BF16"):
        if _DIGITS[through] < _DIGITS[given] and (through == kept or _DIGITS[through] < _DIGITS[kept]):
            yield through


def _permutation(a: Array, dtype: str, b: Array, after_dtype: str) -> str | None:
    if a.size < 2 or not np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None)):
        return None
    if a.ndim < 2:
        return "permuted"
    for axis, name in ((0, "rows"), (1, "columns")):
        before, after = (np.moveaxis(x, axis, 0).reshape(x.shape[axis], -1) for x in (a, b))
        if sorted(row.tobytes() for row in before) == sorted(row.tobytes() for row in after):
            return f"{name} permuted"
    return "permuted"


def _quantisation(a: Array, dtype: str, b: Array, after_dtype: str) -> str | None:
    relative = 2.0 ** -_DIGITS[after_dtype]
    for bits in (4, 8):
        for where, before, after in _groups(a, b):
            for kind, grid in (("", _symmetric), (" with a zero point", _asymmetric)):
                if _lies_on(grid(after, bits), before, after, relative, bits):
                    return f"quantised to int{bits}{kind}, by {where}"
    return None


def _groups(a: Array, b: Array) -> Iterator[tuple[str, Array, Array]]:
    """The numbers as [groups, numbers], each group with a step of its own."""
    yield "tensor", a.reshape(1, -1), b.reshape(1, -1)
    if a.ndim >= 2:
        yield "row", a.reshape(len(a), -1), b.reshape(len(b), -1)
        before, after = (np.moveaxis(x, 1, 0).reshape(x.shape[1], -1) for x in (a, b))
        yield "column", before, after


Grid = tuple[Array, Array, Array]  # of each group: the step, where 0 is, and how often the ends' rounding is in a step


def _symmetric(b: Array, bits: int) -> Grid:
    # A symmetric scheme keeps the largest number of a group: it is the last of its steps.
    return np.abs(b).max(axis=1, keepdims=True) / (2 ** (bits - 1) - 1), np.zeros((len(b), 1)), np.ones((len(b), 1))


def _asymmetric(b: Array, bits: int) -> Grid:
    low, high = b.min(axis=1, keepdims=True), b.max(axis=1, keepdims=True)
    span = high - low
    return span / (2**bits - 1), low, (np.abs(low) + np.abs(high)) / np.where(span > 0, span, 1.0)


def _lies_on(grid: Grid, a: Array, b: Array, relative: float, bits: int) -> bool:
    step, zero, ends_in_step = grid
    if not (step > 0).all():
        return False
    multiples = (b - zero) / step
    # The step is found from numbers that were rounded themselves, as each number was.
    sizes = np.abs(b) + np.abs(zero) + ends_in_step * np.abs(b - zero)
    slack = (relative + _ARITHMETIC) * sizes / step
    if not (np.abs(multiples - np.rint(multiples)) <= slack).all():
        return False
    last = 2 ** (bits - 1) - 1
    # Zero and the ends lie on any grid that is made of them, and say nothing.
    whole = np.rint(multiples)
    ends = (np.abs(whole) == last) | (whole == 0) | ((whole == 2**bits - 1) & zero.any())
    if -np.log2(np.minimum(2 * slack[~ends] + 1e-300, 1.0)).sum() < _BITS:
        return False
    # What lay beyond the last step was clipped; everything else was rounded to the nearest.
    clipped = np.abs(np.rint(multiples)) >= last if not zero.any() else (multiples < 0.5) | (multiples > 2 * last + 0.5)
    ties = (relative + _ARITHMETIC) * (np.abs(a) + ends_in_step * np.abs(a - zero))
    near = np.abs(a - b) <= step * (0.5 + slack) + ties
    return bool((near | clipped).all())


def _low_rank(a: Array, dtype: str, b: Array, after_dtype: str) -> str | None:
    if a.ndim < 2 or min(len(a), a[0].size) < _SMALLEST_MATRIX:
        return None
    before, after = a.reshape(len(a), -1), b.reshape(len(b), -1)
    difference = after - before
    if len(difference) > len(difference.T):
        difference, after = difference.T, after.T
    values = np.sqrt(np.maximum(np.linalg.eigvalsh(difference @ difference.T)[::-1], 0))
    floor = _noise(after, after_dtype) + 1e-7 * values[0]  # what eigenvalues of products lose of small ones
    rank = int(np.count_nonzero(values > floor))
    return f"low-rank change (rank {rank})" if 0 < rank <= len(values) // 4 else None


def _noise(after: Array, dtype: str) -> float:
    """The largest singular value of what rounding to a dtype adds.

    A matrix of independent errors has a norm of at most its longest row's and its longest column's expected lengths
    together (Seginer 2000, up to a factor near 1); 1.5 of it is beyond chance. A step's error has the variance 1/12.
    """
    exponents = np.frexp(after)[1] - _DIGITS[dtype]
    variance = np.maximum(np.ldexp(1.0, exponents), _TINY[dtype]) ** 2 / 12
    return 1.5 * float(np.sqrt(variance.sum(axis=0).max()) + np.sqrt(variance.sum(axis=1).max()))
