"""What Weaviate's module multi2vec-clip asks of its inference container.

Truth: https://github.com/weaviate/multi2vec-clip-inference, app.py, and Weaviate's modules/multi2vec-clip/clients.
Embeddings are unit vectors; a text that is too long is cut, as in that container.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..calls import Call, Source, kind
from ..core import units
from ..refusals import Refusal, wrong
from . import Answer, Getter, Handler, Told

NAME = "weaviate"


def refusal(error: Refusal) -> dict[str, Any]:
    """As its container has it."""
    return {"error": error.message}


async def vectorize(call: Call) -> Any:
    """Texts and images -> unit vectors of each."""
    texts, images = (_texts_of(call, name) for name in ("texts", "images"))
    call.core.check_count(len(texts) + len(images), "texts and images")
    model = call.use(None, "model")
    answer: dict[str, Any] = {"textVectors": [], "imageVectors": []}
    if images:
        sources = [Source(f"images[{i}]", image) for i, image in enumerate(images)]
        answer["imageVectors"] = units(await call.images(model, sources, "images")).tolist()
    if texts:
        rows, _ = await call.texts(model, texts, "texts", truncate=True)
        answer["textVectors"] = units(rows).tolist()
    return answer


def _texts_of(call: Call, name: str) -> list[str]:
    values = call.body.get(name)
    if values is None:
        return []
    if not isinstance(values, list):
        raise wrong(f"{name} is {kind(values)}; expected a list of texts, or null.", name)
    for i, value in enumerate(values):
        if not isinstance(value, str):
            raise wrong(f"{name}[{i}] is {kind(value)}; expected a text.", f"{name}[{i}]")
    return values


def live(server: Told) -> Any:
    """Whether it lives."""
    return Answer(204)


def ready(server: Told) -> Any:
    """Whether requests would be answered."""
    return Answer(204 if server.ready else 503)


def meta(server: Told) -> Any:
    """What the server is."""
    return server.info()


POSTS: Mapping[str, Handler] = {"/vectorize": vectorize}
FORMS: Mapping[str, Handler] = {}
GETS: Mapping[str, Getter] = {"/.well-known/live": live, "/.well-known/ready": ready, "/meta": meta}
