"""Scores of all rows with a query, fast: float16 is widened by integer operations, and nothing is divided.

numpy makes a float32 of a float16 one by one, several times as slowly as the disk gives them. Here a block's bits are
moved to their places in float32 for all rows at once: sign, exponent and fraction, 13 bits to the left. The exponents
of the two formats differ by 112, so what stands there then is the value times 2**-112, and the query is multiplied by
2**112 instead, once; both are exact, for float16's smallest numbers too.

The product is that of a matrix with the query, and rows are taken for unit vectors, which float16 has rounded: a score
is within MARGIN / 2 of the cosine, which `clipref.similarity` computes for the few rows that matter.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..lazy import available_threads
from ..similarity import cosines_with_rows

Array: TypeAlias = NDArray[Any]

# A unit vector whose elements were rounded to 11 bits has a length within 2**-11 of 1, and so has its cosine; numbers
# below 2**-14 are rounded more coarsely, by at most 2**-25 each, and float32's own rounding is a hundredth of that.
MARGIN = 4 * 2.0**-11
# float32's exponent bias less float16's, and the fraction's bits that float32 has more.
EXPONENTS, FRACTION = 127 - 15, 23 - 10
# What the shift leaves of the sign's copies, in the uppermost four bits: the sign alone.
MASK = np.int32(-0x70000001)
# Bytes of a block in float32, which stays in a processor's own cache.
BLOCK_BYTES = 2**19
# Rows below which threads cost more than they bring.
FEW = 20_000


def scores_of(query: Array, rows: Array) -> Array:
    """Products [S] float32 of a unit vector [E] with rows [S, E] as they are stored, read as they lie."""
    scores = np.empty(len(rows), np.float32)
    scaled = np.ldexp(query.astype(np.float32), EXPONENTS)
    threads = available_threads() if len(rows) > FEW else 1
    bounds = np.linspace(0, len(rows), threads + 1).astype(int).tolist()
    if threads == 1:
        _scan(scaled, rows, scores)
        return scores
    with ThreadPoolExecutor(threads, thread_name_prefix="scan") as pool:
        parts = [pool.submit(_scan, scaled, rows[start:end], scores[start:end]) for start, end in pairwise(bounds)]
        for part in parts:
            part.result()
    return scores


def _scan(scaled: Array, rows: Array, scores: Array) -> None:
    bits = rows.view("<i2")
    height = max(1, BLOCK_BYTES // (4 * rows.shape[1]))
    block = np.empty((height, rows.shape[1]), np.int32)
    for start in range(0, len(rows), height):
        wide = block[: len(rows) - start]
        np.copyto(wide, bits[start : start + height])  # with the sign's copies in the upper half
        np.left_shift(wide, FRACTION, out=wide)
        np.bitwise_and(wide, MASK, out=wide)
        np.dot(wide.view(np.float32), scaled, out=scores[start : start + height])


def nearest_slots(scores: Array, query: Array, rows: Array, count: int) -> tuple[Array, Array]:
    """The `count` rows nearest to a query and their cosines, as `cosines_with_rows` has them, best first.

    `scores` are those of `scores_of`, -inf for what isn't asked for; of equal rows the first comes first.
    """
    least = -np.inf
    if count < len(scores):
        least = np.partition(scores, len(scores) - count)[len(scores) - count] - MARGIN
    near = np.flatnonzero(scores >= least if least > -np.inf else scores > -np.inf)
    cosines = cosines_with_rows(query, rows[near])
    order = np.argsort(-cosines, kind="stable")[:count]
    return near[order], cosines[order]
