"""The store: what was committed is there and right, whatever happens to the process, the disk or other writers."""

import errno
import hashlib
import os
import random
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest

from clipref.search import schema, vectors
from clipref.search import store as stores
from clipref.search.records import Entry, Facts, Identity
from clipref.search.store import Store, StoreError

from . import killing

E = 37
IDENTITY = Identity("a" * 64, E, "float32", "{}")


def content(number: int) -> tuple[bytes, np.ndarray]:
    """A sha256, and the vector that belongs to it."""
    sha256 = hashlib.sha256(str(number).encode()).digest()
    return sha256, np.random.default_rng(list(sha256)).normal(size=E).astype(np.float16)


def entry(path: str, number: int, tried_at: int = 0) -> Entry:
    sha256, vector = content(number)
    return Entry(path.encode(), 10, 1, tried_at, sha256, vector, Facts(3, 2))


def numbers(store: Store, known: int) -> dict[str, int]:
    """Which content each path has, by its vector; every vector is compared with its sha256's."""
    by_sha = {content(i)[0]: i for i in range(known)}
    found = {}
    with store.reading() as db:
        rows = store.rows(db)
        for path, sha256, slot in db.execute("SELECT path, sha256, slot FROM image JOIN content USING (slot)"):
            np.testing.assert_array_equal(rows[slot], content(by_sha[sha256])[1])
            found[path.decode()] = by_sha[sha256]
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "store"


def test_equal_contents_share_a_vector(place: Path) -> None:
    store = Store(place, IDENTITY)
    assert store.put([entry("a", 1), entry("b", 2), entry("c", 1)]) == []
    assert numbers(store, 3) == {"a": 1, "b": 2, "c": 1} and store.count() == 3
    assert store.contents() == {content(1)[0], content(2)[0]}
    with store.reading() as db:
        assert store.rows(db).shape == (2, E) and not store.rows(db).flags.writeable


def test_a_content_that_another_process_dropped_is_asked_for_again(place: Path) -> None:
    one, other = Store(place, IDENTITY), Store(place, IDENTITY)
    one.put([entry("a", 1)])
    moved = Entry(b"b", 10, 1, 0, content(1)[0])
    assert other.put([moved]) == []
    one.drop(list(one.rows_by_path().values()))
    assert one.contents() == set()
    assert other.put([moved]) == [moved] and other.count() == 0


def test_a_picture_that_was_looked_at_since_is_not_dropped(place: Path) -> None:
    store = Store(place, IDENTITY)
    store.put([entry("a", 1), entry("b", 2)])
    before = store.rows_by_path()
    store.put([entry("a", 3, tried_at=1)])
    store.drop(list(before.values()))
    assert numbers(store, 4) == {"a": 3}


