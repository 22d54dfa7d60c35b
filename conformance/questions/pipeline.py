"""Questions that start from an image's file or a text, as people and servers do.

Images are asked of the two small embedded models. Texts are asked of a synthetic model with the vocabulary of the
published ones, because many engines have that built in, and the embedded models have another. Engines that have one
size are asked both of a model of that size (the level "full"). The right answers are the reference's in float64, of
pixels that restated/preprocessing.py makes and of ids that clipref's tokenizer gives; its towers and its tokenizer are
held by golden values elsewhere (tests/test_towers.py, tests/test_tokenizer.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from clipref.config import ClipConfig
from clipref.engine import NumpyEngine
from clipref.hub import locate
from clipref.numerics import cosines
from clipref.tokenizer import tokenize
from clipref.weights import Checkpoint

from .. import pictures
from ..grading import rounding
from ..grading.units import frozen_units
from ..packages import require
from ..protocol import Array, Case, Exact, Question, Units
from ..restated import preprocessing
from ..restated.preprocessing import PROFILES, Steps
from .make import write_checkpoint
from .models import WORDS

# Mode, width, height: landscape and portrait, transparent, smaller than the model's input.
_PICTURES = (("RGB", 97, 64), ("RGBA", 60, 85), ("L", 31, 47))
# Trained models, which are part of every release; goldens stand on their bits.
_TRAINED = ("clipref/shapes-vit", "clipref/shapes-rn")
_TEXTS = ("a red circle", "a photo of two blue squares on white", "Yellow triangle!", "the green star &amp; a ring")


# The picture of a full size is large, as those are that such a model is asked about.
_FULL, _FULL_STYLE, _FULL_PICTURE = "clip/ViT-B-32", "trained", ("RGB", 308, 230)
_IMAGE_CLAIMS = ("IMG-1", "IMG-5", "OUT-1", "OUT-2", "OUT-3")
_TEXT_CLAIMS = ("TOK-4", "TXT-3", "OUT-1", "OUT-2", "OUT-3")


def questions(profile: str = "openai") -> Iterator[Question]:
    """Embeddings of images and of texts, and their cosines."""
    for model in _TRAINED:
        path, _ = locate(model)
        for mode, width, height in _PICTURES:
            what = f"pipeline/{path.name}/image {mode} {width}x{height}"
            image = _image(mode, width, height)
            yield _question(what, path.name, "embed_image", _IMAGE_CLAIMS, image, partial(copy_model, path), profile)
    for name in WORDS:
        model, make = f"{name}-plain", partial(write_checkpoint, name, "plain")
        yield _question(f"pipeline/{model}/texts", model, "embed_text", _TEXT_CLAIMS, _texts(), make, profile)
        both = {**_image(*_PICTURES[0]), **_texts()}
        yield _question(f"pipeline/{model}/image and texts", model, "compare", ("SIM-1", "SIM-2"), both, make, profile)


def full(models: Mapping[str, ClipConfig], profile: str = "openai") -> Iterator[Question]:
    """An image's file and texts, of the published size that most engines have, if it is among the models."""
    if _FULL not in models:
        return
    model, make = f"{_FULL}-{_FULL_STYLE}", partial(write_checkpoint, _FULL, _FULL_STYLE)
    id = f"full/{_FULL.removeprefix('clip/')} {_FULL_STYLE}"
    yield _question(f"{id}/file", model, "embed_image", _IMAGE_CLAIMS, _image(*_FULL_PICTURE), make, profile)
    yield _question(f"{id}/words", model, "embed_text", _TEXT_CLAIMS, _texts(), make, profile)


def _image(mode: str, width: int, height: int) -> dict[str, Array]:
    return {"image": pictures.png(mode, width, height)}


def _texts() -> dict[str, Array]:
    return {"texts": np.frombuffer(json.dumps(_TEXTS).encode(), np.uint8)}


def copy_model(path: Path, folder: Path) -> Path:
    """A copy of a model's folder, which an engine may spoil, if it isn't there yet."""
    copy = folder / path.name
    if not copy.exists():
        shutil.copytree(path, copy)
    return copy


def _question(
    id: str, model: str, verb: str, claims: tuple[str, ...], inputs: dict[str, Array],
    make_checkpoint: Callable[[Path], Path], profile: str,
) -> Question:  # fmt: skip
    level = id.partition("/")[0]

    def make(folder: Path) -> Case:
        return Case(id, level, verb, claims, inputs, {}, make_checkpoint(folder))

    return Question(id, level, verb, claims, make, partial(_exact, profile), model, partial(_measure, profile))


def _exact(profile: str, case: Case) -> Exact:
    return Exact(right(PROFILES[profile], case), frozen_units(case.id, profile))


def _measure(profile: str, case: Case, exact: Exact) -> Units:
    assert case.checkpoint is not None
    checkpoint, given = Checkpoint(case.checkpoint), _prepare(PROFILES[profile], case)
    orders = rounding.FEW_ORDERS if case.level == "full" else rounding.ORDERS

    def compute(precision: str, order: int) -> dict[str, Array]:
        runs = (rounding.emulate(checkpoint, verb, x, precision, order)["embeddings"] for verb, x in given.items())
        return {"similarity": cosines(*runs)[0]}

    if len(given) == 2:
        return rounding.units_of(compute, exact.outputs)
    ((verb, x),) = given.items()
    return rounding.units(checkpoint, verb, x, exact.outputs, orders)


def _prepare(steps: Steps, case: Case) -> dict[str, Array]:
    """What the towers are given: pixels, ids, or both, by the verbs of the towers."""
    assert case.checkpoint is not None
    require(f"The right answer to {case.id!r} is made", "pillow", "regex", "ftfy")
    config, given = Checkpoint(case.checkpoint).config, {}
    if "image" in case.inputs:
        image = preprocessing.open_png(case.inputs["image"])
        given["encode_image"] = preprocessing.preprocess(image, config.vision.resolution, steps)[None]
    if "texts" in case.inputs:
        texts = json.loads(case.inputs["texts"].tobytes())
        given["encode_text"] = tokenize(texts, config.text.context_length).astype(np.int64)
    return given


def right(steps: Steps, case: Case) -> dict[str, Array]:
    """Embeddings of what there is, or the cosines of both, in float64, with these steps of preprocessing."""
    assert case.checkpoint is not None
    exact = {verb: getattr(reference(case.checkpoint), verb)(x) for verb, x in _prepare(steps, case).items()}
    if len(exact) == 2:
        return {"similarity": cosines(*exact.values())[0]}
    return {"embeddings": exact.popitem()[1]}


@lru_cache(maxsize=1)
def reference(folder: Path) -> NumpyEngine:
    """The engine that right answers are computed with, in float64."""
    return NumpyEngine(Checkpoint(folder), "float64")
