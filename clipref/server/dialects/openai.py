"""OpenAI's embeddings route, and the ways in which others put images into it.

Truth: https://platform.openai.com/docs/api-reference/embeddings; images as Infinity (`modality`), Jina (`{"image":
...}`) and vLLM (`messages`) have them, or as data URIs among the texts. Embeddings are unit vectors, as their users
expect.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..calls import Array, Call, Source, is_data_uri, is_url, kind, required_field
from ..core import Text, units
from ..models import Served
from ..refusals import Refusal, wrong
from . import Answer, Getter, Handler, Told

NAME = "openai"


class Item(NamedTuple):
    """One thing to embed: an image or a text."""

    where: str
    value: str
    is_image: bool


def refusal(error: Refusal) -> dict[str, Any]:
    """As OpenAI's API has it."""
    types = {401: "authentication_error", 429: "rate_limit_error"}
    kind_ = types.get(error.status, "server_error" if error.status >= 500 else "invalid_request_error")
    return {"error": {"message": error.message, "type": kind_, "param": error.param, "code": error.code}}


async def embeddings(call: Call) -> Any:
    """Texts and images -> unit vectors, in their order."""
    body = call.body
    items = _items(body)
    model = call.use(body.get("model"), "model")
    encoding = body.get("encoding_format")
    if encoding not in (None, "float", "base64"):
        raise wrong('encoding_format: expected "float" or "base64".', "encoding_format")
    dimensions = body.get("dimensions")
    if dimensions not in (None, model.config.embed_dim):
        raise wrong(f"dimensions: {model.name} has {model.config.embed_dim}, and can't be cut.", "dimensions")
    found, tokens = await _unit_vectors(call, model, items)
    return {
        "object": "list",
        "data": [
            {"object": "embedding", "index": i, "embedding": _vector_as_json(row, encoding == "base64")}
            for i, row in enumerate(found)
        ],
        "model": model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    }


async def _unit_vectors(call: Call, model: Served, items: list[Item]) -> tuple[Array, int]:
    """Unit vectors [N, E] of images and texts, in their order, and the number of tokens."""
    call.core.check_count(len(items), "input")
    found = np.empty((len(items), model.config.embed_dim), np.float32)
    tokens = 0
    images = [i for i, item in enumerate(items) if item.is_image]
    texts = [i for i, item in enumerate(items) if not item.is_image]
    if images:
        sources = [Source(items[i].where, items[i].value) for i in images]
        found[images] = units(await call.images(model, sources, "input"))
    if texts:
        named = [Text(items[i].where, items[i].value) for i in texts]
        rows, tokens = await call.named_texts(model, named, "input", truncate=call.flag("truncate"))
        found[texts] = units(rows)
    return found, tokens


def _vector_as_json(row: Array, as_base64: bool) -> Any:
    return base64.b64encode(row.astype("<f4").tobytes()).decode() if as_base64 else row.tolist()


def _items(body: Mapping[str, Any]) -> list[Item]:
    if body.get("messages") is not None:
        return [_of_messages(body["messages"])]
    given = required_field(body, "input")
    listed = given if isinstance(given, list) else [given]
    if (listed and all(isinstance(x, int) for x in listed)) or any(isinstance(x, list) for x in listed):
        raise wrong("input has token ids, which are those of OpenAI's models, not of CLIP; send texts.", "input")
    modality = body.get("modality")
    if modality not in (None, "text", "image"):
        raise wrong('modality: expected "text" or "image".', "modality")
    where = ["input"] if not isinstance(given, list) else [f"input[{i}]" for i in range(len(listed))]
    return [_item(value, name, modality) for value, name in zip(listed, where, strict=True)]


def _item(value: Any, where: str, modality: Any) -> Item:
    if isinstance(value, str):
        is_image = modality == "image" or (modality is None and is_data_uri(value))
        if modality == "image" and not is_data_uri(value) and not is_url(value):
            raise wrong(f"{where}: an image is a data URI (data:image/...;base64,...) or a URL.", where)
        return Item(where, value, is_image)
    if isinstance(value, dict):
        for key, is_image in (("image", True), ("text", False)):
            if isinstance(value.get(key), str):
                return Item(f"{where}.{key}", value[key], is_image)
    raise wrong(f'{where} is {kind(value)}; expected a text, a data URI, {{"text": ...}} or {{"image": ...}}.', where)


def _of_messages(messages: Any) -> Item:
    """The one text or image of a conversation, which CLIP has no way to see together."""
    parts: list[Item] = []
    for i, message in enumerate(messages if isinstance(messages, list) else []):
        content = message.get("content") if isinstance(message, dict) else None
        where = f"messages[{i}].content"
        if isinstance(content, str):
            parts.append(Item(where, content, False))
        for j, part in enumerate(content if isinstance(content, list) else []):
            parts.append(_part(part, f"{where}[{j}]"))
    if len(parts) != 1:
        raise wrong(
            f"messages has {len(parts)} parts; CLIP embeds a text or an image, so expected one. Send several as input.",
            "messages",
        )
    return parts[0]


def _part(part: Any, where: str) -> Item:
    if isinstance(part, dict):
        if part.get("type") == "text" and isinstance(part.get("text"), str):
            return Item(where, part["text"], False)
        image = part.get("image_url")
        if part.get("type") == "image_url" and isinstance(image, dict) and isinstance(image.get("url"), str):
            return Item(where, image["url"], True)
    raise wrong(f"{where}: expected a text or an image_url.", where)


def models(server: Told) -> Any:
    """The models that there are."""
    return {"object": "list", "data": [_model(model["id"]) for model in server.models()]}


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "clipref"}


def live(server: Told) -> Any:
    """Whether it lives, under the name that servers of this dialect use."""
    return Answer(200, {"status": "ok"})


POSTS: Mapping[str, Handler] = {"/v1/embeddings": embeddings}
FORMS: Mapping[str, Handler] = {}
GETS: Mapping[str, Getter] = {"/v1/models": models, "/health": live}
