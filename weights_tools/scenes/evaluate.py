"""What a model of this world is worth, on scenes of seeds that were never trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref import CLIP, look

from ..shapes.captions import class_prompt
from ..shapes.evaluate import Embeds
from ..shapes.world import CLASSES
from . import captions, world

Array: TypeAlias = NDArray[Any]

TRAINING_ONES = range(30_000)
TRAINING_TWOS = range(7_000)  # each with its four variants
HELD_OUT_SEEDS = range(1_000_000, 1_000_600)
SEARCH_SEEDS = range(2_000_000, 2_010_000)


def held_out_accuracy(model: Embeds, n: int = 600) -> float:
    """Share of n scenes, each of a pair never trained on, whose class among all colours x shapes is found."""
    scenes = [world.one_kind(seed, held_out=True) for seed in HELD_OUT_SEEDS[:n]]
    best = np.argmax(_images(model, scenes) @ _class_prompts(model).T, axis=1)
    truth = [(scene.kinds[0].colour, scene.kinds[0].shape) for scene in scenes]
    return float(np.mean([CLASSES[i] == pair for i, pair in zip(best, truth, strict=True)]))


def attribute_accuracy(model: Embeds, n: int = 100) -> dict[str, float]:
    """For each attribute, the share of n scenes of one kind that are nearest to their complete caption among all that
    differ from it in this attribute alone.
    """
    scenes = [world.one_kind(seed) for seed in SEARCH_SEEDS[:n]]
    images = _images(model, scenes)
    shares = {}
    for name, values in world.KIND.items():
        varied = []
        for scene in scenes:
            (kind,) = scene.kinds
            varied += [captions.caption(replace(scene, kinds=(replace(kind, **{name: v}),))) for v in values]  # type: ignore[arg-type]
        texts = model.embed_text(varied, normalize=True).reshape(n, len(values), -1)  # [N, V, E]
        best = np.argmax((texts @ images[:, :, None])[..., 0], axis=1)
        truth = [getattr(scene.kinds[0], name) for scene in scenes]
        shares[name] = float(np.mean([values[i] == value for i, value in zip(best, truth, strict=True)]))
    return shares


def binding(model: Embeds, n: int = 500) -> dict[str, tuple[float, float]]:
    """Of n scenes of two kinds, the share whose true text is nearer than the one with something exchanged, and the
    lower end of its 95 % interval (Wilson's).

    "colours": "a red circle left of a blue star" against "a blue circle left of a red star"; "places": against "a blue
    star left of a red circle"; "all": against all three other ways of binding two colours and two shapes to two places.
    """
    scenes = [world.two_kinds(seed) for seed in SEARCH_SEEDS[:n]]
    said = [text for scene in scenes for text in captions.binding_captions(scene)]
    texts = model.embed_text(said, normalize=True).reshape(n, 4, -1)
    cosines = (texts @ _images(model, scenes)[:, :, None])[..., 0]  # [N, 4]
    right = {
        "colours": cosines[:, 0] > cosines[:, 1],
        "places": cosines[:, 0] > cosines[:, 3],
        "all": cosines[:, 0] > cosines[:, 1:].max(1),
    }
    return {name: (float(r.mean()), lower_bound(float(r.mean()), n)) for name, r in right.items()}


def lower_bound(share: float, n: int, z: float = 1.96) -> float:
    """The lower end of Wilson's 95 % interval of a share of n."""
    centre = share + z * z / (2 * n)
    return (centre - z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))) / (1 + z * z / n)


def kind_prompts(scene: world.Scene) -> tuple[str, ...]:
    """A text for each kind of a scene: "a red circle", "a blue star"."""
    return tuple(class_prompt(kind.colour, kind.shape) for kind in scene.kinds)


# Maps [2, rows, columns] of a scene's preprocessed pixels [1, 3, R, R], one for each kind's text.
MAPS: dict[str, Callable[[CLIP, world.Scene, Array], Array]] = {
    "direct effect": lambda model, scene, pixels: (
        look.direct_effect(model, list(kind_prompts(scene)), pixels=pixels).maps
    ),
    "occlusion": lambda model, scene, pixels: look.occlusion(model, list(kind_prompts(scene)), pixels=pixels).maps,
}


def localisation(
    model: CLIP, n: int = 50, maps: Mapping[str, Callable[[CLIP, world.Scene, Array], Array]] = MAPS
) -> dict[str, float]:
    """For each kind of map, how often a pixel of the kind that a text names has a higher value than one of the other
    kind: the mean area under the ROC curve over both texts of n scenes of two kinds. 0.5 is a map blind to the text.
    """
    areas: dict[str, list[float]] = {name: [] for name in maps}
    for seed in SEARCH_SEEDS[:n]:
        scene = world.two_kinds(seed)
        masks = scene.masks()
        pixels = model.trace(scene.draw(), only="pixels")["pixels"]
        for name, make in maps.items():
            for i, values in enumerate(make(model, scene, pixels)):
                large = _enlarge(values, masks.shape[-1])
                areas[name].append(area_under_curve(large[masks[i]], large[masks[1 - i]]))
    return {name: float(np.mean(found)) for name, found in areas.items()}


def area_under_curve(above: Array, below: Array) -> float:
    """The share of pairs of a value of `above` and one of `below` in which the former is higher, ties half."""
    ordered = np.sort(below)
    wins = (np.searchsorted(ordered, above, "left") + np.searchsorted(ordered, above, "right")) / 2
    return float(wins.mean() / len(ordered))


def _enlarge(map_: Array, side: int) -> Array:
    """A map [rows, columns] as pixels [side, side], each cell as large as the others."""
    rows, columns = (np.arange(side) * n // side for n in map_.shape)
    return map_[np.ix_(rows, columns)]


def _images(model: Embeds, scenes: list[world.Scene]) -> Any:
    return model.embed_images((scene.draw() for scene in scenes), normalize=True)


def _class_prompts(model: Embeds) -> Any:
    return model.embed_text([class_prompt(*pair) for pair in CLASSES], normalize=True)
