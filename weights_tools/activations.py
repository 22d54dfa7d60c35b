"""Looks at what a model computes: where activations are large, tokens stand out, heads are dead, and precisions fail.

`clipref inspect --run` prints it. Inputs are drawn scenes and their captions, or images that are given. Thresholds are
far from what trained models have, so that a clean one is not blamed; what was measured stands beside them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipref.backends import make_engine, overlay
from clipref.clip import CLIP
from clipref.engine import Engine, NumpyEngine
from clipref.numerics import rms, rms_error, to_bfloat16, unit_rows
from clipref.preprocessing import preprocess
from clipref.weights import Checkpoint

from .shapes import captions, world

Array = NDArray[Any]

FLOAT16_MAX = 65504.0
# The share of float16's range from which on an activation is told: other inputs may be larger.
_NEAR = 0.25
# A token stands out whose norm is so many times the median one of its item. The first token, which gathers what others
# have no use for in trained models, isn't looked at.
_HIGH_NORM = 10.0
# A head is dead whose result is so small beside the median head of its layer.
_DEAD = 1e-3
_SEEDS = range(4)
# Precisions that are tried, and the cosine below which one is told to fail.
_PRECISIONS = {"float16": 0.999, "bfloat16": 0.99, "int8": 0.95}
# The bounds have room: the three embedded models were measured with at most 0.05 % of float16's range, tokens of at
# most 2.3 times the median norm, no dead head, cosines of at least 0.999999 in float16, 0.99997 in bfloat16, 0.998 in
# int8.


def audit(checkpoint: Checkpoint, images: Sequence[Path] = ()) -> dict[str, Any]:
    """Largest values by activation, what stands out, and errors by precision, as JSON types.

    `images`: files that are looked at in the place of drawn scenes.
    """
    model = CLIP(checkpoint, "reference")
    scenes = [world.scene(seed) for seed in _SEEDS]
    pictures: list[Any] = list(images) or [scene.draw() for scene in scenes]
    texts = [captions.caption(scene) for scene in scenes]
    pixels = np.stack([preprocess(picture, model.config.vision.resolution) for picture in pictures])
    traces = [*(model.trace(pixels=x[None]) for x in pixels), *(model.trace(text=text) for text in texts)]
    largest: dict[str, float] = {}
    for trace in traces:
        for name, x in trace.items():
            if x.dtype.kind != "f":  # ids
                continue
            largest[name] = max(largest.get(name, 0.0), _largest(x))
    inputs: dict[str, Array] = {"encode_image": pixels, "encode_text": np.asarray(model.tokenize(texts), np.int64)}
    errors = {verb.removeprefix("encode_"): _errors(checkpoint, verb, x) for verb, x in inputs.items()}
    dead = sorted({found for trace in traces for found in _dead_heads(trace)} & _always_dead(traces))
    return {
        "largest": dict(sorted(largest.items(), key=lambda pair: -pair[1])),
        "share of float16": max(largest.values()) / FLOAT16_MAX,
        "high-norm tokens": _high_norms(traces),
        "dead heads": dead,
        "precisions": errors,
        "findings": list(_findings(largest, _high_norms(traces), dead, errors)),
    }


def _largest(x: Array) -> float:
    size = float(np.abs(x).max(initial=0.0))
    return size if np.isfinite(x).all() else float("inf")


def _high_norms(traces: Sequence[Mapping[str, Array]]) -> dict[str, float]:
    """By block, the largest norm of a token relative to the median one, where it stands out."""
    found: dict[str, float] = {}
    for trace in traces:
        for name, x in trace.items():
            if re.search(r"resblocks\.\d+$", name) and x.ndim == 3 and x.shape[1] > 3:
                norms = np.linalg.norm(x[:, 1:], axis=-1)
                ratio = float((norms.max(axis=1) / np.median(norms, axis=1)).max())
                if ratio > _HIGH_NORM:
                    found[name] = max(found.get(name, 0.0), ratio)
    return found


def _dead_heads(trace: Mapping[str, Array]) -> Iterator[str]:
    """The heads of a trace whose results are nothing beside the other heads'."""
    for name, x in trace.items():
        if name.endswith(".heads") and x.shape[1] > 1:
            sizes = np.array([rms(x[:, head]) for head in range(x.shape[1])])
            yield from (f"{name[: -len('.heads')]} head {i}" for i in np.flatnonzero(sizes < _DEAD * np.median(sizes)))


