"""One request, as a dialect's handler sees it: its fields, and the core's verbs on what they hold."""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

from .core import Core, Picture, Text
from .fetching import Fetcher
from .limits import Share
from .models import Served
from .refusals import wrong

Array: TypeAlias = NDArray[Any]

# Requests to other hosts at a time.
FETCHERS = 8
_fetchers = ThreadPoolExecutor(FETCHERS, thread_name_prefix="clipref-fetch")


class Source(NamedTuple):
    """An image as a request has it: bytes, base64 (or a data URI), or a URL."""

    where: str
    value: bytes | str


@dataclass
class Call:
    """A request that was read, with the share of the server's memory that it holds."""

    core: Core
    share: Share
    body: Mapping[str, Any]
    files: Mapping[str, bytes] = field(default_factory=dict)
    fetcher: Fetcher | None = None
    model: Served | None = None  # which answers; for the headers of the answer
    items: int = 0

    def use(self, name: object, param: str) -> Served:
        """The model of a name, which answers this request. Raises Refusal."""
        self.model = self.core.models.find(name, param)
        return self.model

    async def images(self, model: Served, sources: Sequence[Source], param: str) -> Array:
        """Embeddings [N, E], raw. Raises Refusal."""
        self._count(len(sources), param)
        pictures = await self.pictures(sources)
        return await self.core.image_embeddings(model, pictures, self.share)

    async def texts(self, model: Served, texts: Any, param: str, *, truncate: bool = False) -> tuple[Array, int]:
        """Embeddings [N, E], raw, of a text or a list of them, and the number of tokens. Raises Refusal."""
        return await self.named_texts(model, named_texts(texts, param), param, truncate=truncate)

    async def named_texts(
        self, model: Served, texts: Sequence[Text], param: str, *, truncate: bool = False
    ) -> tuple[Array, int]:
        """As `texts`, of texts each of which has a name by which a refusal speaks of it."""
        self._count(len(texts), param)
        return await self.core.text_embeddings(model, texts, truncate=truncate)

    def _count(self, count: int, param: str) -> None:
        self.core.check_count(count, param)
        self.items += count

    async def pictures(self, sources: Sequence[Source]) -> list[Picture]:
        """The bytes of images, fetched where they are elsewhere. Raises Refusal."""
        loop = asyncio.get_running_loop()
        found: dict[int, Picture] = {}
        fetched = [(i, source) for i, source in enumerate(sources) if is_url(source.value)]
        if fetched:
            if self.fetcher is None:
                raise wrong(
                    f"{fetched[0][1].where} is a URL, and this server fetches none (its option --allow-image-urls "
                    "names hosts); send the image in base64.",
                    fetched[0][1].where,
                )
            calls = [loop.run_in_executor(_fetchers, self.fetcher.fetch, str(s.value), s.where) for _, s in fetched]
            for (i, source), data in zip(fetched, await asyncio.gather(*calls), strict=True):
                self.share.take("bytes", len(data))
                found[i] = Picture(source.where, data)
        here = [(i, source) for i, source in enumerate(sources) if i not in found]
        found |= await self.core.small(lambda: {i: Picture(s.where, _bytes_of(s)) for i, s in here})
        return [found[i] for i in range(len(sources))]

    def flag(self, name: str) -> bool:
        """An optional field that is true or false. Raises Refusal."""
        value = self.body.get(name)
        if value not in (None, True, False):
            raise wrong(f"{name} is {kind(value)}; expected true or false.", name)
        return bool(value)


def named_texts(texts: Any, param: str) -> list[Text]:
    """A text or a list of texts, each with what the request calls it. Raises Refusal."""
    listed = [texts] if isinstance(texts, str) else texts
    if not isinstance(listed, list):
        raise wrong(f"{param} is {kind(texts)}; expected a text, or a list of texts.", param)
    for i, text in enumerate(listed):
        if not isinstance(text, str):
            raise wrong(f"{param}[{i}] is {kind(text)}; expected a text.", f"{param}[{i}]")
    return [Text(param if isinstance(texts, str) else f"{param}[{i}]", text) for i, text in enumerate(listed)]


def is_url(value: Any) -> bool:
    """Whether a text is an address of the web, or of a machine's files."""
    return isinstance(value, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]{1,15}://", value) is not None


def is_data_uri(value: Any) -> bool:
    """Whether a text is an image as a data URI."""
    return isinstance(value, str) and value[:11].lower() == "data:image/"


def _bytes_of(source: Source) -> bytes:
    """The bytes of an image that came with the request. Raises Refusal, which doesn't repeat it."""
    where, value = source
    if isinstance(value, bytes):
        return value
    if value[:5].lower() == "data:":
        head, comma, value = value.partition(",")
        if not comma or not head.lower().endswith(";base64"):
            raise wrong(f"{where} is a data URI without base64; expected data:image/...;base64,...", where)
    text = "".join(value.split())
    if not text:
        raise wrong(f"{where} is empty; expected an image file in base64.", where)
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        hint = " A path of the server's disk is never read." if re.match(r"[.~]{0,2}/|[A-Za-z]:\\", value) else ""
        raise wrong(f"{where} is not base64; expected an image file in base64.{hint}", where) from None


def kind(value: Any) -> str:
    """What a value of JSON is, for an error that doesn't repeat it."""
    names = {bool: "true or false", type(None): "null", str: "a text", list: "a list", dict: "an object"}
    return names.get(type(value), "a number")


def required_field(body: Mapping[str, Any], name: str) -> Any:
    """A field that has to be there. Raises Refusal."""
    if body.get(name) is None:
        raise wrong(f"{name} is missing.", name)
    return body[name]
