"""clip-retrieval's routes, for its front ends and its client: search of a folder by a text, an image or a vector.

Truth: https://github.com/rom1504/clip-retrieval, clip_retrieval/clip_back.py. What needs models that aren't here
(`use_mclip`, `use_safety_model`, `use_violence_detector`, `aesthetic_score`) is ignored, as it is there where these
aren't loaded; so is `aesthetic_weight`. Pictures are small copies, and paths are relative to the folder. With
`deduplicate`, a hit that is near a better one is left out; there, so is one that a chain of others leads to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import InputError
from ..calls import Array, Call, Source, kind, required_field
from ..core import Text, units
from ..folders import Folder, distinct
from ..refusals import Refusal, wrong
from . import Getter, Handler, Told
from .folders import count_of, facts, ids_of, thumbnails, valid

if TYPE_CHECKING:
    from ...search.query import Hit

NAME = "clip-retrieval"

# Pictures that come with their facts, unless the request says: as many as in clip-retrieval.
NUM_IMAGES = 100


def refusal(error: Refusal) -> dict[str, Any]:
    """As flask-restful has it, which that server is made of."""
    return {"message": error.message}


async def knn_service(call: Call) -> Any:
    """A query -> hits, best first; the first `num_images` of them with what is known and a small copy."""
    from ...search.query import Restriction, Term

    body = call.body
    folder = call.core.folders.find(body.get("indice_name"), "indice_name")
    if body.get("modality") not in (None, "image"):
        raise wrong('modality: this index has images only; expected "image".', "modality")
    num_images = count_of(body, "num_images", NUM_IMAGES)
    asked = count_of(body, "num_result_ids", num_images)
    call.core.check_count(num_images, "num_images")
    term = Term(vector=await _vector(call, folder))
    hits = await call.core.folders.call(lambda: folder.search([term], Restriction(), asked))
    if call.flag("deduplicate"):
        hits = await call.core.folders.call(lambda: _distinct(folder, hits))
    pictures = await thumbnails(call, folder, [hit.path for hit in hits[:num_images]])
    shown = [_entry(hit, picture) for hit, picture in zip(hits, pictures, strict=False)]
    return shown + [{"id": hit.id, "similarity": hit.score} for hit in hits[num_images:]]


async def metadata(call: Call) -> Any:
    """Ids of hits -> what is known of each, with a small copy."""
    ids = ids_of(required_field(call.body, "ids"), "ids")
    folder = call.core.folders.find(call.body.get("indice_name"), "indice_name")
    if not ids:
        return []
    call.core.check_count(len(ids), "ids")
    known = await call.core.folders.call(lambda: folder.pictures(ids))
    pictures = await thumbnails(call, folder, [known[number].path for number in ids])
    return [
        {"id": number, "metadata": _metadata(known[number], picture)}
        for number, picture in zip(ids, pictures, strict=True)
    ]


async def _vector(call: Call, folder: Folder) -> Array:
    """The query's unit vector [E]: of `text`, `image`, `image_url` or `embedding_input`, the first that is there."""
    body = call.body
    model = call.use(folder.served.name, "indice_name")
    for name in ("text", "image", "image_url"):
        value = body.get(name)
        if value in (None, ""):
            continue
        if not isinstance(value, str):
            raise wrong(f"{name} is {kind(value)}; expected a text.", name)
        if name == "text":
            rows, _ = await call.named_texts(model, [Text(name, value)], name, truncate=True)
        else:
            rows = await call.images(model, [Source(name, value)], name)
        unit: Array = units(rows)[0]
        return unit
    given = required_field(body, "embedding_input")
    from ...search.query import Term

    try:
        if not isinstance(given, list) or not all(isinstance(x, int | float) for x in given):
            raise InputError("not a list of numbers")
        return Term(vector=np.array(given, np.float64)).direction(model.config.embed_dim)
    except InputError as error:
        message = f"embedding_input: expected {model.config.embed_dim} numbers, not all zero."
        raise wrong(message, "embedding_input") from error


def _distinct(folder: Folder, hits: list[Hit]) -> list[Hit]:
    known = folder.index.pictures([hit.id for hit in hits if hit.id is not None])
    there = [hit for hit in hits if hit.id in known]
    if not there:
        return []
    return [there[i] for i in distinct(np.stack([known[hit.id].vector for hit in there if hit.id is not None]))]


def _entry(hit: Hit, picture: str | None) -> dict[str, Any]:
    return {**_metadata(hit, picture), "id": hit.id, "similarity": hit.score}


def _metadata(picture: Any, small: str | None) -> dict[str, Any]:
    found = {"image_path": valid(picture.path), **facts(picture)}
    del found["path"]
    return found if small is None else {**found, "image": small}


def indices_list(server: Told) -> Any:
    """Names of the folders."""
    return [folder["name"] for folder in server.folders()]


POSTS: Mapping[str, Handler] = {"/knn-service": knn_service, "/metadata": metadata}
FORMS: Mapping[str, Handler] = {}
GETS: Mapping[str, Getter] = {"/indices-list": indices_list}
