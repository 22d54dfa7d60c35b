"""What is looked at and what it is compared with, as every function here takes them; and a transformer's parts."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..arguments import are_embeddings, as_array
from ..clip import CLIP
from ..errors import InputError
from ..similarity import have_direction, unit_vectors
from ..tracing import Trace, given_ids, given_pixels, traced

Array: TypeAlias = NDArray[Any]


class Item(NamedTuple):
    """One image's pixels [1, 3, R, R], or one text's token ids [1, T]."""

    pixels: Array | None
    ids: Array | None

    @property
    def tower(self) -> Literal["visual", "text"]:
        return "text" if self.pixels is None else "visual"


class Transformer(NamedTuple):
    """A tower's transformer as parameters, and as names of activations."""

    blocks: list[Any]
    names: list[str]  # of the blocks
    beginning: str  # what the first block is given
    end: Any  # the last LayerNorm
    projection: Array  # [W, E]


def one_item(model: CLIP, image: Any, pixels: Any, text: Any, ids: Any, input_color_format: str | None = None) -> Item:
    """The one thing that is given. Raises InputError for none, or several; ImageError, TextError."""
    given = [x for x in (image, pixels, text, ids) if x is not None]
    if len(given) != 1:
        raise InputError(f"{len(given)} things are given; expected one of image, pixels, text and ids.")
    item = Item(given_pixels(model, image, pixels, input_color_format), given_ids(model, text, ids))
    count = len(item.ids if item.pixels is None else item.pixels)  # type: ignore[arg-type]
    if count != 1:
        raise InputError(f"{count} items are given; expected one. Call it for each.")
    return item


def one_image(model: CLIP, image: Any, pixels: Any, input_color_format: str | None) -> Array:
    """Pixels [3, R, R] of the one image that is given. Raises InputError or ImageError."""
    found = one_item(model, image, pixels, None, None, input_color_format).pixels
    assert found is not None
    pixels_of_it: Array = found[0]
    return pixels_of_it


def reference_trace(model: CLIP, item: Item, names: list[str]) -> Trace:
    """Activations of one item, computed by the reference, whatever the model's backend."""
    with model.weights_in_use():
        return traced(model.reference, item.pixels, item.ids, {}, names)


def transformer_of(model: CLIP, tower: Literal["visual", "text"]) -> Transformer | None:
    """A tower's transformer; None of a ResNet."""
    with model.weights_in_use():
        params = model.reference.visual() if tower == "visual" else model.reference.text()
    if "transformer" not in params:
        return None
    blocks = params["transformer"]["resblocks"]
    if tower == "visual":
        names = [f"visual.transformer.resblocks.{i}" for i in range(len(blocks))]
        beginning = "visual.ln_pre" if "ln_pre" in params else "visual.positional_embedding"
        return Transformer(blocks, names, beginning, params["ln_post"], params["proj"])
    names = [f"transformer.resblocks.{i}" for i in range(len(blocks))]
    return Transformer(blocks, names, "positional_embedding", params["ln_final"], params["text_projection"])


def pooled_position(item: Item, seen: Trace) -> int:
    """The class token, or the end of a text, which is the last of the ids that are computed."""
    return 0 if item.ids is None else int(seen["ids"].shape[1]) - 1


def check_pooling(result: Array) -> None:
    """Raise InputError where a transformer's result [1, S, W] has more positions than one that the embedding is of."""
    if result.shape[1] != 1:
        raise InputError(
            f"The embedding is made of {result.shape[1]} positions; expected a tower that pools one, the class token "
            "or the end of the text. `occlusion` and `rise` take any tower."
        )


def pooled_token(x: Array, position: int) -> Array:
    """The pooled token [W] of an activation [1, L, W]; the last block has no other."""
    row: Array = x[0, min(position, x.shape[1] - 1)]
    return row


def toward_directions(model: CLIP, toward: Any) -> Array:
    """Unit vectors [T, E] of texts or of embeddings [E] or [T, E], in the model's dtype. Raises ClipError."""
    if are_embeddings(toward, model.config.embed_dim):
        return directions_of(toward, model.config.embed_dim).astype(model.dtype)
    return model.embed_text(toward, normalize=True)


def directions_of(embeddings: Any, embed_dim: int) -> Array:
    """Unit vectors [T, E] of embeddings [E] or [T, E]. Raises InputError."""
    expected = f"expected finite floats [T, {embed_dim}], none of them zero"
    found = np.atleast_2d(as_array(embeddings, "text_embeddings", expected))
    if found.ndim != 2 or found.shape[1] != embed_dim or found.dtype.kind != "f" or not len(found):
        raise InputError(f"text_embeddings are {found.dtype} of shape {found.shape}; {expected}.")
    found = found.astype(np.result_type(found, np.float32))
    if not have_direction(found).all():
        raise InputError(f"text_embeddings have a row that is zero or not finite; {expected}.")
    return unit_vectors(found)
