"""The towers against golden values of implementations that share no code with ours, and mutants that these catch."""

import dataclasses
import json
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
from safetensors import safe_open

from clipref import ops
from clipref.config import ResNetConfig, ViTConfig
from clipref.engine import NumpyEngine, overlay
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

from . import cases
from .tolerances import FLOAT32_MARGIN, assert_close

Case = dict[str, np.ndarray]


@cache
def goldens(which: str) -> tuple[dict[str, Case], dict[str, Any]]:
    """The golden arrays and the notes of every case."""
    found: dict[str, Case] = {}
    with safe_open(cases.GOLDEN / f"{which}.safetensors", framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118
            name, style, array = key.split(" ")
            found.setdefault(f"{name} {style}", {})[array] = file.get_tensor(key)
        return found, json.loads(file.metadata()["provenance"])["cases"]


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
    vision, text, colours = config.vision, config.text, pixels.shape[1]
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
from clipref.kernels import blas, onnx
from clipref.weights import Checkpoint
from tests import cases, test_towers
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
for kernels in (onnx, blas):
    float32(kernels.engine(checkpoint, "float32"))
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


Mutate = Callable[[NumpyEngine], dict[str, Any]]  # the operations to override, or changes made in place


def layer_norm(eps: float, ddof: int = 0) -> Callable[..., np.ndarray]:
    def wrong(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True, ddof=ddof) + eps) * weight + bias

    return wrong


