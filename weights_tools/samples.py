"""Pictures and texts that a model is measured with: drawn ones, and those that somebody has, with labels or without."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipref.cli.walk import images_in
from clipref.errors import InputError
from clipref.images import MAX_PIXELS
from clipref.preprocessing import open_image

from .shapes import captions, world

# Scenes that no embedded model was trained on, nor is measured with elsewhere.
_SEEDS = 3_000_000
ALTERATIONS = ("resized", "recompressed", "cropped", "grey", "mirrored")
MAX_LABELS = 1000
DRAWN_TEMPLATES = ("{}",)  # what is drawn has an article: "a red circle"
GIVEN_TEMPLATES = ("a photo of a {}.",)


@dataclass(frozen=True)
class Labelled:
    """Pictures, of each the number of its label, and what the labels are called."""

    pictures: Sequence[Any]
    truth: Sequence[int]
    labels: Sequence[str]
    templates: Sequence[str]
    drawn: bool


def drawn_pictures(count: int) -> list[Any]:
    """Scenes as PIL images, 224 pixels a side."""
    return [world.scene(_SEEDS + i).draw() for i in range(count)]


def drawn_texts(count: int) -> list[str]:
    """Captions of the same scenes."""
    return [captions.caption(world.scene(_SEEDS + i)) for i in range(count)]


def drawn_labelled(count: int) -> Labelled:
    """The same scenes, each to be told by colour and shape among all colours and shapes, 72 labels."""
    scenes = [world.scene(_SEEDS + i) for i in range(count)]
    labels = [captions.class_prompt(*pair) for pair in world.CLASSES]
    truth = [world.CLASSES.index((scene.colour, scene.shape)) for scene in scenes]
    return Labelled([scene.draw() for scene in scenes], truth, labels, DRAWN_TEMPLATES, True)


def given_labelled(folder: Path, count: int) -> Labelled:
    """At most `count` pictures of a folder whose folders are named as what their pictures show, in turns.

    Raises InputError unless 2 to MAX_LABELS such folders have pictures.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected one that has a folder of pictures for each label.")
    found = {entry.name: images_in(entry).images for entry in sorted(folder.iterdir()) if entry.is_dir()}
    found = {name: images for name, images in found.items() if images and not name.startswith(".")}
    if not 2 <= len(found) <= MAX_LABELS:
        raise InputError(
            f"{folder} has {len(found)} folders with pictures; expected one for each label, 2 to {MAX_LABELS}."
        )
    turns = [
        (images[i], label)
        for i in range(max(map(len, found.values())))
        for label, images in enumerate(found.values()) if i < len(images)
    ][:count]  # fmt: skip
    labels = [name.replace("_", " ").replace("-", " ") for name in found]
    return Labelled([path for path, _ in turns], [label for _, label in turns], labels, GIVEN_TEMPLATES, False)


def open_picture(picture: Any) -> Any:
    """A picture as a PIL image in RGB. Raises ImageError."""
    return open_image(picture, max_pixels=MAX_PIXELS).convert("RGB")


def altered_file(image: Any, alteration: str) -> Any:
    """An RGB image as it comes back from somewhere: one of ALTERATIONS, saved as a JPEG. As the file's bytes."""
    from PIL import ImageOps

    width, height = image.size
    if alteration == "resized":
        image = image.resize((max(1, width * 3 // 5), max(1, height * 3 // 5)))
    elif alteration == "cropped":
        image = image.crop((width // 40, height // 40, width - width // 40, height - height // 40))
    elif alteration == "grey":
        image = image.convert("L").convert("RGB")
    elif alteration == "mirrored":
        image = ImageOps.mirror(image)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=40 if alteration == "recompressed" else 90)
    return file.getvalue()
