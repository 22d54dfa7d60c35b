"""The log: one line of JSON an event, on standard error. Nothing that a request held is ever in it."""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..errors import BackendError, ModelNotFound, WeightsError

# Errors whose messages speak of the model and the machine; those of others may repeat what was sent.
TOLD = (BackendError, ModelNotFound, WeightsError)


def _to_stderr(line: str) -> None:
    with suppress(OSError, ValueError):
        print(line, file=sys.stderr, flush=True)


class Log:
    """Writes events."""

    def __init__(self, write: Callable[[str], None] = _to_stderr) -> None:
        self._write = write

    def event(self, event: str, **fields: Any) -> None:
        """One line; fields that are None are left out."""
        now = time.time()
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03}Z"
        told = {"time": stamp, "event": event, **{name: value for name, value in fields.items() if value is not None}}
        self._write(json.dumps(told))

    def failure(self, request: str, error: BaseException) -> None:
        """What went wrong in the server itself, and where."""
        found = traceback.extract_tb(error.__traceback__)[-4:]
        where = " > ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in found)
        message = str(error) if isinstance(error, TOLD) else None
        self.event("failure", id=request, error=type(error).__name__, message=message, where=where)
