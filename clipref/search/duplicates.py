"""Pictures that are the same, or nearly: groups around one picture, never chains.

Equal files are found by their sha256. Two pictures are nearly the same if the cosine of their vectors is at least
`cosine` and at most `distance` bits of their perceptual hashes differ: the vectors tell apart what the hash, which sees
shapes of light, takes for one, and the hash what the vectors, which see the subject, take for one.

The largest picture that is in no group yet is the centre of the next one, and takes those that are near itself. So two
that are near a third, but not each other, are never joined by it.

The search compares each picture with each other one: the time grows with the square of their number.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .hashes import distances
from .index import as_unit_vectors

if TYPE_CHECKING:
    from .index import Index

Array: TypeAlias = NDArray[Any]

# Bits of 64 in which two hashes differ: up to 5 to 10 usually are the same picture
# (https://github.com/jenssegers/imagehash, README); and of 210 photographs, 89 to 100 % of each alteration have no
# more, and no two originals (benchmarks/duplicates.py).
DISTANCE = 10
# A cosine tried on drawn scenes and photographs (README.md of this folder); not calibrated on published weights.
COSINE = 0.9
# Centres whose cosines with all others are computed at a time.
BLOCK = 256


class Member(NamedTuple):
    """A picture of a group: whether it equals the centre, byte for byte, and how near it is."""

    path: str
    is_equal: bool
    cosine: float
    distance: int


@dataclass(frozen=True)
class Group:
    """The centre, which is the largest picture, and those that are near it, the nearest first."""

    path: str
    members: list[Member]


class Content(NamedTuple):
    """What pictures of one content have in common, and their paths."""

    slot: int
    phash: int | None
    area: int
    paths: list[bytes]


def groups(
    index: Index, cosine: float = COSINE, distance: int = DISTANCE, exact: bool = False
) -> tuple[list[Group], int]:
    """Groups of at least two pictures, and how many pictures have no hash, so that only equal ones were found.

    `exact`: equal files only. Raises InputError.
    """
    check_limits(cosine, distance)
    with index.store.reading() as db:
        contents = list(_contents(db))
        slots = np.array([content.slot for content in contents], np.int64)
        units = as_unit_vectors(index.store.rows(db)[slots]) if not exact else np.empty((len(contents), 0), np.float32)
    near = {} if exact else _near(contents, units, cosine, distance)
    taken = np.zeros(len(contents), bool)
    found = []
    for i, content in enumerate(contents):
        if taken[i]:
            continue
        centre, *equal = map(os.fsdecode, content.paths)
        members = [Member(path, True, 1.0, 0) for path in equal]
        around = [(j, c, d) for j, c, d in near.get(i, ()) if not taken[j]]
        for j, c, d in sorted(around, key=lambda entry: -entry[1]):
            taken[j] = True
            members += [Member(os.fsdecode(path), False, c, d) for path in contents[j].paths]
        if members:
            found.append(Group(centre, members))
    return found, sum(len(content.paths) for content in contents if content.phash is None)


def check_limits(cosine: float, distance: int) -> None:
    """Raise InputError unless these can be a cosine and a number of bits."""
    if not -1 <= cosine <= 1 or not 0 <= distance <= 64:
        raise InputError(f"cosine is {cosine}, distance {distance}; expected -1 to 1, and 0 to 64 bits.")


def _contents(db: Any) -> Iterator[Content]:
    """Contents with their pictures, the largest first."""
    rows = db.execute(
        "SELECT slot, phash, coalesce(width * height, 0) AS area, path FROM content JOIN image USING (slot) "
        "ORDER BY area DESC, size DESC, slot, path"
    )
    current: Content | None = None
    for slot, phash, area, path in rows:
        if current is not None and current.slot == slot:
            current.paths.append(path)
            continue
        if current is not None:
            yield current
        current = Content(slot, phash, area, [path])
    if current is not None:
        yield current


def _near(
    contents: list[Content], units: Array, cosine: float, distance: int
) -> dict[int, list[tuple[int, float, int]]]:
    """For each content the later ones that are near it: (number, cosine, distance)."""
    hashes = np.array([(content.phash or 0) & (2**64 - 1) for content in contents], np.uint64)
    hashed = np.array([content.phash is not None for content in contents])
    near: dict[int, list[tuple[int, float, int]]] = {}
    for start in range(0, len(contents), BLOCK):
        products = units[start : start + BLOCK] @ units[start:].T  # [B, N - start]
        for i, row in enumerate(products, start):
            if not hashed[i]:
                continue
            later = np.flatnonzero(row[i - start + 1 :] >= cosine) + i + 1
            later = later[hashed[later]]
            bits = distances(hashes[later], hashes[i])
            pairs = [(j, float(row[j - start]), b) for j, b in zip(later.tolist(), bits.tolist(), strict=True)]
            if within := [pair for pair in pairs if pair[2] <= distance]:
                near[i] = within
    return near
