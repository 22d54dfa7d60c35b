"""One point of a curve, in a process of its own: `curves.py` starts it with a specification, and reads what it prints.

It imports nothing but what its engine needs, so that the memory of the process is that of somebody who does just this.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from candidates import engine_named, parts_of
from measuring import cosine_of, error_of, inputs, memory_mb

from clipref.weights import Checkpoint


def engine_point(folder: Path, engine: str, tower: str, batch: int, calls: int, truth: Path) -> dict[str, Any]:
    """A batch of a tower: the median milliseconds an item of so many calls, after one that isn't counted.

    `truth`: exact embeddings of the first items.
    """
    checkpoint = Checkpoint(folder)
    encode = getattr(engine_named(checkpoint, engine), f"encode_{tower}")
    exact = np.load(truth)
    few = inputs(checkpoint, len(exact))[tower == "text"]
    items = few[np.arange(batch) % len(few)]
    found, seconds = encode(items), []
    for _ in range(calls):
        start = time.perf_counter()
        encode(items)
        seconds.append(time.perf_counter() - start)
    memory, some = memory_mb(), min(batch, len(exact))
    parity = {"error": error_of(found[:some], exact[:some]), "cosine": cosine_of(found[:some], exact[:some])}
    return {"ms": statistics.median(seconds) / batch * 1e3, **memory, **parity}


def labels_point(folder: Path, engine: str, count: int) -> dict[str, Any]:
    """So many labels in the templates, by `labels.measure`; milliseconds are a label's."""
    from labels import measure

    backend, precision, options = parts_of(engine)
    if options:
        raise SystemExit(f"{engine}: labels are measured of backends as they are, without options.")
    found = measure(folder, backend, precision, count)
    return found | {"ms": found["seconds"] / count * 1e3, "peak_mb": found["process_peak_mb"]}


def files_point(folder: Path, engine: str, count: int, photos: Path) -> dict[str, Any]:
    """So many files to vectors, a few of them compared with what each gives alone."""
    from clipref import AutoModel

    backend, precision, options = parts_of(engine)
    if precision:
        options["precision"] = precision
    model = AutoModel.from_pretrained(folder, backend=backend, **options)
    paths = [str(photos / f"{i}.jpg") for i in range(count)]
    model.embed_images(paths[:32])
    start = time.perf_counter()
    found = model.embed_images(paths)
    taken, memory = time.perf_counter() - start, memory_mb()
    alone = np.concatenate([model.embed_image(path) for path in paths[:4]])
    return {
        "ms": taken / count * 1e3,
        **memory,
        "error": error_of(found[:4], alone),
        "cosine": cosine_of(found[:4], alone),
    }


POINTS: dict[str, Callable[..., dict[str, Any]]] = {
    "engine": engine_point,
    "labels": labels_point,
    "files": files_point,
}

if __name__ == "__main__":
    specification = json.loads(sys.argv[1])
    for key in ("folder", "truth", "photos"):
        if key in specification:
            specification[key] = Path(specification[key])
    print(json.dumps(POINTS[specification.pop("kind")](**specification)))
