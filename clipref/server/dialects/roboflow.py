"""Roboflow's CLIP routes, as https://github.com/roboflow/inference has them and its inference_sdk speaks them.

Embeddings are raw. Of what its server takes, pickles (`numpy`) and paths of the server's disk (`file`) are refused.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ...similarity import cosines
from ..calls import Array, Call, Source, kind, required_field
from ..core import units
from ..models import Served
from ..refusals import Refusal, wrong
from . import Answer, Getter, Handler, Told

NAME = "roboflow"


def refusal(error: Refusal) -> dict[str, Any]:
    """As its server has it; inference_sdk shows `message`."""
    return {"message": error.message}


async def embed_image(call: Call) -> Any:
    """Images -> embeddings, raw, one an image."""
    start = time.monotonic()
    image = required_field(call.body, "image")
    model = _model(call)
    return _answer(model, start, embeddings=(await call.images(model, _sources(image, "image"), "image")).tolist())


async def embed_text(call: Call) -> Any:
    """Texts -> embeddings, raw, one a text."""
    start = time.monotonic()
    text = required_field(call.body, "text")
    model = _model(call)
    embeddings, _ = await call.texts(model, text, "text", truncate=call.flag("truncate"))
    return _answer(model, start, embeddings=embeddings.tolist())


async def compare(call: Call) -> Any:
    """Cosines of one subject with each prompt, in the shape in which the prompts came."""
    start = time.monotonic()
    subject, prompt = required_field(call.body, "subject"), required_field(call.body, "prompt")
    model = _model(call)
    subject_type, prompt_type = (_type(call, name, usual) for name, usual in _TYPES)
    if isinstance(subject, list):
        raise wrong("subject is a list; expected one item. Several things to compare with are prompts.", "subject")
    names = list(prompt) if _is_named(prompt, prompt_type) else None
    prompts = list(prompt.values()) if names is not None else prompt if isinstance(prompt, list) else [prompt]
    left = await _embeddings(call, model, [subject], subject_type, "subject", None)
    right = await _embeddings(call, model, prompts, prompt_type, "prompt", names)
    found = cosines(units(left), units(right)).tolist()
    similarity = found if names is None else dict(zip(names, found, strict=True))
    return _answer(model, start, similarity=similarity, parent_id=None)


_TYPES = (("subject_type", "image"), ("prompt_type", "text"))


def _type(call: Call, name: str, usual: str) -> str:
    value = call.body.get(name)
    if value not in (None, "image", "text"):
        raise wrong(f'{name} is {kind(value)} that is not known; expected "image" or "text".', name)
    return value or usual


def _is_named(prompt: Any, prompt_type: str) -> bool:
    """Whether it is an object of prompts, by names, and not one image."""
    return isinstance(prompt, dict) and not (prompt_type == "image" and {"type", "value"} <= prompt.keys())


async def _embeddings(
    call: Call, model: Served, items: list[Any], item_type: str, param: str, names: list[str] | None
) -> Array:
    if item_type == "text":
        return (await call.texts(model, items, param))[0]
    where = [f"{param}[{i}]" for i in range(len(items))] if param == "prompt" else [param]
    return await call.images(model, [_source(item, w) for item, w in zip(items, where, strict=True)], param)


def _model(call: Call) -> Served:
    name = call.body.get("clip_version_id")
    return call.use(call.body.get("model_id") if name is None else name, "clip_version_id")


def _answer(model: Served, start: float, **found: Any) -> dict[str, Any]:
    """What all answers have; inference_sdk needs `frame_id` and `time`, and more than one key."""
    opened = model.opened
    return {
        "inference_id": None,
        "frame_id": None,
        "time": time.monotonic() - start,
        "resolved_model": {
            "model_id": model.name,
            "model_package_id": None,
            "backend": opened.backend,
            "quantization": opened.precision,
        },
        **found,
    }


def _sources(images: Any, param: str) -> list[Source]:
    if not isinstance(images, list):
        return [_source(images, param)]
    return [_source(image, f"{param}[{i}]") for i, image in enumerate(images)]


def _source(image: Any, where: str) -> Source:
    """An image as a request has it: an object with type and value, or a bare text in base64 or a URL."""
    if isinstance(image, str):
        return Source(where, image)
    if not isinstance(image, Mapping) or "value" not in image:
        raise wrong(f'{where} is {kind(image)}; expected {{"type": "base64", "value": ...}}.', where)
    if image.get("type") in _REFUSED:
        raise wrong(f"{where}: type {image['type']!r} is never read: {_REFUSED[image['type']]}; use base64.", where)
    if image.get("type") not in ("base64", "url") or not isinstance(image["value"], str):
        raise wrong(f"{where}: expected the type base64 or url, and a value that is a text.", where)
    return Source(where, image["value"])


_REFUSED = {"numpy": "it is a pickle, which could run anything", "file": "it is a path of the server's disk"}


def info(server: Told) -> Any:
    """What the server is."""
    return server.info()


def healthz(server: Told) -> Any:
    """Whether it lives, from its first moment on."""
    return {"status": "healthy"}


def readiness(server: Told) -> Any:
    """Whether both towers of all models have run once."""
    return {"status": "ready"} if server.ready else Answer(503, {"status": "not ready"})


def registry(server: Told) -> Any:
    """The models that there are."""
    return {
        "models": [
            {
                "model_id": model["id"],
                "task_type": "embed",
                "batch_size": None,
                "input_height": model["resolution"],
                "input_width": model["resolution"],
            }
            for model in server.models()
        ]
    }


POSTS: Mapping[str, Handler] = {
    "/clip/embed_image": embed_image,
    "/clip/embed_text": embed_text,
    "/clip/compare": compare,
}
FORMS: Mapping[str, Handler] = {}
GETS: Mapping[str, Getter] = {
    "/info": info,
    "/healthz": healthz,
    "/readiness": readiness,
    "/model/registry": registry,
}
