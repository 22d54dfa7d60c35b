"""The core: image files and texts of one request in, embeddings out.

Headers of images are read first, so that pixels are counted before any is decoded. Images are decoded, and texts turned
to tokens, in threads; nothing of it happens in the event loop. A request is computed only if all of its items are
sound: the first that isn't is named in the refusal.
"""

from __future__ import annotations

import asyncio
import io
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ImageError, TextError, WeightsError
from ..images import size_of
from ..lazy import available_threads
from ..similarity import have_direction, unit_vectors
from ..text_transformer import end_of_text
from .folders import Folders
from .limits import Limits, Share
from .models import Models, Served
from .refusals import Refusal, wrong

Array: TypeAlias = NDArray[Any]
T = TypeVar("T")


class Picture(NamedTuple):
    """An image file's bytes, and what the request calls it."""

    where: str  # "image[2]"
    data: bytes


class Text(NamedTuple):
    """A text, and what the request calls it."""

    where: str
    text: str


class Core:
    """What all dialects stand on."""

    def __init__(
        self,
        models: Models,
        limits: Limits,
        stage: Callable[[str, float], None] = lambda name, s: None,
        folders: Folders | None = None,
    ) -> None:
        """`stage` is told how many seconds each stage of a request took."""
        self.models = models
        self.folders = folders or Folders()
        self.limits = limits
        self._stage = stage
        self._small = ThreadPoolExecutor(2, thread_name_prefix="clipref-small")
        self._decoders = ThreadPoolExecutor(available_threads(), thread_name_prefix="clipref-decode")

    async def small(self, function: Callable[[], T]) -> T:
        """The result of a function that takes milliseconds, such as reading JSON, in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._small, function)

    async def each(self, function: Callable[[Any], T], items: Sequence[Any]) -> list[T]:
        """A function's results of all items, in threads. The first item's Refusal is raised, whichever comes first."""
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(self._decoders, function, item) for item in items]
        found = await asyncio.gather(*calls, return_exceptions=True)
        for result in found:
            if isinstance(result, BaseException):
                raise result
        return found  # type: ignore[return-value]

    def check_count(self, count: int, param: str) -> None:
        """Raise Refusal for no items, and for too many."""
        if not count:
            raise wrong(f"{param} is empty; expected at least one item.", param)
        if count > self.limits.items:
            raise Refusal(413, f"{param} has {count} items; at most {self.limits.items} are taken.", param=param)

    async def image_embeddings(self, model: Served, pictures: Sequence[Picture], share: Share) -> Array:
        """Image files -> embeddings [N, E] float32, raw. Raises Refusal."""
        batcher = model.image_batcher()
        pixels_of = model.pixels_of(self.limits.image_pixels)
        start = time.monotonic()
        with batcher.arriving():
            pixels = await self.small(lambda: sum(map(self._size, pictures)))
            share.take("pixels", pixels)
            side = model.config.vision.resolution
            share.take("bytes", len(pictures) * 3 * side * side * 4)
            decoded = await self.each(lambda picture: _call_on_picture(picture, pixels_of), pictures)
            share.give_back("pixels", pixels)
        self._stage("decode", time.monotonic() - start)
        return np.stack(await batcher.results(decoded))

    def _size(self, picture: Picture) -> int:
        """How many pixels an image promises to have."""

        def size(data: bytes) -> int:
            width, height = size_of(io.BytesIO(data), max_pixels=self.limits.image_pixels)
            return width * height

        return _call_on_picture(picture, size)

    async def text_embeddings(
        self, model: Served, texts: Sequence[Text], *, truncate: bool = False
    ) -> tuple[Array, int]:
        """Texts -> embeddings [N, E] float32, raw, and how many tokens they have together. Raises Refusal."""
        batcher = model.text_batcher()
        start = time.monotonic()
        with batcher.arriving():
            lengths = await self.each(lambda text: self._tokens(model, text, truncate), texts)
        self._stage("tokenize", time.monotonic() - start)
        return np.stack(await batcher.results([text.text for text in texts])), sum(lengths)

    def _tokens(self, model: Served, text: Text, truncate: bool) -> int:
        """How many tokens a text has, start and end included. Raises Refusal, which doesn't repeat the text."""
        if len(text.text) > self.limits.text_characters:
            raise Refusal(
                413,
                f"{text.where} has {len(text.text)} characters; at most {self.limits.text_characters} are taken.",
                param=text.where,
            )
        try:
            ids = model.opened.tokenize([text.text], truncate)
        except TextError as error:
            reason = str(error).removeprefix("text 0: ").replace(f": {text.text[:50]!r}...", ".")
            raise wrong(f"{text.where}: {reason.replace('truncate=True', 'truncate: true')}", text.where) from error
        length = int(end_of_text(ids)[0]) + 1
        if length == 2:
            raise wrong(f"{text.where} is empty; an empty text has no meaning to embed.", text.where)
        return length

    def stop(self) -> None:
        """Let the threads end."""
        self._small.shutdown(wait=False, cancel_futures=True)
        self.folders.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)


def _call_on_picture(picture: Picture, function: Callable[[bytes], T]) -> T:
    """What a function makes of an image file. An ImageError becomes a Refusal that names the image and quotes none."""
    try:
        return function(picture.data)
    except ImageError as error:
        quoted = f", {picture.data[:40].decode('ascii', 'replace')!r}"
        reason = str(error).replace(quoted, "").removeprefix("the bytes given: ")
        reason = reason.replace("raise max_pixels (an argument of preprocess)", "raise the server's --max-pixels")
        raise wrong(f"{picture.where}: {reason}", picture.where) from error


def units(embeddings: Array) -> Array:
    """Embeddings [N, E] -> unit vectors [N, E]. Raises WeightsError for one that is zero."""
    if not have_direction(embeddings).all():
        raise WeightsError("An embedding is zero, which has no direction; are the weights damaged?")
    return unit_vectors(embeddings)
