"""Embeddings of images, a batch at a time and in order, while the next ones are read and preprocessed."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import closing
from typing import TYPE_CHECKING, Any, TypeAlias

from numpy.typing import NDArray

from .engine import checked_pixels
from .errors import ImageError
from .lazy import available_threads
from .loading import preprocessed_batches, preprocessor
from .similarity import finite_embeddings

if TYPE_CHECKING:
    from .clip import CLIP

Array: TypeAlias = NDArray[Any]


def embedded_batches(
    model: CLIP,
    images: Iterable[Any],
    *,
    normalize: bool = False,
    input_color_format: str | None = None,
    batch_size: int = 32,
    progress: bool = False,
    workers: int | None = None,
    max_pixels: int | None = None,
    failed: dict[int, ImageError] | None = None,
) -> Generator[tuple[tuple[int, ...], Array], None, None]:
    """The numbers of a batch's images, counted from 0, and their embeddings [n, E]: what `embed_images` returns whole.

    An image that can't be read ends it with its ImageError, or is left out and has its error in `failed`, if that is
    given, before a batch comes with later images. Raises WeightsError; InputError for `input_color_format`.
    """
    pixels_of = preprocessor(model.config, input_color_format, max_pixels or model.max_pixels)
    side = model.config.vision.resolution
    read = preprocessed_batches(images, pixels_of, workers or available_threads(), batch_size, failed, progress)
    with closing(read):
        for numbers, pixels in read:
            pixels = checked_pixels(pixels, side, model.dtype)
            with model.weights_in_use():
                embeddings = model.engine.encode_image(pixels)
            yield numbers, finite_embeddings(embeddings, "image", numbers, normalize)