def without_norm(name: str) -> Mutate:
    def mutate(engine: NumpyEngine) -> dict[str, Any]:
        skipped = engine._visual()[name]["weight"]

        def wrong(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
            return x if weight is skipped else ops.layer_norm(x, weight, bias)

        return {"layer_norm": wrong}

    return mutate


def scaled(factor: float) -> Callable[..., np.ndarray]:
    return lambda q, k, v, visible=None: ops.attention(q * q.shape[-1] ** factor, k, v, visible)


def tanh_gelu(x: np.ndarray) -> np.ndarray:
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def through_float32(x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None = None) -> np.ndarray:
    return ops.linear(x, weight, bias).astype(np.float32).astype(np.float64)


def flipped(x: np.ndarray, weight: np.ndarray, stride: int = 1, padding: int = 0) -> np.ndarray:
    return ops.conv2d(x, weight[:, :, ::-1, ::-1], stride, padding)


def pooled_at(position: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Callable[..., Any]:
    def wrong(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        end = ids.argmax(1)
        return ids, position(ids, end)[:, None]

    return wrong


def batch_norm(eps: float) -> Callable[..., np.ndarray]:
    def wrong(x: np.ndarray, weight: Any, bias: Any, running_mean: Any, running_var: Any) -> np.ndarray:
        return ops.batch_norm(x, weight, bias, running_mean, running_var + (eps - 1e-5))

    return wrong


def stacked(order: tuple[int, int, int]) -> Mutate:
    def mutate(engine: NumpyEngine) -> dict[str, Any]:
        for block in engine._text()["transformer"]["resblocks"]:
            for name in ("in_proj_weight", "in_proj_bias"):
                thirds = np.split(block["attn"][name], 3)
                block["attn"][name] = np.concatenate([thirds[i] for i in order])
        return {}

    return mutate


def one_head(engine: NumpyEngine) -> dict[str, Any]:
    config = engine.config
    engine.config = dataclasses.replace(
        config,
        vision=dataclasses.replace(config.vision, heads=1),
        text=dataclasses.replace(config.text, heads=1),
    )
    return {}


def no_downsampling_norm(engine: NumpyEngine) -> dict[str, Any]:
    norm = engine._visual()["layer2"][0]["downsample"][1]
    norm["running_mean"] = np.zeros_like(norm["running_mean"])
    return {}


def override(**functions: Any) -> Mutate:
    return lambda engine: functions


def without_diagonal(ids: np.ndarray) -> np.ndarray:
    seen = ops.causal(ids) & ~np.eye(ids.shape[1], dtype=bool)
    seen[:, 0, 0] = True  # the first has nothing else to see
    return seen


BOTH = {
    "attention without its scale": override(attention=scaled(0.5)),
    "attention scaled twice": override(attention=scaled(-0.5)),
    "one head": one_head,
    "no causal mask": override(causal=lambda ids: np.ones_like(ops.causal(ids))),
    "a mask that hides the diagonal": override(causal=without_diagonal),
    "q and k exchanged": stacked((1, 0, 2)),
    "v before k": stacked((0, 2, 1)),
    "text pooled at the last column": override(
        find_end_of_text=pooled_at(lambda i, e: np.full(len(i), i.shape[1] - 1))
    ),
    "text pooled at the start": override(find_end_of_text=pooled_at(lambda i, e: e * 0)),
    "text pooled before the end": override(find_end_of_text=pooled_at(lambda i, e: e - 1)),
    "text pooled at the last of two ends": override(
        find_end_of_text=pooled_at(lambda i, e: i.shape[1] - 1 - i[:, ::-1].argmax(1))
    ),
    "text positions shifted": override(add_positions=lambda x, p: x + np.roll(p, 1, axis=0)[: x.shape[1]]),
    "LayerNorm eps 1e-6": override(layer_norm=layer_norm(1e-6)),
    "LayerNorm eps 1e-12": override(layer_norm=layer_norm(1e-12)),
    "LayerNorm of the unbiased variance": override(layer_norm=layer_norm(1e-5, ddof=1)),
    "exact GELU": override(quick_gelu=ops.gelu),
    "tanh GELU": override(quick_gelu=tanh_gelu),
    "SiLU": override(quick_gelu=lambda x: x / (1 + np.exp(-x))),
    "float32 inside": override(linear=through_float32),
    "convolution that flips its kernel": override(conv2d=flipped),
}
VIT = {
    "no ln_pre": without_norm("ln_pre"),
    "no ln_post": without_norm("ln_post"),
    "class token last": override(prepend_token=lambda x, t: np.roll(ops.prepend_token(x, t), -1, axis=1)),
}
RESNET = {
    "BatchNorm eps 1e-3": override(batch_norm=batch_norm(1e-3)),
    "BatchNorm eps 1e-6": override(batch_norm=batch_norm(1e-6)),
    "max pool": override(
        avg_pool=lambda x, size: x.reshape(*x.shape[:2], x.shape[2] // size, size, -1, size).max(axis=(3, 5))
    ),
    "stride instead of pool": override(avg_pool=lambda x, size: x[:, :, ::size, ::size]),
    "no mean token": override(prepend_mean=lambda x: np.concatenate([x[:, :1], x], axis=1)),
    "no ReLU": override(relu=lambda x: x),
    "running mean forgotten": no_downsampling_norm,
}
MUTANTS = [
    *((name, case, mutant) for name, mutant in BOTH.items() for case in ("vit-c", "rn-a")),
    *((name, "vit-a", mutant) for name, mutant in VIT.items()),
    *((name, "rn-b", mutant) for name, mutant in RESNET.items()),
]


@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize(("name", "case", "mutant"), MUTANTS, ids=[f"{name} in {case}" for name, case, _ in MUTANTS])
def test_mutants_are_caught(
    made: Callable[[str, str], Checkpoint], name: str, case: str, style: str, mutant: Mutate
) -> None:
    checkpoint = made(case, style)
    engine = NumpyEngine(checkpoint, "float64")
    engine.ops = overlay(SimpleNamespace(**mutant(engine)))
    golden = {key: value for key, value in goldens("tiny")[0][f"{case} {style}"].items() if key in ("image", "text")}
    pixels, ids = cases.tiny_inputs(checkpoint.config)
    with pytest.raises(AssertionError, match="eps of the RMS"):
        check(engine, golden, pixels, ids, checkpoint.logit_scale)
