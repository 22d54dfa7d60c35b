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
from clipref.tokenizer import Tokenizer
from clipref.weights import Checkpoint

from . import emulation, recipe
from .case import Array, Case, Exact, Question

# Mode, width, height: landscape and portrait, transparent, smaller than the model's input.
_PICTURES = (("RGB", 97, 64), ("RGBA", 60, 85), ("L", 31, 47))
_TEXTS = ("a red circle", "a photo of two blue squares on white", "Yellow triangle!", "the green star &amp; a ring")


def questions(profile: str = "openai") -> Iterator[Question]:
    """Embeddings of images and of texts, and their cosines, on each model."""
    for model in EMBEDDED:
        for picture in _PICTURES:
            mode, width, height = picture
            image = recipe.png(recipe.picture(*picture))
            what = f"image {mode} {width}x{height}"
            yield _question(model, what, "embed_image", ("IMG-1", "IMG-5", "OUT-1", "OUT-2"), {"image": image}, profile)
        texts = np.frombuffer(json.dumps(_TEXTS).encode(), np.uint8)
        yield _question(model, "texts", "embed_text", ("TOK-4", "TXT-3", "OUT-1", "OUT-2"), {"texts": texts}, profile)
        both = {"image": recipe.png(recipe.picture(*_PICTURES[0])), "texts": texts}
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

    return Question(identity, "pipeline", verb, claims, make, partial(_exact, profile, path), path.name)


def _exact(profile: str, checkpoint: Path, case: Case) -> Exact:
    pixels = ids = None
    if "image" in case.inputs:
        side = Checkpoint(checkpoint).config.vision.resolution
        image = recipe.opened(case.inputs["image"])
        pixels = recipe.pixels(image, side, recipe.PROFILES[profile])[None]
    if "texts" in case.inputs:
        ids = _ids(checkpoint, json.loads(case.inputs["texts"].tobytes()))
    return _right(checkpoint, _Hashed(pixels), _Hashed(ids))


def _ids(folder: Path, texts: list[str]) -> Array:
    checkpoint = Checkpoint(folder)
    assert checkpoint.merges is not None
    return Tokenizer.from_file(checkpoint.merges)(texts, checkpoint.config.text.context_length).astype(np.int64)


class _Hashed:
    """An array, or none, as the key of a cache."""

    def __init__(self, array: Array | None) -> None:
        self.array = array
        self._key = None if array is None else array.tobytes()

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self._key == other._key


@cache
def _right(folder: Path, pixels: _Hashed, ids: _Hashed) -> Exact:
    """Embeddings of what there is, or the cosines of both, and their units."""
    checkpoint = Checkpoint(folder)
    given = {f"encode_{kind}": x.array for kind, x in (("image", pixels), ("text", ids)) if x.array is not None}
    exact = {verb: getattr(NumpyEngine(checkpoint, "float64"), verb)(x) for verb, x in given.items()}
    if len(exact) == 2:
        cosines = _cosines(*exact.values())

        def computed(precision: str, order: int) -> dict[str, Array]:
            runs = (emulation.emulated(checkpoint, v, x, precision, order)["embeddings"] for v, x in given.items())
            return {"similarity": _cosines(*runs)}

        return Exact({"similarity": cosines}, emulation.units_of(computed, {"similarity": cosines}))
    ((verb, x),) = given.items()
    outputs = {"embeddings": exact[verb]}
    return Exact(outputs, emulation.units(checkpoint, verb, x, outputs))


def _cosines(image: Array, text: Array) -> Array:
    """[1, E], [N, E] -> [N]"""
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
    cosines: Array = (a @ b.T)[0]
    return cosines
