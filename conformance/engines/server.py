"""An HTTP server as an engine under test, with the routes that roboflow's inference has.

- POST /clip/embed_image {"image": {"type": "base64", "value": ...}} -> {"embeddings": [[...]]}
- POST /clip/embed_text {"text": [...]} -> {"embeddings": [[...], ...]}
- POST /clip/compare {"subject": IMAGE, "subject_type": "image", "prompt": [...], "prompt_type": "text"}
  -> {"similarity": [...]}

What it says of one image, or of texts, in its other dialects has to be the same (dialects.py). The name of the
checkpoint is sent as `clip_version_id` with each. From https://github.com/roboflow/inference,
inference/core/entities/requests/clip.py and responses/clip.py. What a server doesn't know (404, 405, 501) is skipped.
"""

from __future__ import annotations

import base64
import http.client
import json
import queue
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

import numpy as np

from clipref.errors import InputError
from clipref.files import parse_json

from ..protocol import Array, Case, Outputs, Unsupported
from .dialects import check_dialects, check_orientation
from .failures import Crashed, Garbage, Hung

# roboflow's limit on texts in a request is 8 as it comes (CLIP_MAX_BATCH_SIZE).
_BATCH = 8
# Bytes of a reply: eight embeddings have some 200 000.
_LARGEST_REPLY = 2**24


class Server:
    """A server at an address such as http://127.0.0.1:9001."""

    def __init__(self, address: str, time_limit: float) -> None:
        """Raises InputError if it is no address of a server, or nothing listens there."""
        try:
            parts = urllib.parse.urlsplit(address)
            valid = bool(parts.hostname) and parts.port != 0
        except ValueError:  # a port that is none
            valid = False
        if not valid or not address.isascii() or any(character.isspace() for character in address):
            raise InputError(
                f"The engine is {address!r}; expected the address of a server, such as http://127.0.0.1:9001, with a "
                "port from 1 to 65535."
            )
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            socket.create_connection((parts.hostname, port), min(time_limit, 5.0)).close()
        except ConnectionRefusedError as problem:
            raise InputError(f"Nothing listens at {address}; start the server first.") from problem
        except OSError:  # which a question will tell
            pass
        self._address = address.rstrip("/")
        self._time_limit = time_limit

    def answer(self, case: Case) -> Outputs:
        """What the server says. Raises Unsupported, Crashed, Hung, Garbage or Contradiction."""
        if case.checkpoint is None or case.verb not in ("embed_image", "embed_text", "compare"):
            raise Unsupported(f"a server has no {case.verb}")
        version = {"clip_version_id": case.checkpoint.name}
        texts = json.loads(case.inputs["texts"].tobytes()) if "texts" in case.inputs else []
        batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        if case.verb == "embed_image":

            def ask(file: bytes) -> Array:
                return self._ask("embed_image", {"image": _image(file), **version}, "embeddings", 2)

            embeddings = ask(case.inputs["image"].tobytes())
            check_dialects(self._post, case, embeddings)
            check_orientation(self._post, ask, case, embeddings)
            return {"embeddings": embeddings}
        if case.verb == "embed_text":
            answers = [self._ask("embed_text", {"text": part, **version}, "embeddings", 2) for part in batches]
            embeddings = np.concatenate(answers)
            check_dialects(self._post, case, embeddings)
            return {"embeddings": embeddings}
        subject = {
            "subject": _image(case.inputs["image"].tobytes()),
            "subject_type": "image",
            "prompt_type": "text",
            **version,
        }
        answers = [self._ask("compare", {"prompt": part, **subject}, "similarity", 1) for part in batches]
        return {"similarity": np.concatenate(answers)}

    def _ask(self, route: str, body: dict[str, Any], key: str, axes: int) -> Array:
        """The numbers under a key of the reply, with so many axes."""
        request = urllib.request.Request(
            f"{self._address}/clip/{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        status, text = self._reply(request, f"/clip/{route}")
        if not 200 <= status < 300:
            said = " ".join(text[:400].decode("utf-8", "replace").split())
            kind = Unsupported if status in (404, 405, 501) else Crashed
            raise kind(f"HTTP {status} from /clip/{route}: {said}")
        if len(text) > _LARGEST_REPLY:
            raise Garbage(f"/clip/{route} replied with more than {_LARGEST_REPLY} bytes")
        try:
            numbers = _array(parse_json(text)[key])
        except (ValueError, TypeError, KeyError, OverflowError) as problem:
            raise Garbage(f"/clip/{route} did not reply with numbers under {key!r}: {problem!r}") from problem
        if numbers.ndim != axes:
            raise Garbage(f"/clip/{route} replied with shape {list(numbers.shape)} under {key!r}; expected {axes} axes")
        return numbers

    def _post(self, route: str, content: bytes | None, kind: str) -> tuple[int, bytes]:
        """What another route replies; a GET if there is no content."""
        return self._reply(urllib.request.Request(f"{self._address}{route}", content, {"Content-Type": kind}), route)

    def _reply(self, request: urllib.request.Request, route: str) -> tuple[int, bytes]:
        """Status and body, in a thread of its own: urllib's time limit is for each part of a reply, not for all."""
        replies: queue.SimpleQueue[tuple[int, bytes] | Exception] = queue.SimpleQueue()

        def ask() -> None:
            try:
                replies.put(_read(request, self._time_limit))
            except Exception as problem:  # raised below
                replies.put(problem)

        threading.Thread(target=ask, daemon=True).start()
        try:
            reply = replies.get(timeout=self._time_limit)
        except queue.Empty:
            reply = TimeoutError()
        if not isinstance(reply, Exception):
            return reply
        reason = getattr(reply, "reason", reply)
        if isinstance(reason, TimeoutError):
            raise Hung(f"no reply from {route} in {self._time_limit:g} s") from reply
        if isinstance(reply, OSError | http.client.HTTPException):
            raise Crashed(f"{self._address} can't be reached, or broke off: {reason!r}") from reply
        raise reply


def _read(request: urllib.request.Request, time_limit: float) -> tuple[int, bytes]:
    """Status and body, of which no more is read than a little over the limit."""
    try:
        with urllib.request.urlopen(request, timeout=time_limit) as response:
            text = response.read(_LARGEST_REPLY + 1)
            if len(text) <= _LARGEST_REPLY and response.length:  # what was promised, and didn't come
                raise http.client.IncompleteRead(text, response.length)
            return response.status, text
    except urllib.error.HTTPError as problem:
        with problem:
            return problem.code, problem.read(400)


def _array(value: Any) -> Array:
    """Lists of numbers as an array. numpy would take texts and truth values for numbers. Raises TypeError."""
    rest = [value]
    while rest:
        part = rest.pop()
        if isinstance(part, list):
            rest += part
        elif type(part) not in (int, float):
            raise TypeError(f"a {type(part).__name__} is not a number")
    return np.array(value, np.float32)


def _image(file: bytes) -> dict[str, str]:
    return {"type": "base64", "value": base64.b64encode(file).decode()}
