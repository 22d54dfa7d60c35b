"""Life and safety of the server: readiness, limits, keys, origins, what slow and rude clients can do, its end."""

import base64
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from .live_server import SECONDS, Live, live, picture

pytestmark = pytest.mark.extra

IMAGE = {"image": {"type": "base64", "value": base64.b64encode(picture(0)).decode()}}


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    limits = ("--body-bytes", "100000", "--items", "3", "--text-characters", "500", "--max-pixels", "10000",
              "--held-pixels", "20000", "--body-seconds", "3", "--answer-seconds", "20")  # fmt: skip
    with live(*limits) as running:
        yield running


def raw(server: Live, sent: bytes, *, end: bool = False) -> bytes:
    """What comes back on a plain connection until the server closes it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
        connection.sendall(sent)
        if end:
            connection.shutdown(socket.SHUT_WR)
        found = b""
        while part := connection.recv(65536):
            found += part
        return found


def post(body: bytes, *headers: str, length: int | None = None) -> bytes:
    lines = ["POST /clip/embed_text HTTP/1.1", "Host: localhost", *headers]
    if length is not None or not headers:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def until(condition: Any) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_limits_are_told_and_kept(server: Live) -> None:
    limits = server.get("/info").json["limits"]
    assert limits["body_bytes"] == 100_000 and limits["image_pixels"] == 10_000 and limits["items"] == 3
    large = {"image": {"type": "base64", "value": base64.b64encode(picture(0, (101, 100))).decode()}}
    broad = {"type": "base64", "value": base64.b64encode(picture(0, (100, 80))).decode()}
    for path, body, status, words in (
        ("/clip/embed_text", {"text": "a" * 200_000}, 413, "100000 bytes"),
        ("/clip/embed_text", {"text": ["a"] * 4}, 413, "at most 3"),
        ("/clip/embed_text", {"text": ["a", "b " * 300]}, 413, "text[1] has 600 characters"),
        ("/clip/embed_image", large, 400, "image: 101 x 100, 10100 pixels; at most 10000"),
        ("/clip/embed_image", {"image": [IMAGE["image"]] * 4}, 413, "at most 3"),
        ("/clip/embed_image", {"image": [broad] * 3}, 413, "24000 pixels; at most 20000"),
    ):
        reply = server.post(path, body)
        assert reply.status == status and words in reply.json["message"], reply.json
    assert server.post("/clip/embed_image", IMAGE).status == 200
    assert set(server.server.held.amounts.values()) == {0}


def test_a_body_is_counted_while_it_streams_in_whatever_its_head_says(server: Live) -> None:
    chunk = b"7d0\r\n" + b"x" * 2000 + b"\r\n"
    assert b" 413 " in raw(server, post(chunk * 60, "Transfer-Encoding: chunked"))
    assert b" 413 " in raw(server, post(b"", length=10**15))
    assert b" 408 " in raw(server, post(b'{"text": ', length=50))  # and no more comes
    assert b" 400 " in raw(server, post(b"{}", "Content-Length: -5"))
    raw(server, post(b'{"text"', length=50), end=True)
    until(lambda: any('"status": 499' in line for line in server.lines))
    assert server.post("/clip/embed_text", {"text": "a"}).status == 200
    assert set(server.server.held.amounts.values()) == {0}


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"5", b"\xff\xfe", b'{"text": "a", "text": "b"}', b'{"text": NaN}', b"[" * 90_000,
     b'{"text": ' + b"9" * 5000 + b"}", b'{"text": "\\ud800"', b"\0" * 100],
)  # fmt: skip
def test_garbage_is_a_400(server: Live, body: bytes) -> None:
    for path in ("/clip/embed_text", "/clip/embed_image", "/clip/compare", "/v1/embeddings", "/vectorize", "/predict"):
        reply = server.post(path, body)
        assert reply.status == 400 and len(json.dumps(reply.json)) < 400


def test_a_lone_surrogate_is_a_text_like_any_other(server: Live) -> None:
    assert server.post("/clip/embed_text", b'{"text": "a \\ud800"}').status == 200


def test_unknown_routes_and_methods_are_answered_in_json(server: Live) -> None:
    assert server.get("/nowhere").status == 404 and "/docs" in server.get("/nowhere").json["message"]
    assert server.get("/clip/embed_text").status == 405 and server.post("/info", {}).status == 405
    assert b" 400 " in raw(server, b"no http\r\n\r\n")


def test_other_names_and_other_sites_are_refused(server: Live) -> None:
    for headers, status in (
        ({"Host": "rebound.example"}, 403),
        ({"Host": f"localhost:{server.port}"}, 200),
        ({"Host": "[::1]:9001"}, 200),
        ({"Host": "localhost@evil.example"}, 403),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": server.url}, 200),
    ):
        found = server.get("/info", headers)
        assert found.status == status, headers
        assert "access-control-allow-origin" not in found.headers
    with live("--allow-origin", "https://app.example", "--allow-host", "clip.example") as other:
        found = other.get("/info", {"Origin": "https://app.example", "Host": "clip.example"})
        assert found.status == 200 and found.headers["access-control-allow-origin"] == "https://app.example"
        assert other.get("/info", {"Origin": "https://evil.example"}).status == 403
        assert other.get("/info", {"Host": "evil.example"}).status == 403


def test_keys(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("# ours\nfirst-key\nsecond-key\n", encoding="utf-8")
    with live("--api-key-file", str(tmp_path / "keys")) as server:
        text = {"text": "a"}
        for path, body, headers, status in (
            ("/clip/embed_text", text, {}, 401),
            ("/clip/embed_text", {**text, "api_key": "second-key"}, {}, 200),
            ("/clip/embed_text?api_key=first-key", text, {}, 200),
            ("/clip/embed_text", text, {"Authorization": "Bearer first-key"}, 200),
            ("/clip/embed_text?api_key=None", {**text, "api_key": None}, {"Authorization": "bearer first-key"}, 200),
            ("/clip/embed_text?api_key=None", {**text, "api_key": "None"}, {}, 401),
            ("/clip/embed_text?api_key=wrong", {**text, "api_key": "first-key"}, {}, 401),
            ("/clip/embed_text", {**text, "api_key": "wrong"}, {"Authorization": "Bearer first-key"}, 401),
            ("/clip/embed_text", text, {"Authorization": "Basic first-key"}, 401),
            ("/clip/embed_text", {**text, "api_key": ["first-key"]}, {}, 401),
        ):
            reply = server.post(path, body, headers)
            assert reply.status == status, (path, body, headers)
            assert "key" not in reply.headers and (status == 200 or "www-authenticate" in reply.headers)
        for path in ("/metrics", "/v1/models", "/model/registry", "/meta"):
            assert server.get(path).status == 401 and server.get(f"{path}?api_key=first-key").status == 200
        for path in ("/healthz", "/readiness", "/info", "/ping", "/.well-known/live", "/", "/docs", "/openapi.json"):
            assert server.get(path).status < 300
        assert not any("-key" in line for line in server.lines) and "-key" not in server.get("/info").content.decode()


class Gate:
    """Holds the engine of one tower until it is let."""

    def __init__(self, server: Live) -> None:
        self.batcher = server.server._models.served[0].texts
        self.compute, self.free, self.seen = self.batcher._compute, threading.Event(), list[Any]()
        self.batcher._compute = self

    def __call__(self, items: Any) -> Any:
        self.seen.append(list(items))
        assert self.free.wait(SECONDS)
        return self.compute(items)

    def open(self) -> None:
        self.free.set()
        self.batcher._compute = self.compute


def in_thread(call: Any, into: list[Any]) -> threading.Thread:
    thread = threading.Thread(target=lambda: into.append(call()), daemon=True)
    thread.start()
    return thread


def test_too_many_requests_are_told_when_to_come_back_and_others_are_answered() -> None:
    with live("--held-requests", "3") as server:
        gate, replies = Gate(server), list[Any]()
        threads = [
            in_thread(lambda i=i: server.post("/clip/embed_text", {"text": f"a {i}"}), replies) for i in range(3)
        ]
        until(lambda: server.server.held.amounts["requests"] == 3)
        for path, shape in (("/clip/embed_text", "message"), ("/v1/embeddings", "error"), ("/vectorize", "error")):
            refused = server.post(path, {"text": "b", "input": "b", "texts": ["b"]})
            assert refused.status == 429 and list(refused.json) == [shape]
            assert int(refused.headers["retry-after"]) >= 1
        assert server.get("/healthz").status == 200 and server.get("/readiness").status == 200
        gate.open()
        for thread in threads:
            thread.join(SECONDS)
        assert [reply.status for reply in replies] == [200] * 3
        assert server.post("/clip/embed_text", {"text": "b"}).status == 200


def test_what_nobody_waits_for_is_not_computed_and_a_deadline_is_one() -> None:
    with live("--answer-seconds", "3") as server:
        gate, replies = Gate(server), list[Any]()
        first = in_thread(lambda: server.post("/clip/embed_text", {"text": "first"}), replies)
        until(lambda: gate.seen == [["first"]])
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(post(b'{"text": "gone"}'))
            until(lambda: gate.batcher.waiting == 1)
        until(lambda: any('"status": 499' in line for line in server.lines))
        first.join(SECONDS)
        assert replies[0].status == 504
        gate.open()
        assert server.post("/clip/embed_text", {"text": "last"}).status == 200
        assert gate.seen == [["first"]]
        assert 'clipref_dropped_total{tower="text"} 1\n' in server.get("/metrics").content.decode()


def test_metrics_and_logs_count_what_happened(server: Live) -> None:
    def value(name: str) -> float:
        lines = server.get("/metrics").content.decode().splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == name)

    name = 'clipref_requests_total{route="/vectorize",status="200"}'
    count = 'clipref_request_seconds_count{route="/vectorize"}'
    before, items, counted = value(name), value('clipref_items_total{tower="text"}'), value(count)
    assert server.post("/vectorize", {"texts": ["a", "b"]}, {"X-Request-Id": "told"}).status == 200
    assert value(name) == before + 1 and value('clipref_items_total{tower="text"}') == items + 2
    assert value(count) == counted + 1
    assert value('clipref_stage_seconds_bucket{stage="engine",le="+Inf"}') > 0 and value("clipref_ready") == 1
    (line,) = [json.loads(line) for line in server.lines if '"told"' in line]
    assert line["route"] == "/vectorize" and line["status"] == 200 and line["items"] == 2 and line["seconds"] > 0


def test_connections_that_ask_nothing_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("clipref.server.listening.HEAD_SECONDS", 0.8)
    with live() as server:
        whole = post(b'{"text": "a"}')
        for sent in (b"", whole[:20]):
            assert raw(server, sent) == b""
        # What comes in time is answered, once and again; then half a head is waited for no longer.
        with socket.create_connection(("127.0.0.1", server.port), timeout=SECONDS) as connection:
            for _ in range(2):
                connection.sendall(whole)
                found = b""
                while not found.endswith(b"]]}"):
                    found += connection.recv(65536)
                time.sleep(0.9)
            connection.sendall(whole[:20])
            assert connection.recv(65536) == b""


def test_answers_are_sent_at_once(server: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nagle's algorithm is off on every connection: it would hold the second part of an answer back for 40 ms."""
    from clipref.server.listening import Protocol

    seen: list[int] = []
    made = Protocol.connection_made

    def connection_made(self: Any, transport: Any) -> None:
        made(self, transport)
        connection = transport.get_extra_info("socket")
        seen.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))

    monkeypatch.setattr(Protocol, "connection_made", connection_made)
    assert server.get("/healthz").status == 200 and seen and all(seen)