def _always_dead(traces: Sequence[Mapping[str, Array]]) -> set[str]:
    """The heads that are dead in every trace that has them."""
    dead, alive = set[str](), set[str]()
    for trace in traces:
        found = set(_dead_heads(trace))
        every = {
            f"{name[: -len('.heads')]} head {i}"
            for name, x in trace.items() if name.endswith(".heads") for i in range(x.shape[1])
        }  # fmt: skip
        dead |= found
        alive |= every - found
    return dead - alive


def _errors(checkpoint: Checkpoint, verb: str, x: Array) -> dict[str, dict[str, float]]:
    """By precision: the largest error relative to the root mean square, and the lowest cosine with float64.

    float16 and bfloat16 round every result of an operation; int8 is the backend onnx-int8.
    """
    exact = getattr(NumpyEngine(checkpoint, "float64"), verb)(x)
    found = {}
    for precision in _PRECISIONS:
        with np.errstate(all="ignore"):
            y = getattr(_engine(checkpoint, precision), verb)(x)
        finite = bool(np.isfinite(y).all())
        cosine = float((unit_rows(y) * unit_rows(exact)).sum(axis=1).min()) if finite else 0.0
        found[precision] = {"error": rms_error(y, exact) if finite else float("inf"), "cosine": cosine}
    return found


def _engine(checkpoint: Checkpoint, precision: str) -> Engine:
    if precision == "int8":
        return make_engine("onnx-int8", checkpoint, "float32").engine
    to = to_bfloat16 if precision == "bfloat16" else _to_float16
    operations = {name: _with_rounding(function, to) for name, function in vars(overlay(None)).items()}
    return NumpyEngine(checkpoint, "float32", overlay(SimpleNamespace(**operations)))


def _to_float16(x: Array) -> Array:
    return x.astype(np.float16).astype(np.float32)


def _with_rounding(function: Callable[..., Any], to: Callable[[Array], Array]) -> Callable[..., Any]:
    return lambda *arguments, **named: to(function(*arguments, **named))


def _findings(
    largest: Mapping[str, float], tokens: Mapping[str, float], dead: Sequence[str], errors: Mapping[str, Any]
) -> Iterator[str]:
    for name, size in largest.items():
        if size > FLOAT16_MAX:
            yield f"{name} reaches {size:.3g}, more than float16 holds ({FLOAT16_MAX:.0f})"
        elif size > _NEAR * FLOAT16_MAX:
            yield f"{name} reaches {size:.3g}, {size / FLOAT16_MAX:.0%} of what float16 holds"
    for name, ratio in tokens.items():
        yield f"{name} has tokens of {ratio:.0f} times the median norm"
    for head in dead:
        yield f"{head} gives nothing"
    for tower, by in errors.items():
        for precision, found in by.items():
            if not found["cosine"] >= _PRECISIONS[precision]:
                yield f"in {precision}, {tower} embeddings have a cosine of {found['cosine']:.4f} with the right ones"


def rows(audited: Mapping[str, Any], shown: int = 5) -> Iterator[tuple[str, str]]:
    """What `clipref inspect --run` prints: a title and a text a row."""
    for name, size in list(audited["largest"].items())[:shown]:
        yield "activation", f"up to {size:.4g}, {size / FLOAT16_MAX:.2%} of what float16 holds  {name}"
    for tower, by in audited["precisions"].items():
        told = ", ".join(f"{precision} {found['cosine']:.6f}" for precision, found in by.items())
        yield "precisions", f"cosines of {tower} embeddings with float64's, at least: {told}"
    for found in audited["findings"] or ["nothing stands out"]:
        yield "found", found
