"""What an embedded model is worth: three figures, on scenes of seeds that were never trained on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from . import captions, world

TRAINING_SEEDS = range(40_000)
HELD_OUT_SEEDS = range(1_000_000, 1_000_600)
SEARCH_SEEDS = range(2_000_000, 2_010_000)


class Embeds(Protocol):
    """The part of clipref.CLIP that is measured."""

    def embed_images(self, images: Any, *, normalize: bool) -> Any: ...

    def embed_text(self, text: Any, *, normalize: bool) -> Any: ...


def training_scenes() -> list[world.Scene]:
    """All that training is shown."""
    return [world.scene(seed, held_out=False) for seed in TRAINING_SEEDS]


def held_out_accuracy(model: Embeds, n: int = 600) -> float:
    """Share of n scenes, each of a pair never trained on, whose class among all colours x shapes is found."""
    scenes = [world.scene(seed, held_out=True) for seed in HELD_OUT_SEEDS[:n]]
    images = model.embed_images((scene.draw() for scene in scenes), normalize=True)
    prompts = model.embed_text([captions.class_prompt(*pair) for pair in world.CLASSES], normalize=True)
    best = np.argmax(images @ prompts.T, axis=1)
    return float(np.mean([world.CLASSES[i] == (s.colour, s.shape) for i, s in zip(best, scenes, strict=True)]))


def recall_at_1(model: Embeds, n: int = 200) -> float:
    """Share of n captions whose scene is the nearest of n scenes, no two of which have the same attributes."""
    scenes = distinct_scenes(n)
    images = model.embed_images((scene.draw() for scene in scenes), normalize=True)
    texts = model.embed_text([captions.caption(scene) for scene in scenes], normalize=True)
    return float(np.mean(np.argmax(texts @ images.T, axis=1) == np.arange(n)))


def attribute_accuracy(model: Embeds, n: int = 100) -> dict[str, float]:
    """For each attribute, the share of n scenes that are nearest to their complete caption among all that differ from
    it in this attribute alone. Recall doesn't tell: few of 200 scenes differ in one attribute alone.
    """
    scenes = [world.scene(seed) for seed in SEARCH_SEEDS[:n]]
    images = model.embed_images((scene.draw() for scene in scenes), normalize=True)
    shares = {}
    for name, values in world.ATTRIBUTES.items():
        varied = [captions.caption(replace(scene, **{name: value})) for scene in scenes for value in values]  # type: ignore[arg-type]
        texts = model.embed_text(varied, normalize=True).reshape(n, len(values), -1)  # [N, V, E]
        best = np.argmax((texts @ images[:, :, None])[..., 0], axis=1)
        shares[name] = float(np.mean([values[i] == getattr(s, name) for i, s in zip(best, scenes, strict=True)]))
    return shares


def distinct_scenes(n: int) -> list[world.Scene]:
    """n scenes that differ in what can be said of them."""
    found: dict[tuple[object, ...], world.Scene] = {}
    for seed in SEARCH_SEEDS:
        scene = world.scene(seed)
        found.setdefault(scene.attributes, scene)
        if len(found) == n:
            break
    return list(found.values())
