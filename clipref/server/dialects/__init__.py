"""Wire formats, a module each: which routes there are, how requests and answers look, what an error looks like.

A dialect has `refusal(error)`, which is the JSON body of an error, `POSTS` and `FORMS`, handlers of requests in JSON
and in multipart forms by their path, and `GETS`, which are told the server. A handler returns what becomes JSON.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol, TypeAlias

from ..calls import Call
from ..refusals import Refusal

Handler: TypeAlias = Callable[[Call], Awaitable[Any]]


class Told(Protocol):
    """What handlers of GET may know of the server."""

    uuid: str
    ready: bool

    def info(self) -> dict[str, Any]:
        """What the server is."""

    def models(self) -> list[dict[str, Any]]:
        """What each model is."""

    def folders(self) -> list[dict[str, Any]]:
        """Name and model of each folder that can be searched."""


Getter: TypeAlias = Callable[[Told], Any]


class Dialect(Protocol):
    """A module of this folder."""

    NAME: str
    POSTS: Mapping[str, Handler]
    FORMS: Mapping[str, Handler]
    GETS: Mapping[str, Getter]

    def refusal(self, error: Refusal) -> dict[str, Any]:
        """The body of an error."""


class Answer:
    """An answer to GET that isn't JSON with status 200."""

    def __init__(self, status: int, body: Any = None, media_type: str = "application/json") -> None:
        self.status = status
        self.body = body
        self.media_type = media_type
