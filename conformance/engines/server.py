"""An HTTP server as an engine under test, with the routes that roboflow's inference has.

- POST /clip/embed_image {"image": {"type": "base64", "value": ...}} -> {"embeddings": [[...]]}
- POST /clip/embed_text {"text": [...]} -> {"embeddings": [[...], ...]}
- POST /clip/compare {"subject": IMAGE, "subject_type": "image", "prompt": [...], "prompt_type": "text"}
  -> {"similarity": [...]}

The name of the checkpoint is sent as `clip_version_id` with each. From https://github.com/roboflow/inference,
inference/core/entities/requests/clip.py and responses/clip.py. What a server doesn't know (404, 405, 501) is skipped.
"""

from __future__ import annotations

import base64
import http.client
import json
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from ..case import Array, Case, Outputs, Unsupported
from .failures import Crashed, Garbage, Hung

# roboflow's limit on texts in a request is 8 as it comes (CLIP_MAX_BATCH_SIZE).
_BATCH = 8


class Server:
    """A server at an address such as http://127.0.0.1:9001."""

    def __init__(self, address: str, time_limit: float) -> None:
        self._address = address.rstrip("/")
        self._time_limit = time_limit

    def answer(self, case: Case) -> Outputs:
        """What the server says. Raises Unsupported, Crashed, Hung or Garbage."""
        if case.checkpoint is None or case.verb not in ("embed_image", "embed_text", "compare"):
            raise Unsupported(f"a server has no {case.verb}")
        version = {"clip_version_id": case.checkpoint.name}
        texts = json.loads(case.inputs["texts"].tobytes()) if "texts" in case.inputs else []
        batches = [texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH)]
        if case.verb == "embed_image":
            body = {"image": _image(case.inputs["image"]), **version}
            return {"embeddings": self._asked("embed_image", body, "embeddings", 2)}
        if case.verb == "embed_text":
            answers = [self._asked("embed_text", {"text": part, **version}, "embeddings", 2) for part in batches]
            return {"embeddings": np.concatenate(answers)}
        subject = {"subject": _image(case.inputs["image"]), "subject_type": "image", "prompt_type": "text", **version}
        answers = [self._asked("compare", {"prompt": part, **subject}, "similarity", 1) for part in batches]
        return {"similarity": np.concatenate(answers)}

    def _asked(self, route: str, body: dict[str, Any], key: str, axes: int) -> Array:
        """The numbers under a key of the reply, with so many axes."""
        request = urllib.request.Request(
            f"{self._address}/clip/{route}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=self._time_limit) as response:
                text = response.read()
        except urllib.error.HTTPError as problem:
            with problem:
                said = " ".join(problem.read(400).decode("utf-8", "replace").split())
            if problem.code in (404, 405, 501):
                raise Unsupported(f"HTTP {problem.code} from /clip/{route}: {said}") from problem
            raise Crashed(f"HTTP {problem.code} from /clip/{route}: {said}") from problem
        except TimeoutError as problem:
            raise Hung(f"no reply from /clip/{route} in {self._time_limit:g} s") from problem
        except (urllib.error.URLError, http.client.HTTPException, OSError) as problem:
            reason = getattr(problem, "reason", problem)
            if isinstance(reason, TimeoutError):
                raise Hung(f"no reply from /clip/{route} in {self._time_limit:g} s") from problem
            raise Crashed(f"{self._address} can't be reached, or broke off: {reason!r}") from problem
        try:
            numbers = np.array(json.loads(text)[key], np.float32)
        except (ValueError, TypeError, KeyError, RecursionError) as problem:
            raise Garbage(f"/clip/{route} did not reply with numbers under {key!r}: {problem!r}") from problem
        if numbers.ndim != axes:
            raise Garbage(f"/clip/{route} replied with shape {list(numbers.shape)} under {key!r}; expected {axes} axes")
        return numbers


def _image(file: Array) -> dict[str, str]:
    return {"type": "base64", "value": base64.b64encode(file.tobytes()).decode()}
