"""How the server listens: uvicorn, with a time limit for heads of requests too, and a stop that loses no answer."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import socket
from contextlib import suppress
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from ..cli.streams import say
from ..errors import InputError
from .app import LOOPBACK_NAMES, application
from .models import give_memory_back_early
from .serving import Server

HEAD_SECONDS = 10.0
KEEP_ALIVE_SECONDS = 60
MAX_CONNECTIONS = 1024


class Protocol(H11Protocol):
    """A connection that is closed if a request's head takes too long, which uvicorn waits for without end; without
    Nagle's algorithm.
    """

    def connection_made(self, transport: Any) -> None:
        """As asyncio has it."""
        super().connection_made(transport)
        # asyncio does so itself only where the socket that listens was made for TCP by name, which uvicorn's isn't.
        # Without it, the second of two writes waits 40 ms for the client's acknowledgement of the first.
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._close_without_request)

    def data_received(self, data: bytes) -> None:
        """As asyncio has it."""
        super().data_received(data)
        waits = self.cycle is None or self.cycle.response_complete
        if waits and self.timeout_keep_alive_task is None and self._deadline.cancelled():
            self._deadline = self.loop.call_later(HEAD_SECONDS, self._close_without_request)
        elif not waits:
            self._deadline.cancel()

    def connection_lost(self, exc: Exception | None) -> None:
        """As asyncio has it."""
        self._deadline.cancel()
        super().connection_lost(exc)

    def _close_without_request(self) -> None:
        if (self.cycle is None or self.cycle.response_complete) and not self.transport.is_closing():
            self.transport.close()


def config(server: Server, args: argparse.Namespace) -> uvicorn.Config:
    """uvicorn's settings."""
    hosts = {*args.allow_host, *(LOOPBACK_NAMES if _is_loopback(args.host) else ())}
    if args.allow_host:
        hosts |= LOOPBACK_NAMES
    return uvicorn.Config(
        application(server, hosts=hosts, origins=args.allow_origin),
        host=args.host,
        port=args.port,
        http=Protocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=int(args.body_seconds + args.answer_seconds) + 1,
        h11_max_incomplete_event_size=2**15,
    )


def listen(server: Server, args: argparse.Namespace) -> int:
    """Serve until SIGINT or SIGTERM; what was accepted is answered first. Raises InputError if it can't listen."""
    give_memory_back_early()
    logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
    running = uvicorn.Server(config(server, args))
    try:
        listening = running.config.bind_socket()
    except SystemExit:
        raise InputError(f"Nothing can listen on {args.host}:{args.port}; is the port taken?") from None
    host, port = listening.getsockname()[:2]
    if not _is_loopback(args.host) and not server.keys:
        say(f"listens on {args.host}, to whoever reaches it, and asks for no key; --api-key-file names some")
    server.log.event("listening", address=f"http://{f'[{host}]' if ':' in host else host}:{port}")
    with suppress(KeyboardInterrupt):  # uvicorn stops in good order, and raises the signal again when it is done
        asyncio.run(running.serve([listening]))
    server.log.event("stopped")
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
