"""The reference's bits: embeddings and activations of tiny models, the same as when they were recorded.

Which bits numpy gives depends on its version, on the processor, and on the matrix library that comes with it. So a
digest is kept beside a print of what numpy itself gives here for a few sums; where the print is a new one, there is
nothing to compare with, and `python -m tests.test_same_bits` records (from a commit that is known to be right).
tests/golden/bits.json was recorded under three OPENBLAS_CORETYPEs from the commit before the towers' engine was
rewritten; with one thread, as pytest's workers have it, from a commit that gives those bits with two.
"""

import hashlib
import json
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import ops
from clipref.engine import NumpyEngine, ReferenceEngine
from clipref.trees import plant
from clipref.weights_tools import synthetic

from . import cases

RECORDED = Path(__file__).parent / "golden" / "bits.json"


def digest(arrays: dict[str, Any]) -> str:
    total = hashlib.sha256()
    for name, x in arrays.items():
        total.update(f"{name} {x.dtype} {x.shape} ".encode() + np.ascontiguousarray(x).tobytes())
    return total.hexdigest()[:16]


@cache
def numpy_print() -> str:
    """What tells this numpy on this processor from another: products, sums and functions of the towers' sizes."""
    generator = np.random.Generator(np.random.PCG64(3))
    found: dict[str, Any] = {}
    for dtype in ("float32", "float64"):
        for rows, inner, columns in ((1, 20, 60), (5, 24, 72), (17, 48, 96), (77, 16, 77), (300, 147, 33)):
            x = generator.standard_normal((rows, inner)).astype(dtype)
            w = generator.standard_normal((columns, inner)).astype(dtype)
            found[f"{dtype} {rows}"] = x @ w.T
            found[f"{dtype} {rows} exp"] = np.exp(x) + x.mean(axis=-1, keepdims=True) + ops.layer_norm(x, x[0], x[0])
    convolved: dict[str, Any] = {}
    for dtype in ("float32", "float64"):
        for channels, kernel, side in (
            (3, 3, 32),
            (4, 3, 16),
            (5, 1, 16),
            (12, 3, 8),
            (20, 1, 8),
            (48, 3, 4),
            (96, 1, 2),
        ):
            x = generator.standard_normal((1, channels, side, side)).astype(dtype)
            w = generator.standard_normal((2 * channels, channels, kernel, kernel)).astype(dtype)
            convolved[f"{dtype} {channels} {side}"] = ops.conv2d(x, w, 1, kernel // 2)
    return f"numpy {np.__version__} {digest(found)} {digest(convolved)}"


def bits(name: str, style: str, folder: Path) -> dict[str, str]:
    """Digests of what the towers give: item by item as the reference does it, whole batches with taps, and trees."""
    checkpoint = cases.checkpoint(folder, cases.TINY[name], style)
    pixels, ids = cases.tiny_inputs(checkpoint.config)
    found = {}
    for dtype in ("float32", "float64"):
        reference, batched = ReferenceEngine(checkpoint, dtype), NumpyEngine(checkpoint, dtype)
        found[f"{dtype} alone"] = digest({"i": reference.encode_image(pixels), "t": reference.encode_text(ids)})
        embeddings, taps = cases.traced(batched, pixels.astype(dtype), ids)
        found[f"{dtype} batched"] = digest(embeddings)
        found[f"{dtype} taps"] = digest(taps)
        texts = [tuple(row[: row.argmax() + 1]) for row in ids]
        for engine in (reference, batched):
            trees = {
                str(tree.texts): engine.encode_tree(tree.ids, tree.positions, tree.visible, tree.ends)
                for tree in plant(texts)
            }
            found[f"{dtype} trees {type(engine).__name__}"] = digest(trees)
    return found


@pytest.mark.fast_cases("trained")
@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", cases.TINY)
def test_the_reference_gives_the_bits_that_it_gave(name: str, style: str, tmp_path: Path) -> None:
    recorded = json.loads(RECORDED.read_text(encoding="utf-8")).get(numpy_print())
    if recorded is None:
        pytest.skip("nothing was recorded from this numpy on this kind of processor")
    assert bits(name, style, tmp_path) == recorded[f"{name} {style}"]


def record() -> None:
    """Add this numpy's bits to the file."""
    known = json.loads(RECORDED.read_text(encoding="utf-8")) if RECORDED.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        known[numpy_print()] = {
            f"{name} {style}": bits(name, style, Path(folder) / f"{name}-{style}")
            for name, _, style in cases.cases(cases.TINY)
        }
    RECORDED.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(record())  # type: ignore[func-returns-value]