def test_strangers_share_no_batch_in_8_bits_unless_told() -> None:
    for arguments, mixes in (((), False), (("--mix-requests",), True)):
        with live("--precision", "int8", *arguments) as server:
            (model,) = server.get("/info").json["models"]
            assert model["precision"] == "int8" and model["mixes_requests_in_a_batch"] is mixes
            assert [b._mixes for b in server.server._models.served[0].batchers.values()] == [mixes] * 2


def test_it_lives_before_it_is_ready() -> None:
    free = threading.Event()

    def slow(server: Any) -> None:
        tower = server._models.served[0].towers["image"]
        warm_up = tower.warm_up
        tower.warm_up = lambda: (free.wait(SECONDS), warm_up())

    with live(wait=False, prepare=slow) as server:
        assert server.get("/healthz").status == 200 and server.get("/.well-known/live").status == 204
        assert server.get("/readiness").status == 503 and server.get("/.well-known/ready").status == 503
        refused = server.post("/clip/embed_text", {"text": "a"})
        assert refused.status == 503 and refused.headers["retry-after"] == "1"
        free.set()
        until(lambda: server.get("/readiness").status == 200)
        assert server.post("/clip/embed_text", {"text": "a"}).status == 200


def test_an_idle_tower_is_given_up_and_comes_back() -> None:
    with live("--idle-unload", "0.2") as server:
        towers = server.server._models.served[0].towers
        before = server.post("/clip/embed_text", {"text": "a"}).json["embeddings"]
        until(lambda: not towers["image"].loaded and not towers["text"].loaded)
        assert server.post("/clip/embed_text", {"text": "a"}).json["embeddings"] == before
        assert server.get("/readiness").status == 200


