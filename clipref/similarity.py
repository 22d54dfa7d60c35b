"""Directions of embeddings and the angles between them: unit vectors, cosines, and the rows nearest to a query.

An embedding's length says nothing, and may be anything that floats can hold: squares are taken only of what has been
scaled first. What has no direction (zero, infinity, NaN) is refused, so that no answer is NaN.

A cosine is one dot product of two vectors, never part of a matrix product, so that its bits don't depend on what else
is compared: equal rows have equal cosines wherever they lie.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import InputError, WeightsError

Array = NDArray[Any]

# Bytes of a block of rows, which stays in the processor's cache while lengths and products are taken of it.
BLOCK_BYTES = 2**21
# Sums of squares between these are as exact as any; beyond, squares may have vanished or be infinite.
SAFE_SQUARES = (1e-30, 1e30)


def have_direction(x: Array) -> Array:
    """[..., E] -> [...] bool: whether each vector is finite and not zero."""
    largest = np.abs(x).max(axis=-1)  # NaN if one value is
    there: Array = np.isfinite(largest) & (largest > 0)
    return there


def unit_vectors(x: Array) -> Array:
    """[..., E] float -> [..., E], each of length 1. Every vector must have a direction.

    The largest value is first scaled to between 0.5 and 1 by a power of two, which changes no digit.
    """
    exponents = np.frexp(np.abs(x).max(axis=-1, keepdims=True))[1]
    scaled = np.ldexp(x, -exponents)
    unit: Array = scaled / np.linalg.norm(scaled, axis=-1, keepdims=True)
    return unit


def cosines(x: Array, y: Array) -> Array:
    """Unit vectors [..., E] and [..., E] -> [...], between -1 and 1, which rounding would pass."""
    between: Array = np.clip(np.vecdot(x, y), -1, 1)
    return between


def nearest(query: Array, rows: Array, top_k: int) -> list[tuple[int, float]]:
    """The `top_k` rows [N, E] that are nearest to a unit vector [E], as (index, cosine), best first.

    Of equal ones the first comes first. Rows are read a block at a time as they lie, so that a memory map stays one and
    float16 is widened only there. Raises InputError for a row that has no direction.
    """
    similarities = cosines_with_rows(query, rows)  # [N]
    candidates = np.arange(len(rows))
    if top_k < len(rows):
        least = np.partition(similarities, len(rows) - top_k)[len(rows) - top_k]
        candidates = np.flatnonzero(similarities >= least)
    best = candidates[np.argsort(-similarities[candidates], kind="stable")][:top_k]
    return [(int(i), float(similarities[i])) for i in best]


def cosines_with_rows(query: Array, rows: Array) -> Array:
    """Cosines [N] of a unit vector [E] with rows [N, E] of any length, float32 unless the rows need float64."""
    dtype = np.dtype(np.float32 if np.result_type(rows, np.float32) == np.float32 else np.float64)
    query = query.astype(dtype, copy=False)
    similarities = np.empty(len(rows), dtype)
    height = max(1, BLOCK_BYTES // (dtype.itemsize * rows.shape[1]))
    least, most = SAFE_SQUARES
    wrong: list[int] = []
    for start in range(0, len(rows), height):
        with np.errstate(all="ignore"):  # rows that a square, or float32, can't hold are seen to below
            block = np.ascontiguousarray(rows[start : start + height], dtype)  # [n, E]
            squares = np.vecdot(block, block)  # [n]
            found = np.vecdot(block, query) / np.sqrt(squares)
        others = np.flatnonzero(~((squares > least) & (squares < most)))
        if others.size:
            directed = have_direction(block[others])
            wrong += (start + others[~directed]).tolist()
            found[others[directed]] = cosines(unit_vectors(block[others[directed]]), query)
        np.clip(found, -1, 1, out=similarities[start : start + height])
    if wrong:
        raise InputError(
            f"Row {wrong[0]} of the embeddings is zero or not finite, and has no direction to compare "
            f"({len(wrong)} such rows of {len(rows)}); leave it out, or embed its item again."
        )
    return similarities


def finite_embeddings(embeddings: Array, kind: str, indices: Sequence[int], normalize: bool = False) -> Array:
    """Embeddings [N, E], all finite, as unit vectors if wanted. Raises WeightsError, which names the item."""
    blocks = _blocks(embeddings)
    wrong = np.flatnonzero(~np.concatenate([np.isfinite(block).all(axis=1) for block in blocks]))
    if wrong.size:
        raise WeightsError(
            f"{kind} {indices[wrong[0]]}: its embedding is not finite, because the checkpoint's weights exceed what "
            f"{embeddings.dtype} holds; are they damaged? dtype='float64' holds more."
        )
    if not normalize:
        return embeddings
    without = np.flatnonzero(~np.concatenate([have_direction(block) for block in blocks]))
    if without.size:
        raise WeightsError(
            f"{kind} {indices[without[0]]}: its embedding is zero, which has no direction, because the checkpoint's "
            f"weights (its projection, for instance) are zero or vanish in {embeddings.dtype}; are they damaged?"
        )
    unit = np.empty_like(embeddings)
    for block, to in zip(blocks, _blocks(unit), strict=True):
        to[...] = unit_vectors(block)
    return unit


def _blocks(rows: Array) -> list[Array]:
    """Views of rows [N, E], a block at a time, so that what is made of each needs little room."""
    height = max(1, BLOCK_BYTES // (rows.itemsize * rows.shape[1]))
    return [rows[start : start + height] for start in range(0, len(rows), height)]
