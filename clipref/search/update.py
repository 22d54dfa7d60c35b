"""How an index follows its folder: what is new or changed is embedded, what has gone is forgotten.

A picture is unchanged if its size and time are those that the store has. Otherwise the file is read: content that the
store knows by its sha256, of a file that was renamed, moved, copied or touched, isn't embedded again. A file that was
written to less than RACY before it was read is read again by the next run, since its time may hide a later change.

What can't be read is remembered with its reason, and tried again when its size or time changes; a file that the system
doesn't let us read, each time. What was embedded is committed every COMMIT_SECONDS, and when a run is interrupted.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..cli.walk import Found, images_in
from ..errors import ImageError
from ..lazy import available_threads
from ..loading import preprocess_ahead, progress_bar
from ..similarity import finite_embeddings
from . import heic
from .hashes import perceptual_hashes
from .reading import Looked, look, pixels_function
from .records import Entry, Row
from .vectors import DTYPE

if TYPE_CHECKING:
    from ..clip import CLIP
    from .index import Index

COMMIT_SECONDS = 3.0
# Entries that wait for a commit at most, whose vectors take some megabytes.
MOST_WAITING = 4096
# Nanoseconds. FAT's times are the coarsest, two seconds.
RACY = 2_000_000_000


@dataclass
class Summary:
    """What a run did: counts of pictures, and what could not be read or was left out.

    `known` had content that the store knew; `unchanged` were not opened, nor were `unchanged_errors`, which could not
    be read before; `kept` are not there, but nothing is. `failed` could not be read, as (path, why). `found` tells
    which folders and names could not be read, and what was left out.
    """

    embedded: int = 0
    known: int = 0
    unchanged: int = 0
    unchanged_errors: int = 0
    removed: int = 0
    kept: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)
    found: Found = field(default_factory=Found)

    def count(self, entries: Iterable[Entry]) -> None:
        """Count what was put into the store."""
        for entry in entries:
            if entry.error is not None:
                self.failed.append((os.fsdecode(entry.path), entry.error))
            elif entry.vector is None:
                self.known += 1
            else:
                self.embedded += 1

    @property
    def is_whole(self) -> bool:
        """Whether every picture that was found has a vector."""
        return not self.failed and not self.unchanged_errors and not self.found.failures

    def sentence(self) -> str:
        """The summary in a sentence."""
        counts = [
            (self.embedded, "embedded"),
            (self.known, "known by their content"),
            (self.unchanged, "unchanged"),
            (self.removed, "gone"),
        ]
        told = ", ".join(f"{count} {what}" for count, what in counts if count) or "no pictures"
        problems = len(self.failed) + self.unchanged_errors + len(self.found.failures)
        if problems:
            told += f"; {problems} can't be read (--errors lists them)"
        if self.kept:
            told += f"; {self.kept} that are not there are kept, since the folder is empty (is a drive not mounted?)"
        left_out = self.found.describe_left_out()
        if left_out:
            told += f"; left out: {left_out}"
        return told + heic.hint(self.found.others)


def update(index: Index, batch_size: int, progress: bool, retry: bool) -> Summary:
    """See `Index.update`."""
    heic.register()
    before = index.store.rows_by_path()
    summary = Summary(found=images_in(index.folder))
    summary.found.left_out["hidden"] -= index.place.parent == index.folder and index.place.name.startswith(".")
    summary.found.left_out += Counter()  # without what is zero
    seen: set[bytes] = set()
    changed: list[bytes] = []
    start = len(os.path.join(index.folder, ""))
    for path in summary.found.images:
        name = os.fsencode(os.fspath(path)[start:].replace(os.sep, "/"))  # `relative` takes longer, and knows more
        row = before.get(name)
        if row is not None and _is_unchanged(path, row) and not (retry and row.error):
            seen.add(name)
            if row.error is None:
                summary.unchanged += 1
            else:
                summary.unchanged_errors += 1
        else:
            changed.append(name)
    seen |= embed(index, changed, batch_size, progress, summary)
    gone = [row for name, row in before.items() if name not in seen and _has_gone(index, name)]
    if gone and not summary.found.images and not summary.found.others:
        summary.kept = len(gone)
        gone = []
    index.store.drop(gone)
    summary.removed = len(gone)
    return summary


def add(index: Index, names: Iterable[bytes], batch_size: int) -> Summary:
    """See `Index.add`."""
    heic.register()
    summary = Summary()
    wanted = list(dict.fromkeys(names))
    seen = embed(index, wanted, batch_size, False, summary)
    summary.failed += [(os.fsdecode(name), "no such file") for name in wanted if name not in seen]
    return summary


def embed(index: Index, names: list[bytes], batch_size: int, progress: bool, summary: Summary) -> set[bytes]:
    """Read files and put what becomes of them into the store; returns the paths of those that were there."""
    seen: set[bytes] = set()
    contents = index.store.contents() if names else set()
    with progress_bar(len(names), progress and bool(names)) as bar:
        while names:
            again: list[bytes] = []
            for stored, missing in _commit_in_batches(index, names, contents, batch_size, bar):
                again += missing
                seen |= {entry.path for entry in stored}
                summary.count(stored)
            names, contents = again, set()
    return seen


def _commit_in_batches(
    index: Index, names: list[bytes], contents: set[bytes], batch_size: int, bar: Any
) -> Iterator[tuple[list[Entry], list[bytes]]]:
    """Entries of files that were committed, and paths that have to be read again: another process has dropped their
    content since. An exception, Ctrl-C too, first commits what was embedded. The bar counts what is embedded.
    """
    waiting: list[Entry] = []
    committed_at = time.monotonic()
    looked = look_at_files(index, names, contents, batch_size)
    try:
        with closing(looked):
            for batch in looked:
                waiting += batch
                embedded = sum(entry.vector is not None for entry in batch)
                bar.total -= len(batch) - embedded
                bar.update(embedded)
                if time.monotonic() - committed_at > COMMIT_SECONDS or len(waiting) > MOST_WAITING:
                    yield _commit(index, waiting)
                    committed_at = time.monotonic()
    except GeneratorExit:
        raise
    except BaseException:
        _commit(index, waiting)
        raise
    yield _commit(index, waiting)


def _commit(index: Index, waiting: list[Entry]) -> tuple[list[Entry], list[bytes]]:
    if not waiting:
        return [], []
    entries = waiting[:]
    waiting.clear()  # if it fails, it isn't tried again on the way out
    missing = {entry.path for entry in index.store.put(entries)}
    return [entry for entry in entries if entry.path not in missing], list(missing)


def look_at_files(
    index: Index, names: list[bytes], contents: set[bytes], batch_size: int
) -> Generator[list[Entry], None, None]:
    """Entries of files, with vectors where their content isn't known, a batch at a time. Vanished files have none."""
    model = index.model
    pixels_of = pixels_function(model, index.upright)
    batch: list[Entry] = []
    fresh: list[Looked] = []

    def read(path: str) -> Looked | None:
        return look(path, index.relative(path), pixels_of, contents)

    found = preprocess_ahead(
        (os.path.join(index.folder, os.fsdecode(name)) for name in names), read, available_threads(), batch_size
    )
    with closing(found):
        for looked in found:
            if isinstance(looked, ImageError):
                raise looked  # `look` has made entries of all that are a file's own
            if looked is None:
                continue
            batch.append(looked.entry)
            if looked.pixels is not None:
                fresh.append(looked)
            if len(fresh) == batch_size or len(batch) == 16 * batch_size:
                embed_batch(model, fresh)
                yield batch
                batch, fresh = [], []
    if batch:
        embed_batch(model, fresh)
        yield batch


