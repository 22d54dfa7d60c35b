"""A server's other dialects: whether they say the same as the one that is graded.

A server may speak several formats, from one model. What roboflow's routes answer is graded (server.py); here the
same items are asked for in every other dialect that carries embeddings, and the vectors must have the same directions:

- OpenAI's /v1/embeddings, with images as data URIs, https://platform.openai.com/docs/api-reference/embeddings;
- immich's /predict, https://github.com/immich-app/immich, machine-learning;
- Weaviate's /vectorize, https://github.com/weaviate/multi2vec-clip-inference, which has the default model only.

A dialect that isn't there (404, 405, 501) says nothing. Besides, a server whose /info states whether it turns
photographs upright is held to it: it is asked for the same picture, stored turned with an orientation that turns it
back, or stored as it is with one that is to be ignored.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from operator import itemgetter
from typing import Any, TypeAlias

import numpy as np

from clipref.files import parse_json

from ..protocol import Array, Case
from .failures import Contradiction, Garbage

# A function that asks for (route, content, type of the content), and gives status and body.
Ask: TypeAlias = Callable[[str, bytes | None, str], tuple[int, bytes]]

# The largest difference of what is the same, relative to the root mean square of unit vectors. The same tower answers,
# but in batches of other requests, which may round otherwise, in 8 bits too; a picture or a text that was made
# something else of differs a hundred times as much.
_SAME = 2e-2
_JSON = "application/json"
_BOUNDARY = "clipref-conformance"
_ORIENTATION, _TURNED_RIGHT = 0x0112, 6  # EXIF 2.32, 4.6.4: to be seen, it has to be turned by 90 degrees clockwise


def check_dialects(ask: Ask, case: Case, embeddings: Array) -> None:
    """Raise Contradiction unless every other dialect has the same directions, of an image or of texts."""
    name = case.checkpoint.name if case.checkpoint else ""
    for route, vectors in _answers(ask, case, name):
        _compare(route, vectors, embeddings)


def check_orientation(ask: Ask, ask_embedding: Callable[[bytes], Array], case: Case, embeddings: Array) -> None:
    """Raise Contradiction unless the server turns photographs as it states, if it does."""
    upright = next((model.get("upright") for model in _models(ask) if _is(model, case)), None)
    if upright is not None:
        turned = _with_orientation(case.inputs["image"].tobytes(), turned=bool(upright))
        stated = "it turns photographs upright" if upright else "it leaves photographs as they lie"
        _compare(f"/info states that {stated}, and /clip/embed_image", ask_embedding(turned), embeddings)


def _answers(ask: Ask, case: Case, name: str) -> Iterator[tuple[str, Array]]:
    """What each dialect answers, and its route."""
    items = _items(case)
    inputs = [f"data:image/png;base64,{item}" if case.verb == "embed_image" else item for item in items]
    body = json.dumps({"model": name, "input": inputs, "encoding_format": "float"}).encode()
    for found in _parse("/v1/embeddings", ask("/v1/embeddings", body, _JSON)):
        yield "/v1/embeddings", _vectors("/v1/embeddings", partial(_of_openai, found))
    yield from _immich(ask, case, name)
    if any(_is(model, case) for model in _models(ask)[:1]):
        key, answer = ("images", "imageVectors") if case.verb == "embed_image" else ("texts", "textVectors")
        body = json.dumps({"texts": None, "images": None, key: items}).encode()
        for found in _parse("/vectorize", ask("/vectorize", body, _JSON)):
            yield "/vectorize", _vectors("/vectorize", partial(itemgetter(answer), found))


def _of_openai(found: Any) -> list[Any]:
    return [entry["embedding"] for entry in found["data"]]


def _immich(ask: Ask, case: Case, name: str) -> Iterator[tuple[str, Array]]:
    tower, field = ("visual", "image") if case.verb == "embed_image" else ("textual", "text")
    rows: list[Any] = []
    items = [case.inputs["image"].tobytes()] if tower == "visual" else [text.encode() for text in _items(case)]
    for item in items:
        entries = json.dumps({"clip": {tower: {"modelName": name, "options": {}}}}).encode()
        reply = ask("/predict", _form({"entries": entries, field: item}), f"multipart/form-data; boundary={_BOUNDARY}")
        rows += [found["clip"] for found in _parse("/predict", reply)]
    if len(rows) == len(items):
        yield "/predict", _vectors("/predict", lambda: [parse_json(row.encode()) for row in rows])


def _items(case: Case) -> list[str]:
    """The image in base64, or the texts."""
    if case.verb == "embed_image":
        return [base64.b64encode(case.inputs["image"].tobytes()).decode()]
    texts: list[str] = parse_json(case.inputs["texts"].tobytes())
    return texts


def _form(fields: Mapping[str, bytes]) -> bytes:
    parts = [
        f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"'.encode()
        + (b'; filename="image"' if name == "image" else b"") + b"\r\n\r\n" + value + b"\r\n"
        for name, value in fields.items()
    ]  # fmt: skip
    return b"".join(parts) + f"--{_BOUNDARY}--\r\n".encode()


def _parse(route: str, reply: tuple[int, bytes]) -> list[Any]:
    """What a dialect replied, as a list of one; nothing where there is no such dialect, or not for this model."""
    status, text = reply
    if status in (404, 405, 501):
        return []
    if not 200 <= status < 300:
        said = " ".join(text[:400].decode("utf-8", "replace").split())
        raise Contradiction(f"HTTP {status} from {route}, where /clip/ has an answer: {said}")
    try:
        return [parse_json(text)]
    except ValueError as problem:
        raise Garbage(f"{route} did not reply in JSON: {problem!r}") from problem


def _vectors(route: str, take: Callable[[], Any]) -> Array:
    try:
        return np.array(take(), np.float64)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise Garbage(f"{route} did not reply with embeddings: {problem!r}") from problem


def _compare(what: str, found: Array, expected: Array) -> None:
    if found.shape != expected.shape:
        raise Contradiction(f"{what} answers with shape {list(found.shape)}, not {list(expected.shape)}")
    units = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (found, expected.astype(np.float64))]
    error = float(np.abs(units[0] - units[1]).max() * np.sqrt(expected.shape[-1]))
    if not error <= _SAME:
        raise Contradiction(f"{what} answers otherwise than /clip/: by {error:.2g} of the root mean square")


def _models(ask: Ask) -> list[Mapping[str, Any]]:
    """The models that /info tells of, the default one first; none if it doesn't."""
    status, text = ask("/info", None, _JSON)
    try:
        found = parse_json(text)["models"] if status == 200 else []
        return [model for model in found if isinstance(model.get("id"), str)]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


def _is(model: Mapping[str, Any], case: Case) -> bool:
    """Whether a model of the server's is the one of the case."""
    return case.checkpoint is not None and str(model["id"]).rpartition("/")[2] == case.checkpoint.name


def _with_orientation(file: bytes, *, turned: bool) -> bytes:
    """A PNG with an orientation, which its pixels need if they are `turned`."""
    from PIL import Image

    picture = Image.open(io.BytesIO(file))
    exif = Image.Exif()
    exif[_ORIENTATION] = _TURNED_RIGHT
    stored = picture.transpose(Image.Transpose.ROTATE_90) if turned else picture
    written = io.BytesIO()
    stored.save(written, "PNG", exif=exif)
    return written.getvalue()
