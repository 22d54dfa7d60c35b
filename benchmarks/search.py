"""Search, measured: parity first, then time, each beside what it is compared with in the same run.

    python benchmarks/search.py rows                  # 1,000,000 x 512: from a cold store, hot in a process, memory
    python benchmarks/search.py second-run            # 100,000 tiny files, nothing changed
    python benchmarks/search.py first-run             # 2,000 photographs: Index.update, embed_images, a plain script
    python benchmarks/search.py restart               # the same, killed after a while, and begun again

Photographs are made from scikit-image's and scikit-learn's, where these are installed (`pip install scikit-image
scikit-learn`), by crops, turns and changes of colour. Figures on a machine that does something else are none.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from clipref.config import PUBLISHED
from clipref.weights_tools import synthetic

BLOCK = 2**23


def report(**figures: Any) -> None:
    """One line of JSON."""
    print(json.dumps({name: round(x, 4) if isinstance(x, float) else x for name, x in figures.items()}), flush=True)


def fastest(call: Callable[[], Any], repeats: int) -> float:
    """Seconds of the fastest of some calls."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def resident() -> dict[str, int]:
    """Resident megabytes: of the process's own, and of mapped files."""
    with open("/proc/self/status", encoding="ascii") as file:
        lines = dict(line.split(":", 1) for line in file)
    return {name: int(lines[name].split()[0]) // 1024 for name in ("RssAnon", "RssFile")}


def filled_store(place: Path, count: int, embed_dim: int) -> None:
    """A store of random unit vectors, a picture each, as large ones are: no file stands behind it."""
    from clipref.search import vectors
    from clipref.search.records import Identity
    from clipref.search.store import Store

    settings = json.dumps({"upright": True})
    store = Store(place, Identity("0" * 64, embed_dim, "float32", settings), {"model": "none"})
    generator = np.random.default_rng(0)
    for start in range(0, count, 100_000):
        rows = generator.normal(size=(min(100_000, count - start), embed_dim)).astype(np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        vectors.append(place / "vectors.0.f16", start, rows.astype(np.float16))
        numbers = range(start, start + len(rows))
        with store._transaction("BEGIN IMMEDIATE") as db:  # a hundred thousand at a time
            db.executemany(
                "INSERT INTO content VALUES (?, ?, 640, 480, 1, NULL, NULL)",
                ((i, hashlib.sha256(str(i).encode()).digest()) for i in numbers),
            )
            db.executemany(
                "INSERT INTO image (path, size, mtime_ns, tried_at, slot) VALUES (?, 1, 1, 1, ?)",
                ((f"{i // 1000:05}/{i}.jpg".encode(), i) for i in numbers),
            )
            db.execute("UPDATE meta SET value = ? WHERE key = 'slots'", (start + len(rows),))
    store.close()


class Known:
    """A model that knows the query's vector: what it costs to embed a text is not search's."""

    def __init__(self, query: np.ndarray) -> None:
        self.query = query

    def embed_text(self, texts: list[str], normalize: bool) -> np.ndarray:
        return np.repeat(self.query[None], len(texts), axis=0)


def rows(count: int, embed_dim: int, folder: Path) -> None:
    """Time and memory of a search, beside reading the bytes and beside numpy's float32 product."""
    place = folder / ".clipref"
    place.mkdir(exist_ok=True)
    if not (place / "index.db").exists():
        filled_store(place, count, embed_dim)
    command = [sys.executable, __file__, "--in", str(folder), "--rows", str(count), "--embed-dim", str(embed_dim)]
    for what in ("cold", "hot"):
        for _ in range(3):
            drop_cache(place / "vectors.0.f16")
            subprocess.run([*command, what], check=True)


def drop_cache(path: Path) -> None:
    """Let the system forget a file's pages, so that it is read from the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def read_all(path: Path) -> float:
    """Seconds of reading a file's bytes, in blocks."""
    start = time.perf_counter()
    buffer = bytearray(BLOCK)
    with open(path, "rb", buffering=0) as file:
        while file.readinto(buffer):
            pass
    return time.perf_counter() - start


def opened(folder: Path, embed_dim: int, hot: bool) -> tuple[Any, np.ndarray]:
    from clipref.search import Index

    query = np.random.default_rng(1).normal(size=embed_dim).astype(np.float32)
    query /= np.linalg.norm(query)
    index = Index(folder, hot=hot)
    index._model = Known(query)  # type: ignore[assignment]
    return index, query


def check(hits: list[Any], folder: Path, count: int, embed_dim: int, query: np.ndarray) -> None:
    """Every hit is the one that float64 over all rows gives, but for ties within rounding."""
    stored = np.memmap(folder / ".clipref" / "vectors.0.f16", np.float16, "r", shape=(count, embed_dim))
    scores = np.empty(count)
    for start in range(0, count, 50_000):
        block = stored[start : start + 50_000].astype(np.float64)
        scores[start : start + 50_000] = block @ query.astype(np.float64) / np.linalg.norm(block, axis=1)
    best = np.sort(scores)[::-1][: len(hits)]
    for hit, score in zip(hits, best, strict=True):
        slot = int(Path(hit.path).stem)
        assert abs(hit.score - score) < 1e-5 and abs(scores[slot] - score) < 1e-5, (hit, score)


def cold(count: int, embed_dim: int, folder: Path) -> None:
    """One search of a process that has just begun, whose vectors are on the disk or in the system's cache."""
    path = folder / ".clipref" / "vectors.0.f16"
    index, query = opened(folder, embed_dim, hot=False)
    before = resident()
    start = time.perf_counter()
    hits = index.search("query", top_k=10)
    from_disk = time.perf_counter() - start
    memory = {name: value - before[name] for name, value in resident().items()}
    drop_cache(path)
    reading_disk = read_all(path)
    reading_cache = min(read_all(path) for _ in range(3))
    cached = fastest(lambda: index.search("query", top_k=10), 3)
    check(hits, folder, count, embed_dim, query)
    report(
        what="cold", rows=count, from_disk_s=from_disk, reading_disk_s=reading_disk, ratio=from_disk / reading_disk,
        from_cache_s=cached, reading_cache_s=reading_cache, ratio_cache=cached / reading_cache,
        own_mb=memory["RssAnon"], mapped_mb=memory["RssFile"],
    )  # fmt: skip


def hot(count: int, embed_dim: int, folder: Path) -> None:
    """Searches of a process that keeps float32 vectors, beside numpy's product with the same matrix."""
    index, query = opened(folder, embed_dim, hot=True)
    hits = index.search("query", top_k=10)
    assert index._hot is not None
    matrix = index._hot[1]
    product = fastest(lambda: matrix @ query, 9)
    search = fastest(lambda: index.search("query", top_k=10), 9)
    check(hits, folder, count, embed_dim, query)
    report(
        what="hot", rows=count, search_s=search, product_s=product, ratio=search / product, own_mb=resident()["RssAnon"]
    )


def second_run(count: int, folder: Path) -> None:
    """An update of many files of which none has changed; none is opened."""
    from PIL import Image

    from clipref import AutoModel
    from clipref.files import open_regular
    from clipref.search import Index, reading

    model = AutoModel.from_pretrained("clipref/shapes-vit")
    contents = []
    for i in range(50):
        path = folder / "one.png"
        Image.new("RGB", (16, 16), (5 * i, 100, 200)).save(path)
        contents.append(path.read_bytes())
        path.unlink()
    for i in range(count):
        path = folder / f"{i // 1000:03}" / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(contents[i % 50])
        os.utime(path, (1e9, 1e9))
    with Index(folder, model) as index:
        first = fastest(index.update, 1)
        with mock.patch.object(reading, "open_regular", side_effect=open_regular) as opened:
            second = fastest(index.update, 1)
        listing = fastest(lambda: sum(len(files) for _, _, files in os.walk(folder)), 1)
        report(
            what="second-run",
            files=len(index),
            first_s=first,
            second_s=second,
            opened=opened.call_count,
            os_walk_s=listing,
        )


def photographs(folder: Path, count: int, seed: int = 0) -> None:
    """Pictures of about a megapixel made from photographs, none like another."""
    from PIL import Image, ImageEnhance
    from skimage import data
    from sklearn.datasets import load_sample_images

    sources = [getattr(data, name)() for name in ("astronaut", "rocket", "hubble_deep_field", "coffee", "chelsea")]
    sources += load_sample_images().images
    images = [Image.fromarray(np.asarray(source)).convert("RGB") for source in sources]
    chooser = random.Random(seed)
    for i in range(count):
        image = images[i % len(images)]
        width, height = (int(side * chooser.uniform(0.4, 0.9)) for side in image.size)
        left, top = chooser.randrange(image.width - width), chooser.randrange(image.height - height)
        picture = image.crop((left, top, left + width, top + height)).resize((1152, 864))
        picture = ImageEnhance.Color(picture).enhance(chooser.uniform(0.3, 1.7)).rotate(chooser.uniform(-20, 20))
        picture.save(folder / f"{i:05}.jpg", quality=chooser.randint(75, 95))
        os.utime(folder / f"{i:05}.jpg", (1e9, 1e9))


def first_run(count: int, folder: Path, model_name: str) -> None:
    """The rate of Index.update, of embed_images and of a plain script on the same files, and of the engine alone.

    The plain script embeds a file after the other and writes one matrix at the end, so a run that is killed has to do
    everything again. search_rclip.py has rclip's own modules with this engine.
    """
    from clipref import AutoModel
    from clipref.search import Index

    photographs(folder, count)
    model = AutoModel.from_pretrained(model_name)
    paths = sorted(folder.glob("*.jpg"))
    pixels = np.random.default_rng(0).normal(size=(32, 3, *[model.config.vision.resolution] * 2)).astype(np.float32)
    model.encode_image(pixels)
    engine = 32 / fastest(lambda: model.encode_image(pixels), 3)
    found = None
    rates: dict[str, list[float]] = {"embed_images": [], "index": []}
    for attempt in range(3):
        start = time.perf_counter()
        found = model.embed_images(paths, normalize=True)
        rates["embed_images"].append(count / (time.perf_counter() - start))
        with Index(folder, model, store=folder / f"store-{attempt}", upright=False) as index:
            start = time.perf_counter()
            summary = index.update()
            rates["index"].append(count / (time.perf_counter() - start))
            assert summary.embedded == count
            stored = dict(zip(*index.snapshot(), strict=True))
            worst = max(np.abs(stored[path.name] - row).max() for path, row in zip(paths, found, strict=True))
            assert worst < 1e-3, worst
    start = time.perf_counter()
    plain = np.concatenate([model.embed_image(path, normalize=True) for path in paths])
    np.save(folder / "plain.npy", plain)
    plain_rate = count / (time.perf_counter() - start)
    assert np.abs(plain - found).max() < 1e-4
    best = {name: max(values) for name, values in rates.items()}
    report(
        what="first-run", pictures=count, engine_per_s=engine, embed_images_per_s=best["embed_images"],
        index_per_s=best["index"], ratio=best["index"] / best["embed_images"], plain_per_s=plain_rate,
        ratio_plain=best["index"] / plain_rate, worst=float(worst),
    )  # fmt: skip


def restart(count: int, folder: Path, model_name: str) -> None:
    """The time of an index that is made in one go, and of one whose run is killed half way and started again."""
    photographs(folder, count)
    program = "import sys; from clipref.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", program, "index", str(folder), "--model", model_name, "--index"]
    start = time.perf_counter()
    subprocess.run([*command, str(folder / "a")], check=True)
    whole = time.perf_counter() - start
    start = time.perf_counter()
    child = subprocess.Popen([*command, str(folder / "b")])
    time.sleep(whole / 2)
    child.send_signal(signal.SIGKILL)
    child.wait()
    subprocess.run([*command, str(folder / "b")], check=True)
    report(what="restart", pictures=count, whole_s=whole, killed_and_restarted_s=time.perf_counter() - start)


def main() -> None:
    """Run what is asked for, in a folder that is removed at the end unless --in names one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("rows", "cold", "hot", "second-run", "first-run", "restart"))
    parser.add_argument("--in", dest="folder", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--model", default="clip/ViT-B-32", help="a published one, whose weights are made, or a path")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        if args.what in ("rows", "cold", "hot"):
            {"rows": rows, "cold": cold, "hot": hot}[args.what](args.rows, args.embed_dim, folder)
        elif args.what == "second-run":
            second_run(args.files, folder)
        else:
            name = args.model
            if name in PUBLISHED:
                name = str(synthetic.write(Path(temporary) / ".model", PUBLISHED[name], 0, "plain", "float32"))
            {"first-run": first_run, "restart": restart}[args.what](args.pictures, folder, name)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    report(what=args.what, peak_mb=peak)


if __name__ == "__main__":
    main()
