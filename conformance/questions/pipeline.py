"""Questions that start from an image's file or a text, as people and servers do, on the two small embedded models.

The right answers are the reference's in float64, of pixels that recipe.py makes and of ids that the models' own merges
give; its towers and its tokenizer are held by golden values elsewhere (tests/test_towers.py, tests/test_tokenizer.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np

from clipref.engine import NumpyEngine
from clipref.hub import EMBEDDED, locate
from clipref.numerics import cosines
from clipref.tokenizer import Tokenizer
from clipref.weights import Checkpoint

from ..grading import rounding
from ..grading.units import frozen
from ..protocol import Array, Case, Exact, Question, Units
from ..restated import preprocessing

# Mode, width, height: landscape and portrait, transparent, smaller than the model's input.
_PICTURES = (("RGB", 97, 64), ("RGBA", 60, 85), ("L", 31, 47))
_TEXTS = ("a red circle", "a photo of two blue squares on white", "Yellow triangle!", "the green star &amp; a ring")


def questions(profile: str = "openai") -> Iterator[Question]:
    """Embeddings of images and of texts, and their cosines, on each model."""
    for model in EMBEDDED:
        for picture in _PICTURES:
            mode, width, height = picture
            image = preprocessing.png(preprocessing.picture(*picture))
            what = f"image {mode} {width}x{height}"
            yield _question(model, what, "embed_image", ("IMG-1", "IMG-5", "OUT-1", "OUT-2"), {"image": image}, profile)
        texts = np.frombuffer(json.dumps(_TEXTS).encode(), np.uint8)
        yield _question(model, "texts", "embed_text", ("TOK-4", "TXT-3", "OUT-1", "OUT-2"), {"texts": texts}, profile)
        both = {"image": preprocessing.png(preprocessing.picture(*_PICTURES[0])), "texts": texts}
        yield _question(model, "image and texts", "compare", ("SIM-1", "SIM-2"), both, profile)


def _question(
    model: str, what: str, verb: str, claims: tuple[str, ...], inputs: dict[str, Array], profile: str
) -> Question:
    path, _ = locate(model)
    identity = f"pipeline/{path.name}/{what}"

    def make(folder: Path) -> Case:
        copy = folder / path.name  # which an engine may spoil
        if not copy.exists():
            shutil.copytree(path, copy)
        return Case(identity, "pipeline", verb, claims, inputs, {}, copy)

    exact, measure = partial(_exact, profile, path), partial(_measured, profile, path)
    return Question(identity, "pipeline", verb, claims, make, exact, path.name, measure)


def _exact(profile: str, checkpoint: Path, case: Case) -> Exact:
    return Exact(_right(profile, checkpoint, case), frozen(case.id, profile))


def _measured(profile: str, folder: Path, case: Case, exact: Exact) -> Units:
    checkpoint, given = Checkpoint(folder), _prepared(profile, folder, case)

    def computed(precision: str, order: int) -> dict[str, Array]:
        runs = (rounding.emulate(checkpoint, verb, x, precision, order)["embeddings"] for verb, x in given.items())
        return {"similarity": cosines(*runs)[0]}

    if len(given) == 2:
        return rounding.units_of(computed, exact.outputs)
    ((verb, x),) = given.items()
    return rounding.units(checkpoint, verb, x, exact.outputs)


def _prepared(profile: str, folder: Path, case: Case) -> dict[str, Array]:
    """What the towers are given: pixels, ids, or both, by the verbs of the towers."""
    given = {}
    if "image" in case.inputs:
        side = Checkpoint(folder).config.vision.resolution
        image = preprocessing.open_png(case.inputs["image"])
        given["encode_image"] = preprocessing.preprocess(image, side, preprocessing.PROFILES[profile])[None]
    if "texts" in case.inputs:
        given["encode_text"] = _ids(folder, json.loads(case.inputs["texts"].tobytes()))
    return given


def _ids(folder: Path, texts: list[str]) -> Array:
    checkpoint = Checkpoint(folder)
    assert checkpoint.merges is not None
    return Tokenizer.from_file(checkpoint.merges)(texts, checkpoint.config.text.context_length).astype(np.int64)


def _right(profile: str, folder: Path, case: Case) -> dict[str, Array]:
    """Embeddings of what there is, or the cosines of both."""
    given = _prepared(profile, folder, case)
    exact = {verb: getattr(_reference(folder), verb)(x) for verb, x in given.items()}
    if len(exact) == 2:
        return {"similarity": cosines(*exact.values())[0]}
    return {"embeddings": exact.popitem()[1]}


@cache
def _reference(folder: Path) -> NumpyEngine:
    return NumpyEngine(Checkpoint(folder), "float64")
