"""Milliseconds an image and a text of every backend and every peer that is installed, interleaved in one run.

    python benchmarks/engines.py [--models clip/ViT-B-32 clip/RN50] [--batches 1 8 32] [--rounds 7] [--only NAME ...]
        [--json FILE] [--chart FILE.svg]

Weights are synthetic, which costs the same time. Each time stands beside the engine's error against the float64
reference in the same run, as a ratio to torch eager where that is installed (compiled torch: to torch.compile), and as
a fraction of what the machine's best float32 matrix product would allow for the operations that the reference counts.
From six rounds on the lower end of the median ratio's 95 % interval stands beside it.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flops
import numpy as np
import peers

from clipref import backends, lazy
from clipref.config import PUBLISHED
from clipref.engine import ReferenceEngine
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic


def matrix_rate(seconds: float = 2.0) -> float:
    """The best rate in GFLOP/s of a float32 matrix product of a favourable size."""
    best = 0.0
    generator = np.random.default_rng(0)
    for size in (1024, 2048, 4096):
        a = generator.standard_normal((size, size), dtype=np.float32)
        until = time.perf_counter() + seconds / 3
        while time.perf_counter() < until:
            start = time.perf_counter()
            a @ a
            best = max(best, 2 * size**3 / (time.perf_counter() - start) / 1e9)
    return best


def times(calls: Sequence[Callable[[], Any]], rounds: int, pause: float = 0.2) -> list[list[float]]:
    """Seconds of each call in each round, the calls in turn, after one that isn't counted, `pause` seconds apart."""
    taken: list[list[float]] = [[] for _ in calls]
    for round_ in range(rounds + 1):
        for call, row in zip(calls, taken, strict=True):
            time.sleep(pause)  # until the threads of the one before have stopped spinning
            start = time.perf_counter()
            call()
            if round_:
                row.append(time.perf_counter() - start)
    return taken


def lower_end(ratios: Sequence[float]) -> float | None:
    """The lower end of a 95 % interval of the median of sorted ratios, by their ranks alone; None of too few.

    Below the k-th smallest of n lies the median with the probability that fewer than k of n coins show heads.
    """
    n = len(ratios)
    below, rank = 0.0, 0
    while rank < n and below + math.comb(n, rank) / 2**n <= 0.025:
        below += math.comb(n, rank) / 2**n
        rank += 1
    return ratios[rank - 1] if rank else None


def inputs(checkpoint: Checkpoint, n: int) -> tuple[Any, Any]:
    """Pixels of n images, and ids of n texts of 10 tokens, start and end included, padded to the context."""
    generator = np.random.Generator(np.random.PCG64(n))
    side, text = checkpoint.config.vision.resolution, checkpoint.config.text
    pixels = generator.uniform(-1.8, 2.1, (n, 3, side, side)).astype(np.float32)
    ids = np.zeros((n, text.context_length), np.int64)
    ids[:, :9] = generator.integers(300, text.vocab_size - 2, (n, 9))
    ids[:, 9] = text.vocab_size - 1
    return pixels, ids


def candidates(checkpoint: Checkpoint) -> dict[str, Callable[[], Any]]:
    """Every peer and backend that can run here, and how it is made."""
    threads = lazy.available_threads()
    made: dict[str, Callable[[], Any]] = {
        peer.name: partial(peer, checkpoint, threads) for peer in peers.installed(checkpoint)
    }
    for backend in sorted(backends.backends(), key=lambda name: name != "reference"):
        if backends.describe(backend)["runs"]:
            made[backend] = partial(_backend, backend, checkpoint)
    for backend in ("openvino", "torch"):
        if backend in made:
            made[f"{backend} bfloat16"] = partial(_backend, backend, checkpoint, precision="bfloat16")
    if "torch" in made:
        made["torch compiled"] = partial(_backend, "torch", checkpoint, compile=True)
    return made


def _backend(name: str, checkpoint: Checkpoint, **options: Any) -> Any:
    return backends.make_engine(name, checkpoint, "float32", **options).engine


