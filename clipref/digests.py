"""Digests: one name for a model's weights, the same in whatever file, layout or shards they lie.

A model's digest is the sha256 of a JSON list without spaces, sorted, that has an entry for each tensor that takes part
in the forward pass: [its name in this project, its dtype as safetensors calls it, its shape, the sha256 of its bytes as
safetensors has them]. So a renamed, stacked or transposed layout has the digest of the original, and weights that were
cast to another dtype have another one.

Nobody reads gigabytes for a name twice. `clipref convert` records the digest in provenance.json, with the size and the
time of the weights file, and the record counts while they are the file's. Otherwise the file is read, and for a large
one the result is kept in `home()`. A record is what a folder says of itself, and may have come along with it; who
wants to be sure gives `digest=` or runs `clipref verify`, which don't ask it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from .arguments import brief
from .errors import InputError, WeightsError
from .files import home, parse_json, read_bytes, write_whole

PROVENANCE_NAME = "provenance.json"
# ViT-bigG-14's has 200 KB.
MAX_PROVENANCE = 10_000_000

# Reading less is as fast as looking up what it gave.
SMALL = 2**25

HEX = re.compile(r"[0-9a-f]{64}")


def tensor_digest(value: NDArray[Any]) -> str:
    """sha256 of a tensor's bytes as safetensors stores them: little-endian, row by row."""
    return hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()


def rounded_digest(value: NDArray[Any], dtype: str) -> str:
    """sha256 of a tensor's values rounded to float16, to nearest, whatever dtype they are stored in.

    `value` has the dtype of `clipref.weights.FLOATS`, bfloat16 as uint16. A copy in float32 of what was float16 has the
    same; one in bfloat16, which lost three digits, hasn't. What float16 can't hold is infinite here.
    """
    wide = (value.astype(np.uint32) << 16).view(np.float32) if dtype == "BF16" else value
    with np.errstate(over="ignore", under="ignore"):
        return tensor_digest(wide.astype("<f2"))


def part_digest(file: BinaryIO, begin: int, end: int) -> str:
    """sha256 of part of a file, read in blocks."""
    total = hashlib.sha256()
    file.seek(begin)
    for start in range(begin, end, 2**20):
        total.update(file.read(min(2**20, end - start)))
    return total.hexdigest()


def model_digest(tensors: Mapping[str, tuple[str, tuple[int, ...], str]]) -> str:
    """One digest for all tensors, from each one's dtype, shape and `tensor_digest`, by name."""
    entries = sorted([name, dtype, list(shape), digest] for name, (dtype, shape, digest) in tensors.items())
    return hashlib.sha256(json.dumps(entries, separators=(",", ":")).encode()).hexdigest()


def checked_digest(digest: Any) -> str:
    """A digest as someone gives it, in lower case. Raises InputError if it is none."""
    if not isinstance(digest, str) or not HEX.fullmatch(digest.lower()):
        raise InputError(
            f"digest is {brief(digest)}; expected the 64 hexadecimal digits that clipref inspect and verify print."
        )
    return digest.lower()


def refuse_other(where: object, found: str, expected: str) -> None:
    """Raise WeightsError unless weights have the digest that was asked for."""
    if found != expected:
        raise WeightsError(
            f"The weights of {where} have the digest {found}, expected {expected}. They are not what was asked for: "
            f"another model or revision, a copy that was cast to another dtype, or damaged."
        )


def read_provenance(weights: Path) -> dict[str, Any] | None:
    """The content of provenance.json beside a model.safetensors; None without one. Raises WeightsError."""
    path = weights.parent / PROVENANCE_NAME
    if weights.name != "model.safetensors":
        return None
    try:
        value = parse_json(read_bytes(path, MAX_PROVENANCE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} is not JSON: {error}. Convert the checkpoint again.") from error
    if not isinstance(value, dict):
        raise WeightsError(f"{path} is not a JSON object. Convert the checkpoint again.")
    return value


def digest_record(weights: Path, digest: str) -> dict[str, Any]:
    """The part of provenance.json about weights that were just written: their digest, and what tells them from others.

    The file's time becomes an even second, which every archive and file system can hold, and which the time of a later
    change, however soon, is not.
    """
    seconds = int(time.time()) // 2 * 2
    os.utime(weights, (seconds, seconds))
    return {"digest": digest, "weights": _stamp(os.stat(weights))}


def recorded_digest(provenance: Mapping[str, Any] | None, status: os.stat_result) -> str | None:
    """The digest that a provenance records of a file of this status; None if it has none, or of another file."""
    if provenance is None or provenance.get("weights") != _stamp(status):
        return None
    digest = provenance.get("digest")
    return digest if isinstance(digest, str) and HEX.fullmatch(digest) else None


def _stamp(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}


def remembered_digest(status: os.stat_result) -> str | None:
    """The digest that this user computed of the file of this status before, if it is a large one."""
    if known := _known.get(_key(status)):
        return known
    with suppress(OSError, ValueError):
        found = read_bytes(_memory(status), 64).decode("ascii")
        return found if HEX.fullmatch(found) else None
    return None


def remember_digest(status: os.stat_result, digest: str) -> None:
    """Keep the digest of a large file for `remembered_digest`."""
    # A change within one tick of the file system's clock leaves no trace; two seconds are the longest tick there is.
    if status.st_size < SMALL or time.time() - status.st_mtime < 2:
        return
    _known[_key(status)] = digest  # for where the home can't be written to, as in many containers
    path = _memory(status)
    with suppress(OSError):  # only costs time
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path) as scratch:
            scratch.write_text(digest, encoding="ascii")


_known: dict[tuple[int, ...], str] = {}  # by the file's identity, in this process


def _key(status: os.stat_result) -> tuple[int, ...]:
    # The time of the inode's change too, which nobody can set back.
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _memory(status: os.stat_result) -> Path:
    return home() / "digests" / hashlib.sha256(repr(_key(status)).encode()).hexdigest()[:32]