def embed_batch(model: CLIP, fresh: list[Looked]) -> None:
    """Give the entries of pixels their vectors, unit vectors [E] float16, and their hashes."""
    if fresh:
        pixels = np.stack([looked.pixels for looked in fresh if looked.pixels is not None])  # [n, 3, R, R]
        units = finite_embeddings(model.encode_image(pixels), "image", range(len(fresh)), normalize=True).astype(DTYPE)
        hashes = perceptual_hashes(pixels, model.config.preprocess.std).view(np.int64).tolist()
        for looked, vector, phash in zip(fresh, units, hashes, strict=True):
            looked.entry.vector, looked.entry.phash = vector, phash


def _is_unchanged(path: Path, row: Row) -> bool:
    try:
        status = os.stat(path)
    except OSError:
        return False
    is_safe = row.mtime_ns is not None and row.mtime_ns < row.tried_at - RACY
    return is_safe and (status.st_size, status.st_mtime_ns) == (row.size, row.mtime_ns)


def _has_gone(index: Index, name: bytes) -> bool:
    """Whether a path that was not found is known not to be a picture any more, rather than out of sight."""
    tar, inside, _ = name.partition(b".tar/")
    try:
        os.lstat(os.path.join(os.fsencode(index.folder), tar + b".tar" if inside else name))
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return not inside  # what is in a tar is looked at by `clipref.search.shards`
