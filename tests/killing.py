"""Two processes index one folder and are killed at a random instant, again and again; then every row is checked.

    python -m tests.killing 50

Between the rounds pictures are added, renamed, replaced, copied, damaged and deleted. Checked after each: every vector
against a fresh embedding of the content that its row names; every row whose size and time are the file's, against that
file's sha256; that what was committed before the round and is unchanged is still there; and that no file is left over.
"""

from __future__ import annotations

import hashlib
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

# Two engines differ by less in float16, of values of about 0.1; different pictures by more.
TOLERANCE = 1e-3


def rounds(folder: Path, count: int, seed: int) -> None:
    """Run that many rounds in a process of its own, which forks. Raises CalledProcessError."""
    command = [sys.executable, "-m", "tests.killing", str(count), str(seed), str(folder)]
    subprocess.run(command, check=True, cwd=Path(__file__).parent.parent, timeout=60 + 10 * count)


class Rounds:
    """A folder, its writers, and what has to be in its index."""

    def __init__(self, folder: Path, seed: int) -> None:
        from clipref import AutoModel

        self.folder, self.random = folder, random.Random(seed)
        self.model = AutoModel.from_pretrained("clipref/shapes-vit", backend="blas")
        self.fresh: dict[bytes, np.ndarray] = {}
        self.new: dict[bytes, bytes] = {}
        self.made = 0
        self.started = False

    def draw(self, path: Path) -> None:
        """Write a picture that was never there, and remember its content."""
        from clipref.weights_tools.shapes import world

        self.made += 1
        world.scene(self.made).draw(64).save(path)
        data = path.read_bytes()
        self.new[hashlib.sha256(data).digest()] = data

    def embed(self) -> None:
        """Fresh embeddings of what was drawn since."""
        if self.new:
            self.fresh |= zip(self.new, self.model.embed_images(list(self.new.values()), normalize=True), strict=True)
            self.new = {}

    def change(self) -> None:
        """What happens to a folder between two runs."""
        for _ in range(16):
            self.draw(self.folder / f"{self.made}.png")
        pictures = self.random.sample(sorted(self.folder.glob("*.png")), 20)
        for path in pictures[:6]:
            path.rename(self.folder / f"moved-{self.random.random()}.png")
        for path in pictures[6:10]:
            self.draw(path)
        for path in pictures[10:14]:
            (self.folder / f"copy-{self.random.random()}.png").write_bytes(path.read_bytes())
        for path in pictures[14:18]:
            path.unlink()
        for path in pictures[18:]:
            path.write_bytes(path.read_bytes()[:30])
        now = self.random.uniform(1e9, 1.1e9)
        for path in self.folder.glob("*.png"):
            if path.stat().st_mtime > 1.2e9:
                os.utime(path, (now, now))

    def write_and_die(self) -> None:
        """Two writers, killed after a random time."""
        children = [os.fork() for _ in range(2) if os.getpid() == self.parent]
        if 0 in children or os.getpid() != self.parent:
            self.write()
        deadline = time.monotonic() + 60
        while not self.started and time.monotonic() < deadline:  # the first round lasts until there is something
            time.sleep(0.01)
            self.started = rows_in(self.folder / ".clipref") > 0
        time.sleep(self.random.uniform(0.02, 0.8))
        for child in children:
            os.kill(child, 9)
            os.waitpid(child, 0)

    def write(self) -> None:
        """Index the folder again and again; never returns."""
        from clipref.search import Index, update

        update.COMMIT_SECONDS = 0
        try:
            while True:
                with Index(self.folder, self.model) as index:
                    index.update(batch_size=4)
        except BaseException:
            sys.excepthook(*sys.exc_info())
            (self.folder / "failed").touch()
        finally:
            os._exit(1)

    def check(self, before: dict[bytes, bytes]) -> dict[bytes, bytes]:
        """Compare all that the index says with the truth; returns the sha256 by path."""
        from clipref.search import Index
        from clipref.search.store import DATABASE

        assert not (self.folder / "failed").exists(), "a writer failed"
        self.embed()
        with Index(self.folder, self.model) as index, index.store.reading() as db:
            rows, (generation, slots) = index.store.rows(db), index.store.extent(db)
            stored = db.execute("SELECT path, size, mtime_ns, sha256, slot FROM image JOIN content USING (slot)")
            said: dict[bytes, bytes] = {}
            for path, size, mtime_ns, sha256, slot in stored.fetchall():
                worst = np.abs(rows[slot].astype(np.float32) - self.fresh[sha256]).max()
                assert worst < TOLERANCE, f"{path!r} has another picture's vector: {worst}"
                said[path] = sha256
                file = self.folder / os.fsdecode(path)
                if file.exists() and (size, mtime_ns) == (file.stat().st_size, file.stat().st_mtime_ns):
                    assert hashlib.sha256(file.read_bytes()).digest() == sha256, f"{path!r} is named another content"
            for path, sha256 in before.items():
                file = self.folder / os.fsdecode(path)
                if file.exists() and hashlib.sha256(file.read_bytes()).digest() == sha256:
                    assert said.get(path) == sha256, f"{path!r} was committed and is lost"
            names = {entry.name for entry in index.place.iterdir()}
            allowed = {DATABASE, f"{DATABASE}-journal", *(f"vectors.{g}.f16" for g in (generation, generation + 1))}
            assert names <= allowed, names
            limit = (slots + 4096) * rows.shape[1] * 2
            assert (index.place / f"vectors.{generation}.f16").stat().st_size <= limit
        return said

    def run(self, count: int) -> None:
        """The rounds, and at the end a run that is let be."""
        from clipref.search import Index

        self.parent = os.getpid()
        said: dict[bytes, bytes] = {}
        survived = 0
        for _ in range(count):
            self.change_first()
            self.write_and_die()
            said = self.check(said)
            survived += bool(said)
        assert survived, "no writer came to a commit"
        with Index(self.folder, self.model) as index:
            index.update()
            index.store.compact()
        said = self.check(said)
        whole = {os.fsencode(p.name) for p in self.folder.glob("*.png") if p.stat().st_size > 30}
        assert said.keys() == whole
        differing = np.array([self.fresh[sha256] for sha256 in set(said.values())])
        apart = np.abs(differing[:, None] - differing).max(axis=-1) + np.eye(len(differing))
        assert apart.min() > 2 * TOLERANCE, "these pictures are too alike to tell whose a vector is"
        assert len(list(index.place.glob("vectors.*"))) == 1
        print(f"{count} rounds, {survived} of them with rows: {len(said)} pictures of {len(self.fresh)}, all right")

    def change_first(self) -> None:
        """More pictures at the first round."""
        if not self.made:
            for _ in range(40):
                self.draw(self.folder / f"{self.made}.png")
        self.change()


def rows_in(place: Path) -> int:
    """Pictures that an index has, if there is one yet."""
    from clipref.search.store import Store, StoreError

    try:
        store = Store(place)
    except StoreError:
        return 0
    count = store.count()
    store.close()
    return count


if __name__ == "__main__":
    rounds_, seed_ = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    if len(sys.argv) > 3:
        Rounds(Path(sys.argv[3]), seed_).run(rounds_)
    else:
        with tempfile.TemporaryDirectory() as temporary:
            Rounds(Path(temporary), seed_).run(rounds_)
