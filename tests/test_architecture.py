"""A kind of tower is one file: nobody else tells kinds apart, and a new one needs a row of the registry."""

import ast
import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from clipref import AutoModel, ConfigError, towers
from clipref.architecture import Activation, Family, ImageConfig, Shape, Shapes, axis_of, check_counts
from clipref.config import ClipConfig, tensor_shapes
from clipref.transformer import Array, Ops, Params, Tap, no_tap
from clipref.weights_tools import synthetic
from clipref.weights_tools.export_onnx import export_onnx
from clipref.weights_tools.infer import infer_config

from . import cases
from .imports import mentions
from .tolerances import INT8_COSINE, assert_close, cosines

ROOT = Path(__file__).parent.parent
ROOMS = ("clipref", "kernels", "weights_tools", "conformance", "benchmarks")
KINDS = {kind.__name__ for kind in towers.ENCODERS} - {"TextConfig"}  # which the other kinds of text tower are too


@pytest.mark.parametrize("room", ROOMS)
def test_nobody_asks_of_what_kind_a_tower_is(room: str) -> None:
    for path in (path for path in sorted((ROOT / room).rglob("*.py")) if mentions(path, KINDS)):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
                named = {x.id for x in ast.walk(node.args[1]) if isinstance(x, ast.Name)}
                assert not named & KINDS, f"{path.name}:{node.lineno} tells {named & KINDS} apart"


@pytest.mark.parametrize("file", towers.FILES, ids=lambda file: file.__name__)
def test_a_towers_file_knows_no_whole_model(file: Any) -> None:
    below = {"arguments", "architecture", "errors", "transformer", "vision_transformer", "text_transformer"}
    for node in ast.walk(ast.parse(Path(file.__file__).read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.module in below, f"{file.__name__} imports {node.module}"


@dataclass(frozen=True)
class PatchworkConfig(ImageConfig):
    """Patches, as a ViT has them, with nothing behind them but their mean."""

    kind: ClassVar[str] = "patchwork"
    family: ClassVar[Family] = "vit"
    title: ClassVar[str] = "Patchwork"

    patch_size: int
    width: int

    @property
    def grid(self) -> int:
        return self.resolution // self.patch_size

    @property
    def widest(self) -> int:
        return self.grid**2 * self.width

    def check(self, where: str) -> None:
        check_counts(where, {"resolution": self.resolution, "patch_size": self.patch_size, "width": self.width})

    def shapes(self, embed_dim: int) -> dict[str, Shape]:
        return {"patches.weight": (self.width, 3, self.patch_size, self.patch_size), "proj": (self.width, embed_dim)}

    @classmethod
    def is_in(cls, names: Collection[str]) -> bool:
        return "visual.patches.weight" in names

    @classmethod
    def infer(cls, shapes: Shapes, activation: Activation, heads: int | None) -> tuple[Any, int]:
        width, patch_size = (axis_of(shapes, "visual.patches.weight", axis) for axis in (0, 3))
        return cls(4 * patch_size, patch_size, width), axis_of(shapes, "visual.proj", 1)


def encode_image(
    ops: Ops, pixels: Array, config: PatchworkConfig, tap: Tap = no_tap, *, patches: Params, proj: Array
) -> Array:
    x = ops.conv2d(pixels, **patches, stride=config.patch_size)  # [N, W, G, G]
    n, width, rows, columns = x.shape
    x = ops.prepend_mean(x.reshape(n, width, rows * columns).swapaxes(1, 2))[:, 0]
    return tap("visual", x @ proj)


def test_a_new_kind_is_a_file_and_a_row(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = ClipConfig(13, PatchworkConfig(20, 5, 24), cases.TINY["vit-a"].text)
    with pytest.raises(ConfigError, match=r"vision\.kind is 'patchwork'; expected one of \['clipa', 'resnet', 'vit'\]"):
        ClipConfig.from_dict(config.to_dict())
    # What the first row of `FILES` does. Modules have the tables by name, so that these change in place.
    monkeypatch.setitem(towers.ENCODERS, PatchworkConfig, encode_image)
    with first(towers.IMAGE_KINDS, "patchwork", PatchworkConfig):
        check_everywhere(config, tmp_path)


@contextmanager
def first(table: Any, key: str, value: Any) -> Iterator[None]:
    """A table with a row before all others; afterwards as it was, its order too."""
    rows = dict(table)
    table.clear()
    table.update({key: value, **rows})
    try:
        yield
    finally:
        table.clear()
        table.update(rows)


def check_everywhere(config: ClipConfig, tmp_path: Path) -> None:
    """JSON, tensors and back, and what every backend makes of pixels, against a statement of the tower in numpy."""
    assert ClipConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert infer_config(tensor_shapes(config), "quick_gelu", text_heads=config.text.heads) == config
    folder = synthetic.write(tmp_path / "model", config, 3, "plain")
    pixels = cases.pixels(config, 3)
    right = AutoModel.from_pretrained(folder, backend="reference", dtype="float64").encode_image(pixels)
    weights, proj = (
        AutoModel.from_pretrained(folder)._checkpoint.file.read(f"visual.{name}", "float64")
        for name in ("patches.weight", "proj")
    )
    squares = pixels.reshape(3, 3, 4, 5, 4, 5).transpose(0, 2, 4, 1, 3, 5).reshape(3, 16, -1).astype("f8")
    np.testing.assert_allclose(right, squares.mean(axis=1) @ weights.reshape(24, -1).T @ proj, rtol=1e-10)
    for backend in ("reference", "blas", "onnx", "onnx-int8"):
        found = AutoModel.from_pretrained(folder, backend=backend).encode_image(pixels)
        if backend == "onnx-int8":
            assert cosines(found, right).min() > INT8_COSINE
        else:
            assert_close(found, right.astype(np.float32), "onnx")
    assert max(dict(export_onnx(folder, tmp_path / "onnx")).values()) < 1e-5
