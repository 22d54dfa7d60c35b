"""Directions of whatever is compared: images and texts, which a model embeds, or embeddings that are there already."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from .arguments import are_embeddings, as_array, check_choice, listed_texts
from .errors import ImageError, InputError, TextError
from .similarity import have_direction, unit_vectors

if TYPE_CHECKING:
    from .clip import CLIP

Array: TypeAlias = NDArray[Any]
Kind: TypeAlias = Literal["image", "text"]


def directions(model: CLIP, items: Any, kind: Kind, argument: str, input_color_format: str | None) -> Array:
    """Unit vectors [N, E] of images, of texts, or of embeddings. Errors say which `argument` tells them apart."""
    check_choice(argument, kind, get_args(Kind))
    if are_embeddings(items, model.config.embed_dim):
        return _directions_of_embeddings(items)
    if kind == "image":
        try:
            return model.embed_images(items, normalize=True, input_color_format=input_color_format)
        except ImageError as error:
            if isinstance(error.source, str) and not os.path.exists(error.source):
                error.args = (f'{error} If it is a text, pass {argument}="text".',)
            raise
    try:
        texts = listed_texts(items)
    except (InputError, TextError) as error:
        hint = f'For an image pass {argument}="image"; an embedding has {model.config.embed_dim} floats.'
        error.args = (f"{error} {hint}",)
        raise
    return model.embed_text(texts, normalize=True)


def _directions_of_embeddings(given: Any) -> Array:
    """Embeddings [E] or [N, E] -> unit vectors [N, E]. Raises InputError for none, and for one without a direction."""
    embeddings = np.atleast_2d(as_array(given, "embeddings", "expected floats"))
    embeddings = embeddings.astype(np.result_type(embeddings, np.float32))  # float16 holds no squares
    if not len(embeddings):
        raise InputError("No embeddings were given; expected at least one.")
    wrong = np.flatnonzero(~have_direction(embeddings))
    if wrong.size:
        raise InputError(f"Row {wrong[0]} of the embeddings given is zero or not finite, and has no direction.")
    return unit_vectors(embeddings)


def checked_embeddings(given: Any, embed_dim: int) -> Array:
    """Embeddings [N, E] of any numbers, as they lie. Raises InputError for another shape or dtype."""
    expected = f"expected [N, {embed_dim}] numbers, as embed_images gives them"
    embeddings = as_array(given, "embeddings", expected)
    if embeddings.ndim != 2 or embeddings.shape[1] != embed_dim or embeddings.dtype.kind not in "fiu":
        raise InputError(f"embeddings are {embeddings.dtype} of shape {embeddings.shape}; {expected}.")
    return embeddings