def test_a_model_that_fails_is_a_500_without_payload_and_the_log_says_more(server: Live) -> None:
    batcher = server.server._models.served[0].texts
    kept = batcher._compute

    def broken(items: list[str]) -> Any:
        raise ValueError(f"no {items}")

    batcher._compute = broken
    try:
        reply = server.post("/clip/embed_text", {"text": "S3CRET"}, {"X-Request-Id": "broken"})
    finally:
        batcher._compute = kept
    assert reply.status == 500 and "broken" in reply.json["message"] and "ValueError" in reply.json["message"]
    (line,) = [json.loads(line) for line in server.lines if '"failure"' in line]
    assert line["id"] == "broken" and "broken" in line["where"] and "S3CRET" not in json.dumps(line)
    assert server.post("/clip/embed_text", {"text": "a"}).status == 200


def start(*arguments: str) -> tuple[subprocess.Popen[str], int]:
    """`clipref serve` as a process, ready, and its port."""
    command = ["serve", "--port", "0", *arguments]
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys, clipref.cli as c; sys.exit(c.main({command!r}))"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    port = 0
    for line in process.stderr:
        event = json.loads(line) if line.startswith("{") else {}
        if event.get("event") == "listening":
            port = int(event["address"].rpartition(":")[2])
        if event.get("event") == "ready":
            break
    assert port
    return process, port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_under_load_loses_nothing_that_was_accepted(number: int) -> None:
    process, port = start("--model", "clipref/shapes-vit")
    server, replies = Live(None, port, []), list[Any]()
    body = {"image": [IMAGE["image"]] * 64}

    def ask() -> None:
        with suppress(ConnectionError, http.client.HTTPException):  # came too late
            replies.append(server.post("/clip/embed_image", body))

    threads = [in_thread(ask, []) for _ in range(8)]
    time.sleep(0.1)  # whatever was accepted by now
    os.kill(process.pid, number)
    for thread in threads:
        thread.join(SECONDS)
    _, said = process.communicate(timeout=SECONDS)
    answered = [line for line in said.splitlines() if '"route": "/clip/embed_image"' in line]
    assert process.returncode == 0 and '"stopped"' in said
    assert all(reply.status == 200 and np.isfinite(reply.json["embeddings"]).all() for reply in replies)
    assert len(answered) == len(replies) > 0