def test_compaction_keeps_every_vector(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MANY_HOLES", 3)
    store, reader = Store(place, IDENTITY), Store(place)
    store.put([entry(str(i), i) for i in range(20)])
    with reader.reading() as db:
        mapped = reader.rows(db)
    known = store.rows_by_path()
    store.drop([known[str(i).encode()] for i in range(20) if i % 3])
    assert [path.name for path in place.glob("vectors.*")] == ["vectors.1.f16"]
    assert (place / "vectors.1.f16").stat().st_size == 7 * E * 2
    kept = {str(i): i for i in range(20) if not i % 3}
    assert numbers(store, 20) == numbers(reader, 20) == kept
    np.testing.assert_array_equal(mapped[7], content(7)[1])  # a reader keeps what it has mapped
    store.put([entry("new", 21)])
    assert numbers(reader, 22) == {**kept, "new": 21}


def test_another_models_store_is_refused(place: Path) -> None:
    Store(place, IDENTITY, {"model": "clip/RN50"})
    for other in (
        Identity("b" * 64, E, "float32", "{}"),
        Identity("a" * 64, E, "int8", "{}"),
        Identity("a" * 64, E, "float32", '{"upright": true}'),
    ):
        with pytest.raises(StoreError, match=r"made with clip/RN50: \w+ .*, now .*--index PATH"):
            Store(place, other)


def test_what_is_no_store_is_refused(place: Path) -> None:
    with pytest.raises(StoreError, match="no index in .*; make one with clipref index"):
        Store(place)
    place.mkdir()
    (place / "index.db").write_bytes(b"")
    with pytest.raises(StoreError, match="no index in"):
        Store(place)
    (place / "index.db").write_bytes(b"text" * 999)
    with pytest.raises(StoreError, match="not a database"):
        Store(place)
    (place / "index.db").unlink()
    with sqlite3.connect(place / "index.db") as db:
        db.execute("CREATE TABLE mine (x)")
    db.close()
    for identity in (None, IDENTITY):
        with pytest.raises(StoreError, match="no index of clipref"):
            Store(place, identity)


def set_format(place: Path, number: int) -> None:
    db = sqlite3.connect(place / "index.db")
    db.execute(f"PRAGMA user_version = {number}")
    db.close()


def test_a_newer_format_is_refused_and_an_older_one_is_upgraded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Store(place, IDENTITY).put([entry("a", 1)])
    set_format(place, schema.FORMAT + 1)
    with pytest.raises(StoreError, match=r"format 2, and this clipref knows up to 1; install a newer clipref"):
        Store(place)
    set_format(place, schema.FORMAT - 1)
    with pytest.raises(StoreError, match=r"format 0, which this clipref can't bring up to 1; make a new index"):
        Store(place)
    upgrade = ("ALTER TABLE image ADD COLUMN rating INTEGER", "UPDATE image SET rating = 5")
    monkeypatch.setattr(stores, "UPGRADES", {schema.FORMAT - 1: upgrade})
    store = Store(place)
    with store.reading() as db:
        assert db.execute("PRAGMA user_version").fetchone() == (schema.FORMAT,)
        assert db.execute("SELECT rating FROM image").fetchall() == [(5,)]
    assert numbers(store, 2) == {"a": 1}


def test_a_store_without_all_its_vectors_is_refused(place: Path) -> None:
    store = Store(place, IDENTITY)
    store.put([entry("a", 1), entry("b", 2)])
    os.truncate(place / "vectors.0.f16", E * 2)
    with pytest.raises(StoreError, match=r"doesn't hold the 2 vectors .* copy the whole folder again"):
        numbers(store, 3)


def test_the_owner_alone_may_read_it(place: Path) -> None:
    store = Store(place, IDENTITY)
    store.put([entry("a", 1)])
    store.compact()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place, *place.iterdir())}
    assert modes == {"store": 0o700, "index.db": 0o600, "vectors.1.f16": 0o600}


def test_forget_leaves_nothing_but_what_is_not_its_own(place: Path) -> None:
    store = Store(place, IDENTITY)
    store.put([entry("a", 1)])
    assert store.forget() > E * 2
    assert not place.exists()
    Store(place, IDENTITY)
    (place / "mine.txt").write_text("")
    other = Store(place)
    Store(place).forget()
    assert [path.name for path in place.iterdir()] == ["mine.txt"]
    with pytest.raises(StoreError):
        other.put([entry("a", 1)])


class PowerCut(BaseException):
    """The machine ends here."""


