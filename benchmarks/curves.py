"""Time and memory over batch size, threads, models, labels or files: each engine and point in a process of its own.

    python benchmarks/curves.py batches|threads|models|labels|files [--model clip/ViT-B-32] [--engines NAME ...]
        [--points X ...] [--tower image] [--batch 8] [--rounds 1] [--calls 3] [--longest 600] [--json FILE]
        [--chart FILE]

- batches: items at a time, 1 to 256; threads: 1 to as many as the process may use, `--batch` items; models: all nine,
  `--batch` items. A process makes one engine, embeds one batch that isn't counted, and takes the median of `--calls`.
- labels: 10 to 100,000 labels in seven templates (labels.py); files: 10 to 10,000 JPEGs to vectors (pipeline.py).

Milliseconds are of an item, a label or a file; the figure is the median over `--rounds` rounds, in each of which all
engines take their turn. Memory is the most that a process had at any time, with whatever its engine needs to start.
Beside both stands the smallest cosine with the reference in float64 (labels: in float32; files: with each file alone).
A point for which the one before it lets more than `--longest` seconds a call be expected is left out, and said so.
Weights are synthetic.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import charts
import numpy as np
from candidates import candidates
from measuring import inputs, machine, write_json
from pipeline import draw_photos

from clipref.config import PUBLISHED
from clipref.engine import ReferenceEngine
from clipref.lazy import available_threads
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

ENGINES = (
    "torch eager", "torch eager bfloat16", "blas", "onnx", "onnx-int8", "openvino", "openvino bfloat16", "native",
    "native bfloat16", "native int8",
)  # fmt: skip
FEW = ("onnx", "onnx-int8", "native bfloat16", "native int8")  # for labels and files, which take long
POINTS: dict[str, Sequence[Any]] = {
    "batches": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "models": tuple(PUBLISHED),
    "labels": (10, 100, 1000, 10_000, 100_000),
    "files": (10, 100, 1000, 10_000),
}
PER = {"batches": "item", "threads": "item", "models": "item", "labels": "label", "files": "file"}
POINT = Path(__file__).with_name("point.py")


@contextmanager
def limited_to(threads: int | None) -> Iterator[None]:
    """Processes that are started here have so many processors, the first of those that this one has."""
    allowed = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, sorted(allowed)[:threads])
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def point(specification: dict[str, Any], threads: int | None = None) -> dict[str, Any]:
    """A point, measured in a process of its own; `failed`, with why, and no more where it couldn't be."""
    with limited_to(threads):
        run = [sys.executable, str(POINT), json.dumps(specification, default=str)]
        done = subprocess.run(run, capture_output=True, text=True)
    if done.returncode:
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def write_exact(folder: Path, tower: str) -> None:
    """Exact embeddings of two items of a tower, beside the model."""
    checkpoint = Checkpoint(folder)
    few = inputs(checkpoint, 2)[tower == "text"]
    np.save(folder / "exact.npy", getattr(ReferenceEngine(checkpoint, "float64"), f"encode_{tower}")(few))


class Curve:
    """The points of one command: what a process is told for each, in a folder for models and photographs."""

    def __init__(self, args: argparse.Namespace, folder: Path) -> None:
        self.args, self.folder = args, folder
        self.xs = tuple(args.points or POINTS.get(args.curve) or range(1, available_threads() + 1))
        if args.curve == "files":
            draw_photos(folder / "photos", max(self.xs))

    def model(self, name: str) -> Path:
        """The folder of a model with synthetic weights; of one at a time."""
        folder = self.folder / name.replace("/", "-")
        if not folder.exists():
            for other in self.folder.glob("clip-*"):
                for file in other.iterdir():
                    file.unlink()
                other.rmdir()
            synthetic.write(folder, PUBLISHED[name], 0, "plain", "float32")
            if self.args.curve in ("batches", "threads", "models"):
                write_exact(folder, self.args.tower)
        return folder

    def specification(self, x: Any, engine: str) -> dict[str, Any]:
        """A point as point.py is asked for it."""
        args = self.args
        folder = self.model(x if args.curve == "models" else args.model)
        told: dict[str, Any] = {"folder": folder, "engine": engine}
        if args.curve in ("labels", "files"):
            photos = {"photos": self.folder / "photos"} if args.curve == "files" else {}
            return told | {"kind": args.curve, "count": x} | photos
        batch = x if args.curve == "batches" else args.batch
        told |= {"kind": "engine", "tower": args.tower, "batch": batch, "calls": args.calls}
        return told | {"truth": folder / "exact.npy"}

    def expected_seconds(self, x: Any, last: dict[str, Any] | None) -> float:
        """How long a call may take at x, by the point before it."""
        if last is None or self.args.curve not in ("batches", "labels", "files"):
            return 0.0
        return float(last["ms"]) / 1e3 * int(x)


