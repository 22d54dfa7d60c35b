"""Many labels in the seven templates: time over the engine's own rate on what they don't share, and memory.

    python benchmarks/labels.py [--labels 10000] [--model clip/ViT-B-32] [--backend onnx] [--precision PRECISION]
        [--json FILE]

The engine's own rate is measured on some of the very trees that the texts make, before and after, and the time that
all of them would take at that rate is what the call is compared with. Memory is the peak during the call, over
what it had before, and that less the result. 32 labels are compared with the reference's. Weights are synthetic.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from measuring import cosine_of, memory_mb, write_json
from tasks import TEMPLATES, WORDS

from clipref import CLIP, AutoModel
from clipref.classifier import prompts_of
from clipref.config import PUBLISHED
from clipref.memory import trim
from clipref.texts import rows_of
from clipref.trees import Tree, plant
from clipref.weights_tools import synthetic

KINDS = ["red", "blue", "small", "old", "tall", "wooden", "quiet", "bright", "broken", "wild"]
SAMPLE = 40  # trees


def drawn(count: int) -> list[str]:
    """So many different labels of two to five words, in no order."""
    generator = np.random.default_rng(0)
    found: dict[str, None] = {}
    while len(found) < count:
        kinds = [str(kind) for kind in generator.choice(KINDS, generator.integers(0, 4))]
        found[" ".join([*kinds, *(str(word) for word in generator.choice(WORDS, 2))])] = None
    return list(found)


def resident() -> int:
    """Bytes that this process has in memory."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def peak_of(call: Callable[[], Any]) -> tuple[Any, int]:
    """Call, and give the result with the most memory that the process had meanwhile, over what it had before."""
    before, done, seen = resident(), threading.Event(), [0]

    def watch() -> None:
        while not done.wait(0.02):
            seen.append(resident())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        return call(), max(max(seen) - before, 0)
    finally:
        done.set()
        thread.join()


def seconds_a_tree(model: CLIP, trees: Sequence[Tree]) -> float:
    """The engine's seconds for one of these trees, in the mean."""
    engine: Any = model.engine
    start = time.perf_counter()
    for tree in trees:
        engine.encode_tree(tree.ids, tree.positions, tree.visible, tree.ends)
    return (time.perf_counter() - start) / len(trees)


def measure(folder: Path, backend: str, precision: str | None, count: int) -> dict[str, Any]:
    """So many labels in the templates, by a backend in a precision, None: its own; see the file's first lines.

    `process_peak_mb` is the process's peak up to the end of the call, whatever was before it included.
    """
    options: dict[str, Any] = {} if precision is None else {"precision": precision}
    labels = drawn(count)
    model = AutoModel.from_pretrained(folder, backend=backend, **options)
    if not hasattr(model.engine, "encode_tree"):
        sys.exit(f"The backend {backend!r} shares nothing; there is no rate to compare with.")
    rows = rows_of(prompts_of(labels, TEMPLATES), model.tokenizer, model.config.text.context_length)
    sizes = [tree.ids.size for tree in plant(rows)]
    tree_count, tokens = len(sizes), sum(sizes)
    sample = list(islice(plant(rows), 0, None, max(1, tree_count // SAMPLE)))
    del rows
    trim()  # what is free in this process would hide what the call needs
    seconds_a_tree(model, sample[:3])
    first = seconds_a_tree(model, sample)
    start = time.perf_counter()
    found, peak = peak_of(lambda: model.label_embeddings(labels, TEMPLATES))
    taken, process_peak = time.perf_counter() - start, memory_mb()["peak_mb"]
    own = (first + seconds_a_tree(model, sample)) / 2 * tree_count
    truth = AutoModel.from_pretrained(folder, backend="reference").label_embeddings(labels[:32], TEMPLATES)
    return {
        "labels": count,
        "precision": model.precision,
        "trees": tree_count,
        "tokens": tokens,
        "seconds": taken,
        "own_seconds": own,
        "over": taken / own,
        "peak_bytes": peak,
        "beside_bytes": peak - found.nbytes,
        "process_peak_mb": process_peak,
        "cosine": cosine_of(found[:32], truth),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--labels", type=int, default=10_000)
    parser.add_argument("--model", default="clip/ViT-B-32", choices=PUBLISHED)
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--precision")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = synthetic.write(Path(name) / "model", PUBLISHED[args.model], 0, "plain", "float32")
        row = measure(folder, args.backend, args.precision, args.labels)
    print(
        f"{row['labels']} labels x {len(TEMPLATES)} templates, {args.backend} {row['precision']}: {row['trees']} "
        f"trees, {row['tokens']} tokens; {row['seconds']:.1f} s, {row['over']:.2f} x the engine's own "
        f"{row['own_seconds']:.1f} s; "
        f"peak memory {row['peak_bytes'] / 1e6:.0f} MB, {row['beside_bytes'] / 1e6:.0f} MB over the result; smallest "
        f"cosine with the reference {row['cosine']:.6f}"
    )
    write_json(args.json, row)


if __name__ == "__main__":
    main()
