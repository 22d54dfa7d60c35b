"""Tar files of pictures, webdataset's and img2dataset's, embedded shard by shard, on one machine or many.

Each tar becomes a part: a file of vectors and what else the store keeps of a picture, written beside its place and
renamed, so that it is there whole or not at all. Parts share nothing, so any number of machines that see the folder can
make them at once: `shard` i of n takes every n-th tar. A part that is there, of the same tar and the same model, is not
made again, nor one that the store has. `merge` puts parts into the store, each in one transaction, and then removes
them; a part that was merged and not yet removed is merged again without a change.

In the store a picture's path is that of the tar and its name in it: "00000.tar/000000000.jpg". Members are taken by the
rule for files (suffix, no dot in front); what else is there, texts and JSON, is left out and counted.
"""

from __future__ import annotations

import io
import os
import tarfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..cli.texts import json_text
from ..errors import ImageError, InputError
from ..files import parse_json, write_whole
from ..image_checks import MAX_READ
from ..lazy import available_threads
from ..loading import preprocess_ahead
from . import heic
from .index import identity_of
from .reading import Looked, look_at, pixels_function
from .records import Entry, Facts, Identity, Shard
from .store import Store
from .update import embed_batch

if TYPE_CHECKING:
    from ..clip import CLIP
    from .index import Index

PARTS = "parts"
SUFFIX = ".part.safetensors"


class Part(NamedTuple):
    """The outcome of a tar: counts of pictures with a vector and without, of other members; whether it was made now.

    `error` says why there is no part of it, where others go on without; the next run tries it again.
    """

    tar: str
    embedded: int
    failed: int
    left_out: int
    is_new: bool
    error: str | None = None


def tars_in(folder: Path) -> list[str]:
    """Paths of all tar files of a folder, relative to it, sorted; hidden ones are left out."""
    found = sorted(path.relative_to(folder) for path in folder.rglob("*.tar") if path.is_file())
    return [str(path) for path in found if not any(part.startswith(".") for part in path.parts)]


def shard_of(text: str) -> tuple[int, int]:
    """ "i/n" as numbers, i from 0 to n - 1. Raises InputError."""
    first, _, second = text.partition("/")
    if not (first.isdecimal() and second.isdecimal() and int(first) < int(second)):
        raise InputError(f"the shard is {text!r}; expected i/n, such as 0/8 to 7/8 for eight machines.")
    return int(first), int(second)


def embed_tars(index: Index, shard: tuple[int, int] = (0, 1), batch_size: int = 32) -> Iterator[Part]:
    """Make the parts of every n-th tar of a folder, from the i-th on, but of those that are in the store."""
    for tar in new_tars(index, shard):
        yield embed_tar(index.model, index.folder, index.place, index.upright, tar, batch_size)


def new_tars(index: Index, shard: tuple[int, int] = (0, 1)) -> list[str]:
    """Every n-th tar of a folder, from the i-th on, but those whose pictures the store has."""
    known = index.store.shards()
    every = tars_in(index.folder)[shard[0] :: shard[1]]
    return [tar for tar in every if _shard(index.folder, tar) not in known]


def _shard(folder: Path, tar: str) -> Shard:
    status = os.stat(folder / tar)
    return Shard(os.fsencode(tar), status.st_size, status.st_mtime_ns)


def embed_tar(model: CLIP, folder: Path, place: Path, upright: bool, tar: str, batch_size: int = 32) -> Part:
    """Make the part of one tar, unless it is there. Raises InputError where it can't be written."""
    from safetensors.numpy import save

    heic.register()
    path = part_path(place, tar)
    shard = _shard(folder, tar)
    identity = asdict(identity_of(model, upright))
    head = {"tar": tar, "size": shard.size, "mtime_ns": shard.mtime_ns, "identity": identity}
    if path.is_file():
        before, entries = read_part(path)
        if before == head:
            return _part(tar, entries, 0, False)
    left_out: Counter[str] = Counter()
    entries = list(_entries(model, folder, tar, upright, batch_size, left_out))
    vectors = [entry.vector for entry in entries if entry.vector is not None]
    rows = np.stack(vectors) if vectors else np.empty((0, model.config.embed_dim), np.float16)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with write_whole(path) as scratch:
            told = json_text([_as_json(entry) for entry in entries])
            # safetensors' own writing to a path makes another file, without the lock by which others know it is in use.
            scratch.write_bytes(save({"embeddings": rows}, {"head": json_text(head), "entries": told}))
    except OSError as error:
        raise InputError(f"{path} can't be written: {error.strerror or error}. Make room, and run it again.") from error
    return _part(tar, entries, left_out.total(), True)


def merge(store: Store) -> int:
    """Put all parts that are there into a store, and remove them; returns how many. Raises StoreError, InputError.

    What the store has of a tar's pictures that its part doesn't have is dropped.
    """
    merged = 0
    for path in sorted((store.place / PARTS).glob(f"**/*{SUFFIX}")):
        head, entries = read_part(path)
        store.check_identity(Identity(**head["identity"]))
        store.put(entries, Shard(os.fsencode(head["tar"]), head["size"], head["mtime_ns"]))
        kept = {entry.path for entry in entries}
        prefix = os.fsencode(f"{head['tar']}/")
        gone = [row for name, row in store.rows_by_path().items() if name.startswith(prefix) and name not in kept]
        if gone:
            store.drop(gone)
        path.unlink()
        merged += 1
    return merged


