"""Embeddings of images, a batch at a time and in order, while the next ones are read and preprocessed."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from .engine import checked_pixels
from .similarity import finite_embeddings

if TYPE_CHECKING:
    from .clip import CLIP

Array: TypeAlias = NDArray[Any]
Batches: TypeAlias = Generator[tuple[tuple[int, ...], Array], None, None]


def embedded_batches(model: CLIP, read: Batches, *, normalize: bool) -> Batches:
    """The numbers of each batch's images and their embeddings [n, E]; `read` are numbers and pixels [n, 3, R, R], as
    `preprocessed_batches` of clipref/loading.py has them. Raises WeightsError, and what reading raises.
    """
    with closing(read):
        for numbers, pixels in read:
            pixels = checked_pixels(pixels, model.config.vision.resolution, model.dtype)
            with model.weights_in_use():
                embeddings = model.engine.encode_image(pixels)
            yield numbers, finite_embeddings(embeddings, "image", numbers, normalize)
