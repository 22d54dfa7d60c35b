"""Milliseconds an image and a text of every backend and every peer that is installed, interleaved in one run.

    python benchmarks/engines.py [--models clip/ViT-B-32 clip/RN50] [--batches 1 8 32] [--rounds 7] [--only NAME ...]
        [--without NAME ...] [--tuned] [--json FILE] [--chart FILE.svg]

Weights are synthetic, which costs the same time. Each time stands beside the engine's error and cosine against the
float64 reference in the same run, as a ratio to torch eager where that is installed (compiled torch: to torch.compile),
and as a fraction of the limit of its own precision: what the best library here, at the shapes of the model's products
and the batch's size, needs for the operations that the reference counts (limits.py). From six rounds on the lower end
of the median ratio's 95 % interval stands beside it. Last come, for each precision, our fastest engine over the
fastest peer. `--tuned` adds torch.compile in bfloat16, frozen and autotuned, which compiles for minutes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import flops
import limits
from candidates import PRECISIONS, Candidate, chosen, make_all
from charts import bars
from measuring import alternate, cosine_of, error_of, inputs, lower_end, machine, write_json

from clipref import backends
from clipref.config import PUBLISHED
from clipref.engine import ReferenceEngine
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic


def measure(
    name: str, batches: Sequence[int], rounds: int, only: Sequence[str], without: Sequence[str], tuned: bool
) -> list[dict[str, Any]]:
    """One row for each engine, tower and batch size."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write(Path(folder) / "c", PUBLISHED[name], seed=0, style="plain")
        checkpoint = Checkpoint(Path(folder) / "c")
        known = chosen(checkpoint, only, tuned)
        chosen(checkpoint, without, tuned)  # names that aren't known are mistakes
        known = {key: candidate for key, candidate in known.items() if key not in without}
        engines = make_all(known)
        exact = ReferenceEngine(checkpoint, "float64")
        for tower in ("image", "text"):
            method = f"encode_{tower}"
            # Some peers have but images.
            encode = {key: getattr(engine, method) for key, engine in engines.items() if hasattr(engine, method)}
            probe = inputs(checkpoint, 2)[tower == "text"]
            truth = getattr(exact, method)(probe)
            found = {key: call(probe) for key, call in encode.items()}
            parity = {key: {"error": error_of(x, truth), "cosine": cosine_of(x, truth)} for key, x in found.items()}
            for n in batches:
                batch = inputs(checkpoint, n)[tower == "text"]
                counted = flops.count(checkpoint, **{"ids" if tower == "text" else "pixels": batch})
                gflop = counted.flop * n / 1e9
                # The machine's speed drifts, so its limits are measured beside each row.
                best = limits.measure(limits.at_batch(counted.products, n))
                for precision, limit in best.items():
                    print(f"{name} {tower} batch {n}: limit of {precision} {limit}", flush=True)
                taken = alternate({key: partial(call, batch) for key, call in encode.items()}, rounds, pause=0.1)
                part = [row_of(known[key], taken, n, gflop, best) | parity[key] for key in encode]
                part = [{"model": name, "tower": tower, "batch": n} | row for row in part]
                for row in part:
                    print(_line(row), flush=True)
                for line in (*precision_lines(part, taken), auto_line(checkpoint, part)):
                    print(line, flush=True)
                rows += part
    return rows


def row_of(
    candidate: Candidate, taken: dict[str, list[float]], n: int, gflop: float, best: dict[str, limits.Limit]
) -> dict[str, Any]:
    """An engine's row: its time, how many times as fast as the peer beside it that is, and its share of the limit."""
    seconds = taken[candidate.name]
    peer = "torch.compile" if candidate.name.startswith("torch compiled") else "torch eager"
    ratio = ratio_of(taken.get(peer), seconds)
    limit = best.get(candidate.precision)
    median = statistics.median(seconds)
    return {
        "engine": candidate.name,
        "ours": candidate.ours,
        "precision": candidate.precision,
        "ms": median / n * 1e3,
        "peer": peer,
        "times_peer": ratio[0],
        "at_least": ratio[1],
        "of_limit": None if limit is None else limit.seconds(gflop) / median,
        "gflop": gflop / n,
        "limit_gflops": None if limit is None else limit.gflops,
    }


