"""The server: its models, limits and keys, its life from the first moment to the last, and how a request is answered.

A request is accepted when there is room for it; then its body is read, within limits, and its handler runs as long as
somebody waits for the answer. Whatever happens becomes an answer in the dialect's own shape, one line in the log, and
counts; neither has anything that the request held.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import time
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from .. import __version__
from ..errors import ClipError
from .bodies import Gone, Receive, form_fields, json_object, read_body
from .calls import Call
from .core import Core
from .dialects import Dialect, Handler
from .fetching import Fetcher
from .folders import Folders
from .keys import Keys, bearer, is_key
from .limits import Held, Limits, Share
from .logs import Log
from .metrics import Metrics
from .models import Models, Served
from .refusals import Refusal

IDLE_LOOK = 1.0  # seconds between two looks at whether a tower is idle
GONE = 499  # in logs and metrics, as nginx has it: the client left before there was an answer


@dataclass
class Reply:
    """What goes back to a client."""

    status: int
    content: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Server:
    """What answers requests, whichever way they come in."""

    def __init__(
        self,
        models: Sequence[Served],
        *,
        limits: Limits | None = None,
        keys: Keys | None = None,
        fetcher: Fetcher | None = None,
        metrics: Metrics | None = None,
        log: Log | None = None,
        idle_unload: float | None = None,
        folders: Folders | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self.keys = keys or Keys()
        self.fetcher = fetcher
        self.metrics = metrics or Metrics()
        self.log = log or Log()
        self.uuid = secrets.token_hex(16)
        self.ready = False
        self.failed: str | None = None
        self._models = Models(models)
        self._idle_unload = idle_unload
        self.core = Core(
            self._models,
            self.limits,
            lambda stage, s: self.metrics.observe("clipref_stage_seconds", s, stage),
            folders,
        )
        self.held = Held(self.limits, self._seconds_ahead)
        self._tasks: list[asyncio.Task[None]] = []
        self._add_gauges()

    def _seconds_ahead(self) -> int:
        return max(b.seconds_ahead for model in self._models.served for b in model.batchers.values())

    def _add_gauges(self) -> None:
        served = self._models.served
        self.metrics.gauge(
            "clipref_queue_items",
            "Items that wait for the engine.",
            ("model", "tower"),
            lambda: [((m.name, kind), b.waiting) for m in served for kind, b in m.batchers.items()],
        )
        self.metrics.gauge(
            "clipref_tower_loaded",
            "1 for a tower in memory.",
            ("model", "tower"),
            lambda: [((m.name, kind), float(t.loaded)) for m in served for kind, t in m.towers.items()],
        )
        self.metrics.gauge(
            "clipref_held",
            "What accepted requests hold.",
            ("kind",),
            lambda: [((kind,), amount) for kind, amount in self.held.amounts.items()],
        )
        self.metrics.gauge("clipref_ready", "1 once all towers have run.", (), lambda: [((), float(self.ready))])

    def info(self) -> dict[str, Any]:
        """What there is to know before asking; the first three as roboflow's server has them."""
        return {
            "name": "clipref",
            "version": __version__,
            "uuid": self.uuid,
            "models": self.models(),
            "limits": self.limits.as_json(),
            "image_url_hosts": sorted(self.fetcher.hosts) if self.fetcher else [],
            "api_keys": bool(self.keys),
            "idle_unload_seconds": self._idle_unload,
        }

    def models(self) -> list[dict[str, Any]]:
        """What each model is."""
        return [model.as_json() for model in self._models.served]

    def folders(self) -> list[dict[str, Any]]:
        """Name and model of each folder that can be searched."""
        return self.core.folders.as_json()

    async def start(self) -> None:
        """Begin to answer; ready as soon as every tower has run once."""
        for model in self._models.served:
            for batcher in model.batchers.values():
                batcher.start()
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._warm_up())]
        if self._idle_unload is not None:
            self._tasks.append(loop.create_task(self._unload_idle(self._idle_unload)))

    async def _warm_up(self) -> None:
        start = time.monotonic()
        try:
            for model in self._models.served:  # its towers side by side: making a session takes one thread each
                warming = [batcher.call(model.towers[kind].warm_up) for kind, batcher in model.batchers.items()]
                await asyncio.gather(*warming)
        except Exception as error:
            self.failed = f"{type(error).__name__}: {error}"
            self.log.event("failed", error=self.failed)
            return
        self.ready = True
        self.log.event("ready", seconds=round(time.monotonic() - start, 3))

    async def _unload_idle(self, seconds: float) -> None:
        while True:
            await asyncio.sleep(min(IDLE_LOOK, seconds))
            if self.ready:
                for model in self._models.served:
                    await model.unload_idle(seconds)

    async def stop(self) -> None:
        """End, after what was accepted has been answered."""
        for task in self._tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for model in self._models.served:
            for batcher in model.batchers.values():
                await batcher.stop()
        self.core.stop()

    async def answer(self, dialect: Dialect, handler: Handler, request: Any, *, form: bool) -> Reply:
        """The reply to a POST; `request` is Starlette's."""
        start = time.monotonic()
        name = request_id(request.headers.get("x-request-id"))
        calls: list[Call] = []
        reply: Reply
        code = ""
        try:
            if is_key(key := request.query_params.get("api_key")):
                self.keys.check(key)
            self._check_ready()
            with self.held.share() as share:
                content = await self._content(handler, request, share, calls, form)
            reply = Reply(200, content)
        except Refusal as error:
            reply, code = self._refusal(dialect, error), error.code
        except Gone:
            reply, code = Reply(GONE, b""), "client_gone"
        except Exception as error:
            self.log.failure(name, error)
            message = f"The server failed ({type(error).__name__}); its log says more of the request {name}."
            if isinstance(error, ClipError):
                message = f"The model can't answer ({type(error).__name__}); the log says more of the request {name}."
            reply, code = self._refusal(dialect, Refusal(500, message)), "internal_error"
        reply.headers |= {"X-Request-Id": name, "Cache-Control": "no-store", **_provenance(calls)}
        self._count(request, reply.status, code, time.monotonic() - start, name, calls)
        return reply

    async def _content(self, handler: Handler, request: Any, share: Share, calls: list[Call], form: bool) -> bytes:
        body = await read_body(request.receive, request.headers, share, self.limits)
        if form:
            fields, files = await form_fields(request.headers, body, self.limits)
            call = Call(self.core, share, fields, files, self.fetcher)
        else:
            call = Call(self.core, share, await self.core.small(lambda: json_object(body)), {}, self.fetcher)
        calls.append(call)
        key = request.query_params.get("api_key")
        self.keys.check(key, call.body.get("api_key"), bearer(request.headers.get("authorization")))
        answer = await self._while_awaited(request.receive, handler(call))
        return await self.core.small(lambda: json.dumps(answer, separators=(",", ":"), allow_nan=False).encode())

    async def _while_awaited(self, receive: Receive, work: Awaitable[Any]) -> Any:
        """The result of work that ends when its client goes, or its time is up. Raises Gone or Refusal."""
        doing = asyncio.ensure_future(work)
        leaving = asyncio.ensure_future(_until_gone(receive))
        try:
            done, _ = await asyncio.wait(
                {doing, leaving}, timeout=self.limits.answer_seconds, return_when=asyncio.FIRST_COMPLETED
            )
            if doing in done:
                return doing.result()
            if leaving in done:
                raise Gone
            raise Refusal(504, f"There was no answer within {self.limits.answer_seconds:g} s.")
        finally:
            for task in (doing, leaving):
                task.cancel()
            await asyncio.gather(doing, leaving, return_exceptions=True)

    def _check_ready(self) -> None:
        if self.failed is not None:
            raise Refusal(503, "The model could not be loaded; the server's log says why.", retry_after=60)
        if not self.ready:
            raise Refusal(503, "The server is still loading its model; try again in 1 s.", retry_after=1)

    def _refusal(self, dialect: Dialect, error: Refusal) -> Reply:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if error.status in (401, 408, 413, 429, 503):  # the body may not have been read
            headers["Connection"] = "close"
        return Reply(error.status, json.dumps(dialect.refusal(error)).encode(), headers)

    def _count(self, request: Any, status: int, code: str, seconds: float, name: str, calls: list[Call]) -> None:
        route = request.url.path
        self.metrics.count("clipref_requests_total", route, str(status))
        self.metrics.observe("clipref_request_seconds", seconds, route)
        if code:
            self.metrics.count("clipref_refused_total", code)
        items, model = (calls[0].items, calls[0].model) if calls else (0, None)
        self.log.event(
            "request",
            id=name,
            route=route,
            status=status,
            seconds=round(seconds, 4),
            items=items,
            model=model.name if model else None,
            refused=code or None,
        )


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def request_id(given: str | None) -> str:
    """The id that a client gave, if it is a sane one, or a new one."""
    return given if given and re.fullmatch(r"[\w.:-]{1,64}", given, re.ASCII) else secrets.token_hex(8)


def _provenance(calls: Sequence[Call]) -> dict[str, str]:
    """Headers that tell vectors of one model from those of another."""
    model = calls[0].model if calls else None
    if model is None:
        return {}
    opened = model.opened
    return {
        "X-Clipref-Model": re.sub(r"[^ -~]", "?", model.name),
        "X-Clipref-Weights": opened.digest,
        "X-Clipref-Backend": f"{opened.backend}; precision={opened.precision}",
        "X-Clipref-Upright": str(opened.config.preprocess.upright).lower(),
    }
