"""The backend `torch` on a GPU beside OpenAI's code and transformers, each in every precision, in turns in one run.

    python benchmarks/gpu.py [--models clip/ViT-B-32 clip/ViT-L-14 clip/RN50] [--batches 1 32 256] [--rounds 9]
        [--device cuda] [--compile] [--json FILE]

Inputs and embeddings are numpy's arrays, as users have them, so the transfers count. "on the device" is the tower
alone, its pixels there already: what is left if transfers cost nothing. Errors are relative to the root mean square of
our own float64 on the same device. Weights are synthetic, which costs the same time. Last comes how many JPEGs a
second the processor decodes and preprocesses: the rate that files come at, whatever the GPU does.
"""

from __future__ import annotations

import argparse
import gc
import io
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peers
import torch
from measuring import alternate, error_of, inputs, processor, write_json
from PIL import Image

from clipref import backends, lazy
from clipref.config import PUBLISHED
from clipref.preprocessing import preprocess
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

PRECISIONS = ("float32", "bfloat16", "float16")


def ours(checkpoint: Checkpoint, device: str, precision: str, **options: Any) -> Any:
    """Our engine of the backend `torch`."""
    dtype: Any = "float64" if precision == "float64" else "float32"
    return backends.make_engine("torch", checkpoint, dtype, precision=precision, device=device, **options).engine


def candidates(checkpoint: Checkpoint, device: str, compiled: bool) -> Iterator[tuple[str, str, Callable[[], Any]]]:
    """Name, precision and maker of each engine."""
    theirs = [peer for peer in peers.installed(checkpoint) if peer in (peers.TorchEager, peers.Transformers)]
    for precision in PRECISIONS:
        yield "torch", precision, partial(ours, checkpoint, device, precision)
        if compiled:
            yield "torch compiled", precision, partial(ours, checkpoint, device, precision, compile=True)
        for peer in theirs:
            yield peer.name, precision, partial(peer, checkpoint, lazy.available_threads(), device, precision)


def measure(name: str, args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each engine, precision, tower and batch size."""
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        synthetic.write(Path(folder) / "c", PUBLISHED[name], seed=0, style="plain")
        checkpoint = Checkpoint(Path(folder) / "c")
        found = {
            (label, precision): make() for label, precision, make in candidates(checkpoint, args.device, args.compile)
        }
        exact = ours(checkpoint, args.device, "float64")
        for tower, method in (("image", "encode_image"), ("text", "encode_text")):
            index = tower == "text"
            probe = inputs(checkpoint, 4)[index]
            truth = getattr(exact, method)(probe.astype("float64") if tower == "image" else probe)
            errors = {key: error_of(getattr(e, method)(probe), truth) for key, e in found.items()}
            for n in args.batches:
                batch = inputs(checkpoint, n)[index]
                calls = {
                    f"{label} {precision}": partial(getattr(engine, method), batch)
                    for (label, precision), engine in found.items()
                }
                taken = alternate(calls, args.rounds, pause=0.0)
                for (label, precision), row in zip(found, taken.values(), strict=True):
                    rows.append(
                        {
                            "model": name,
                            "tower": tower,
                            "batch": n,
                            "engine": label,
                            "precision": precision,
                            "items_a_second": n / statistics.median(row),
                            "error": errors[label, precision],
                        }
                    )
                    if label == "torch" and tower == "image" and args.device.startswith("cuda"):
                        rows[-1]["on_the_device"] = n / on_the_device(found[label, precision], batch)
                    print(line(rows[-1]), flush=True)
        del found, exact
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return rows


def on_the_device(engine: Any, pixels: Any, rounds: int = 9) -> float:
    """Seconds of our image tower for pixels that are placed already, until its embeddings are there."""
    ops, seconds = engine.ops, []
    tower = engine._function("visual")
    with ops.running():
        placed = ops.place(pixels)
        for _ in range(rounds):
            torch.cuda.synchronize()
            started = time.perf_counter()
            tower(placed)
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def line(row: dict[str, Any]) -> str:
    alone = f"{row['on_the_device']:10,.0f} on the device" if "on_the_device" in row else ""
    return (
        f"{row['model']:>13} {row['tower']:5} batch {row['batch']:<3} {row['precision']:8} {row['engine']:14} "
        f"{row['items_a_second']:10,.0f} a second{alone}  error {row['error']:.1e}"
    )


def decoding_rate(seconds: float = 5.0) -> float:
    """JPEGs of 500 x 400 a second, from bytes to preprocessed pixels, on all threads."""
    shades = np.random.default_rng(0).integers(0, 255, (20, 25, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(shades).resize((500, 400), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)

    def one(_: int) -> None:
        with Image.open(io.BytesIO(buffer.getvalue())) as image:
            preprocess(image, 224)

    threads, n = lazy.available_threads(), 0
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(4 * threads)))
        started = time.perf_counter()
        while time.perf_counter() - started < seconds:
            list(pool.map(one, range(8 * threads)))
            n += 8 * threads
        return n / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--models", nargs="+", default=["clip/ViT-B-32", "clip/ViT-L-14", "clip/RN50"], choices=PUBLISHED
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 32, 256])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.cuda.get_device_name() if args.device.startswith("cuda") else processor()
    machine = f"{device}, torch {torch.__version__}, {processor()}, {lazy.available_threads()} threads"
    print(f"{machine}, Python {platform.python_version()}")
    rate = decoding_rate()
    print(f"{rate:,.0f} JPEGs of 500 x 400 a second decoded and preprocessed", flush=True)
    rows = [row for name in args.models for row in measure(name, args)]
    write_json(args.json, {"machine": machine, "decoding": rate, "rows": rows})


if __name__ == "__main__":
    main()
