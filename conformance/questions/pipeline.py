"""Questions that start from an image's file or a text, as people and servers do.

Images are asked of the two small embedded models. Texts are asked of a synthetic model with the vocabulary of the
published ones, because many engines have that built in, and the embedded models have another. The right answers are the
reference's in float64, of pixels that restated/preprocessing.py makes and of ids that clipref's tokenizer gives; its
towers and its tokenizer are held by golden values elsewhere (tests/test_towers.py, tests/test_tokenizer.py).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np

from clipref.engine import NumpyEngine
from clipref.hub import locate
from clipref.numerics import cosines
from clipref.tokenizer import tokenize
from clipref.weights import Checkpoint

from ..grading import rounding
from ..grading.units import frozen
from ..protocol import Array, Case, Exact, Question, Units
from ..restated import preprocessing
from .make import write_checkpoint
from .models import WORDS

# Mode, width, height: landscape and portrait, transparent, smaller than the model's input.
_PICTURES = (("RGB", 97, 64), ("RGBA", 60, 85), ("L", 31, 47))
# Trained models, which are part of every release; goldens stand on their bits.
_TRAINED = ("clipref/shapes-vit", "clipref/shapes-rn")
_TEXTS = ("a red circle", "a photo of two blue squares on white", "Yellow triangle!", "the green star &amp; a ring")


def questions(profile: str = "openai") -> Iterator[Question]:
    """Embeddings of images and of texts, and their cosines."""
    image_claims, text_claims = ("IMG-1", "IMG-5", "OUT-1", "OUT-2"), ("TOK-4", "TXT-3", "OUT-1", "OUT-2")
    for model in _TRAINED:
        path, _ = locate(model)
        for mode, width, height in _PICTURES:
            image = {"image": preprocessing.png(preprocessing.picture(mode, width, height))}
            what = f"{path.name}/image {mode} {width}x{height}"
            yield _question(what, "embed_image", image_claims, image, partial(_copy, path), profile)
    texts = {"texts": np.frombuffer(json.dumps(_TEXTS).encode(), np.uint8)}
    both = {"image": preprocessing.png(preprocessing.picture(*_PICTURES[0])), **texts}
    for model in WORDS:
        make = partial(write_checkpoint, model, "plain")
        yield _question(f"{model}-plain/texts", "embed_text", text_claims, texts, make, profile)
        yield _question(f"{model}-plain/image and texts", "compare", ("SIM-1", "SIM-2"), both, make, profile)


def _copy(path: Path, folder: Path) -> Path:
    """A copy of a model's folder, which an engine may spoil, if it isn't there yet."""
    copy = folder / path.name
    if not copy.exists():
        shutil.copytree(path, copy)
    return copy


def _question(
    what: str, verb: str, claims: tuple[str, ...], inputs: dict[str, Array], make_checkpoint: Callable[[Path], Path],
    profile: str,
) -> Question:  # fmt: skip
    identity = f"pipeline/{what}"

    def make(folder: Path) -> Case:
        return Case(identity, "pipeline", verb, claims, inputs, {}, make_checkpoint(folder))

    model = what.partition("/")[0]
    return Question(
        identity, "pipeline", verb, claims, make, partial(_exact, profile), model, partial(_measure, profile)
    )


def _exact(profile: str, case: Case) -> Exact:
    return Exact(_right(profile, case), frozen(case.id, profile))


def _measure(profile: str, case: Case, exact: Exact) -> Units:
    assert case.checkpoint is not None
    checkpoint, given = Checkpoint(case.checkpoint), _prepare(profile, case)

    def compute(precision: str, order: int) -> dict[str, Array]:
        runs = (rounding.emulate(checkpoint, verb, x, precision, order)["embeddings"] for verb, x in given.items())
        return {"similarity": cosines(*runs)[0]}

    if len(given) == 2:
        return rounding.units_of(compute, exact.outputs)
    ((verb, x),) = given.items()
    return rounding.units(checkpoint, verb, x, exact.outputs)


def _prepare(profile: str, case: Case) -> dict[str, Array]:
    """What the towers are given: pixels, ids, or both, by the verbs of the towers."""
    assert case.checkpoint is not None
    config, given = Checkpoint(case.checkpoint).config, {}
    if "image" in case.inputs:
        image = preprocessing.open_png(case.inputs["image"])
        steps = preprocessing.PROFILES[profile]
        given["encode_image"] = preprocessing.preprocess(image, config.vision.resolution, steps)[None]
    if "texts" in case.inputs:
        texts = json.loads(case.inputs["texts"].tobytes())
        given["encode_text"] = tokenize(texts, config.text.context_length).astype(np.int64)
    return given


def _right(profile: str, case: Case) -> dict[str, Array]:
    """Embeddings of what there is, or the cosines of both."""
    assert case.checkpoint is not None
    exact = {verb: getattr(_reference(case.checkpoint), verb)(x) for verb, x in _prepare(profile, case).items()}
    if len(exact) == 2:
        return {"similarity": cosines(*exact.values())[0]}
    return {"embeddings": exact.popitem()[1]}


@lru_cache(maxsize=1)
def _reference(folder: Path) -> NumpyEngine:
    return NumpyEngine(Checkpoint(folder), "float64")
