"""Questions about what doesn't depend on the batch, on the time or on the values."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint

from ..goldens import goldens
from ..grading.units import frozen_units
from ..protocol import Array, Case, Exact, Question
from ..restated import preprocessing
from .make import question, write_checkpoint
from .models import TINY
from .towers import inputs, measure_tower, tower_exact


def properties() -> Iterator[Question]:
    """One model's towers asked in other batches, twice, and with extreme inputs."""
    for name in ("vit-a", "rn-a"):
        for tower in ("image", "text"):
            golden = goldens("tiny")[0][f"{name} plain"][tower]
            pieces = {
                "alone": ([2], ("PROP-1",)),
                "in reverse": (list(range(len(golden)))[::-1], ("PROP-1", "OUT-1")),
                "many": ([i % len(golden) for i in range(33)], ("PROP-1", "OUT-1")),
                "once": ([0, 1, 3], ("PROP-1", "PROP-3", "OUT-2")),
                "again": ([0, 1, 3], ("PROP-2",)),
            }
            for what, (rows, claims) in pieces.items():
                repeats = {"repeats": f"properties/{name} once/{tower}"} if what == "again" else {}
                yield question(
                    f"properties/{name} {what}/{tower}", claims, f"encode_{tower}", (name, "plain"),
                    partial(_some_inputs, name, tower, rows), repeats, partial(_some, name, tower, rows),
                )  # fmt: skip
            if name == "vit-a":
                for what, (claim, style, _) in _CHANGED.items():
                    id = f"properties/{name} {what}/{tower}"
                    yield Question(
                        id, "properties", f"encode_{tower}", (claim,),
                        partial(_changed_case, id, name, tower, what), _by_the_reference, f"{name}-{style}",
                        measure_tower,
                    )  # fmt: skip
            yield question(
                f"properties/{name} extremes/{tower}", ("PROP-4", "OUT-2"), f"encode_{tower}", (name, "plain"),
                partial(_extreme_inputs, name, tower), {}, _by_the_reference, measure_tower,
            )  # fmt: skip


def _changed_case(id: str, name: str, tower: str, what: str, folder: Path) -> Case:
    checkpoint = _write_changed(name, what, folder)
    return Case(id, "properties", f"encode_{tower}", (_CHANGED[what][0],), inputs(name, tower), {}, checkpoint)


def _some_inputs(name: str, tower: str, rows: list[int]) -> dict[str, Array]:
    return {key: x[rows] for key, x in inputs(name, tower).items()}


def _some(name: str, tower: str, rows: list[int], case: Case) -> Exact:
    whole = tower_exact(name, "plain", tower)[0]
    return Exact({"embeddings": whole.outputs["embeddings"][rows]}, whole.units)


def _extreme_inputs(name: str, tower: str) -> dict[str, Array]:
    """Black, white, grey, and a checkerboard; or the shortest text, and the longest of one word only."""
    config = TINY[name]
    if tower == "text":
        text = config.text
        ids = np.zeros((2, text.context_length), np.int64)
        ids[:, 0], ids[0, 1], ids[1, 1:-1], ids[1, -1] = (
            text.vocab_size - 2,
            text.vocab_size - 1,
            1,
            text.vocab_size - 1,
        )
        return {"ids": ids}
    side = config.vision.resolution
    levels = np.zeros((4, side, side, 3))
    levels[1], levels[2], levels[3] = 255, 128, np.indices((side, side)).sum(0)[..., None] % 2 * 255
    return {"pixels": np.stack([preprocessing.normalise(x) for x in levels])}


def _by_the_reference(case: Case) -> Exact:
    """No golden values: the float64 reference, which the towers' golden values hold."""
    assert case.checkpoint is not None
    (x,) = case.inputs.values()
    exact = getattr(NumpyEngine(Checkpoint(case.checkpoint), "float64"), case.verb)(x)
    return Exact({"embeddings": exact}, frozen_units(case.id))


def _write_changed(name: str, what: str, folder: Path) -> Path:
    """A plain checkpoint of which some weights are others."""
    from safetensors.numpy import load_file, save_file

    _, style, change = _CHANGED[what]
    path = folder / f"{name}-{style}"
    if not path.exists():
        shutil.copytree(write_checkpoint(name, "plain", folder), path)
        tensors = load_file(path / "model.safetensors")
        for key, x in tensors.items():
            change(key, x)
        save_file(tensors, path / "model.safetensors")
    return path


def _sharpen(name: str, x: Array) -> None:
    """Queries so long that exp(score) is more than float32 holds."""
    if name.endswith(("in_proj_weight", "in_proj_bias")):
        x[: len(x) // 3] *= 256


def _move_to_where_gelus_differ(name: str, x: Array) -> None:
    """The MLPs' activations around -2.2, where QuickGELU and GELU differ by a half, and MLPs that outweigh the rest.

    So the wrong one of them shows in every precision: in bfloat16, and in int8.
    """
    if name.endswith("mlp.c_fc.weight"):
        x *= 0.3
    elif name.endswith("mlp.c_fc.bias"):
        x[:] = x * 0.3 - 2.2
    elif name.endswith("mlp.c_proj.weight"):
        x *= 40


# What is asked of changed checkpoints: the claim, what the checkpoint is called, and the change of a tensor.
_CHANGED: dict[str, tuple[str, str, Callable[[str, Array], None]]] = {
    "large scores": ("OPS-2", "sharp", _sharpen),
    "where GELUs differ": ("BLK-5", "gelus", _move_to_where_gelus_differ),
}
