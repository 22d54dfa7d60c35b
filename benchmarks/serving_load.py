"""Thousands of mixed requests, a tenth of them hostile, against `clipref serve`; then SIGTERM under load.

    python benchmarks/serving_load.py [--model clipref/shapes-vit] [--count 10000] [--clients 16]

Loopback only, bounded in number and time. It ends with 1 unless every answer is well-formed and of the kind that it
should be, no request hangs, memory after the last is within 5 % and 20 MB of what it was after the first tenth, and
everything that was accepted before SIGTERM is answered. Needs clipref[server].
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import random
import signal
import socket
import struct
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from serving import image_request, photographs, request, serving, text_request

from clipref.config import PUBLISHED
from clipref.weights_tools import synthetic

SECONDS = 60  # after which a request hangs


class Ask(NamedTuple):
    """A request: its parts, sent with pauses between, and the answers that are right; None is a closed connection."""

    name: str
    parts: list[bytes]
    right: tuple[int | None, ...]
    leaves: bool = False  # without waiting for the answer


def png(width: int, height: int) -> bytes:
    """A PNG that promises a size, of which it has a few bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    )


def kinds(seed: int) -> tuple[list[Callable[[], Ask]], list[Callable[[], Ask]]]:
    """The sound requests, and the hostile ones."""
    files = photographs(8)
    generator = random.Random(seed)
    number = itertools.count()

    def encoded() -> str:
        return base64.b64encode(generator.choice(files)).decode()

    def uri() -> str:
        return f"data:image/jpeg;base64,{encoded()}"

    def text() -> str:
        return f"a photo of {next(number)} things"

    sound = [
        lambda: Ask("image", [image_request(generator.choice(files))], (200,)),
        lambda: Ask("text", [text_request(text())], (200,)),
        lambda: Ask("openai", [request("/v1/embeddings", {"input": [text(), uri()]})], (200,)),
        lambda: Ask("weaviate", [request("/vectorize", {"texts": [text()] * 3, "images": [encoded()]})], (200,)),
        lambda: Ask("classify", [request("/v1/classify", {"image": encoded(), "labels": ["a cat", "a dog"]})], (200,)),
    ]  # fmt: skip
    whole = text_request("a photo of a cat")
    hostile = [
        lambda: Ask("bomb", [image_request(png(60000, 60000))], (400,)),
        lambda: Ask("cut short", [image_request(png(3000, 3000))], (400,)),
        lambda: Ask("cut photo", [image_request(files[0][: generator.randrange(9, len(files[0]))])], (200, 400)),
        lambda: Ask("noise", [image_request(generator.randbytes(2000))], (400,)),
        lambda: Ask("no base64", [request("/clip/embed_image", {"image": {"type": "base64", "value": "%"}})], (400,)),
        lambda: Ask("deep", [raw(b"[" * 50_000)], (400,)),
        lambda: Ask("no http", [generator.randbytes(500) + b"\r\n\r\n"], (400, None)),
        lambda: Ask("too long a length", [whole.replace(b"Length: ", b"Length: 9")], (None,), leaves=True),
        lambda: Ask("huge length", [raw(b"", 10**12)], (413,)),
        lambda: Ask("slow", [whole[:30], whole[30:60], whole[60:]], (200,)),
        lambda: Ask("half", [whole[:-5]], (None,), leaves=True),
        lambda: Ask("leaves", [image_request(generator.choice(files))], (None,), leaves=True),
        lambda: Ask("too many", [request("/clip/embed_text", {"text": ["a"] * 1000})], (413,)),
        lambda: Ask("file", [request("/clip/embed_image", {"image": {"type": "file", "value": "/etc/x"}})], (400,)),
        lambda: Ask("nowhere", [request("/etc/passwd", {})], (404,)),
    ]  # fmt: skip
    return sound, hostile


def raw(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return f"POST /clip/embed_text HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\n\r\n".encode() + body


def ask(port: int, wanted: Ask) -> int | None:
    """The status of the answer, None if there is none. Raises AssertionError for one that isn't well-formed."""
    with socket.create_connection(("127.0.0.1", port), timeout=SECONDS) as connection:
        for i, part in enumerate(wanted.parts):
            time.sleep(0.1 if i else 0)
            connection.sendall(part)
        if wanted.leaves:
            return None
        found = b""
        while b"\r\n\r\n" not in found:
            try:
                part = connection.recv(2**16)
            except ConnectionResetError:
                part = b""
            if not part:
                assert not found, found[:200]
                return None
            found += part
        head, _, body = found.partition(b"\r\n\r\n")
        lines = head.decode("ascii").lower().split("\r\n")
        length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), None)
        while length is None or len(body) < length:
            if not (part := connection.recv(2**16)):
                assert length is None, f"cut short: {head!r}"
                break
            body += part
        status = int(lines[0].split()[1])
        if wanted.name != "no http":
            answer = json.loads(body)
            assert isinstance(answer, dict) and (status == 200) == ("message" not in answer and "error" not in answer)
        return status