def measure(name: str, batches: Sequence[int], rounds: int, only: Sequence[str]) -> list[dict[str, Any]]:
    """One row for each engine, tower and batch size."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write(Path(folder) / "c", PUBLISHED[name], seed=0, style="plain")
        checkpoint = Checkpoint(Path(folder) / "c")
        found = {name: make() for name, make in candidates(checkpoint).items() if not only or name in only}
        exact = ReferenceEngine(checkpoint, "float64")
        for tower, method in (("image", "encode_image"), ("text", "encode_text")):
            index = tower == "text"
            probe = inputs(checkpoint, 2)[index]
            truth = getattr(exact, method)(probe)
            errors = {k: _error(getattr(e, method)(probe), truth) for k, e in found.items()}
            for n in batches:
                batch = inputs(checkpoint, n)[index]
                work = flops.per_item(checkpoint, **{"ids" if index else "pixels": batch[:1]})
                # The machine's speed drifts, so its limit is measured beside each row.
                rate = matrix_rate()
                taken = times([partial(getattr(e, method), batch) for e in found.values()], rounds)
                by_name = dict(zip(found, taken, strict=True))
                for key, row in zip(found, taken, strict=True):
                    median = statistics.median(row)
                    base = "torch.compile" if key == "torch compiled" else "torch eager"
                    ratios = sorted(b / t for b, t in zip(by_name.get(base, ()), row, strict=False))
                    rows.append(
                        {
                            "model": name,
                            "tower": tower,
                            "batch": n,
                            "engine": key,
                            "ms": median / n * 1e3,
                            "peer": base,
                            "times_peer": statistics.median(ratios) if ratios else None,
                            "at_least": lower_end(ratios),
                            "of_limit": work * n / rate / median,
                            "error": errors[key],
                            "gflop": work,
                            "matrix_gflops": rate,
                        }
                    )
                    print(_line(rows[-1]), flush=True)
                print(auto_line(checkpoint, rows[-len(found) :]), flush=True)
    return rows


def auto_line(checkpoint: Checkpoint, rows: Sequence[dict[str, Any]]) -> str:
    """Whether what `auto` takes for float32 is within 10 % of the fastest float32 backend of these rows."""
    auto = backends.fastest("float32", backends.kind_of(checkpoint.config), "float32")[0]
    stated = {n: backends.traits(None if e is None else e.load()).fidelity for n, e in backends.backends().items()}
    ms = {row["engine"]: row["ms"] for row in rows if "float32" in stated.get(row["engine"], ())}
    if auto not in ms:
        return f"  auto takes {auto}, which was not measured"
    best = min(ms, key=lambda name: float(ms[name]))
    ratio = ms[auto] / ms[best]
    return f"  auto takes {auto}: {ratio:.2f} x the time of {best}, {'ok' if ratio <= 1.1 else 'MORE THAN 10 % OFF'}"


def _error(actual: Any, truth: Any) -> float:
    """Largest difference, relative to the root mean square of the truth."""
    if actual.shape != truth.shape:
        raise SystemExit(f"An engine returned shape {actual.shape}; expected {truth.shape}.")
    return float(np.abs(actual - truth).max() / np.sqrt((truth**2).mean()))


def _line(row: dict[str, Any]) -> str:
    ratio = "-" if row["times_peer"] is None else f"{row['times_peer']:.2f}x"
    if row["at_least"] is not None:
        ratio += f" (>= {row['at_least']:.2f})"
    return (
        f"{row['model']:>16} {row['tower']:5} batch {row['batch']:<3} {row['engine']:17} {row['ms']:8.2f} ms"
        f"  {ratio:>16} {row['peer']}  {row['of_limit']:6.1%} of limit  error {row['error']:.1e}"
    )


def chart(rows: Sequence[dict[str, Any]], machine: str) -> str:
    """An SVG of horizontal bars: milliseconds an item, a group for each model, tower and batch."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["model"], row["tower"], row["batch"]), []).append(row)
    lines, y = [], 50
    for (model, tower, batch), members in groups.items():
        lines.append(f'<text x="10" y="{y}" font-weight="bold">{model}, {tower}, batch {batch}</text>')
        longest = max(row["ms"] for row in members)
        for row in sorted(members, key=lambda row: float(row["ms"])):
            y += 20
            width = 480 * row["ms"] / longest
            colour = "#2a6fbb" if row["engine"] in backends.backends() else "#b0b0b0"
            lines.append(f'<text x="150" y="{y}" text-anchor="end">{row["engine"]}</text>')
            lines.append(f'<rect x="160" y="{y - 12}" width="{width:.1f}" height="15" fill="{colour}"/>')
            label = f"{row['ms']:.1f} ms, error {row['error']:.0e}"
            lines.append(f'<text x="{165 + width:.1f}" y="{y}">{label}</text>')
        y += 35
    head = f'<text x="10" y="22" font-size="15">Milliseconds an item: {machine}</text>'
    style = 'font-family="sans-serif" font-size="12"'
    size = f'width="840" height="{y}" viewBox="0 0 840 {y}"'
    body = "\n".join([head, *lines])
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{background}\n{body}\n</svg>\n'


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["clip/ViT-B-32", "clip/RN50"], choices=PUBLISHED)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these engines alone")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args()
    machine = f"{processor()}, {lazy.available_threads()} threads"
    print(f"{machine}, Python {platform.python_version()}, numpy {np.__version__}")
    rows = [row for name in args.models for row in measure(name, args.batches, args.rounds, args.only)]
    if args.json:
        args.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")
    if args.chart:
        args.chart.write_text(chart(rows, machine), encoding="utf-8")


if __name__ == "__main__":
    main()
