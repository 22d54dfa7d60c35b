"""Adapters that go wrong, in each of the ways to be asked: each has a verdict on the command line, and no traceback."""

import contextlib
import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from clipref.cli import main

Capture = pytest.CaptureFixture[str]


def told(engine: str, how: str, capsys: Capture, level: str = "similarity", only: str = "3 images") -> str:
    """What the command says of an engine in one case, which it fails, or doesn't answer."""
    asked = ["--levels", level, "--only", only, "--time-limit", "0.6" if how == "hang" else "60", "--verbose"]
    assert main(["conformance", "run", engine, *asked]) == 1
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    return said.out


OBJECTS: Mapping[str, tuple[str, str]] = {
    "crash": ("def similarity(self, **inputs): raise RuntimeError('no GPU')", "FAIL .* raised RuntimeError: no GPU"),
    "crash when made": ("def __init__(self, folder): raise OSError('no weights')", "raised OSError: no weights"),
    "crash below Python": ("def similarity(self, **inputs): os.abort()", "crashed: ended by SIGABRT"),
    "end": ("def similarity(self, **inputs): os._exit(0)", "crashed: exit code 0"),
    "hang": ("def similarity(self, **inputs): time.sleep(60)", "hung: stopped after 0.6 s"),
    "garbage": ("def similarity(self, **inputs): return {'cosines': 'many'}", "gave a str as 'cosines'"),
    "nothing": ("def similarity(self, **inputs): return None", "similarity gave a NoneType, expected arrays by name"),
    "another signature": ("def similarity(self, x, y): return {}", "raised TypeError: .* unexpected keyword argument"),
    "no method": ("similarity = 3", "raised TypeError: 'int' object is not callable"),
    "wrong shapes": (
        "def similarity(self, **i): return dict(cosines=np.ones((5, 3), 'f4'), logits=np.ones((3, 5), 'f4'))",
        r"gave 'cosines' of shape \[5, 3\], expected \[3, 5\]",
    ),
    "half of it": (
        "def similarity(self, **inputs): return dict(cosines=np.ones((3, 5), 'f4'))",
        r"gave no 'logits', but \['cosines'\]",
    ),
    "missing verbs": ("def encode_image(self, pixels): return pixels", "No verdict: nothing was answered"),
    "not yet": ("def similarity(self, **i): raise NotImplementedError('GPU')", "SKIP .* GPU"),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pipes that can be waited for")
@pytest.mark.parametrize("how", OBJECTS)
def test_objects(how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    body, verdict = OBJECTS[how]
    made = "" if "__init__" in body else "\n    def __init__(self, folder): pass"
    name = f"bad_{how.replace(' ', '_')}"
    (tmp_path / f"{name}.py").write_text(f"import os, time\nimport numpy as np\nclass Bad:\n    {body}{made}\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert_says(verdict, told(f"{name}:Bad", how, capsys))


WRITE = "from safetensors.numpy import save_file; import numpy as np; save_file({}, out)"
PROGRAMS: Mapping[str, tuple[str, str]] = {
    "crash": ("sys.exit('no GPU')", "FAIL .* crashed: exit code 1; its last words: no GPU"),
    "crash below": ("import os; os.abort()", "crashed: ended by SIGABRT"),
    "hang": ("import time; time.sleep(60)", "hung: stopped after 0.6 s"),
    "garbage": ("open(out, 'w').write('0.5 0.25')", "answered garbage: .* is not a safetensors file"),
    "nothing": ("pass", "answered garbage: exit code 0, but nothing was written"),
    "wrong shapes": (
        WRITE.format("dict(cosines=np.ones((5, 3), 'f4'), logits=np.ones((3, 5), 'f4'))"),
        r"gave 'cosines' of shape \[5, 3\], expected \[3, 5\]",
    ),
    "half of it": (WRITE.format("dict(cosines=np.ones((3, 5), 'f4'))"), r"gave no 'logits', but \['cosines'\]"),
    "missing verbs": (
        "print(f'declined: {verb}'); sys.exit(3)",
        "SKIP .* exit code 3; its last words: declined: simil",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("how", PROGRAMS)
def test_programs(how: str, tmp_path: Path, capsys: Capture) -> None:
    body, verdict = PROGRAMS[how]
    (tmp_path / "bad.py").write_text(f"import sys\nverb, case, out = sys.argv[1:]\n{body}\n")
    assert_says(verdict, told(f"exec:{sys.executable} {tmp_path / 'bad.py'}", how, capsys))


def test_a_program_that_cannot_be_started(tmp_path: Path, capsys: Capture) -> None:
    program = tmp_path / "bad"
    program.write_bytes(b"\x7fELF, but no program")
    program.chmod(0o755)
    assert_says("FAIL .* crashed: .*(Exec format error|can't be)", told(f"exec:{program}", "no start", capsys))


Reply = Callable[[BaseHTTPRequestHandler], None]


def reply(status: int, body: Any, length: int | None = None) -> Reply:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Location", handler.path)
        handler.send_header("Content-Length", str(len(data) if length is None else length))
        handler.end_headers()
        handler.wfile.write(data)

    return send


def late(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(1.2)
    reply(200, {})(handler)


def gone(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


SERVERS: Mapping[str, tuple[Reply, str]] = {
    "crash": (reply(500, b"no GPU"), "FAIL .* crashed: HTTP 500 from /clip/embed_text: no GPU"),
    "crash in the middle": (reply(200, b'{"embed', 999), "crashed: .* can't be reached, or broke off"),
    "no reply": (gone, "crashed: .* can't be reached, or broke off"),
    "another protocol": (lambda h: h.wfile.write(b"220 mail\r\n") and None, "crashed: .* or broke off"),  # type: ignore
    "in circles": (reply(302, b""), "crashed: HTTP 302 from /clip/embed_text"),
    "hang": (late, "hung: no reply from /clip/embed_text in 0.6 s"),
    "garbage": (reply(200, b"<html>"), "answered garbage: /clip/embed_text did not reply with numbers"),
    "not finite": (reply(200, b'{"embeddings": [[NaN, 1.0]]}'), "answered garbage: .* did not reply with numbers"),
    "a list": (reply(200, [[1.0]]), "answered garbage: .* did not reply with numbers under 'embeddings'"),
    "wrong shapes": (
        reply(200, {"embeddings": [[1.0] * 5] * 4}), r"gave 'embeddings' of shape \[4, 5\], expected \[4, 21\]",
    ),
    "too few": (
        reply(200, {"embeddings": [[1.0] * 21]}), r"gave 'embeddings' of shape \[1, 21\], expected \[4, 21\]",
    ),
    "none": (reply(200, {"embeddings": []}), r"answered garbage: .* shape \[0\] under 'embeddings'; expected 2 axes"),
    "missing verbs": (reply(404, {"message": "no such model"}), "No verdict: nothing was answered"),
}  # fmt: skip


@contextlib.contextmanager
def served(send: Reply) -> Iterator[str]:
    """A server whose /clip/ routes all do the same; it has no other dialect."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            (send if self.path.startswith("/clip/") else reply(404, {}))(self)

        def do_GET(self) -> None:
            (send if self.path.startswith("/clip/") else reply(404, {}))(self)

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the suite has left
                super().handle()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "how", [pytest.param(how, marks=pytest.mark.slow) if how == "hang" else how for how in SERVERS]
)
def test_servers(how: str, capsys: Capture) -> None:
    send, verdict = SERVERS[how]
    with served(send) as address:
        assert_says(verdict, told(address, how, capsys, "pipeline", "vit-words-plain/texts"))


def assert_says(verdict: str, said: str) -> None:
    """Raise AssertionError unless a line of what was said matches."""
    assert re.search(verdict, said), said
