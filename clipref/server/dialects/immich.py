"""What immich's server asks of its machine-learning service, as far as it is CLIP.

Truth: https://github.com/immich-app/immich, server/src/repositories/machine-learning.repository.ts. The embedding is a
list of numbers as a text, a unit vector; a text that is too long is cut, as immich's own service cuts it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from ...files import parse_json
from ...images import size_of
from ..calls import Call, Source
from ..core import units
from ..refusals import Refusal, wrong
from . import Answer, Getter, Handler, Told

NAME = "immich"


def refusal(error: Refusal) -> dict[str, Any]:
    """As its service has it."""
    return {"detail": error.message}


async def predict(call: Call) -> Any:
    """An image or a text -> its unit vector."""
    task, name = _task(call.body.get("entries"))
    model = call.use(name, "modelName")
    if task == "visual":
        if "image" not in call.files:
            raise wrong("The form has no file `image`, which the task clip.visual needs.", "image")
        data = call.files["image"]
        (row,) = units(await call.images(model, [Source("image", data)], "image"))
        width, height = await call.core.small(
            lambda: size_of(io.BytesIO(data), max_pixels=call.core.limits.image_pixels)
        )
        return {"clip": json.dumps(row.tolist()), "imageHeight": height, "imageWidth": width}
    if not isinstance(call.body.get("text"), str):
        raise wrong("The form has no field `text`, which the task clip.textual needs.", "text")
    rows, _ = await call.texts(model, call.body["text"], "text", truncate=True)
    return {"clip": json.dumps(units(rows)[0].tolist())}


def _task(entries: Any) -> tuple[str, Any]:
    """Which tower is asked for, and of which model. Raises Refusal."""
    try:
        tasks = parse_json(entries.encode())
        (name,) = tasks
        ((task, settings),) = tasks[name].items()
        model = settings["modelName"]
    except (TypeError, ValueError, KeyError, AttributeError):
        raise wrong(
            'entries: expected JSON of one task, such as {"clip": {"textual": {"modelName": "ViT-B-32__openai"}}}.',
            "entries",
        ) from None
    if name != "clip" or task not in ("visual", "textual"):
        raise wrong("entries: this server has the tasks clip.visual and clip.textual only.", "entries")
    return task, model


def ping(server: Told) -> Any:
    """Whether it lives."""
    return Answer(200, "pong", "text/plain")


POSTS: Mapping[str, Handler] = {}
FORMS: Mapping[str, Handler] = {"/predict": predict}
GETS: Mapping[str, Getter] = {"/ping": ping}
