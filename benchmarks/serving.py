"""The server: throughput of 16 clients against the model object, against one request at a time; latency; start.

    python benchmarks/serving.py [--model clip/ViT-B-32] [--backend onnx] [--rounds 5] [--count 320] [--json FILE]

Weights are synthetic, which costs the same time. The server is a process of its own (`clipref serve`), the clients are
one thread with plain sockets, bodies prepared, and their processor time is reported. Everything of a ratio is measured
in turns in the same run, each beside a check that the vectors are the model's. Needs clipref[server].
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import resource
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipref import AutoModel
from clipref.config import PUBLISHED
from clipref.weights_tools import synthetic

CLIENTS = 16
BATCH = 16


@contextmanager
def serving(*arguments: str) -> Iterator[tuple[int, float, int]]:
    """`clipref serve` as a process: its port, seconds until it was ready, its process id."""
    command = ["serve", "--port", "0", *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import sys, clipref.cli as c; sys.exit(c.main({command!r}))"],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        port = 0
        for line in process.stderr:
            event = json.loads(line) if line.startswith("{") else {}
            port = int(event["address"].rpartition(":")[2]) if event.get("event") == "listening" else port
            if event.get("event") == "ready":
                break
        ready = time.perf_counter() - start
        drain(process)
        yield port, ready, process.pid
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def drain(process: subprocess.Popen[str]) -> None:
    """Read what a process logs, so that it never waits for that."""
    import threading

    assert process.stderr is not None
    threading.Thread(target=process.stderr.read, daemon=True).start()


def photographs(count: int) -> list[bytes]:
    """JPEG files of 500 x 400, coarse shapes with fine noise, of about 60 KB."""
    generator = np.random.default_rng(0)
    files = []
    for _ in range(count):
        coarse = generator.integers(0, 256, (12, 16, 3), dtype=np.uint8)
        fine = np.asarray(Image.fromarray(coarse).resize((500, 400), Image.Resampling.BICUBIC), np.int16)
        noisy = (fine + generator.integers(-12, 13, fine.shape)).clip(0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(noisy).save(file, "JPEG", quality=85)
        files.append(file.getvalue())
    return files


def request(route: str, body: Any) -> bytes:
    """A whole request, as it goes over the wire."""
    content = json.dumps(body).encode()
    head = f"POST {route} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content


def image_request(file: bytes) -> bytes:
    return request("/clip/embed_image", {"image": {"type": "base64", "value": base64.b64encode(file).decode()}})


def text_request(text: str) -> bytes:
    return request("/clip/embed_text", {"text": text})


class Client:
    """One connection, one request at a time."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.found = b""
        self.number = -1

    def answer(self) -> bytes | None:
        """The body of a whole answer, once it is there. Raises RuntimeError for any status but 200."""
        part = self.socket.recv(2**18)
        if not part:
            raise RuntimeError("The server closed the connection instead of answering.")
        self.found += part
        head, end, body = self.found.partition(b"\r\n\r\n")
        if not end:
            return None
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        if len(body) < int(length.partition(b":")[2]):
            return None
        if b" 200 " not in head[:16]:
            raise RuntimeError(self.found[:400])
        self.found = b""
        return body


def closed_loop(port: int, requests: Sequence[bytes], clients: int = CLIENTS) -> tuple[float, list[bytes]]:
    """Requests a second of clients that each send the next as soon as they have an answer; and the answers."""
    answers: list[bytes] = [b""] * len(requests)
    waiting = list(range(len(requests)))[::-1]
    with selectors.DefaultSelector() as selector:
        start = time.perf_counter()
        for _ in range(clients):
            client = Client(port)
            selector.register(client.socket, selectors.EVENT_READ, client)
            client.number = waiting.pop()
            client.socket.sendall(requests[client.number])
        left = len(requests)
        while left:
            for key, _ in selector.select():
                client = key.data
                if (body := client.answer()) is None:
                    continue
                answers[client.number] = body
                left -= 1
                if waiting:
                    client.number = waiting.pop()
                    client.socket.sendall(requests[client.number])
        seconds = time.perf_counter() - start
        for key in list(selector.get_map().values()):
            key.data.socket.close()
    return len(requests) / seconds, answers


