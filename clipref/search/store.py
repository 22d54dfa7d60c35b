"""The store: what is known of a folder's pictures, in SQLite, beside their vectors (vectors.py).

SQLite holds the truth. A picture is a path with its size and time; its content is named by the sha256 of the whole
file and has one row of the vectors' file, its slot, however many pictures have that content. So a file that was renamed
or moved isn't embedded again, and a vector can't become another picture's.

A writer takes SQLite's lock (BEGIN IMMEDIATE), writes vectors behind the last slot that counts, waits until they are on
the disk, and commits: a process that is killed at any instant leaves what was committed, and what it had appended is
overwritten. Slots are given out once. `compact` writes the live rows to the file of the next generation, and changes
over in one transaction; a reader keeps the file that it has mapped.

The rollback journal is used, not WAL, which fails on network drives and needs a writable folder to be read.

Paths are bytes, relative to the folder, separated by slashes: a name that is no UTF-8 is kept as it is.
"""

from __future__ import annotations

import os
import sqlite3
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import ClipError
from ..files import parse_json
from ..lazy import once_a_process
from . import vectors
from .records import Entry, Identity, Row, Shard
from .schema import APPLICATION, FORMAT, SCHEMA, UPGRADES

Array: TypeAlias = NDArray[Any]

FOLDER = ".clipref"
DATABASE = "index.db"
# Seconds that a process waits for another one's transaction.
PATIENCE = 60.0
# A compaction is worth its writing when so many slots are holes, and at least so large a part of all.
MANY_HOLES, HOLES_PART = 1024, 0.5


class StoreError(ClipError):
    """A store can't be opened, read or written, or is another model's."""


class _Connection(sqlite3.Connection):
    """A connection that is closed with the last reference to it, which else Python warns of from 3.13 on."""

    def __del__(self) -> None:
        with suppress(sqlite3.ProgrammingError):  # it was never opened
            self.close()


