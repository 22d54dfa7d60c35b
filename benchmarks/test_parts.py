"""The parts of an embedding, timed one by one: `python -m pytest benchmarks --benchmark-enable`."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, ops, preprocess, tokenize
from clipref.weights_tools.shapes import captions, world

GENERATOR = np.random.Generator(np.random.PCG64(0))


def normal(*shape: int) -> Any:
    return GENERATOR.standard_normal(shape, dtype=np.float32)


@pytest.fixture(scope="module")
def jpeg() -> bytes:
    """A photo-like JPEG of 500 x 400 pixels."""
    from PIL import Image

    file = io.BytesIO()
    smooth = Image.fromarray(GENERATOR.integers(0, 256, (40, 50, 3), dtype=np.uint8)).resize((500, 400))
    smooth.save(file, "JPEG", quality=90)
    return file.getvalue()


def test_preprocess(benchmark: Any, jpeg: bytes) -> None:
    benchmark(preprocess, jpeg)


def test_tokenize(benchmark: Any) -> None:
    texts = [captions.caption(world.scene(seed)) for seed in range(100)]
    benchmark(tokenize, texts)


# The shapes of ViT-B-32 on a batch of 8.
OPERATIONS = {
    "linear": (normal(8, 50, 768), normal(3072, 768), normal(3072)),
    "layer_norm": (normal(8, 50, 768), normal(768), normal(768)),
    "quick_gelu": (normal(8, 50, 3072),),
    "gelu": (normal(1, 50, 3072),),
    "attention": (normal(8, 12, 50, 64), normal(8, 12, 50, 64), normal(8, 12, 50, 64)),
    "conv2d": (normal(8, 3, 224, 224), normal(768, 3, 32, 32), 32),
    "batch_norm": (normal(8, 64, 56, 56), normal(64), normal(64), normal(64), normal(64) ** 2),
    "avg_pool": (normal(8, 64, 56, 56), 2),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(benchmark: Any, name: str) -> None:
    benchmark(getattr(ops, name), *OPERATIONS[name])


@pytest.mark.parametrize("backend", ["reference", "onnx"])
@pytest.mark.parametrize("model", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_embedded_model(benchmark: Any, model: str, backend: str, tmp_path: Path) -> None:
    opened = AutoModel.from_pretrained(model, backend=backend)
    pictures = [world.scene(seed).draw() for seed in range(8)]
    benchmark(opened.embed_images, pictures)
