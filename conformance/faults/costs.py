"""What a cause costs on everyday inputs: the cosine of wrong embeddings with right ones, on a small trained model.

Drawn scenes as photos have them, wide and high, RGB; captions in English. What changes none of them is rare. Of
ids, which the embedded models have others of, it is told whether everyday texts change.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np

from clipref.clip import CLIP
from clipref.hub import locate
from clipref.numerics import rms_error, unit_rows
from clipref.weights import Checkpoint
from clipref.weights_tools.shapes import captions, world

from .. import faults, packages
from ..protocol import Array, Case
from ..restated import preprocessing
from .changes import Operations
from .evidence import Cause
from .fault import WHOLE

_MODELS = {"vit": "clipref/shapes-vit", "resnet": "clipref/shapes-rn", "text": "clipref/shapes-vit",
           "preprocess": "clipref/shapes-vit"}  # fmt: skip
_SEEDS = range(4)
_SIZES = ((140, 100), (110, 151), (133, 97), (200, 150))  # one of which an offset that is floored changes
_TEXTS = ("a photo of a cat", "Two dogs play in the snow.", "my grandmother's birthday cake, 2019", "SALE: 50% off!")
_SAME = 1e-5
_UNCHANGED = 1e-10  # of 1 - cosine; what float32 rounds is less


def cost(cause: Cause, where: str, claimed: str) -> str:
    """In words, "everyday, cosines of 0.91 to 0.97" or "rare"; "" where there is nothing to measure it with, and
    where a package for that isn't installed.

    `claimed`: the profile of preprocessing that is right.
    """
    where = _step(cause, where) if where in WHOLE else where
    if packages.missing(*packages.TO_MEASURE_COSTS.get(where, ())):
        return ""
    try:
        with np.errstate(all="ignore"):
            if where == "tokenize":
                return "rare" if np.array_equal(_ids(cause), _ids(Cause((), claimed))) else "everyday"
            if where not in _MODELS or _is_elsewhere(cause):
                return ""
            right, wrong = _right(where, claimed), _embeddings(cause, where)
    except (ValueError, KeyError, IndexError):  # the cause can't be in these models
        return ""
    if right.shape != wrong.shape or not np.isfinite(wrong).all():
        return "everyday, no usable embeddings"
    far = 1 - (unit_rows(right.astype(np.float64)) * unit_rows(wrong.astype(np.float64))).sum(axis=1)
    if far.max() < _UNCHANGED:
        return "rare" if rms_error(wrong, right) < _SAME else "everyday, cosines of 1"
    low, high = (_cosine(x) for x in (far.max(), far.min()))
    return f"everyday, cosines of {low}{f' to {high}' if low != high else ''}"


def _step(cause: Cause, where: str) -> str:
    """The one place of a cause that was found from an image's file or a text on; "" if it is in several steps."""
    steps = [next(place for place in fault.places if place in WHOLE[where]) for fault in cause.faults]
    known = {*steps, *(["preprocess"] if not steps else [])}
    return known.pop() if len(known) == 1 and where != "compare" else ""


def _is_elsewhere(cause: Cause) -> bool:
    """Whether a cause is in the exact GELU alone, which the trained models don't have."""
    changed = [set(fault.change.functions) for fault in cause.faults if isinstance(fault.change, Operations)]
    return len(changed) == len(cause.faults) and all(names == {"gelu"} for names in changed) and bool(changed)


@cache
def _right(where: str, profile: str) -> Array:
    return _embeddings(Cause((), profile), where)


def _cosine(distance: float) -> str:
    """With as many digits as tell it from 1."""
    digits = 2 if distance >= 0.01 else min(9, 1 - int(np.floor(np.log10(max(distance, 1e-9)))))
    return f"{1 - distance:.{digits}f}"


def _ids(cause: Cause) -> Array:
    texts = {"texts": np.frombuffer(json.dumps(_TEXTS).encode(), np.uint8)}
    case = Case("everyday", "tokenize", "tokenize", (), texts, {"context_length": 77, "truncate": False})
    return faults.answer(case, cause.faults)["ids"]


def _embeddings(cause: Cause, where: str) -> Array:
    folder = locate(_MODELS[where])[0]
    if where == "text":
        return _answer("encode_text", folder, "ids", _captions(folder), cause)
    if where == "preprocess":
        pixels = np.concatenate([_pixels(folder, picture, cause)[None] for picture in _pictures()])
        return _answer("encode_image", folder, "pixels", pixels, Cause((), cause.profile))
    right = Cause((), cause.profile)
    pixels = np.concatenate([_pixels(folder, picture, right)[None] for picture in _pictures()])
    return _answer("encode_image", folder, "pixels", pixels, cause)


def _answer(verb: str, folder: Path, name: str, x: Array, cause: Cause) -> Array:
    case = Case("everyday", "towers", verb, (), {name: x}, {}, folder)
    return faults.answer(case, cause.faults, "float32")["embeddings"]


def _pixels(folder: Path, picture: Array, cause: Cause) -> Array:
    side = Checkpoint(folder).config.vision.resolution
    case = Case("everyday", "preprocess", "preprocess", (), {"image": picture}, {"resolution": side})
    return faults.answer(case, cause.faults, "float32", cause.profile)["pixels"].astype(np.float32)


@cache
def _pictures() -> tuple[Array, ...]:
    scenes = (world.scene(seed).draw(max(size)).convert("RGB") for seed, size in zip(_SEEDS, _SIZES, strict=True))
    return tuple(preprocessing.png(scene.crop((0, 0, *size))) for scene, size in zip(scenes, _SIZES, strict=True))


@cache
def _captions(folder: Path) -> Array:
    checkpoint = Checkpoint(folder)
    texts = [captions.caption(world.scene(seed)) for seed in _SEEDS]
    return CLIP(checkpoint).tokenize(texts).astype(np.int64)
