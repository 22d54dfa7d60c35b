"""Parts of all benchmarks: calls that take turns, the interval of a median, errors, memory, the machine's name."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipref.lazy import available_threads
from clipref.numerics import rms_error, unit_rows
from clipref.weights import Checkpoint


def alternate(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    pause: float = 0.2,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of each call in each round, in turn, after one round that isn't counted, `pause` seconds apart."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, call in calls.items():
            time.sleep(pause)  # until the threads of the one before have stopped spinning
            start = clock()
            call()
            if round_:
                taken[name].append(clock() - start)
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


def error_of(found: Any, truth: Any) -> float:
    """The largest difference, relative to the root mean square of the truth."""
    return rms_error(_of_a_shape(found, truth), truth)


def cosine_of(found: Any, truth: Any) -> float:
    """The smallest cosine between a row and that of the truth."""
    return float(np.vecdot(unit_rows(_of_a_shape(found, truth)), unit_rows(truth)).min())


def _of_a_shape(found: Any, truth: Any) -> Any:
    if found.shape != truth.shape:
        raise SystemExit(f"A result has shape {found.shape}; expected {truth.shape}.")
    return found


def inputs(checkpoint: Checkpoint, n: int) -> tuple[Any, Any]:
    """Pixels of n images, and ids of n texts of 10 tokens, start and end included, padded to the context.

    Pixels are those of shades from 0 to 255, so that peers that take files can be given the same.
    """
    generator = np.random.Generator(np.random.PCG64(n))
    side, text, recipe = checkpoint.config.vision.resolution, checkpoint.config.text, checkpoint.config.preprocess
    shades = generator.integers(0, 256, (n, 3, side, side), np.uint8).astype(np.float32)
    mean, std = (np.array(x, np.float32)[:, None, None] for x in (recipe.mean, recipe.std))
    pixels = (shades / 255 - mean) / std
    ids = np.zeros((n, text.context_length), np.int64)
    ids[:, :9] = generator.integers(300, text.vocab_size - 2, (n, 9))
    ids[:, 9] = text.vocab_size - 1
    return pixels, ids


def memory_mb() -> dict[str, float]:
    """The memory that this process has now, and had at its peak, in MB."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return {
        key: int(status.split(f"{field}:")[1].split()[0]) * 1024 / 1e6
        for key, field in (("resident_mb", "VmRSS"), ("peak_mb", "VmHWM"))
    }


def processor() -> str:
    """The processor's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())


def machine() -> str:
    """The machine that a figure counts with: processor, threads, Python and numpy."""
    return f"{processor()}, {available_threads()} threads, Python {platform.python_version()}, numpy {np.__version__}"


def write_json(path: Path | None, found: Any) -> None:
    """Write what was found where a path is given."""
    if path:
        path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