class Disk:
    """A disk whose writes reach it in any order, or not at all, until a sync; and the machine that ends at a step.

    Files are written as ever; `cut` then makes of each what the disk might hold: what was synced, and of what was
    written since any of the pieces.
    """

    PIECE = 64  # bytes; a sector has more, and few vectors here

    def __init__(self, end_at: int, generator: random.Random, failing: bool = False) -> None:
        self.steps, self.end_at, self.random, self.failing = 0, end_at, generator, failing
        self.synced: dict[str, bytes] = {}
        self.pending: dict[str, list[tuple[int, bytes]]] = {}

    def step(self, file: Any = None, offset: int = 0, data: bytes = b"") -> None:
        self.steps += 1
        if self.steps == self.end_at:
            if self.failing:
                if data:
                    file.seek(offset)
                    file.write(data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
            raise PowerCut

    def write(self, file: BinaryIO, offset: int, data: memoryview) -> None:
        whole = bytes(data)
        for start in range(0, len(whole), self.PIECE):
            self.pending.setdefault(file.name, []).append((offset + start, whole[start : start + self.PIECE]))
        self.step(file, offset, whole)
        file.seek(offset)
        file.write(whole)

    def sync(self, descriptor: int) -> None:
        self.step()
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        if os.path.isfile(path):
            self.synced[path] = Path(path).read_bytes()
            self.pending[path] = []

    def cut(self, folder: Path) -> None:
        """Make of the files what the disk might hold."""
        for path in map(str, folder.glob("vectors.*")):
            held = bytearray(self.synced.get(path, b""))
            pieces = self.pending.get(path, [])
            for offset, piece in self.random.sample(pieces, self.random.randint(0, len(pieces))):
                held += bytes(max(0, offset + len(piece) - len(held)))
                held[offset : offset + len(piece)] = piece
            Path(path).write_bytes(held)


@pytest.fixture
def disk_of(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    def attach(disk: Disk) -> Disk:
        monkeypatch.setattr(vectors, "write", disk.write)
        monkeypatch.setattr(vectors, "sync", disk.sync)
        return disk

    yield attach


def write_some(store: Store, committed: dict[str, int]) -> None:
    """Some transactions; `committed` follows what has to be there after each."""
    for batch in range(4):
        new = {f"{batch}/{i}": 10 * batch + i for i in range(6)}
        new |= {f"{batch - 1}/0": 100 + batch} if batch else {}
        store.put([entry(path, number) for path, number in new.items()])
        committed |= new
    known = store.rows_by_path()
    gone = [path for path in committed if path.endswith("3")]
    store.drop([known[path.encode()] for path in gone])
    for path in gone:
        del committed[path]
    store.compact()
    store.put([entry("last", 99)])
    committed["last"] = 99


@pytest.mark.fast_cases("power-cut")
@pytest.mark.parametrize("failing", [False, True], ids=["power-cut", "full-disk"])
def test_what_was_committed_outlives_a_disk_that_reorders(place: Path, disk_of: Any, failing: bool) -> None:
    total = 0
    for step in range(1, 100):
        here = place.with_name(f"{step}")
        committed: dict[str, int] = {}
        disk = disk_of(Disk(step, random.Random(step), failing))
        before: dict[str, int] = {}
        try:
            store = Store(here, IDENTITY)
            write_some(store, committed)
            ended = False
        except (PowerCut, StoreError) as error:
            ended = True
            before = dict(committed)
            assert not failing or "No space left on device (make room" in str(error)
        disk_of(Disk(-1, random.Random()))
        if not failing:
            disk.cut(here)
        store = Store(here, IDENTITY)
        found = numbers(store, 200)
        if ended:  # a drop that was not told yet may have been committed
            assert {k: v for k, v in found.items() if k in before} == found
            assert all(path.endswith("3") for path in before.keys() - found.keys())
        else:
            assert found == committed
        store.put([entry("after", 150)])
        store.drop([])
        assert numbers(store, 200) == {**found, "after": 150}
        with store.reading() as db:
            generation = store.extent(db)[0]
        assert [path.name for path in here.glob("vectors.*")] == [f"vectors.{generation}.f16"]
        total += 1
        if not ended:
            break
    assert 10 < total < 99


@pytest.mark.slow
def test_killed_writers_leave_the_truth(tmp_path: Path) -> None:
    killing.rounds(tmp_path, 3, seed=1)


@pytest.mark.slow
def test_fifty_rounds_of_killed_writers(tmp_path: Path) -> None:
    killing.rounds(tmp_path, 50, seed=2)
