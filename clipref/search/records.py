"""What a store keeps: for what vectors it was made, and what it knows of a picture, its content, a tar."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Identity:
    """What decides a vector beside the picture: stores with other values can't be mixed.

    `precision` is "float32" for float64 too, since both round to the same float16 but for its last bit.
    `preprocessing` is JSON: the resolution and every setting of PreprocessConfig.
    """

    digest: str
    embed_dim: int
    precision: str
    preprocessing: str


@dataclass(frozen=True)
class Facts:
    """What a picture's file tells: size in pixels as stored, EXIF's orientation, when it was taken (local time, as
    "2024-05-01 12:30:00"). Each is None where the file doesn't tell.
    """

    width: int | None = None
    height: int | None = None
    orientation: int | None = None
    taken: str | None = None


@dataclass
class Entry:
    """A picture as it was looked at: its content, with a vector [E] unless the store has it; or why there is none.

    `phash` is the perceptual hash (hashes.py) as a signed number, which SQLite has.
    `mtime_ns` is None for what is to be looked at again whatever its time is, such as a file that could not be read.
    """

    path: bytes
    size: int
    mtime_ns: int | None
    tried_at: int
    sha256: bytes | None = None
    vector: Array | None = None
    facts: Facts = Facts()
    error: str | None = None
    phash: int | None = None


class Shard(NamedTuple):
    """A tar file as it was looked at."""

    path: bytes
    size: int
    mtime_ns: int


class Row(NamedTuple):
    """What the store knows of a path."""

    id: int
    size: int
    mtime_ns: int | None
    tried_at: int
    slot: int | None
    error: str | None
