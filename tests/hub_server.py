"""A local server that speaks as much of the hub as is asked, and a process that finds models there."""

import hashlib
import json
import multiprocessing
import os
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from clipref import ClipError, hub
from clipref.config import PUBLISHED, ClipConfig
from clipref.weights_tools import convert as convert
from clipref.weights_tools import download as download

from .conftest import TINY

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PUBLISHED_REPOSITORY = "timm/vit_base_patch32_clip_224.openai"


@dataclass
class Hub:
    """Repositories and their files, and what goes wrong on the way; what was asked for."""

    url: str
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    breaks: dict[str, int] = field(default_factory=dict)  # after so many bytes, once
    corrupt: dict[str, int] = field(default_factory=dict)  # the byte of which one bit is wrong
    asked: list[tuple[str, str, str | None]] = field(default_factory=list)


def handler(state: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, body: bool) -> None:
            state.asked.append((self.command, self.path, self.headers.get("Range")))
            parts = self.path.strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                repository = "/".join(parts[2:4])
                files = state.files.get(repository)
                if files is not None and parts[4:5] == ["tree"]:
                    self.send([{"type": "file", "path": n, "size": len(c), "oid": ""} for n, c in files.items()], body)
                    return
                if files is not None:
                    self.send({"id": repository, "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}, body)
                    return
            elif len(parts) == 5 and parts[2] == "resolve":
                content = state.files.get("/".join(parts[:2]), {}).get(parts[4])
                if content is not None:
                    self.send_file(parts[4], content, body)
                    return
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def send(self, value: object, body: bool) -> None:
            data = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if body else b"")

        def send_file(self, name: str, content: bytes, body: bool) -> None:
            first = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
            self.send_response(206 if first else 200)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("Accept-Ranges", "bytes")
            if first:
                self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
            if (at := state.corrupt.get(name)) is not None:
                content = content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]
            self.send_header("Content-Length", str(len(content) - first))
            self.end_headers()
            if not body:
                return
            if not first and name in state.breaks:
                self.wfile.write(content[: state.breaks.pop(name)])
                self.wfile.flush()
                self.connection.close()
                return
            self.wfile.write(content[first:])

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


# Processes of their own, because huggingface_hub reads the environment once. They are forked from a server that has
# imported the rest already, and what the versions of huggingface_hub import.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.hub_server", "httpx2", "httpx", "requests", "tqdm.auto", "filelock", "yaml"])


def _locate(
    answer: Connection, name: str, config: ClipConfig, arguments: dict[str, Any], environment: dict[str, str]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    PUBLISHED["clip/ViT-B-32"] = config  # type: ignore[index]
    try:
        answer.send(str(hub.locate(name, **arguments)[0]))
    except ClipError as error:
        assert error.__suppress_context__ or "could not be downloaded" not in str(error), "a chain of tracebacks"
        answer.send(f"ERROR {error}")


class Locating:
    """`hub.locate` in a process of its own, in which clip/ViT-B-32 is tiny."""

    def __init__(self, name: str, folder: Path, arguments: dict[str, Any] | None = None, /, **environment: str) -> None:
        clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        homes = {"HF_HOME": str(folder / "hf"), "CLIPREF_HOME": str(folder / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
        self._answer, theirs = PROCESSES.Pipe(duplex=False)
        given = (theirs, name, TINY["vit"], arguments or {}, clean | homes | environment)
        self._process = PROCESSES.Process(target=_locate, args=given)
        self._process.start()
        theirs.close()

    def answer(self) -> str:
        """The folder, or the error. Raises EOFError if the process ended without one."""
        with self._answer:
            found: str = self._answer.recv()
        self._process.join()
        assert self._process.exitcode == 0
        return found


def locate(name: str, folder: Path, arguments: dict[str, Any] | None = None, /, **environment: str) -> str:
    """The folder that `hub.locate` finds in a process of its own, or its error."""
    return Locating(name, folder, arguments, **environment).answer()


def weights(folder: Path | str) -> dict[str, np.ndarray]:
    return load_file(Path(folder) / "model.safetensors")


def same_weights(one: Path | str, other: Path | str) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a)


def flip(file: Path) -> None:
    """One bit of the last tensor."""
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
