"""A server on a free port of loopback, in a thread, and a client of the standard library."""

from __future__ import annotations

import argparse
import http.client
import io
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from clipref.server import command
from clipref.server.logs import Log

SECONDS = 30  # after which something hangs


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.content)


class Live:
    """A running server."""

    def __init__(self, server: Any, port: int, lines: list[str]) -> None:
        self.server = server
        self.port = port
        self.lines = lines  # of its log
        self.url = f"http://127.0.0.1:{port}"

    def ask(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
        """One request on a connection of its own; a body that is no bytes is sent as JSON."""
        client = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        content = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        try:
            client.request(method, path, content, headers or {})
            response = client.getresponse()
            found = {name.lower(): value for name, value in response.getheaders()}
            return Reply(response.status, found, response.read())
        finally:
            client.close()

    def post(self, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
        return self.ask("POST", path, body, headers)

    def get(self, path: str, headers: dict[str, str] | None = None) -> Reply:
        return self.ask("GET", path, None, headers)


@contextmanager
def live(*arguments: str, wait: bool = True, prepare: Any = None) -> Iterator[Live]:
    """`clipref serve` with these arguments; `prepare(server)` is called before it starts."""
    import uvicorn

    from clipref.server.listening import config

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    args = parser.parse_args(["--port", "0", *arguments])
    server = command.server_of(args)
    lines: list[str] = []
    server.log = Log(lines.append)
    if prepare:
        prepare(server)
    running = uvicorn.Server(config(server, args))
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    until = time.monotonic() + SECONDS
    try:
        while not (running.started and (server.ready or not wait)):
            assert thread.is_alive() and time.monotonic() < until and server.failed is None
            time.sleep(0.01)
        yield Live(server, running.servers[0].sockets[0].getsockname()[1], lines)
    finally:
        running.should_exit = True
        thread.join(SECONDS)
        assert not thread.is_alive()


def picture(seed: int, size: tuple[int, int] = (64, 52), kind: str = "PNG", **options: Any) -> bytes:
    """An image file of coarse random colours."""
    generator = np.random.Generator(np.random.PCG64(seed))
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), dtype=np.uint8))
    file = io.BytesIO()
    coarse.resize(size, Image.Resampling.BICUBIC).save(file, kind, **options)
    return file.getvalue()


def form(fields: dict[str, str], files: dict[str, bytes]) -> tuple[bytes, dict[str, str]]:
    """A multipart form, and its header."""
    parts = [f'Content-Disposition: form-data; name="{n}"\r\n\r\n'.encode() + v.encode() for n, v in fields.items()]
    parts += [
        f'Content-Disposition: form-data; name="{n}"; filename="x"\r\nContent-Type: image/png\r\n\r\n'.encode() + v
        for n, v in files.items()
    ]
    body = b"".join(b"--BOUNDARY\r\n" + part + b"\r\n" for part in parts) + b"--BOUNDARY--\r\n"
    return body, {"Content-Type": "multipart/form-data; boundary=BOUNDARY"}
