"""Images read and preprocessed beside the engine: in order, a bounded number of them ahead, the unreadable apart."""

from __future__ import annotations

import dataclasses
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from .arguments import check_choice, elements, length
from .cleaning import libraries
from .config import ClipConfig, NoTower
from .errors import ImageError, with_index
from .image_locks import pillow
from .lazy import no_fork
from .preprocessing import fast_resize, preprocess

Array: TypeAlias = NDArray[Any]
T = TypeVar("T")

AN_IMAGE_OR_SEVERAL = "expected an image, or a list of images"


def import_libraries(config: ClipConfig) -> None:
    """Import what makes inputs of images and texts, for the towers that a model has.

    When a model is opened, so that it has nothing left to import. Python's lock of a module stays held in a child that
    is forked while a thread imports it, the user's own threads too, which `no_fork` knows nothing of.
    """
    if not isinstance(config.vision, NoTower):
        pillow()
        fast_resize()
    if not isinstance(config.text, NoTower):
        libraries()


def preprocessor(config: ClipConfig, input_color_format: str | None, max_pixels: int | None) -> Callable[[Any], Array]:
    """The function that makes a model's pixels [3, R, R] of an image. Raises InputError for a wrong argument."""
    if input_color_format is not None:
        check_choice("input_color_format", input_color_format, ("bgr", "rgb"))
    settings = dataclasses.asdict(config.preprocess)
    if max_pixels is not None:
        settings["max_pixels"] = max_pixels
    side = config.vision.resolution
    return lambda image: preprocess(image, side, input_color_format=input_color_format, **settings)


def preprocess_ahead(
    images: Iterable[Any], pixels_of: Callable[[Any], T], workers: int, ahead: int
) -> Generator[T | ImageError, None, None]:
    """What `pixels_of` makes of each image, or its error, in order; at most `ahead` are done before they are taken.

    Paths and bytes are preprocessed by `workers` threads, which end when the generator is closed.
    """

    def pixels(i: int, image: Any) -> T | ImageError:
        try:
            return pixels_of(image)
        except ImageError as error:
            named = with_index(error, "image", i, image)
            named.__cause__ = error
            return named

    pending: deque[Future[T | ImageError]] = deque()
    with ThreadPoolExecutor(workers, thread_name_prefix="clipref") as pool:
        try:
            for i, image in enumerate(images):
                if isinstance(image, str | os.PathLike | bytes):
                    pending.append(pool.submit(pixels, i, image))
                else:  # may change as soon as the next one is asked for, like the buffer of a video's frames
                    pending.append(_future_of(pixels(i, image)))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def preprocessed_batches(
    images: Iterable[Any],
    pixels_of: Callable[[Any], Array],
    workers: int,
    size: int,
    failed: dict[int, ImageError] | None,
    progress: bool,
) -> Generator[tuple[tuple[int, ...], Array], None, None]:
    """The images' numbers and pixels [n, 3, R, R], `size` at a time. Errors are as in `sound`.

    The bar on standard error moves on when the next batch is asked for, and the pixels' memory is used for it again:
    new memory for each would cost as much as filling it.
    """
    room = np.empty(0)
    items = elements(images, "images", AN_IMAGE_OR_SEVERAL)
    found = preprocess_ahead(items, pixels_of, workers, size)
    with progress_bar(length(images), progress) as bar, closing(found):
        for batch in in_batches(sound(found, failed), size):
            indices, pixels = zip(*batch, strict=True)
            if len(room) < len(pixels):
                room = np.empty((len(pixels), *pixels[0].shape), pixels[0].dtype)
            yield indices, np.stack(pixels, out=room[: len(pixels)])
            bar.update(len(batch))


def _future_of(value: T) -> Future[T]:
    """A call that has been made, as if a pool had made it."""
    future: Future[T] = Future()
    future.set_result(value)
    return future


def in_batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Consecutive items, `size` at a time."""
    batch: list[T] = []
    for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def with_gaps(embeddings: Array, gaps: list[int]) -> Array:
    """Embeddings [N, E] -> [N + gaps, E], with rows of NaN where the gaps are to be in the result."""
    whole = np.full((len(embeddings) + len(gaps), embeddings.shape[1]), np.nan, embeddings.dtype)
    whole[np.setdiff1d(np.arange(len(whole)), gaps)] = embeddings
    return whole


def sound(found: Iterable[Array | ImageError], failed: dict[int, ImageError] | None) -> Iterator[tuple[int, Array]]:
    """The pixels of each image and its number. An error is raised, or kept in `failed` by its image's number."""
    for i, pixels in enumerate(found):
        if not isinstance(pixels, ImageError):
            yield i, pixels
        elif failed is None:
            raise pixels
        else:
            failed[i] = pixels


class HiddenBar:
    """A progress bar that isn't shown.

    tqdm's own, hidden or not, takes a lock that a process shares with those forked from it: if one of them is killed
    while it holds the lock, the others wait for ever.
    """

    total: int = 0

    def __enter__(self) -> HiddenBar:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int = 1) -> None:
        """Show nothing."""

    def set_postfix(self, **_: object) -> None:
        """Show nothing."""

    def clear(self) -> None:
        """Nothing is there."""


def progress_bar(total: int | None, shown: bool, unit: str = "image") -> Any:
    """A progress bar on standard error, or one that isn't shown."""
    if not shown:
        return HiddenBar()
    with no_fork:
        from tqdm import tqdm

    return tqdm(total=total, unit=unit)
