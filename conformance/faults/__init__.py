"""Known ways to get CLIP wrong, each a small change to the reference, and what the reference answers with them.

An answer that is not CLIP's is compared with what each of these gives; the one that gives the same is what is wrong.
Sources: the issues of the projects that port CLIP, and what its code does differently from what one expects.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from clipref.weights import read_config

from ..protocol import Array, Case, Outputs, Unsupported
from ..restated import preprocessing, similarity, tokenizer
from . import catalogue, changes, images, steps
from .fault import WHOLE, Place
from .fault import Fault as Fault
from .tower import read_tower

TOWERS: tuple[Fault, ...] = (*catalogue.FAULTS, *images.FAULTS, *catalogue.OUTPUTS)
FAULTS: tuple[Fault, ...] = (*TOWERS, *steps.PREPROCESS, *steps.TOKENIZE, *steps.SIMILARITY)
BY_ID = {fault.id: fault for fault in FAULTS}


Where: TypeAlias = Place | Literal["operation", "embed_image", "embed_text", "compare"]


def place(case: Case) -> Where | None:
    """Where the faults are that a case can show; None if there are none."""
    if case.verb in ("encode_image", "trace_image"):
        assert case.checkpoint is not None
        return read_config(case.checkpoint / "config.json").vision.family
    places: dict[str, Where] = {
        "encode_text": "text", "trace_text": "text", "preprocess": "preprocess", "tokenize": "tokenize",
        "similarity": "similarity", "operation": "operation", "embed_image": "embed_image",
        "embed_text": "embed_text", "compare": "compare",
    }  # fmt: skip
    return places.get(case.verb)


def of(where: Where | None) -> tuple[Fault, ...]:
    """The faults that can be there."""
    if where == "operation":
        return TOWERS
    return tuple(fault for fault in FAULTS if where is not None and _concerns(fault, where))


def _concerns(fault: Fault, where: Where) -> bool:
    return bool({*WHOLE.get(where, (where,))} & {*fault.places})


def answer(
    case: Case,
    faults: Sequence[Fault] = (),
    dtype: Literal["float32", "float64"] = "float64",
    profile: str = "openai",
) -> Outputs:
    """What the reference with these faults answers. Raises ValueError if they can't be together, or not in this case.

    `profile` is that of preprocessing which the faults change.
    """
    with np.errstate(all="ignore"):
        if case.verb in ("encode_image", "encode_text", "trace_image", "trace_text"):
            return _encode(case, faults, dtype)
        if case.verb == "operation":
            arguments = {name: _cast(x, dtype) for name, x in case.inputs.items()}
            settings = {name: value for name, value in case.attributes.items() if name != "name"}
            return {"y": changes.operation(case.attributes["name"], faults)(**arguments, **settings)}
        if case.verb in WHOLE:
            return _embed(case, faults, dtype, profile)
        changed = _merge_steps(faults)
        if case.verb == "preprocess":
            made = dataclasses.replace(preprocessing.PROFILES[profile], **changed)
            opened = preprocessing.open_png(case.inputs["image"])
            return {"pixels": preprocessing.preprocess(opened, case.attributes["resolution"], made, dtype)}
        if case.verb == "tokenize":
            texts = json.loads(case.inputs["texts"].tobytes())
            length, truncate = case.attributes["context_length"], case.attributes["truncate"]
            return {"ids": tokenizer.tokenize(texts, length, truncate, tokenizer.Steps(**changed))}
        if case.verb == "similarity":
            image, text, logit_scale = (_cast(case.inputs[name], dtype) for name in ("image", "text", "logit_scale"))
            return similarity.compare(image, text, logit_scale, similarity.Steps(**changed))
    raise ValueError(f"no fault concerns {case.verb}")


def _cast(x: Array, dtype: str) -> Array:
    return x.astype(dtype) if x.dtype.kind == "f" else x


def _merge_steps(faults: Sequence[Fault]) -> dict[str, Any]:
    changed: dict[str, Any] = {}
    for fault in faults:
        assert isinstance(fault.change, Mapping)
        if changed.keys() & fault.change.keys():
            raise ValueError(f"{fault.id} changes a step that another fault changes too")
        changed |= fault.change
    return changed


def _encode(case: Case, faults: Sequence[Fault], dtype: Literal["float32", "float64"]) -> Outputs:
    assert case.checkpoint is not None
    tower = read_tower(case.checkpoint, "image" if case.verb.endswith("image") else "text", dtype)
    for fault in faults:
        assert callable(fault.change)
        tower = fault.change(tower)
    taps: dict[str, Array] = {}
    added = f".resblocks.{getattr(tower.config, 'layers', '')}"  # a block that a fault needs, and no model has

    def tap(name: str, x: Array) -> Array:
        if added not in name:
            taps[name] = x
        return x

    (x,) = case.inputs.values()
    embeddings = tower.encode(_cast(x, dtype), tap)
    return taps if case.verb.startswith("trace") else {"embeddings": embeddings}


def _embed(case: Case, faults: Sequence[Fault], dtype: Literal["float32", "float64"], profile: str) -> Outputs:
    """From an image's file, texts or both on, each step with the faults that concern it."""
    assert case.checkpoint is not None
    config, embeddings = read_config(case.checkpoint / "config.json"), []

    def step(verb: str, where: Place, inputs: dict[str, Array], attributes: dict[str, Any]) -> Array:
        asked = Case(case.id, case.level, verb, case.claims, inputs, attributes, case.checkpoint)
        (made,) = answer(asked, [fault for fault in faults if where in fault.places], dtype, profile).values()
        return made

    if "image" in case.inputs:
        pixels = step("preprocess", "preprocess", {"image": case.inputs["image"]},
                      {"resolution": config.vision.resolution})  # fmt: skip
        embeddings.append(step("encode_image", config.vision.family, {"pixels": pixels.astype(np.float32)[None]}, {}))
    if "texts" in case.inputs:
        settings = {"context_length": config.text.context_length, "truncate": False}
        ids = step("tokenize", "tokenize", {"texts": case.inputs["texts"]}, settings)
        embeddings.append(step("encode_text", "text", {"ids": ids.astype(np.int64)}, {}))
    if case.verb != "compare":
        return {"embeddings": embeddings[0]}
    changed = _merge_steps([fault for fault in faults if "similarity" in fault.places])
    image, text = embeddings
    found = similarity.compare(image, text, np.zeros((), dtype), similarity.Steps(**changed))
    return {"similarity": found["cosines"].reshape(-1)}


class FaultyEngine:
    """The reference in float32 with some faults, as an engine under test: the suite must find them."""

    def __init__(self, *faults: Fault) -> None:
        self.faults = faults

    def answer(self, case: Case) -> Outputs:
        """What the reference with the faults that concern a case answers."""
        where = place(case)
        if where is None or where == "operation":
            raise Unsupported(f"{case.verb} has no known faults")
        return answer(case, [fault for fault in self.faults if _concerns(fault, where)], "float32")
