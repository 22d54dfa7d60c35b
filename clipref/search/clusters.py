"""Clusters of an index's pictures: spherical k-means, in numpy.

Each picture belongs to the centre with which its cosine is highest, and each centre is the direction of its pictures'
sum; the sum of the cosines never falls from one round to the next (I. Dhillon and D. Modha, "Concept Decompositions for
Large Sparse Text Data Using Clustering", Machine Learning 42, 2001, section 3). The first centres are pictures, drawn
far from each other as k-means++ does (D. Arthur and S. Vassilvitskii, 2007), with 1 - cosine as the square of the
distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..similarity import have_direction, unit_vectors
from .index import BLOCK_ROWS, as_unit_vectors

Array: TypeAlias = NDArray[Any]

ROUNDS = 100


@dataclass(frozen=True)
class Clusters:
    """`centres` [K, E] unit vectors; `members` [N], each picture's cluster; `cosines` [N] with its own centre;
    `totals`, the sum of the cosines after each round.
    """

    centres: Array
    members: Array
    cosines: Array
    totals: list[float]


def clusters(rows: Array, count: int, seed: int = 0) -> Clusters:
    """Rows [N, E] of unit vectors, in any float -> `count` clusters, none of them empty. Raises InputError."""
    if not 1 <= count <= len(rows):
        raise InputError(f"{count} clusters of {len(rows)} pictures; expected at least one, and at most as many.")
    centres = first_centres(rows, count, np.random.default_rng(seed))
    members, found = nearest_centres(rows, centres)
    totals = [float(found.sum(dtype=np.float64))]
    for _ in range(ROUNDS):
        centres = moved_centres(rows, members, found, centres)
        before = members
        members, found = nearest_centres(rows, centres)
        totals.append(float(found.sum(dtype=np.float64)))
        if np.array_equal(before, members):
            break
    return Clusters(centres, *_fill_empty(members, found, rows, centres), totals)


def first_centres(rows: Array, count: int, generator: np.random.Generator) -> Array:
    """`count` different rows [K, E], each drawn with a probability that grows with its distance from those before."""
    chosen = [int(generator.integers(len(rows)))]
    apart = np.full(len(rows), np.inf)
    while len(chosen) < count:
        centre = as_unit_vectors(rows[chosen[-1:]])
        for start in range(0, len(rows), BLOCK_ROWS):
            cosines = as_unit_vectors(rows[start : start + BLOCK_ROWS]) @ centre[0]
            block = apart[start : start + BLOCK_ROWS]
            np.minimum(block, np.maximum(1 - cosines, 1e-9), out=block)  # equal pictures can be drawn, but last
        apart[chosen] = 0
        chosen.append(int(generator.choice(len(rows), p=apart / apart.sum())))
    return as_unit_vectors(rows[chosen])


def nearest_centres(rows: Array, centres: Array) -> tuple[Array, Array]:
    """Each row's nearest centre [N], and its cosine with it [N] float32."""
    members, cosines = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), BLOCK_ROWS):
        products = as_unit_vectors(rows[start : start + BLOCK_ROWS]) @ centres.T  # [n, K]
        members[start : start + BLOCK_ROWS] = products.argmax(axis=1)
        cosines[start : start + BLOCK_ROWS] = products.max(axis=1)
    return members, cosines


def moved_centres(rows: Array, members: Array, cosines: Array, centres: Array) -> Array:
    """The directions of the clusters' sums [K, E]; an empty cluster begins anew at the row that fits worst."""
    sums = np.zeros(centres.shape, np.float64)
    for start in range(0, len(rows), BLOCK_ROWS):
        block = as_unit_vectors(rows[start : start + BLOCK_ROWS])
        which = members[start : start + BLOCK_ROWS]
        np.add.at(sums, which, block)
    empty = np.flatnonzero(np.bincount(members, minlength=len(centres)) == 0)
    sums[empty] = as_unit_vectors(rows[np.argsort(cosines, kind="stable")[: len(empty)]])
    lost = ~have_direction(sums)  # its pictures cancel each other out: it stays where it is
    sums[lost] = centres[lost]
    return unit_vectors(sums).astype(np.float32)


def _fill_empty(members: Array, cosines: Array, rows: Array, centres: Array) -> tuple[Array, Array]:
    """Give each cluster that is empty at the end, among equal pictures, one of the largest cluster's."""
    sizes = np.bincount(members, minlength=len(centres))
    for empty in np.flatnonzero(sizes == 0):
        largest = int(sizes.argmax())
        moved = np.flatnonzero(members == largest)[-1]
        members[moved] = empty
        centres[empty] = as_unit_vectors(rows[moved : moved + 1])[0]
        cosines[moved] = 1
        sizes[largest] -= 1
        sizes[empty] = 1
    return members, cosines


def names_of(centres: Array, words: Sequence[str], vectors: Array) -> list[str]:
    """For each centre [K, E] the word whose unit vector [W, E] is nearest, of those that fit it better than others.

    What all clusters have in common says nothing of one: from each word's cosines their mean over the clusters is
    taken away first.
    """
    cosines = centres @ vectors.T  # [K, W]
    if len(centres) > 1:
        cosines = cosines - cosines.mean(axis=0)
    return [words[i] for i in cosines.argmax(axis=1)]
