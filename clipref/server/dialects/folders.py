"""Search of folders, as the page /search asks for it. Errors are as OpenAI's API has them.

A query is a list of terms, each a text, an image, or a picture of the folder by its `id`, with a weight, which is
negative for what is taken away.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ...cli.texts import name_of
from ...errors import InputError
from ..calls import Array, Call, Source, kind, required_field
from ..core import Text, units
from ..folders import MOST_HITS, Folder
from ..refusals import Refusal, wrong
from . import Getter, Handler, Told
from .openai import refusal as refusal

if TYPE_CHECKING:
    from ...search.query import Restriction

NAME = "search"

TOP_K = 20
# Characters of a date or a pattern.
MAX_FILTER = 256


class Part(NamedTuple):
    """A term of a query, as it was asked for: "text", "image" or "id", its value, and its weight."""

    where: str
    what: str
    value: Any
    weight: float


async def search(call: Call) -> Any:
    """A query -> hits, best first, each with its cosine with every term."""
    from ...search.query import Term

    body = call.body
    parts = _parts(required_field(body, "terms"))
    top_k, restriction = count_of(body, "top_k", TOP_K), _restriction(body)
    least = {name: _number(body.get(name), name) for name in ("min_score", "within")}
    folder = call.core.folders.find(body.get("folder"), "folder")
    vectors = await _vectors(call, folder, parts)
    terms = [Term(vector=vector, weight=part.weight) for part, vector in zip(parts, vectors, strict=True)]
    hits = await call.core.folders.call(lambda: folder.search(terms, restriction, top_k, **least))
    return {
        "object": "search",
        "folder": folder.name,
        "model": folder.served.name,
        "pictures": await call.core.folders.call(lambda: len(folder.index)),
        "hits": [{**facts(hit), "id": hit.id, "score": hit.score, "cosines": list(hit.cosines)} for hit in hits],
    }


async def thumbnail(call: Call) -> Any:
    """A picture of a folder by its `id` -> a small JPEG, as a data URI."""
    (number,) = ids_of([required_field(call.body, "id")], "id")
    folder = call.core.folders.find(call.body.get("folder"), "folder")
    known = await call.core.folders.call(lambda: folder.pictures([number]))
    (found,) = await thumbnails(call, folder, [known[number].path])
    if found is None:
        raise Refusal(404, f"The file of picture {number} can't be read any more.", param="id")
    return {"object": "thumbnail", "image": f"data:image/jpeg;base64,{found}"}


async def thumbnails(call: Call, folder: Folder, paths: list[str]) -> list[str | None]:
    """Small JPEGs in base64; None for a file that can't be read any more."""
    found = await call.core.each(folder.thumbnail_of, paths)
    return [None if data is None else base64.b64encode(data).decode() for data in found]


def facts(picture: Any) -> dict[str, Any]:
    """Path, size and date of a hit's picture; what isn't known of it is left out."""
    known = {"path": valid(picture.path), "width": picture.width, "height": picture.height, "taken": picture.taken}
    return {name: value for name, value in known.items() if value is not None}


def valid(path: str) -> str:
    """A path as a text of JSON; bytes that are no UTF-8 are replaced."""
    return name_of(path).encode("utf-8", "replace").decode("utf-8")


def count_of(body: Mapping[str, Any], name: str, usual: int) -> int:
    """How many hits are asked for. Raises Refusal."""
    value = body.get(name)
    value = usual if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MOST_HITS:
        raise wrong(f"{name}: expected a whole number from 1 to {MOST_HITS}.", name)
    return value


def ids_of(values: Any, param: str) -> list[int]:
    """Numbers of pictures. Raises Refusal."""
    if not isinstance(values, list) or len(values) > MOST_HITS:
        raise wrong(f"{param} is {kind(values)}; expected a list of at most {MOST_HITS} ids.", param)
    for value in values:
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise wrong(f"{param}: expected the id of a hit, a whole number.", param)
    return values


def _parts(terms: Any) -> list[Part]:
    if not isinstance(terms, list):
        raise wrong(f"terms is {kind(terms)}; expected a list.", "terms")
    return [_part(term, f"terms[{i}]") for i, term in enumerate(terms)]


def _part(term: Any, where: str) -> Part:
    there = [what for what in ("text", "image", "id") if isinstance(term, dict) and term.get(what) is not None]
    if len(there) != 1:
        raise wrong(f'{where}: expected {{"text": ...}}, {{"image": ...}} or {{"id": ...}}, and a weight.', where)
    (what,) = there
    value = term[what]
    if what == "id":
        ids_of([value], where)
    elif not isinstance(value, str):
        raise wrong(f"{where}.{what} is {kind(value)}; expected a text.", where)
    weight = _number(term.get("weight"), f"{where}.weight")
    weight = 1.0 if weight is None else weight
    if not weight:
        raise wrong(f"{where}.weight is 0; a term without weight is none.", where)
    return Part(where, what, value, weight)


def _number(value: Any, where: str) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and abs(value) < 1e6 and math.isfinite(value)):
        raise wrong(f"{where}: expected a number between -1e6 and 1e6.", where)
    return None if value is None else float(value)


def _restriction(body: Mapping[str, Any]) -> Restriction:
    from ...search.query import Restriction

    for name in ("after", "before", "path"):
        value = body.get(name)
        if value is not None and not (isinstance(value, str) and len(value) <= MAX_FILTER):
            raise wrong(f"{name} is {kind(value)}; expected a text of at most {MAX_FILTER} characters.", name)
    after, before, path = (body.get(name) or None for name in ("after", "before", "path"))
    try:
        return Restriction(after, before, path)
    except InputError as error:
        raise wrong("after and before: expected dates such as 2024, 2024-05 or 2024-05-31.", "after") from error


async def _vectors(call: Call, folder: Folder, parts: list[Part]) -> list[Array]:
    """Unit vectors of the terms, in their order."""
    model = call.use(folder.served.name, "folder")
    call.core.check_count(len(parts), "terms")
    found: dict[int, Array] = {}
    by_kind = {what: [i for i, part in enumerate(parts) if part.what == what] for what in ("text", "image", "id")}
    if chosen := by_kind["text"]:
        rows, _ = await call.named_texts(model, [Text(parts[i].where, parts[i].value) for i in chosen], "terms")
        found |= zip(chosen, units(rows), strict=True)
    if chosen := by_kind["image"]:
        sources = [Source(parts[i].where, parts[i].value) for i in chosen]
        found |= zip(chosen, units(await call.images(model, sources, "terms")), strict=True)
    if chosen := by_kind["id"]:
        ids = [parts[i].value for i in chosen]
        known = await call.core.folders.call(lambda: folder.pictures(ids))
        found |= {i: known[parts[i].value].vector for i in chosen}
    return [found[i] for i in range(len(parts))]


def folders(server: Told) -> Any:
    """The folders that can be searched."""
    return {"object": "list", "data": server.folders()}


POSTS: Mapping[str, Handler] = {"/v1/search": search, "/v1/thumbnail": thumbnail}
FORMS: Mapping[str, Handler] = {}
GETS: Mapping[str, Getter] = {"/v1/folders": folders}