def ratio_of(base: Sequence[float] | None, seconds: Sequence[float]) -> tuple[float | None, float | None]:
    """The median over rounds of how many times as fast as `base` it was, and the lower end of its interval."""
    ratios = sorted(b / s for b, s in zip(base or (), seconds, strict=False))
    return (statistics.median(ratios), lower_end(ratios)) if ratios else (None, None)


def precision_lines(rows: Sequence[dict[str, Any]], taken: dict[str, list[float]]) -> list[str]:
    """For each precision our fastest engine of these rows, over the fastest peer of the same precision."""
    lines = []
    for precision in PRECISIONS:
        ours, theirs = (
            min(
                (row for row in rows if row["precision"] == precision and row["ours"] == side),
                key=lambda row: float(row["ms"]),
                default=None,
            )
            for side in (True, False)
        )
        if ours is None or theirs is None:
            continue
        times, at_least = ratio_of(taken[theirs["engine"]], taken[ours["engine"]])
        lines.append(
            f"  best {precision}: {ours['engine']} {ours['ms']:.2f} ms, cosine {ours['cosine']:.5f}, {times:.2f} x "
            f"{theirs['engine']} {theirs['ms']:.2f} ms, cosine {theirs['cosine']:.5f}"
            + ("" if at_least is None else f" (>= {at_least:.2f})")
        )
    return lines


def auto_line(checkpoint: Checkpoint, rows: Sequence[dict[str, Any]]) -> str:
    """Whether what `auto` takes for float32 is within 10 % of the fastest float32 backend of these rows."""
    auto = backends.fastest("float32", backends.kind_of(checkpoint.config), "float32")[0]
    ms = {row["engine"]: row["ms"] for row in rows if row["ours"] and row["precision"] == "float32"}
    ms.pop("torch compiled", None)  # which is an option, not a backend
    if auto not in ms:
        return f"  auto takes {auto}, which was not measured"
    best = min(ms, key=lambda name: float(ms[name]))
    ratio = ms[auto] / ms[best]
    return f"  auto takes {auto}: {ratio:.2f} x the time of {best}, {'ok' if ratio <= 1.1 else 'MORE THAN 10 % OFF'}"


def _line(row: dict[str, Any]) -> str:
    ratio = "-" if row["times_peer"] is None else f"{row['times_peer']:.2f}x"
    if row["at_least"] is not None:
        ratio += f" (>= {row['at_least']:.2f})"
    share = "   no limit" if row["of_limit"] is None else f"{row['of_limit']:6.1%} of limit"
    return (
        f"{row['model']:>16} {row['tower']:5} batch {row['batch']:<3} {row['engine']:28} {row['ms']:8.2f} ms"
        f"  {ratio:>16} {row['peer']:13} {share} of {row['precision']:8} "
        f"error {row['error']:.1e} cosine {row['cosine']:.5f}"
    )


def chart(rows: Sequence[dict[str, Any]], title: str) -> str:
    """An SVG of horizontal bars: milliseconds an item, a group for each model, tower and batch."""
    groups: dict[str, list[tuple[str, float, str, bool]]] = {}
    for row in rows:
        label = f"{row['ms']:.1f} ms, error {row['error']:.0e}"
        group = groups.setdefault(f"{row['model']}, {row['tower']}, batch {row['batch']}", [])
        group.append((row["engine"], row["ms"], label, row["ours"]))
    return bars(f"Milliseconds an item: {title}", groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=["clip/ViT-B-32", "clip/RN50"], choices=PUBLISHED)
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these engines alone")
    parser.add_argument("--without", nargs="+", default=[], metavar="NAME", help="all but these engines")
    parser.add_argument("--tuned", action="store_true", help="with the peers that tune themselves for minutes")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args()
    print(machine())
    asked = args.batches, args.rounds, args.only, args.without, args.tuned
    rows = [row for name in args.models for row in measure(name, *asked)]
    write_json(args.json, {"machine": machine(), "rows": rows})
    if args.chart:
        args.chart.write_text(chart(rows, machine()), encoding="utf-8")


if __name__ == "__main__":
    main()
