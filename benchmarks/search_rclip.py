"""clipref's index beside rclip's, on the same files with the same engine: the first index, and one that was killed.

    python3 -m venv peer && peer/bin/pip install -e . rclip==4.0.8 scikit-image scikit-learn  # rclip pins numpy 2.1
    peer/bin/python benchmarks/search_rclip.py first-run [--pictures 2000] [--model clip/ViT-B-32]
    peer/bin/python benchmarks/search_rclip.py restart

rclip walks, reads, hashes, preprocesses and stores by its own modules, in batches of 8, its default, and of 32, as
clipref's. Its weights come by a download of its own, so clipref's engine stands in the place of its session, and its
one size of pictures is set to the model's. Both kinds of vectors are compared in the same run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from search import photographs, report

from clipref import AutoModel
from clipref.config import PUBLISHED
from clipref.search import Index, StoreError
from clipref.weights_tools import synthetic

# Cosines of both kinds of vectors of a picture: clipref stores float16.
AGREEMENT = 0.999
RCLIP_BATCHES = (8, 32)


class Engine:
    """clipref's model with the one method that rclip's index asks of its own."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def compute_preprocessed_image_features(self, images: list[Any], *, for_indexing: bool = False) -> Any:
        found = self.model.encode_image(np.stack(images))
        return found / np.linalg.norm(found, axis=-1, keepdims=True)


def index_with_rclip(model: Any, folder: Path, place: Path, batch_size: int) -> None:
    """rclip's update of its index, as before each search; its report on standard error is dropped."""
    from rclip import db
    from rclip.main import RClip
    from rclip.utils import preprocess

    preprocess.IMAGE_SIZE = model.config.vision.resolution
    preprocess.MEAN, preprocess.STD = (
        np.array(getattr(model.config.preprocess, name), np.float32) for name in ("mean", "std")
    )
    place.mkdir(exist_ok=True)
    database = db.DB(place / "db.sqlite3")
    indexer = RClip(Engine(model), database, batch_size, None)  # type: ignore[arg-type, unused-ignore]
    with open(os.devnull, "w") as nothing, contextlib.redirect_stderr(nothing):
        indexer.ensure_index(str(folder))
    indexer.close()
    database.close()


def index_with_clipref(model: Any, folder: Path, place: Path) -> None:
    """The same with clipref, which doesn't turn pictures upright here, as rclip doesn't."""
    with Index(folder, model, store=place, upright=False) as index:
        index.update()


def rclip_vectors(place: Path) -> dict[str, np.ndarray]:
    """By file name; none where nothing was committed."""
    with contextlib.closing(sqlite3.connect(place / "db.sqlite3")) as db:
        try:
            rows = db.execute("SELECT filepath, vector FROM images").fetchall()
        except sqlite3.OperationalError:
            return {}
    return {Path(path).name: np.frombuffer(vector, np.float32) for path, vector in rows}


def clipref_vectors(folder: Path, place: Path) -> dict[str, np.ndarray]:
    try:
        with Index(folder, store=place) as index:
            return {path: row.astype(np.float32) for path, row in zip(*index.snapshot(), strict=True)}
    except StoreError:
        return {}


def check(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray], count: int) -> float:
    """The lowest cosine of a picture's two vectors. Raises SystemExit if that is low, or one lacks a picture."""
    if len(ours) != count or ours.keys() != theirs.keys():
        raise SystemExit(f"clipref has {len(ours)} pictures, rclip {len(theirs)}; expected {count} in both.")
    worst = min(float(row @ theirs[name] / np.linalg.norm(row)) for name, row in ours.items())
    if worst < AGREEMENT:
        raise SystemExit(f"The cosine of a picture's two vectors is {worst:.4f}.")
    return worst


