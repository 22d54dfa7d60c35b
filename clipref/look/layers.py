"""What the layers of a transformer hold on the way: the logit lens, attention rollout, and activation patching.

The first two are heuristics, and say so; patching is an experiment, exact about the altered pass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .. import ops
from ..arguments import listed_labels
from ..clip import CLIP
from ..errors import InputError
from ..similarity import cosines, unit_vectors
from ..tracing import Trace, traced
from .items import (
    check_pooling,
    one_image,
    one_item,
    pooled_position,
    pooled_token,
    reference_trace,
    toward_directions,
    transformer_of,
)

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Lens:
    """`cosines` [1 + layers, T]: the pooled token read out before the first layer and after each."""

    cosines: Array


@dataclass(frozen=True)
class Rollout:
    """`weights` [positions], which sum to 1, and of an image `map` [rows, columns], its positions but the first.

    The same whatever text the image is compared with: `is_blind_to_the_text`.
    """

    weights: Array
    grid: tuple[int, int] | None
    is_blind_to_the_text: bool = True

    @property
    def map(self) -> Array:
        """Of an image's patches. Raises InputError for a text."""
        if self.grid is None:
            raise InputError("A text has no map; its positions are its tokens: `weights`.")
        return self.weights[1:].reshape(self.grid)


@dataclass(frozen=True)
class Patching:
    """Cosines [T] of two images, and `patched` [names, T] of the second where an activation is the first one's.

    `recovered` is the share of the way from the second image's cosine to the first one's; NaN where both are the same.
    """

    names: list[str]
    source: Array
    target: Array
    patched: Array

    @property
    def recovered(self) -> Array:
        """[names, T]"""
        way = self.source - self.target
        with np.errstate(divide="ignore", invalid="ignore"):
            found: Array = np.where(way == 0, np.nan, (self.patched - self.target) / way)
        return found


def logit_lens(
    model: CLIP,
    toward: Any,
    *,
    image: Any = None,
    pixels: Any = None,
    text: str | None = None,
    ids: Any = None,
    input_color_format: str | None = None,
) -> Lens:
    """The cosines that the pooled token would have if the transformer ended after each layer.

    A heuristic: the last LayerNorm and projection were trained for the last layer's stream, and early layers speak
    another language (nostalgebraist, "interpreting GPT: the logit lens", 2020). Raises InputError for a ResNet's image.
    """
    item = one_item(model, image, pixels, text, ids, input_color_format)
    transformer = transformer_of(model, item.tower)
    if transformer is None:
        raise InputError("A ResNet has no stream of tokens to read out after each layer; expected a ViT or a text.")
    stages = [transformer.beginning, *transformer.names]
    seen = reference_trace(model, item, stages if item.ids is None else [*stages, "ids"])
    check_pooling(seen[stages[-1]])
    pooled = pooled_position(item, seen)
    rows = np.stack([pooled_token(seen[stage], pooled) for stage in stages])  # [1 + layers, W]
    embeddings = ops.layer_norm(rows, **transformer.end) @ transformer.projection
    return Lens(cosines(unit_vectors(embeddings)[:, None], toward_directions(model, toward)))


def rollout(
    model: CLIP,
    *,
    image: Any = None,
    pixels: Any = None,
    text: str | None = None,
    ids: Any = None,
    input_color_format: str | None = None,
) -> Rollout:
    """How much of each position the pooled token has, if only attention moved anything and each layer kept half.

    The row of the pooled token of the product over layers of (A + I) / 2, A being the mean over heads ("Quantifying
    Attention Flow in Transformers", https://arxiv.org/abs/2005.00928, section 3). A heuristic that has no place for a
    text. Of a ResNet: the attention of its pool.
    """
    item = one_item(model, image, pixels, text, ids, input_color_format)
    transformer = transformer_of(model, item.tower)
    grid = (model.config.vision.grid,) * 2 if item.tower == "visual" else None
    if transformer is None:
        seen = reference_trace(model, item, ["visual.attnpool.weights"])
        return Rollout(seen["visual.attnpool.weights"][0, :, 0].mean(axis=0), grid)
    names = [f"{name}.attn.weights" for name in transformer.names]
    seen = reference_trace(model, item, names if item.ids is None else [*names, "ids"])
    layers = [seen[name][0].mean(axis=0) for name in names]  # [Q, L] each
    check_pooling(layers[-1][None])
    row = np.zeros(layers[-1].shape[1], layers[-1].dtype)
    row[pooled_position(item, seen)] = 1
    for i, attention in enumerate(reversed(layers)):
        moved = attention[0] if i == 0 else row @ attention  # the last layer has the pooled token's row only
        row = (row + moved) / 2
    return Rollout(row, grid)


def patching(
    model: CLIP,
    toward: Any,
    *,
    source: Any = None,
    target: Any = None,
    source_pixels: Any = None,
    target_pixels: Any = None,
    names: Sequence[str] | None = None,
    input_color_format: str | None = None,
) -> Patching:
    """The cosines of the image `target` where one activation at a time is that of the image `source`.

    `names` are those of `CLIP.trace`; unless given, those of `default_names`. One pass each.
    Raises InputError for an unknown name.
    """
    theirs_pixels, own_pixels = (
        one_image(model, image, pixels, input_color_format)[None]
        for image, pixels in ((source, source_pixels), (target, target_pixels))
    )
    engine, directions = model.reference, toward_directions(model, toward)
    listed = default_names(model) if names is None else listed_labels("names", names)

    def run(pixels: Array, edits: Mapping[str, Array], only: Sequence[str] = ()) -> tuple[Array, Trace]:
        seen = traced(engine, pixels, None, edits, [*only, "visual"])
        return cosines(unit_vectors(seen["visual"][0]), directions), seen

    with model.weights_in_use():
        theirs, activations = run(theirs_pixels, {}, listed)
        own, _ = run(own_pixels, {})
        patched = [run(own_pixels, {name: activations[name]})[0] for name in listed]
    return Patching(listed, theirs, own, np.stack(patched))


def default_names(model: CLIP) -> list[str]:
    """Each block's attention and MLP; of a ResNet, what each block adds to its shortcut, and the pool's attention."""
    transformer = transformer_of(model, "visual")
    if transformer is not None:
        return [f"{name}.{part}" for name in transformer.names for part in ("attn", "mlp")]
    params = model.reference.visual()
    blocks = [f"visual.layer{i}.{j}.bn3" for i in (1, 2, 3, 4) for j in range(len(params[f"layer{i}"]))]
    return [*blocks, "visual.attnpool.weights"]
