"""Bodies of requests: read within limits of bytes and time, then taken apart in a thread.

A body is counted while it streams in, whatever its head says of its length.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any, TypeAlias

from ..files import parse_json
from .limits import Limits, Share
from .refusals import Refusal, wrong

Receive: TypeAlias = Callable[[], Awaitable[Any]]

# Parts of a multipart form.
MAX_PARTS = 16


class Gone(Exception):
    """The client doesn't wait any more."""


async def read_body(receive: Receive, headers: Mapping[str, str], share: Share, limits: Limits) -> bytes:
    """All of a request's body. Raises Refusal, or Gone."""
    declared = headers.get("content-length", "0")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limits.body_bytes:
        raise _too_large(limits)
    try:
        return await asyncio.wait_for(_read(receive, share, limits), limits.body_seconds)
    except asyncio.TimeoutError:
        raise Refusal(408, f"The body didn't arrive within {limits.body_seconds:g} s.") from None


async def _read(receive: Receive, share: Share, limits: Limits) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        part = message.get("body", b"")
        if len(body) + len(part) > limits.body_bytes:
            raise _too_large(limits)
        share.take("bytes", len(part))
        body += part
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(limits: Limits) -> Refusal:
    return Refusal(413, f"The body has over {limits.body_bytes} bytes; send less at a time.")


def json_object(body: bytes) -> dict[str, Any]:
    """The fields of a body in JSON. Raises Refusal, which repeats nothing of it."""
    try:
        value = parse_json(body)
    except UnicodeDecodeError:
        raise wrong("The body is not UTF-8.") from None
    except ValueError as error:
        position = getattr(error, "pos", None)
        at = "" if position is None else f" (at character {position})"
        raise wrong(
            f"The body is not JSON that can be read{at}: one object, no key twice, only numbers that are finite."
        ) from None
    if not isinstance(value, dict):
        raise wrong("The body is JSON, but no object; expected {...}.")
    return value


async def form_fields(headers: Any, body: bytes, limits: Limits) -> tuple[dict[str, str], dict[str, bytes]]:
    """Fields and files of a multipart form, the first of each name. Nothing is written to disk. Raises Refusal."""
    from starlette.formparsers import MultiPartException, MultiPartParser

    async def stream() -> AsyncGenerator[bytes, None]:
        yield body

    if not headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise wrong("The body is no form; expected multipart/form-data.")
    parser = MultiPartParser(
        headers, stream(), max_files=MAX_PARTS, max_fields=MAX_PARTS, max_part_size=limits.body_bytes
    )
    parser.spool_max_size = limits.body_bytes + 1
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, UnicodeError):
        raise wrong(f"The form can't be read; expected multipart/form-data of at most {MAX_PARTS} parts.") from None
    fields: dict[str, str] = {}
    files: dict[str, bytes] = {}
    for name, value in form.multi_items():
        if isinstance(value, str):
            fields.setdefault(name, value)
        else:
            files.setdefault(name, await value.read())
    await form.close()
    return fields, files
