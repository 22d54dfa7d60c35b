"""What `clipref look` tells of an image and its texts, or of texts alone: numbers by name, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..clip import CLIP
from .decomposition import Scores, direct_effect
from .items import one_image, transformer_of
from .layers import Lens, Rollout, logit_lens, rollout
from .perturbation import Maps, occlusion, rise
from .words import WordEffects, word_effects

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class ImageReport:
    """An image against T texts. `picture` [R, R, 3] uint8 is what the model sees; `words` has one entry a text.

    `scores` is the exact split, and `texts_are` [T, T] the cosines among the texts.
    """

    texts: list[str]
    picture: Array
    scores: Scores
    occlusion: Maps
    rise: Maps | None
    rollout: Rollout
    lens: Lens | None
    words: list[WordEffects]
    texts_are: Array
    logit_scale: float


@dataclass(frozen=True)
class TextReport:
    """T texts among themselves: `words` and `scores` of each toward all, `lens` of each toward all."""

    texts: list[str]
    scores: list[Scores]
    words: list[WordEffects]
    lens: list[Lens]


def image_report(
    model: CLIP, image: Any, texts: Sequence[str], *, masks: int = 0, progress: bool = False
) -> ImageReport:
    """Look at one image, and at what each text finds in it; RISE with as many masks, or without where that is 0.

    Raises ImageError, TextError.
    """
    pixels = one_image(model, image, None, None)[None]
    directions = model.embed_text(list(texts), normalize=True)
    scores = direct_effect(model, directions, pixels=pixels)
    embedding = model.encode_image(pixels)
    return ImageReport(
        texts=list(texts),
        picture=picture_of(model, pixels[0]),
        scores=scores,
        occlusion=occlusion(model, directions, pixels=pixels, progress=progress),
        rise=rise(model, directions, pixels=pixels, masks=masks, progress=progress) if masks else None,
        rollout=rollout(model, pixels=pixels),
        lens=logit_lens(model, directions, pixels=pixels) if transformer_of(model, "visual") else None,
        words=[word_effects(model, embedding, text) for text in texts],
        texts_are=directions @ directions.T,
        logit_scale=model.logit_scale,
    )


def text_report(model: CLIP, texts: Sequence[str]) -> TextReport:
    """Look at texts, each toward all of them, itself included. Raises TextError."""
    directions = model.embed_text(list(texts), normalize=True)
    return TextReport(
        texts=list(texts),
        scores=[direct_effect(model, directions, text=text) for text in texts],
        words=[word_effects(model, directions, text) for text in texts],
        lens=[logit_lens(model, directions, text=text) for text in texts],
    )


def picture_of(model: CLIP, pixels: Array) -> Array:
    """Preprocessed pixels [3, R, R] as an image [R, R, 3] uint8."""
    steps = model.config.preprocess
    levels = (pixels.transpose(1, 2, 0) * np.array(steps.std) + np.array(steps.mean)) * 255
    whole: Array = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return whole


def layer_rows(scores: Scores) -> list[tuple[str, Array]]:
    """What each layer's attention and MLP give the cosines, in their order, and the rest: names and [T]."""
    attention = scores.parts["attention"].sum(axis=(1, 2))  # [layers, T]
    if "mlp" not in scores.parts:  # of a ResNet
        return [("attention pool", attention[0]), ("bias", scores.parts["bias"])]
    rows = [("input", scores.parts["input"])]
    for i, (heads, bias, mlp) in enumerate(
        zip(attention, scores.parts["attention_bias"], scores.parts["mlp"], strict=True)
    ):
        rows += [(f"layer {i} attention", heads + bias), (f"layer {i} MLP", mlp)]
    return [*rows, ("bias", scores.parts["bias"])]


def head_table(scores: Scores) -> Array:
    """What each head gives the cosines: [layers, heads, T]."""
    table: Array = scores.parts["attention"].sum(axis=2)
    return table


def sum_error(scores: Scores) -> float:
    """The largest difference between a cosine and the sum of its parts."""
    total = sum(part.reshape(-1, part.shape[-1]).sum(axis=0) for part in scores.parts.values())
    return float(np.abs(total - scores.cosines).max())


def coarse(map_: Array, cells: int = 28) -> Array:
    """A map [R, R] in at most so many cells a side, each the mean of what it covers."""
    side = len(map_)
    if side <= cells:
        return map_
    edges = np.arange(cells + 1) * side // cells
    rows = np.add.reduceat(map_, edges[:-1], axis=0)
    sums = np.add.reduceat(rows, edges[:-1], axis=1)
    areas = np.outer(np.diff(edges), np.diff(edges))
    means: Array = sums / areas
    return means