class Store:
    """An opened store in the folder `place`. Safe for several threads and processes; a fork opens it anew."""

    def __init__(self, place: Path, identity: Identity | None = None, about: dict[str, str] | None = None) -> None:
        """Open what is there, or make it where `identity` says for what. `about` is kept with it, for people to read.

        Raises StoreError if nothing is there and none is to be made, or it is damaged, newer, or another model's.
        """
        self.place = place
        self._connection = once_a_process(self._connect)
        self._lock = once_a_process(threading.RLock)
        if identity is not None:
            self._create(identity, about or {})
        elif not is_started(place / DATABASE):
            raise StoreError(f"There is no index in {place}; make one with clipref index.")
        self.meta = self._checked_meta()
        self.embed_dim = int(self.meta["embed_dim"])
        if identity is not None:
            self.check_identity(identity)

    def close(self) -> None:
        """Close the database; the store can't be used afterwards."""
        self._connection().close()

    @property
    def identity(self) -> Identity:
        """For what vectors it was made."""
        meta = self.meta
        return Identity(meta["digest"], int(meta["embed_dim"]), meta["precision"], meta["preprocessing"])

    def check_identity(self, identity: Identity) -> None:
        """Raise StoreError unless vectors of this identity may be in here."""
        differing = [
            f"{name} {self.meta.get(name)}, now {value}"
            for name, value in asdict(identity).items()
            if self.meta.get(name) != str(value)
        ]
        if differing:
            raise StoreError(
                f"The index in {self.place} was made with {self.meta.get('model')}: {'; '.join(differing)}. Vectors of "
                "two kinds can't be compared: use that model with those options, or another place (--index PATH), or "
                "make a new index (clipref index --forget, then clipref index)."
            )

    # What is in it.

    @property
    def is_upright(self) -> bool:
        """Whether pictures were turned as their EXIF says."""
        return bool(parse_json(self.meta["preprocessing"].encode())["upright"])

    def count(self) -> int:
        """Pictures that have a vector."""
        with self.reading() as db:
            return int(db.execute("SELECT count(*) FROM image WHERE slot IS NOT NULL").fetchone()[0])

    def rows_by_path(self) -> dict[bytes, Row]:
        """What is known of every path."""
        with self.reading() as db:
            rows = db.execute("SELECT path, id, size, mtime_ns, tried_at, slot, error FROM image")
            return {path: Row(*rest) for path, *rest in rows}

    def contents(self) -> set[bytes]:
        """sha256 of all that has a vector."""
        with self.reading() as db:
            return {sha256 for (sha256,) in db.execute("SELECT sha256 FROM content")}

    def shards(self) -> set[Shard]:
        """Tars whose pictures are in here."""
        with self.reading() as db:
            return set(map(Shard._make, db.execute("SELECT path, size, mtime_ns FROM shard")))

    def errors(self) -> list[tuple[bytes, str]]:
        """Paths of pictures that have no vector, and why."""
        with self.reading() as db:
            return list(db.execute("SELECT path, error FROM image WHERE error IS NOT NULL ORDER BY path"))

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """The database as it is at one moment. While in here, no process can replace the vectors' file."""
        with self._transaction("BEGIN") as db:
            yield db

    def rows(self, db: sqlite3.Connection) -> Array:
        """The vectors [S, E] float16 as a memory map; within `reading`. Slots without a content are among them."""
        generation, slots = self.extent(db)
        path = self._vectors_path(generation)
        try:
            return vectors.memory_map(path, slots, self.embed_dim)
        except (OSError, ValueError) as error:
            raise StoreError(
                f"{path} doesn't hold the {slots} vectors that the index counts on ({error}); copy the whole folder "
                "again, or make a new index: clipref index --forget, then clipref index."
            ) from error

    def extent(self, db: sqlite3.Connection) -> tuple[int, int]:
        """The vectors' generation, and how many slots were given out."""
        values = dict(db.execute("SELECT key, value FROM meta WHERE key IN ('generation', 'slots')"))
        return int(values["generation"]), int(values["slots"])

    def holes(self, db: sqlite3.Connection) -> Array:
        """Slots [h] whose content was removed; within `reading`."""
        return np.array([slot for (slot,) in db.execute("SELECT slot FROM hole")], np.int64)

    # What changes it.

    def put(self, entries: Sequence[Entry], shard: Shard | None = None) -> list[Entry]:
        """Add or replace what is known of paths, in one transaction that is on the disk at the end; `shard` is the tar
        whose pictures they are, all of them.

        Returns those entries, unchanged in the store, whose content has vanished from it since and which have no
        vector with them. Raises StoreError; then nothing is changed.
        """
        without: list[Entry] = []
        with self._transaction("BEGIN IMMEDIATE") as db:
            generation, first = self.extent(db)
            slots: dict[bytes, int] = {}
            new: list[Array] = []
            contents: list[tuple[Any, ...]] = []
            images: list[tuple[Any, ...]] = []
            for entry in entries:
                slot = None
                if entry.sha256 is not None:
                    slot = slots.get(entry.sha256)
                    if slot is None:
                        found = db.execute("SELECT slot FROM content WHERE sha256 = ?", (entry.sha256,)).fetchone()
                        slot = found[0] if found else None
                    if slot is None and entry.vector is None:
                        without.append(entry)
                        continue
                    if slot is None:
                        slot = first + len(new)
                        new.append(entry.vector)  # type: ignore[arg-type]
                        facts = entry.facts
                        contents.append(
                            (
                                slot,
                                entry.sha256,
                                facts.width,
                                facts.height,
                                facts.orientation,
                                facts.taken,
                                entry.phash,
                            )
                        )
                    slots[entry.sha256] = slot
                images.append((entry.path, entry.size, entry.mtime_ns, entry.tried_at, slot, entry.error))
            if new:
                vectors.append(self._vectors_path(generation), first, np.stack(new))
                db.executemany("INSERT INTO content VALUES (?, ?, ?, ?, ?, ?, ?)", contents)
                db.execute("UPDATE meta SET value = ? WHERE key = 'slots'", (first + len(new),))
            db.executemany(
                "INSERT INTO image (path, size, mtime_ns, tried_at, slot, error) VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (path) DO UPDATE SET size = excluded.size, mtime_ns = excluded.mtime_ns, "
                "tried_at = excluded.tried_at, slot = excluded.slot, error = excluded.error",
                images,
            )
            if shard is not None:
                db.execute("INSERT OR REPLACE INTO shard VALUES (?, ?, ?)", shard)
        return without

    def drop(self, rows: Sequence[Row]) -> None:
        """Remove pictures, unless they were looked at again since, and contents that no picture has any more."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            db.executemany("DELETE FROM image WHERE id = ? AND tried_at = ?", [(row.id, row.tried_at) for row in rows])
            db.execute("DELETE FROM content WHERE NOT EXISTS (SELECT 1 FROM image WHERE image.slot = content.slot)")
            slots, holes = self.extent(db)[1], db.execute("SELECT count(*) FROM hole").fetchone()[0]
            if holes > MANY_HOLES and holes > HOLES_PART * slots:
                self._compact(db)
        self._remove_stray()

    def compact(self) -> None:
        """Write the vectors anew without those of pictures that were removed."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            self._compact(db)
        self._remove_stray()

    def _compact(self, db: sqlite3.Connection) -> None:
        generation, _ = self.extent(db)
        slots = np.array([slot for (slot,) in db.execute("SELECT slot FROM content ORDER BY slot")], np.int64)
        self.rows(db)  # or an error, before anything is written
        vectors.copy_rows(self._vectors_path(generation), self._vectors_path(generation + 1), slots, self.embed_dim)
        moved = [(new, old) for new, old in enumerate(slots.tolist()) if new != old]  # never onto one not yet moved
        db.executemany("UPDATE content SET slot = ? WHERE slot = ?", moved)
        db.executemany("UPDATE image SET slot = ? WHERE slot = ?", moved)
        db.execute("DELETE FROM hole")
        db.executemany(
            "UPDATE meta SET value = ? WHERE key = ?", [(generation + 1, "generation"), (len(slots), "slots")]
        )

    def forget(self) -> int:
        """Remove the store's files, and its folder if nothing else is in it; returns how many bytes that were.

        Waits for other processes' transactions. Raises StoreError.
        """
        removed = 0
        with self._transaction("BEGIN EXCLUSIVE"), self._failures():
            parts = sorted((self.place / "parts").glob("**/*.part.safetensors"))
            for path in [*parts, *self._vectors_paths(), self.place / DATABASE]:
                removed += path.stat().st_size
                path.unlink()
        self.close()
        with suppress(OSError):  # something else is in it
            (self.place / f"{DATABASE}-journal").unlink(missing_ok=True)
            self.place.rmdir()
        return removed

    # How it is kept.

    def _connect(self) -> sqlite3.Connection:
        with self._failures():
            db = sqlite3.connect(
                self.place / DATABASE,
                timeout=PATIENCE,
                isolation_level=None,
                check_same_thread=False,
                factory=_Connection,
            )
            db.execute("PRAGMA synchronous = FULL")
            return db

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock(), self._failures():
            db = self._connection()
            db.execute(begin)
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have done so itself
                    db.execute("ROLLBACK")
                raise

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """What SQLite and the system raise, as a StoreError."""
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise StoreError(f"The index in {self.place} was closed ({error}); open it anew.") from error
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"The index in {self.place}: {_reason(error)}. What was committed is kept.") from error

    def _create(self, identity: Identity, about: dict[str, str]) -> None:
        try:
            self.place.mkdir(mode=0o700, exist_ok=True)
            path = self.place / DATABASE
            with suppress(FileExistsError):  # for its owner alone, as SQLite's journal is then too
                os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            if not stat.S_ISREG(path.stat().st_mode):
                raise OSError("it is no file")
        except OSError as error:
            if (self.place / DATABASE).is_file():
                return  # to be read at least
            raise StoreError(
                f"No index can be made in {self.place}: {error.strerror or error}. Choose another place: --index PATH."
            ) from error
        with self._transaction("BEGIN IMMEDIATE") as db:
            if db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return
            for statement in SCHEMA:
                db.execute(statement)
            meta = {**about, **asdict(identity), "made_at": time.strftime("%Y-%m-%d %H:%M:%S %z")}
            meta |= {"generation": 0, "slots": 0}
            db.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
            vectors.create(self._vectors_path(0))

    def _checked_meta(self) -> dict[str, str]:
        with self.reading() as db:
            application = db.execute("PRAGMA application_id").fetchone()[0]
            version = db.execute("PRAGMA user_version").fetchone()[0]
        path = self.place / DATABASE
        if application != APPLICATION:
            raise StoreError(f"{path} is no index of clipref; choose another place: --index PATH.")
        if version > FORMAT:
            raise StoreError(
                f"{path} has format {version}, and this clipref knows up to {FORMAT}; install a newer clipref, or make "
                "a new index: clipref index --forget, then clipref index."
            )
        if version < FORMAT:
            self._upgrade(version)
        with self.reading() as db:
            return {key: str(value) for key, value in db.execute("SELECT key, value FROM meta")}

    def _upgrade(self, version: int) -> None:
        """Bring an older format up to this one, in one transaction."""
        if not all(step in UPGRADES for step in range(version, FORMAT)):
            raise StoreError(
                f"{self.place / DATABASE} has format {version}, which this clipref can't bring up to {FORMAT}; make a "
                "new index: clipref index --forget, then clipref index."
            )
        with self._transaction("BEGIN IMMEDIATE") as db:
            for step in range(db.execute("PRAGMA user_version").fetchone()[0], FORMAT):
                for statement in UPGRADES[step]:
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {FORMAT}")

    def _vectors_path(self, generation: int) -> Path:
        return self.place / f"vectors.{generation}.f16"

    def _vectors_paths(self) -> list[Path]:
        return sorted(self.place.glob("vectors.*.f16"))

    def _remove_stray(self) -> None:
        """Remove vectors' files of other generations, which a compaction or its end has left."""
        with self._transaction("BEGIN IMMEDIATE") as db:
            current = self._vectors_path(self.extent(db)[0])
            for path in self._vectors_paths():
                if path != current:
                    path.unlink(missing_ok=True)


def is_started(path: Path) -> bool:
    """Whether there is a database with something in it."""
    try:
        return path.is_file() and path.stat().st_size > 0
    except OSError:
        return False


def _reason(error: Exception) -> str:
    """Why SQLite or the system refuses, and what to do where that is known."""
    text = getattr(error, "strerror", None) or str(error)
    hints = {
        "readonly": "it may not be written to; --no-update searches it as it is",
        "locked": "another process has kept it for a minute; try again",
        "disk is full": "make room, and run it again",
        "No space left": "make room, and run it again",
        "malformed": "it is damaged; make a new one: clipref index --forget, then clipref index",
        "not a database": "it is damaged, or no index",
    }
    advice = [advice for part, advice in hints.items() if part in text]
    return f"{text} ({advice[0]})" if advice else text
