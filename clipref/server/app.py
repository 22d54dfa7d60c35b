"""The server's routes as an ASGI application, with what stands before all of them: hosts, origins, keys.

A page of another site may not use the server through its visitor's browser: names that are not the server's own are
refused where it listens on loopback (which ends DNS rebinding), and so are requests from origins that weren't named.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Any, TypeAlias, cast
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from .dialects import (
    Answer,
    Dialect,
    Getter,
    Handler,
    clip_retrieval,
    folders,
    immich,
    openai,
    own,
    roboflow,
    weaviate,
)
from .keys import bearer
from .refusals import Refusal
from .serving import Server

ASGI: TypeAlias = Callable[[Any, Any, Any], Awaitable[None]]

DIALECTS = cast("tuple[Dialect, ...]", (roboflow, openai, immich, weaviate, own, folders, clip_retrieval))
# What tells no more than that there is a server, and whether it lives: without a key.
OPEN = frozenset({"/healthz", "/readiness", "/health", "/ping", "/.well-known/live", "/.well-known/ready", "/info"})
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
PAGES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/page.css": ("page.css", "text/css; charset=utf-8"),
    "/page.js": ("page.js", "text/javascript; charset=utf-8"),
    "/search": ("search.html", "text/html; charset=utf-8"),
    "/search.js": ("search.js", "text/javascript; charset=utf-8"),
    "/asking.js": ("asking.js", "text/javascript; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "/openapi.json": ("openapi.json", "application/json"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def application(server: Server, *, hosts: Collection[str] = (), origins: Collection[str] = ()) -> ASGI:
    """The ASGI application. `hosts`: names it answers to, any if none is given; `origins`: pages that may use it."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await server.start()
        yield
        await server.stop()

    handlers: Any = {HTTPException: _http_exception}
    app: Any = Starlette(routes=routes(server), lifespan=lifespan, exception_handlers=handlers)
    if origins:
        app = CORSMiddleware(
            app,
            allow_origins=list(origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["X-Request-Id", "X-Clipref-Model", "X-Clipref-Weights", "X-Clipref-Backend", "Retry-After"],
        )
    return Guard(app, frozenset(hosts), frozenset(origins))


def routes(server: Server) -> list[BaseRoute]:
    """All routes: those of every dialect, the pages, the metrics."""
    found: list[BaseRoute] = []
    for dialect in DIALECTS:
        found += [Route(path, _post(server, dialect, h, False), methods=["POST"]) for path, h in dialect.POSTS.items()]
        found += [Route(path, _post(server, dialect, h, True), methods=["POST"]) for path, h in dialect.FORMS.items()]
        found += [Route(path, _get(server, dialect, h, path), methods=["GET"]) for path, h in dialect.GETS.items()]
    found.append(Route("/metrics", _get(server, DIALECTS[0], _metrics(server), "/metrics"), methods=["GET"]))
    found += [Route(path, _page(name, kind), methods=["GET"]) for path, (name, kind) in PAGES.items()]
    return found


def _post(server: Server, dialect: Dialect, handler: Handler, form: bool) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        reply = await server.answer(dialect, handler, request, form=form)
        return Response(reply.content, reply.status, {**reply.headers, **_SAFE}, "application/json")

    return respond


def _get(server: Server, dialect: Dialect, handler: Getter, path: str) -> Callable[[Request], Awaitable[Response]]:
    async def respond(request: Request) -> Response:
        try:
            if path not in OPEN:
                given = request.query_params.get("api_key"), bearer(request.headers.get("authorization"))
                server.keys.check(*given)
            found = handler(server)
        except Refusal as error:
            found = Answer(error.status, dialect.refusal(error))
        answer = found if isinstance(found, Answer) else Answer(200, found)
        headers = {"Cache-Control": "no-store", **_SAFE}
        if answer.body is None:
            return Response(None, answer.status, headers)
        content = answer.body if isinstance(answer.body, str) else json.dumps(answer.body)
        return Response(content, answer.status, headers, answer.media_type)

    return respond


def _metrics(server: Server) -> Getter:
    return lambda _: Answer(200, server.metrics.text(), "text/plain; version=0.0.4")


def _page(name: str, kind: str) -> Callable[[Request], Awaitable[Response]]:
    content = (files(__package__) / "pages" / name).read_bytes()
    headers = {
        **_SAFE,
        "Content-Security-Policy": POLICY,
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    async def respond(request: Request) -> Response:
        return Response(content, headers=headers, media_type=kind)

    return respond


_SAFE = {"X-Content-Type-Options": "nosniff", "Cross-Origin-Resource-Policy": "same-origin"}


async def _http_exception(request: Request, error: HTTPException) -> Response:
    """What Starlette refuses by itself, in a body that every dialect's client can show."""
    said = {404: f"No route {request.url.path[:80]}; /docs lists them.", 405: "Another method is needed; see /docs."}
    message = said.get(error.status_code, error.detail)
    body = {"message": message, "detail": message, "error": {"message": message, "type": "invalid_request_error"}}
    return Response(json.dumps(body), error.status_code, dict(error.headers or {}), "application/json")


class Guard:
    """Refuses names that aren't the server's, and pages of other sites."""

    def __init__(self, app: ASGI, hosts: frozenset[str], origins: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts
        self._origins = origins

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """As ASGI has it."""
        if scope["type"] == "http" and (message := self._refusal(scope)):
            await Response(json.dumps({"message": message}), 403, media_type="application/json")(scope, receive, send)
        elif scope["type"] in ("http", "lifespan"):
            await self._app(scope, receive, send)
        else:  # a websocket, of which there is none
            await send({"type": "websocket.close"})

    def _refusal(self, scope: Any) -> str | None:
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        host = headers.get(b"host", "")
        name = urlsplit(f"//{host}").hostname or "" if _is_host(host) else ""
        if self._hosts and name not in self._hosts:
            return "The Host is not one that this server answers to; --allow-host names more."
        origin = headers.get(b"origin")
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != host:
            return "Pages of this origin may not use the server; --allow-origin names those that may."
        return None


def _is_host(host: str) -> bool:
    return all(c.isalnum() or c in ".-_:[]" for c in host)