def check(answers: Sequence[bytes], expected: Any) -> float:
    """How far the vectors are off the model object's, relative to the RMS. Raises SystemExit if that is far."""
    found = np.array([json.loads(answer)["embeddings"][0] for answer in answers], np.float32)
    error = float(np.abs(found - expected).max() / np.sqrt(np.square(expected).mean()))
    if not error < 1e-4:
        raise SystemExit(f"The server's vectors are off by {error:.2g} of the RMS.")
    return error


def rates(calls: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """The rates that calls give, in turns, after one round that isn't counted."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for i in range(rounds + 1):
        for name, call in calls.items():
            time.sleep(0.3)  # until the threads of the one before have stopped spinning
            rate = call()
            if i:
                found[name].append(rate)
    return found


def rate_of(count: int, call: Callable[[], Any]) -> float:
    """Items a second."""
    start = time.perf_counter()
    call()
    return count / (time.perf_counter() - start)


@contextmanager
def plain_server(folder: str, backend: str) -> Iterator[int]:
    """`one_at_a_time` as a process of its own, as the other server is one; its port."""
    command = [sys.executable, __file__, "--model", folder, "--backend", backend, "--plain"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield int(process.stdout.readline())
    finally:
        process.terminate()
        process.wait(60)


def one_at_a_time(model: Any) -> None:
    """The plain server that everybody writes, on the same HTTP stack: a handler that decodes and computes in the event
    loop, so that a request is answered before the next is looked at. Nothing waits for a lock or a thread.
    """
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Protocol(H11Protocol):
        """Without Nagle's algorithm, as the other server. No request waits so long that its connection is closed."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def embed(request: Request) -> JSONResponse:
        body = await request.json()
        if "text" in body:
            found = model.embed_text(body["text"], truncate=True)
        else:
            found = model.embed_image(base64.b64decode(body["image"]["value"]))
        return JSONResponse({"embeddings": found.tolist()})

    app = Starlette(routes=[Route("/{path:path}", embed, methods=["POST"])])
    config = uvicorn.Config(app, "127.0.0.1", 0, http=Protocol, log_config=None, timeout_keep_alive=600)
    listening = config.bind_socket()
    listening.listen(2 * CLIENTS)
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(config).run(sockets=[listening])


def measure(folder: str, backend: str, rounds: int, count: int) -> dict[str, Any]:
    """Everything, of one model."""
    model = AutoModel.from_pretrained(folder, backend=backend, upright=True)
    files = photographs(count)
    texts = [f"a photo of {i} small things number {i * 7919 % 10007}" for i in range(count)]
    images, words = [image_request(file) for file in files], [text_request(text) for text in texts]
    side = model.config.vision.resolution
    pixels = np.random.default_rng(1).uniform(-1.8, 2.1, (BATCH, 3, side, side)).astype(np.float32)
    ids = model.tokenize(texts[:BATCH])
    expected = model.embed_images(files), model.embed_text(texts)
    text_rates = AutoModel.from_pretrained(folder, backend=backend)  # remembers none of the texts below

    def engine(encode: Any, given: Any, size: int) -> float:
        return rate_of(count // 2, lambda: [encode(given[:size]) for _ in range(0, count // 2, size)])

    errors: dict[str, float] = {}

    def served(port: int, requests: Sequence[bytes], name: str, truth: Any) -> float:
        rate, answers = closed_loop(port, requests)
        errors[name] = check(answers, truth)
        return rate

    arguments = ("--model", folder, "--backend", backend)
    with serving(*arguments) as (port, ready, _), plain_server(folder, backend) as plain:
        before = resource.getrusage(resource.RUSAGE_SELF)
        closed_loop(port, images)
        after = resource.getrusage(resource.RUSAGE_SELF)
        client_seconds = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / count
        turns = iter(range(10**6))

        def fresh() -> list[bytes]:
            turn = next(turns)  # the server remembers texts, so each round has its own
            return [text_request(f"{text} {turn}") for text in texts]

        found = rates(
            {
                "images served": lambda: served(port, images, "images", expected[0]),
                "embed_images": lambda: rate_of(count, lambda: model.embed_images(files)),
                "images one at a time": lambda: closed_loop(plain, images)[0],
                "image engine, batch 1": lambda: engine(model.encode_image, pixels, 1),
                "image engine, batch 16": lambda: engine(model.encode_image, pixels, BATCH),
                "texts served": lambda: closed_loop(port, fresh())[0],
                "texts one at a time": lambda: closed_loop(plain, fresh())[0],
                "text engine, batch 1": lambda: engine(text_rates.encode_text, ids, 1),
                "text engine, batch 16": lambda: engine(text_rates.encode_text, ids, BATCH),
            },
            rounds,
        )
        check(closed_loop(port, words)[1], expected[1])
        latency = lone_latency(port, model, files[0], images[0], max(20, count // 8))
    return {"ready_s": ready, "client_cpu_s_per_request": client_seconds, "errors": errors, "rates": found, **latency}


def lone_latency(port: int, model: Any, file: bytes, sent: bytes, count: int) -> dict[str, float]:
    """Median seconds of one request at a time, and of a direct call with the same file, in turns."""
    client, times, direct = Client(port), list[float](), list[float]()
    for _ in range(count):
        start = time.perf_counter()
        client.socket.sendall(sent)
        while client.answer() is None:
            pass
        times.append(time.perf_counter() - start)
        start = time.perf_counter()
        model.embed_image(file)
        direct.append(time.perf_counter() - start)
    client.socket.close()
    return {"lone_s": statistics.median(times), "direct_s": statistics.median(direct)}


def report(found: dict[str, Any]) -> None:
    """The table, and the ratios that are asked for."""
    medians = {name: statistics.median(rows) for name, rows in found["rates"].items()}
    for name, rate in medians.items():
        print(f"{name:24} {rate:9.1f} a second")
    for kind, tower in (("images", "image"), ("texts", "text")):
        gain = medians[f"{tower} engine, batch 16"] / medians[f"{tower} engine, batch 1"]
        ratio = medians[f"{kind} served"] / medians[f"{kind} one at a time"]
        print(f"{kind}: served is {ratio:.2f} x one at a time; batching can give {gain:.2f} x ({ratio / gain:.0%})")
    print(f"images: served is {medians['images served'] / medians['embed_images']:.1%} of embed_images", end="; ")
    print(f"that is {medians['embed_images'] / medians['image engine, batch 16']:.1%} of the engine")
    added = found["lone_s"] - found["direct_s"]
    print(f"a lone image takes {1e3 * added:.2f} ms more than a direct call ({1e3 * found['direct_s']:.1f} ms)")
    print(f"ready after {found['ready_s']:.2f} s; the client takes {1e3 * found['client_cpu_s_per_request']:.2f} ms of")
    print(f"processor time a request; vectors are within {max(found['errors'].values()):.1e} of the model's")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="clip/ViT-B-32", help="a published one, whose weights are made, or a path")
    parser.add_argument("--backend", default="onnx")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=320)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plain", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.plain:
        one_at_a_time(AutoModel.from_pretrained(args.model, backend=args.backend, upright=True))
    with tempfile.TemporaryDirectory() as name:
        folder = args.model
        if folder in PUBLISHED:
            folder = str(synthetic.write(Path(name) / "model", PUBLISHED[folder], 0, "plain", "float32"))
        found = measure(folder, args.backend, args.rounds, args.count)
        with serving("--model", "clipref/shapes-vit") as (_, ready, _):
            found["ready_embedded_s"] = ready
    report(found)
    print(f"the embedded model is ready after {found['ready_embedded_s']:.2f} s")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