def part_path(place: Path, tar: str) -> Path:
    """Where the part of a tar is."""
    return place / PARTS / f"{tar}{SUFFIX}"


def read_part(path: Path) -> tuple[dict[str, Any], list[Entry]]:
    """A part's head, and its entries. Raises InputError if it isn't one."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            rows, metadata = file.get_tensor("embeddings"), file.metadata()
        head, told = (parse_json(metadata[name].encode()) for name in ("head", "entries"))
        entries = [_entry(fields) for fields in told]
        embedded = [entry for entry in entries if entry.sha256 is not None]
        for entry, row in zip(embedded, rows, strict=True):
            entry.vector = row
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is no part that clipref has written ({error}); remove it.") from error
    return head, entries


def _as_json(entry: Entry) -> dict[str, Any]:
    """An entry as JSON, without its vector."""
    return {
        "path": os.fsdecode(entry.path),
        "size": entry.size,
        "mtime_ns": entry.mtime_ns,
        "tried_at": entry.tried_at,
        "sha256": None if entry.sha256 is None else entry.sha256.hex(),
        "facts": asdict(entry.facts),
        "error": entry.error,
        "phash": entry.phash,
    }


def _entry(fields: dict[str, Any]) -> Entry:
    sha256 = None if fields["sha256"] is None else bytes.fromhex(fields["sha256"])
    path, facts = os.fsencode(fields["path"]), Facts(**fields["facts"])
    return Entry(**{**fields, "path": path, "sha256": sha256, "facts": facts})


def _entries(
    model: CLIP, folder: Path, tar: str, upright: bool, batch_size: int, left_out: Counter[str]
) -> Iterator[Entry]:
    """Entries of a tar's pictures, each with a vector or an error; a tar that is damaged has an error of its own."""
    waiting: deque[Entry] = deque()
    damaged: list[Entry] = []

    def contents() -> Iterator[bytes]:
        for entry, data in _members(folder, tar, left_out):
            if data is None:
                damaged.append(entry)
            else:
                waiting.append(entry)
                yield data

    pixels_of = pixels_function(model, upright)

    def look(data: bytes) -> Looked:
        return look_at(data, Entry(b"", len(data), None, 0), pixels_of)

    fresh: list[Looked] = []
    with closing(preprocess_ahead(contents(), look, available_threads(), batch_size)) as found:
        for result in found:
            if isinstance(result, ImageError):
                raise result
            entry, named = result.entry, waiting.popleft()
            entry.path, entry.mtime_ns, entry.tried_at = named.path, named.mtime_ns, named.tried_at
            if result.pixels is None:
                yield entry
                continue
            fresh.append(result)
            if len(fresh) == batch_size:
                embed_batch(model, fresh)
                yield from (each.entry for each in fresh)
                fresh = []
    embed_batch(model, fresh)
    yield from (each.entry for each in fresh)
    yield from damaged


def _members(folder: Path, tar: str, left_out: Counter[str]) -> Iterator[tuple[Entry, bytes | None]]:
    """Pictures of a tar, read from its start to its end, with their bytes; None if the tar is damaged there."""
    from ..images import SUFFIXES

    top = os.fsencode(tar)
    try:
        with tarfile.open(folder / tar, "r|", errorlevel=2) as file:
            for member in file:
                name = PurePosixPath(member.name)
                is_picture = member.isreg() and name.suffix.lower() in SUFFIXES
                if not is_picture or any(part.startswith(".") for part in name.parts):
                    left_out[name.suffix.lower()] += 1
                    continue
                opened: Any = file.extractfile(member)
                entry = Entry(
                    top + b"/" + os.fsencode(member.name), member.size, int(member.mtime) * 10**9, time.time_ns()
                )
                yield entry, opened.read(MAX_READ + 1)
    except (tarfile.TarError, OSError, EOFError) as error:
        yield Entry(top, 0, None, time.time_ns(), error=f"the tar is damaged or cut short: {error}"), None


def file_of(folder: Path, path: str) -> Path:
    """The file that a path in the store is in: the picture's own, or the tar's."""
    tar, inside, _ = path.partition(".tar/")
    whole = folder / f"{tar}.tar"
    return whole if inside and whole.is_file() else folder / path


def member_bytes(folder: Path, path: str) -> io.BytesIO | None:
    """A picture within a tar, by its path in the store; None for a path that is a file's. Raises ImageError."""
    tar, inside, name = path.partition(".tar/")
    if not inside or not (folder / f"{tar}.tar").is_file():
        return None
    try:
        with tarfile.open(folder / f"{tar}.tar", "r:") as file:
            opened = file.extractfile(name)
            data = b"" if opened is None else opened.read(MAX_READ)
    except (tarfile.TarError, OSError, KeyError) as error:
        raise ImageError(f"{path}: can't be read from the tar: {error}.") from error
    return io.BytesIO(data)


def _part(tar: str, entries: list[Entry], left_out: int, is_new: bool) -> Part:
    failed = sum(entry.error is not None for entry in entries)
    return Part(tar, len(entries) - failed, failed, left_out, is_new)
