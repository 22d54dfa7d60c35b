"""The ways to make a vector that are told apart: the known faults, the profiles, and what pipelines do to pictures.

A variant of a picture's vector is how its pixels are made, and what tower takes them; one of a text's, how its ids are
made, and the tower. The faults are those of conformance/faults, whatever is added there.
"""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from PIL import Image

from clipref.config import ClipConfig, PreprocessConfig
from clipref.tokenizer import Tokenizer

from .. import faults
from ..faults.fault import Fault
from ..faults.tower import Tower
from ..protocol import Array
from ..restated import preprocessing, tokenizer

Picture: TypeAlias = Image.Image
Edit: TypeAlias = Callable[[Picture], Picture]
AS_IT_IS = "as the model has it"
# Variants told otherwise: whether embeddings have length 1, and how sums are rounded, is told of every one.
_TOLD_OTHERWISE = {"normalised", "sums-in-float16"}
# Variants tried with each profile too: the commonest mistake in a tower, in the commonest libraries.
_WITH_PROFILES = ("gelu-exact", "gelu-quick")


@dataclass(frozen=True)
class Variant:
    """One way to make vectors: its id, what it is in words, steps and an edit of the picture, and the tower's fault."""

    id: str
    title: str
    steps: Any  # of restated.preprocessing, or restated.tokenizer; None for ids of the model's own tokenizer
    edit: Edit | None = None
    fault: Fault | None = None

    def input(self, item: Any, config: ClipConfig, tokenize: Callable[[str], Array]) -> Array:
        """Pixels [1, 3, R, R] float32 of a picture, or ids [1, T] of a text."""
        if isinstance(item, str):
            if self.steps is None:
                return tokenize(item)
            return tokenizer.tokenize([item], config.text.context_length, True, self.steps)
        picture = item if self.edit is None else self.edit(item)
        return preprocessing.preprocess(picture, config.vision.resolution, self.steps)[None]

    def tower(self, tower: Tower) -> Tower:
        """The tower that takes it."""
        if self.fault is None:
            return tower
        assert callable(self.fault.change)
        return self.fault.change(tower)


def pad_to_square(colour: tuple[int, int, int]) -> Edit:
    """The picture in the middle of a square of its long side."""

    def pad(picture: Picture) -> Picture:
        side = max(picture.size)
        square = Image.new("RGB", (side, side), colour)
        square.paste(_rgb(picture), tuple((side - length) // 2 for length in picture.size))  # type: ignore[arg-type]
        return square

    return pad


def as_jpeg(quality: int) -> Edit:
    """The picture saved as JPEG and opened again."""

    def save(picture: Picture) -> Picture:
        buffer = io.BytesIO()
        _rgb(picture).save(buffer, "JPEG", quality=quality)
        again = Image.open(buffer)
        again.load()
        return again

    return save


def _rgb(picture: Picture) -> Picture:
    if "transparency" in picture.info:  # Pillow warns of some that RGB can't keep it
        picture = picture.copy()
        picture.info.pop("transparency")
    return picture.convert("RGB")


# What pipelines do to a picture before CLIP's own preprocessing.
EDITS: Mapping[str, tuple[str, Edit]] = {
    "padded-black": ("padded to a square with black", pad_to_square((0, 0, 0))),
    "padded-white": ("padded to a square with white", pad_to_square((255, 255, 255))),
    "padded-mean": ("padded to a square with CLIP's mean colour", pad_to_square((122, 116, 104))),
    **{
        f"jpeg-{quality}": (f"saved as JPEG of quality {quality} first", as_jpeg(quality))
        for quality in (75, 80, 85, 90, 95)
    },
}
MORE_STEPS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "thumbnail-256": ("a thumbnail of 256 pixels made first", {"thumbnail": 256}),
    "thumbnail-1024": ("a thumbnail of 1024 pixels made first", {"thumbnail": 1024}),
}


def image_variants(config: ClipConfig) -> list[Variant]:
    """Every way to make vectors of pictures with a model, the model's own first."""
    base = _steps_of(config.preprocess)
    tower_faults = _tower_faults(config.vision.family)
    changed: list[tuple[str, str, Mapping[str, Any]]] = [
        *((name, f"preprocessed as {name} does", _changes(steps)) for name, steps in preprocessing.PROFILES.items()),
        *(
            (fault.id, fault.title, fault.change)
            for fault in faults.of("preprocess")
            if isinstance(fault.change, Mapping)
        ),
        *((name, title, steps) for name, (title, steps) in MORE_STEPS.items()),
    ]
    found = [Variant(AS_IT_IS, AS_IT_IS, base)]
    for name, title, changes in changed:
        steps = dataclasses.replace(base, **changes)
        if steps != base and all(steps != variant.steps for variant in found):
            found.append(Variant(name, title, steps))
    found += [Variant(name, title, base, edit) for name, (title, edit) in EDITS.items()]
    profiles = [variant for variant in found if variant.id in preprocessing.PROFILES]
    found += [Variant(fault.id, fault.title, base, None, fault) for fault in tower_faults]
    found += [
        Variant(f"{profile.id} + {fault.id}", f"{profile.title}, {fault.title}", profile.steps, None, fault)
        for profile in profiles
        for fault in tower_faults
        if fault.id in _WITH_PROFILES
    ]
    return found


def text_variants(tokenizer_digest: str) -> list[Variant]:
    """Every way to make vectors of texts with a model; other tokenizers only of OpenAI's vocabulary."""
    found = [Variant(AS_IT_IS, AS_IT_IS, None)]
    if tokenizer_digest == Tokenizer.default().digest:
        found += [
            Variant(fault.id, fault.title, tokenizer.Steps(**fault.change))  # type: ignore[arg-type]
            for fault in faults.of("tokenize")
        ]
    return found + [Variant(fault.id, fault.title, None, None, fault) for fault in _tower_faults("text")]


def _changes(steps: preprocessing.Steps) -> dict[str, Any]:
    """What a profile does otherwise than OpenAI's."""
    usual = preprocessing.Steps()
    names = (field.name for field in dataclasses.fields(steps))
    return {name: getattr(steps, name) for name in names if getattr(steps, name) != getattr(usual, name)}


def _steps_of(preprocess: PreprocessConfig) -> preprocessing.Steps:
    return preprocessing.Steps(
        turned=preprocess.upright,
        filter=preprocess.interpolation.upper(),
        squash=preprocess.resize_mode == "squash",
        mean=preprocess.mean,
        std=preprocess.std,
    )


def _tower_faults(place: Any) -> list[Fault]:
    return [fault for fault in faults.of(place) if callable(fault.change) and fault.id not in _TOLD_OTHERWISE]
