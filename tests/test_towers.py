"""The towers against golden values of implementations that share no code with ours; mutants are beside the faults."""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clipref import ops
from clipref.backends import overlay
from clipref.config import ResNetConfig, ViTConfig
from clipref.conformance.goldens import goldens
from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

from . import cases
from .tolerances import FLOAT32_MARGIN, assert_close

Case = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Checkpoint]:
    """The tiny checkpoints, each made once."""

    @cache
    def make(name: str, style: str) -> Checkpoint:
        return cases.checkpoint(tmp_path_factory.mktemp(name), cases.TINY[name], style)

    return make


def check(engine: NumpyEngine, golden: Case, pixels: np.ndarray, ids: np.ndarray, scale: float) -> set[str]:
    """Compare embeddings, logits and taps with the golden ones; returns which taps were there."""
    embeddings, taps = cases.traced(engine, pixels, ids)
    for name, expected in golden.items():
        if name in ("image", "text"):
            actual = embeddings[name]
        elif name == "logits":
            actual = cases.logits(embeddings["image"], embeddings["text"], scale)
        else:
            actual = cases.sample(taps[name])
        assert_close(actual, expected, "oracle float64")
    return set(golden) & set(taps)


@pytest.mark.parametrize("name", cases.TINY)
def test_no_two_axes_of_a_tiny_case_are_equally_long(name: str) -> None:
    config = cases.TINY[name]
    pixels, ids = cases.tiny_inputs(config)
    text, colours = config.text, pixels.shape[1]
    vision = config.vision
    assert isinstance(vision, ViTConfig | ResNetConfig)
    width = vision.width * (32 if isinstance(vision, ResNetConfig) else 1)
    positions = vision.grid**2 + 1
    image = [len(pixels), positions, config.embed_dim, width, 3 * width, vision.heads, width // vision.heads]
    if isinstance(vision, ViTConfig):
        # The colours are gone when there are heads, and the sides of patches when there are channels.
        groups = [[*image, vision.mlp_width], [len(pixels), colours, vision.patch_size, vision.grid, vision.width]]
    else:
        stem = [len(pixels), colours, vision.width // 2, vision.width, vision.resolution // 2]
        stages = [
            [len(pixels), vision.width << stage, vision.width << stage + 2, vision.resolution >> stage + 2]
            for stage in range(4)
        ]
        groups = [image, stem, *stages]
    groups.append(
        [len(ids), text.context_length, text.vocab_size, text.width, 3 * text.width, text.mlp_width, text.heads,
         text.width // text.heads, config.embed_dim]
    )  # fmt: skip
    for group in groups:
        assert len(set(group)) == len(group), group


@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", cases.TINY)
def test_tiny_towers_agree_with_the_oracle(made: Callable[[str, str], Checkpoint], name: str, style: str) -> None:
    checkpoint = made(name, style)
    golden, notes = (part[f"{name} {style}"] for part in goldens("tiny"))
    assert cases.digest(checkpoint.file.path) == notes["weights sha256"], (
        "the synthetic weights are not the golden ones"
    )
    config = checkpoint.config
    pixels, ids = cases.tiny_inputs(config)
    compared = check(NumpyEngine(checkpoint, "float64"), golden, pixels, ids, checkpoint.logit_scale)
    assert len(compared) >= 4
    single = NumpyEngine(checkpoint, "float32")
    check_float32({"image": single.encode_image(pixels), "text": single.encode_text(ids)}, golden, notes)


def check_float32(actual: Case, golden: Case, notes: dict[str, Any]) -> dict[str, float]:
    """Float32 errs at most FLOAT32_MARGIN times as much as the oracle's own float32 run; returns how many times."""
    times = {}
    for tower, values in actual.items():
        assert values.dtype == np.float32
        exact = golden[tower]
        error = np.abs(values - exact).max() / np.sqrt((exact**2).mean())
        allowed = FLOAT32_MARGIN * notes["float32 error"][tower]
        assert error <= allowed, f"{tower}: float32 errs by {error:.2e}, allowed {allowed:.2e}"
        times[tower] = round(float(error / notes["float32 error"][tower]), 2)
    return times


FULL = """
import resource, sys
from clipref.engine import NumpyEngine, ReferenceEngine
from clipref.backends import make_engine
from clipref.kernels import onnx_int8
from clipref.weights import Checkpoint
from tests import cases, test_towers, tolerances
name, style, folder = sys.argv[1:]
golden, notes = (part[f"{name} {style}"] for part in test_towers.goldens("full"))
checkpoint = Checkpoint(folder)
assert cases.digest(checkpoint.file.path) == notes["weights sha256"]
pixels, ids = cases.full_inputs(checkpoint.config)

def peak():
    return f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"

def float32(engine):
    found = {"image": engine.encode_image(pixels), "text": engine.encode_text(ids)}
    times = test_towers.check_float32(found, golden, notes)
    print(name, style, type(engine).__name__, times, peak())

# The memory is the highest so far: so the reference comes first, and float64 after float32.
float32(ReferenceEngine(checkpoint, "float32"))
taps = test_towers.check(NumpyEngine(checkpoint, "float64"), golden, pixels, ids, checkpoint.logit_scale)
assert len(taps) >= 5, taps
print(name, style, "float64", peak())
for backend in ("onnx", "blas"):
    float32(make_engine(backend, checkpoint, "float32").engine)
engine = onnx_int8.engine(checkpoint, "float32")
near = {
    "image": tolerances.cosines(engine.encode_image(pixels), golden["image"]).min(),
    "text": tolerances.cosines(engine.encode_text(ids), golden["text"]).min(),
}
print(name, style, "onnx-int8, cosines", near, peak())
assert min(near.values()) >= tolerances.INT8_COSINE_OF.get(name, tolerances.INT8_COSINE), near
"""


@pytest.mark.slow
@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", cases.FULL)
def test_full_size_towers_agree_with_the_oracle(name: str, style: str) -> None:
    # In a process of its own, so that the memory of one size is given back before the next, and is that of the towers.
    with tempfile.TemporaryDirectory() as folder:
        cases.checkpoint(Path(folder), cases.FULL[name], style)
        run = subprocess.run(
            [sys.executable, "-c", FULL, name, style, str(Path(folder) / f"checkpoint-{style}")],
            cwd=Path(__file__).parent.parent, capture_output=True, text=True,
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    print(run.stdout)


@pytest.mark.parametrize("style", synthetic.STYLES)
def test_float32_inside_is_caught(made: Callable[[str, str], Checkpoint], style: str) -> None:
    checkpoint = made("vit-a", style)
    engine = NumpyEngine(checkpoint, "float64")

    def through_float32(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
        return ops.linear(x, weight, bias).astype(np.float32).astype(np.float64)

    engine.ops = overlay(SimpleNamespace(linear=through_float32))
    with pytest.raises(AssertionError, match="eps of the RMS"):
        check(
            engine, goldens("tiny")[0][f"vit-a {style}"], *cases.tiny_inputs(checkpoint.config), checkpoint.logit_scale
        )