def memory(process: int) -> float:
    """Resident megabytes."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise SystemExit("The server is gone.")


class Load:
    """Clients in threads, what they were answered, and what was wrong."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.answers: Counter[tuple[str, int | None]] = Counter()
        self.wrong: list[str] = []
        self._generator = random.Random(seed)
        self._sound, self._hostile = kinds(seed)
        self._lock = threading.Lock()

    def _next(self) -> Ask:
        with self._lock:
            return self._generator.choice(self._hostile if self._generator.random() < 0.1 else self._sound)()

    def run(self, count: int, clients: int) -> None:
        """So many requests."""
        numbers = iter(range(count))

        def work() -> None:
            while True:
                with self._lock:
                    if next(numbers, None) is None:
                        return
                wanted = self._next()
                try:
                    status = ask(self.port, wanted)
                except (OSError, AssertionError, ValueError) as error:
                    status = -1
                    self.wrong.append(f"{wanted.name}: {error!r}")
                self.answers[wanted.name, status] += 1
                if status not in wanted.right and status != -1:
                    self.wrong.append(f"{wanted.name}: answered {status}, expected {wanted.right}")

        threads = [threading.Thread(target=work) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def stop_under_load(port: int, process: int, clients: int) -> list[str]:
    """SIGTERM while requests are on their way: each that got as far as an answer's head must get the whole."""
    wrong: list[str] = []
    statuses: list[int | None] = []
    begun = threading.Barrier(clients + 1)
    files = photographs(2)
    body = {"image": [{"type": "base64", "value": base64.b64encode(files[0]).decode()}] * 8}

    def work() -> None:
        begun.wait()
        try:
            statuses.append(ask(port, Ask("last", [request("/clip/embed_image", body)], (200,))))
        except ConnectionError:
            statuses.append(None)  # it wasn't accepted
        except (OSError, AssertionError, ValueError) as error:
            wrong.append(f"last: {error!r}")

    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    begun.wait()
    time.sleep(0.2)
    os.kill(process, signal.SIGTERM)
    for thread in threads:
        thread.join()
    print(f"SIGTERM under load: {dict(Counter(statuses))}")
    return wrong + [f"last: answered {status}" for status in statuses if status not in (200, None)]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="clipref/shapes-vit", help="an embedded or published one, or a path")
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = args.model
        if folder in PUBLISHED:
            folder = str(synthetic.write(Path(name) / "model", PUBLISHED[folder], 0, "plain", "float32"))
        with serving("--model", folder) as (port, _, process):
            load = Load(port, args.seed)
            first = max(args.count // 10, 1)
            load.run(first, args.clients)
            before = memory(process)
            series = [before]
            for _ in range(9):
                load.run(first, args.clients)
                series.append(memory(process))
            after = series[-1]
            held = held_amounts(port)
            wrong = load.wrong + stop_under_load(port, process, args.clients)
    for (kind, status), count in sorted(load.answers.items(), key=str):
        print(f"{kind:20} {status!s:5} {count:6}")
    print(f"memory after each {first}: {', '.join(f'{size:.0f}' for size in series)} MB; still held: {held}")
    if after > min(1.05 * before, before + 20):
        wrong.append(f"memory grew from {before:.0f} to {after:.0f} MB")
    if any(held.values()):
        wrong.append(f"still held: {held}")
    print("\n".join(wrong[:20]) or "nothing wrong")
    return 1 if wrong else 0


def held_amounts(port: int) -> dict[str, float]:
    """Bytes, items and requests that the server says are still held, once it is quiet."""
    from urllib.request import urlopen

    held: dict[str, Any] = {}
    for _ in range(100):
        with urlopen(f"http://127.0.0.1:{port}/metrics") as reply:
            lines = reply.read().decode().splitlines()
        held = {line.split('"')[1]: float(line.split()[-1]) for line in lines if line.startswith("clipref_held{")}
        if not any(held.values()):
            break
        time.sleep(0.1)
    return held


if __name__ == "__main__":
    sys.exit(main())
