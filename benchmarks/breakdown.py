"""Where an engine's time goes, by kind of work, through the profiler of its own runtime.

    python benchmarks/breakdown.py [--engines onnx onnx-int8 openvino native torch blas] [--model clip/ViT-B-32]
        [--tower image] [--batch 8] [--rounds 5] [--json FILE] [--chart FILE]

ONNX Runtime, OpenVINO and torch have profilers, whose operators are sorted into kinds (kinds.py); the sets of numpy's
arrays (reference, blas, native) are timed at the operations of clipref.ops. Milliseconds are of a batch; where threads
work side by side, their time over how many of them were at work. `other` is what the profiled call took beyond its
operators: Python, what happens between two operators, and in numpy's sets sums of residuals and copies that are no
operation. `start-up` is the making of the engine and its first call, less a later one. Products have their bias in
them, and in `native` residual, activation and the rounding to the set's precision; in `openvino` whatever it fused.

Beside the sum stands the wall time of calls without a profiler, which is what says how much to believe of it. The
figures are medians over rounds; weights are synthetic.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from candidates import Candidate, chosen
from charts import bars
from kinds import KINDS
from measuring import alternate, inputs, machine, write_json
from profilers import Profile, profiler_of

from clipref.config import PUBLISHED
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

ENGINES = ("onnx", "onnx-int8", "openvino", "native", "torch", "blas")


def measure(candidate: Candidate, checkpoint: Checkpoint, tower: str, batch: int, rounds: int) -> dict[str, Any]:
    """Milliseconds of each kind, of the profiled and of the plain call, and of the start."""
    items = inputs(checkpoint, batch)[tower == "text"]
    start = time.perf_counter()
    plain = partial(getattr(candidate.make(), f"encode_{tower}"), items)
    plain()
    first = time.perf_counter() - start
    with profiler_of(candidate.name) as profiler:
        engine = profiler.prepared(candidate.make())
        call = partial(getattr(engine, f"encode_{tower}"), items)
        call()
        taken = alternate({"plain": plain, "profiled": partial(profiler.run, call)}, rounds)
        profiles = profiler.profiles()[1:]  # the first round isn't counted
    if not all(profile.kinds for profile in profiles):
        raise SystemExit(f"The profiler of {candidate.name} recorded no operator of a call.")
    ms = {kind: statistics.median(profile.kinds.get(kind, 0.0) for profile in profiles) * 1e3 for kind in KINDS}
    wall = statistics.median(taken["plain"]) * 1e3
    return {
        "engine": candidate.name,
        "precision": candidate.precision,
        "kinds_ms": {kind: value for kind, value in ms.items() if value},
        "other_ms": statistics.median(profile.other for profile in profiles) * 1e3,
        "profiled_ms": statistics.median(profile.wall for profile in profiles) * 1e3,
        "plain_ms": wall,
        "start_up_ms": max(first * 1e3 - wall, 0.0),
        "unsorted": unsorted(profiles),
    }


def unsorted(profiles: Sequence[Profile]) -> dict[str, float]:
    """Milliseconds of the operators that no kind claims, the five longest, of the last profile."""
    longest = sorted(profiles[-1].unsorted.items(), key=lambda item: -item[1])[:5]
    return {name: seconds * 1e3 for name, seconds in longest}


def table(row: dict[str, Any]) -> str:
    """The lines of an engine."""
    whole = sum(row["kinds_ms"].values()) + row["other_ms"]
    parts = [*sorted(row["kinds_ms"].items(), key=lambda item: -item[1]), ("other", row["other_ms"])]
    lines = [f"{row['engine']} ({row['precision']})"]
    lines += [f"    {kind:16} {ms:9.2f} ms {ms / whole:6.1%}" for kind, ms in parts]
    lines.append(
        f"    {'sum':16} {whole:9.2f} ms, profiled call {row['profiled_ms']:.2f} ms; a call without a profiler "
        f"{row['plain_ms']:.2f} ms, so the sum is {whole / row['plain_ms']:.2f} x that"
    )
    lines.append(f"    {'start-up':16} {row['start_up_ms']:9.2f} ms, once")
    if row["unsorted"]:
        named = ", ".join(f"{name} {ms:.2f} ms" for name, ms in row["unsorted"].items())
        lines.append(f"    sorted into no kind: {named}")
    return "\n".join(lines)


def chart(rows: Sequence[dict[str, Any]], title: str) -> str:
    """A group of bars for each engine."""
    groups = {}
    for row in rows:
        parts = {**row["kinds_ms"], "other": row["other_ms"]}
        whole = sum(parts.values())
        groups[f"{row['engine']} ({row['precision']}), {row['plain_ms']:.1f} ms without a profiler"] = [
            (kind, ms, f"{ms:.1f} ms, {ms / whole:.0%}", True) for kind, ms in parts.items() if ms > 0
        ]
    return bars(title, groups)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engines", nargs="+", metavar="NAME", help="as benchmarks/engines.py names them")
    parser.add_argument("--model", default="clip/ViT-B-32", choices=PUBLISHED)
    parser.add_argument("--tower", default="image", choices=["image", "text"])
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--chart", type=Path)
    args = parser.parse_args()
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as name:
        checkpoint = Checkpoint(synthetic.write(Path(name) / "model", PUBLISHED[args.model], 0, "plain"))
        known = chosen(checkpoint, args.engines or ())
        for engine in args.engines or [engine for engine in ENGINES if engine in known]:
            rows.append(measure(known[engine], checkpoint, args.tower, args.batch, args.rounds))
            print(table(rows[-1]), flush=True)
    write_json(args.json, {"machine": machine(), "model": args.model, "batch": args.batch, "rows": rows})
    if args.chart:
        args.chart.write_text(chart(rows, f"{args.model}, {args.tower}, batch {args.batch}: {machine()}"), "utf-8")


if __name__ == "__main__":
    main()