def first_run(model_name: str, folder: Path, place: Path, count: int, rounds: int) -> None:
    """Pictures a second, and the process's seconds of processor time, of new indexes in turns."""
    model = AutoModel.from_pretrained(model_name)
    model.encode_image(np.zeros((32, 3, *[model.config.vision.resolution] * 2), np.float32))
    ways: dict[str, Callable[[Path], None]] = {"clipref": lambda place: index_with_clipref(model, folder, place)}
    for size in RCLIP_BATCHES:
        ways[f"rclip, batch {size}"] = lambda place, size=size: index_with_rclip(model, folder, place, size)  # type: ignore[misc]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    for attempt in range(rounds):
        for name, way in ways.items():
            start, used = time.perf_counter(), time.process_time()
            way(place / f"{name}-{attempt}")
            seconds[name].append(time.perf_counter() - start)
            processor[name].append(time.process_time() - used)
        ours = clipref_vectors(folder, place / f"clipref-{attempt}")
        worst = min(
            check(ours, rclip_vectors(place / f"rclip, batch {size}-{attempt}"), count) for size in RCLIP_BATCHES
        )
    for name in ways:
        report(
            what="first-run", who=name, pictures=count, per_s=count / min(seconds[name]),
            processor_s=statistics.median(processor[name]), lowest_cosine=worst,
        )  # fmt: skip
    fastest = min(min(seconds[name]) for name in ways if name != "clipref")
    least = min(statistics.median(processor[name]) for name in ways if name != "clipref")
    report(
        what="first-run", rclip_over_clipref_s=fastest / min(seconds["clipref"]),
        rclip_over_clipref_processor_s=least / statistics.median(processor["clipref"]),
    )  # fmt: skip


def restart(model_name: str, folder: Path, place: Path, count: int) -> None:
    """Seconds of an index in one go, and of one that was killed half way and begun again; and what was kept."""
    stored: dict[str, Callable[[Path], dict[str, np.ndarray]]] = {
        "clipref": lambda place: clipref_vectors(folder, place),
        "rclip": rclip_vectors,
    }
    for who, vectors in stored.items():
        command = [sys.executable, __file__, who, "--model", model_name, "--in", str(folder), "--store"]
        start = time.perf_counter()
        subprocess.run([*command, str(place / f"{who}-whole")], check=True)
        whole = time.perf_counter() - start
        start = time.perf_counter()
        child = subprocess.Popen([*command, str(place / f"{who}-killed")])
        time.sleep(whole / 2)
        child.send_signal(signal.SIGKILL)
        child.wait()
        killed = time.perf_counter() - start
        kept = len(vectors(place / f"{who}-killed"))
        start = time.perf_counter()
        subprocess.run([*command, str(place / f"{who}-killed")], check=True)
        again = time.perf_counter() - start
        if len(vectors(place / f"{who}-killed")) != count:
            raise SystemExit(f"{who} has not all {count} pictures after the restart.")
        report(
            what="restart", who=who, pictures=count, whole_s=whole, kept=kept, restarted_s=again,
            ratio=(killed + again) / whole,
        )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("first-run", "restart", "clipref", "rclip"), help="the last two index once")
    parser.add_argument("--in", dest="folder", type=Path, help="a folder of pictures, instead of photographs made here")
    parser.add_argument("--store", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pictures", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="clip/ViT-B-32", help="a published one, whose weights are made, or a path")
    args = parser.parse_args()
    if args.store is not None:
        model = AutoModel.from_pretrained(args.model)
        if args.what == "clipref":
            index_with_clipref(model, args.folder, args.store)
        else:
            index_with_rclip(model, args.folder, args.store, RCLIP_BATCHES[0])
        return
    with tempfile.TemporaryDirectory() as name:
        place, folder = Path(name), args.folder
        if folder is None:
            folder = place / "pictures"
            folder.mkdir()
            photographs(folder, args.pictures)
        count = len(list(folder.glob("*.jpg")))
        model_name = args.model
        if model_name in PUBLISHED:
            model_name = str(synthetic.write(place / "model", PUBLISHED[model_name], 0, "plain", "float32"))
        if args.what == "first-run":
            first_run(model_name, folder, place, count, args.rounds)
        else:
            restart(model_name, folder, place, count)


if __name__ == "__main__":
    main()