def measure(curve: Curve, engines: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each point and engine, printed as it comes."""
    args, rows = curve.args, []
    last: dict[str, dict[str, Any]] = {}
    for x in curve.xs:
        found: dict[str, list[dict[str, Any]]] = {}
        for _ in range(args.rounds):
            for engine in engines:
                expected = curve.expected_seconds(x, last.get(engine))
                if expected > args.longest:
                    found[engine] = [{"failed": f"left out, for {expected:.0f} s a call are expected"}]
                    continue
                told = curve.specification(x, engine)
                found.setdefault(engine, []).append(point(told, x if args.curve == "threads" else None))
        for engine, several in found.items():
            row = {"curve": args.curve, "x": x, "engine": engine} | combined(several)
            rows.append(row)
            if "failed" not in row:
                last[engine] = row
            print(line(row), flush=True)
    return rows


def combined(several: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The rounds of a point in one: median time, the most memory, the smallest cosine."""
    failed = next((found for found in several if "failed" in found), None)
    if failed:
        return {"failed": failed["failed"]}
    return {
        "ms": statistics.median(found["ms"] for found in several),
        "peak_mb": max(found["peak_mb"] for found in several),
        "cosine": min(found["cosine"] for found in several),
    }


def line(row: dict[str, Any]) -> str:
    """A point as it is printed."""
    head = f"{row['curve']:8} {row['x']!s:>18} {row['engine']:28}"
    if "failed" in row:
        return f"{head} {row['failed']}"
    return (
        f"{head} {row['ms']:9.3f} ms each {1e3 / row['ms']:9.1f} a second {row['peak_mb']:7.0f} MB at its peak, "
        f"cosine {row['cosine']:.5f}"
    )


def chart(rows: Sequence[dict[str, Any]], args: argparse.Namespace) -> str:
    """Time and memory over x; of models, which have no order, bars."""
    done = [row for row in rows if "failed" not in row]
    if args.curve == "models":
        groups: dict[str, list[tuple[str, float, str, bool]]] = {}
        for row in done:
            label = f"{row['ms']:.1f} ms, {row['peak_mb']:.0f} MB"
            groups.setdefault(row["x"], []).append((row["engine"], row["ms"], label, True))
        return charts.bars(f"Milliseconds an item, batch {args.batch}: {machine()}", groups)
    panels: dict[str, dict[str, list[charts.Point]]] = {}
    for heading, key in ((f"milliseconds a {PER[args.curve]}", "ms"), ("MB at the peak", "peak_mb")):
        for row in done:
            panels.setdefault(heading, {}).setdefault(row["engine"], []).append((row["x"], row[key]))
    return charts.curves(f"{args.model}, {args.curve}: {machine()}", panels, args.curve)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("curve", choices=["batches", "threads", "models", "labels", "files"])
    parser.add_argument("--model", default="clip/ViT-B-32", choices=PUBLISHED)
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="as benchmarks/engines.py names them")
    parser.add_argument("--points", nargs="+", metavar="X")
    parser.add_argument("--tower", default="image", choices=["image", "text"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--calls", type=int, default=3)
    parser.add_argument("--longest", type=float, default=600.0, help="seconds that a call may be expected to take")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args()
    if args.points and args.curve != "models":
        args.points = [int(x) for x in args.points]
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        curve = Curve(args, Path(name))
        engines = args.engines or default_engines(args, curve)
        rows = measure(curve, engines)
    write_json(args.json, {"machine": machine(), "rows": rows})
    if args.chart:
        args.chart.write_text(chart(rows, args), encoding="utf-8")


def default_engines(args: argparse.Namespace, curve: Curve) -> list[str]:
    """The engines of the curve's list that are installed here."""
    checkpoint = Checkpoint(curve.model(curve.xs[0] if args.curve == "models" else args.model))
    here = {candidate.name for candidate in candidates(checkpoint)}
    return [name for name in (FEW if args.curve in ("labels", "files") else ENGINES) if name in here]


if __name__ == "__main__":
    main()
