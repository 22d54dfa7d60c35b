"""Engines that are servers: what they reply, late, in part or not at all, has its verdict."""

import contextlib
import dataclasses
import json
import os
import shutil
import socketserver
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, InputError
from clipref.conformance.engines import open_engine
from clipref.conformance.engines.failures import Crashed, Garbage, Hung
from clipref.conformance.protocol import Unsupported

from .engine_questions import TINY_VIT, questions, run
from .tolerances import UNIT


@contextlib.contextmanager
def served(reply: Any) -> Iterator[str]:
    """A server on this machine; `reply(route, request)` gives a status and a body. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            spoken = self.path.startswith("/clip/")  # and no other dialect
            status, body = reply(self.path, json.loads(content)) if spoken else (404, {})
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SERVED = Path(tempfile.gettempdir()) / f"clipref-served-{os.getpid()}"


@pytest.fixture(scope="module")
def words_model() -> Iterator[Path]:
    """The model that texts are asked of, where the server finds it by its name."""
    question = questions("pipeline/vit-words-plain/texts")[0]
    SERVED.mkdir()
    folder = question.make(SERVED).checkpoint
    assert folder is not None
    yield folder
    shutil.rmtree(SERVED)


def clip_server(path: str, request: dict[str, Any]) -> tuple[int, Any]:
    """roboflow's three routes around clipref's models; no more than eight texts in a request, as there."""
    import base64

    name = request["clip_version_id"]
    model = AutoModel.from_pretrained(SERVED / name if (SERVED / name).is_dir() else f"clipref/{name}")
    if path == "/clip/embed_image":
        assert request["image"]["type"] == "base64"
        return 200, {"embeddings": model.embed_image(base64.b64decode(request["image"]["value"])).tolist()}
    if path == "/clip/embed_text":
        assert len(request["text"]) <= 8
        return 200, {"embeddings": model.embed_text(request["text"]).tolist(), "time": 0.1}
    if path == "/clip/compare":
        subject = base64.b64decode(request["subject"]["value"])
        kinds = request["subject_type"], request["prompt_type"]
        return 200, {"similarity": model.compare(subject, request["prompt"], *kinds)}
    return 404, {"message": "no such route"}


@pytest.mark.slow
def test_a_server_is_right_from_files_to_cosines(words_model: Path) -> None:
    with served(clip_server) as address:
        report = run(open_engine(address), "pipeline/", f"towers/{TINY_VIT}/image")
    assert report.count("PASS") == 8 and report.count("SKIP") == 1
    assert report.passed and report.grade == "float32"


@pytest.mark.parametrize(
    ("reply", "problem", "says"),
    [
        ((404, {"message": "no such model"}), Unsupported, "HTTP 404 from /clip/embed_text: .*no such model"),
        ((500, b"out of memory"), Crashed, "HTTP 500 from /clip/embed_text: out of memory"),
        ((200, b"<html>"), Garbage, "did not reply with numbers under 'embeddings'"),
        ((200, {"embedding": [[1.0]]}), Garbage, "did not reply with numbers under 'embeddings'"),
        ((200, {"embeddings": [[1.0], [1.0, 2.0]]}), Garbage, "did not reply with numbers"),
        ((200, {"embeddings": [1.0, 2.0]}), Garbage, r"shape \[2\].*expected 2 axes"),
        ((200, {"embeddings": [["a"]]}), Garbage, "did not reply with numbers"),
        ((200, {"embeddings": [["1.5", 2.0]]}), Garbage, "a str is not a number"),
        ((200, {"embeddings": [[True, 2.0]]}), Garbage, "a bool is not a number"),
        ((200, {"embeddings": [[None, 2.0]]}), Garbage, "a NoneType is not a number"),
        ((200, b'{"embeddings": [[1' + b"0" * 400 + b"]]}"), Garbage, "did not reply with numbers"),
        ((200, b" " * (2**24 + 1)), Garbage, "replied with more than 16777216 bytes"),
    ],
)
def test_a_server_that_fails_has_its_verdict(reply: Any, problem: type[Exception], says: str, tmp_path: Path) -> None:
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    with served(lambda path, request: reply) as address, pytest.raises(problem, match=says):
        open_engine(address).answer(case)


def test_a_server_that_does_not_reply_is_left(tmp_path: Path) -> None:
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    done = threading.Event()

    def reply(path: str, request: Any) -> tuple[int, Any]:
        done.wait(10)
        return 200, {}

    with served(reply) as address, pytest.raises(Hung, match="no reply from /clip/embed_text in 0.3 s"):
        try:
            open_engine(address, time_limit=0.3).answer(case)
        finally:
            done.set()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\\r\\nContent-Length: 999\\r\\n\\r\\n"])
def test_a_server_that_drips_is_left(begun: bytes, tmp_path: Path) -> None:
    """Byte by byte, in the head or in the body, each within the time limit."""
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    done = threading.Event()

    class Dripping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(begun)
            with contextlib.suppress(OSError):
                while not done.wait(0.05):
                    self.request.sendall(b"H")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            # The test ends also where nothing stops the server.
            stop = threading.Timer(3, done.set)
            stop.start()
            started = time.monotonic()
            with pytest.raises(Hung, match="no reply from /clip/embed_text in 0.3 s"):
                open_engine(f"http://127.0.0.1:{server.server_address[1]}", time_limit=0.3).answer(case)
            assert time.monotonic() - started < 2
        finally:
            done.set()
            stop.cancel()
            server.shutdown()
            thread.join()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    with served(clip_server) as address:
        engine = open_engine(address)
    with pytest.raises(Crashed, match="can't be reached"):  # it was, and has ended
        engine.answer(case)
    with pytest.raises(InputError, match=f"Nothing listens at {address}; start the server first"):
        open_engine(address)


def test_many_texts_go_in_several_requests(tmp_path: Path, words_model: Path) -> None:
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    texts = [f"{i} red circles" for i in range(19)]
    many = dataclasses.replace(case, inputs={"texts": np.frombuffer(json.dumps(texts).encode(), np.uint8)})
    with served(clip_server) as address:
        found = open_engine(address).answer(many)["embeddings"]
    expected = AutoModel.from_pretrained(words_model).embed_text(texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=UNIT)
