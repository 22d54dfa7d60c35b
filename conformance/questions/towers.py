"""Questions about the towers: embeddings and activations of synthetic models, tiny or of a published size."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache, partial

import numpy as np

from clipref.config import ClipConfig
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

from ..goldens import goldens, sample
from ..grading import rounding, units
from ..grading.units import frozen_units
from ..protocol import Array, Case, Exact, Question, Units
from .make import question
from .models import FULL, TINY, full_inputs, tiny_inputs

_BLOCK = ("BLK-1", "BLK-2", "BLK-3", "BLK-4", "BLK-5", "BLK-6")
_OUTPUT = ("OUT-1", "OUT-2", "OUT-3")
TEXT_CLAIMS = (*_BLOCK, "TXT-1", "TXT-2", "TXT-3", "TXT-4", "OPS-2", *_OUTPUT)
_VIT = (*_BLOCK, "VIT-1", "VIT-2", "VIT-3", "VIT-4", "VIT-5", "OPS-1", "OPS-2", *_OUTPUT)
_RESNET = ("RN-1", "RN-2", "RN-3", "RN-4", "BLK-3", "OPS-1", "OPS-2", *_OUTPUT)


def describe() -> Iterator[Question]:
    """The numbers of each tiny model."""
    for name, config in TINY.items():
        numbers = {
            "embed_dim": config.embed_dim, "resolution": config.vision.resolution,
            "context_length": config.text.context_length, "vocab_size": config.text.vocab_size,
        }  # fmt: skip
        exact = Exact({key: np.asarray(value) for key, value in numbers.items()})
        yield question(f"describe/{name}", ("DESC-1",), "describe", (name, "plain"), {}, {}, lambda case, e=exact: e)


def towers(level: str, models: Mapping[str, ClipConfig]) -> Iterator[Question]:
    """Both towers of models in both styles of weights: embeddings, or activations where the level is "taps"."""
    verb = "trace" if level == "taps" else "encode"
    for name, config in models.items():
        for style in synthetic.STYLES:
            for tower, claims in (("image", image_claims(config)), ("text", TEXT_CLAIMS)):
                yield question(
                    f"{level}/{name.removeprefix('clip/')} {style}/{tower}", claims, f"{verb}_{tower}", (name, style),
                    partial(inputs, name, tower), {}, partial(_encode, name, style), measure_tower,
                )  # fmt: skip


def image_claims(config: ClipConfig) -> tuple[str, ...]:
    """What a question about an image tower covers."""
    return {"resnet": _RESNET, "vit": _VIT}[config.vision.family]


def inputs(name: str, tower: str) -> dict[str, Array]:
    """The pixels [N, 3, R, R] or the ids [N, T] that a tower of a model is asked about."""
    pixels, ids = _inputs(name)
    return {"pixels": pixels.copy()} if tower == "image" else {"ids": ids.copy()}


@cache
def _inputs(name: str) -> tuple[Array, Array]:
    return tiny_inputs(TINY[name]) if name in TINY else full_inputs(FULL[name])


@cache
def tower_exact(name: str, style: str, tower: str) -> tuple[Exact, Exact]:
    """The right embeddings and the right activations of a tower on its inputs, with their units."""
    tiny = name in TINY
    golden = goldens("tiny" if tiny else "full")[0][f"{name} {style}"]
    key = f"{name.removeprefix('clip/')} {style}/{tower}"
    embeddings = Exact({"embeddings": golden[tower]}, frozen_units(f"{'towers' if tiny else 'full'}/{key}"))
    if not tiny:
        return embeddings, Exact({})
    taps = {
        key: x for key, x in golden.items()
        if key not in ("image", "text", "logits") and key.startswith("visual") == (tower == "image")
    }  # fmt: skip
    taps["visual" if tower == "image" else "text_projection"] = sample(golden[tower])
    return embeddings, Exact(taps, frozen_units(f"taps/{key}"))


def _encode(name: str, style: str, case: Case) -> Exact:
    if case.level == "full" and case.id not in units.table():
        return _measure_in_full(name, style, case)
    verb, _, tower = case.verb.partition("_")
    embeddings, taps = tower_exact(name, style, tower)
    return embeddings if verb == "encode" else taps


_in_full: dict[str, Exact] = {}


def _measure_in_full(name: str, style: str, case: Case) -> Exact:
    """A size of which no units are frozen: they are measured here, once a process."""
    if case.id not in _in_full:
        exact = Exact({"embeddings": goldens("full")[0][f"{name} {style}"][case.verb.partition("_")[2]]})
        _in_full[case.id] = Exact(exact.outputs, measure_tower(case, exact))
    return _in_full[case.id]


def measure_tower(case: Case, exact: Exact) -> Units:
    """The units of what a tower answers: embeddings or activations."""
    assert case.checkpoint is not None
    (x,) = case.inputs.values()
    orders = rounding.FEW_ORDERS if case.level == "full" else rounding.ORDERS
    verb = case.verb.replace("trace", "encode")
    return rounding.units(Checkpoint(case.checkpoint), verb, x, exact.outputs, orders)
