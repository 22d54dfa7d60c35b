"""Where models are found, and how they get there: against a local server that speaks as much of the hub as is asked."""

import hashlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from clipref import ModelNotFound, hub
from clipref.config import PUBLISHED

CONTENT = b"weights" * 1000
PATH = "/timm/vit_base_patch32_clip_224.openai/resolve/main/open_clip_model.safetensors"


class Hub(BaseHTTPRequestHandler):
    """One file of one repository, with the headers by which huggingface_hub knows a file."""

    def do_HEAD(self) -> None:
        found = self.path == PATH
        self.send_response(200 if found else 404)
        self.send_header("Content-Length", str(len(CONTENT) if found else 0))
        if found:
            self.send_header("ETag", f'"{hashlib.sha256(CONTENT).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        if self.path == PATH:
            self.wfile.write(CONTENT)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def locate(name: str, folder: Path, **environment: str) -> str:
    """`locate` in a process of its own, because huggingface_hub reads the environment once."""
    code = (
        "import sys\nfrom clipref import ClipError, hub\n"
        "try:\n    print(hub.locate(sys.argv[1])[0])\nexcept ClipError as error:\n    print('ERROR', error)"
    )
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    run = subprocess.run(
        [sys.executable, "-c", code, name],
        env=clean | {"HF_HOME": str(folder), "XDG_CACHE_HOME": str(folder), "CLIPREF_HOME": ""} | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return run.stdout.strip()


def test_download_then_offline(tmp_path: Path, server: str) -> None:
    downloaded = Path(locate("clip/ViT-B-32", tmp_path, HF_ENDPOINT=server))
    assert downloaded.read_bytes() == CONTENT and downloaded.name == "open_clip_model.safetensors"
    assert locate("clip/ViT-B-32", tmp_path, HF_HUB_OFFLINE="1") == str(downloaded)


def test_offline_with_nothing_there(tmp_path: Path) -> None:
    message = locate("clip/RN50", tmp_path, HF_HUB_OFFLINE="1")
    assert message.startswith("ERROR clip/RN50 is not on this machine") and len(message.splitlines()) == 1
    assert f"Put that repository's open_clip_model.safetensors at {tmp_path}/clipref/clip/RN50/" in message


def test_a_repository_that_is_gone(tmp_path: Path, server: str) -> None:
    message = locate("clip/RN50", tmp_path, HF_ENDPOINT=server)
    assert message.startswith("ERROR clip/RN50 is not on this machine") and len(message.splitlines()) == 1
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and p.stat().st_size > 5000]


def test_files_put_there_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path))
    folder = tmp_path / "clip" / "RN50"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"")
    assert hub.locate("clip/RN50") == (folder, PUBLISHED["clip/RN50"])


def test_names() -> None:
    assert PUBLISHED.keys() == hub.REPOSITORIES.keys() and set(hub.models()) == {*hub.EMBEDDED, *PUBLISHED}
    for name in hub.EMBEDDED:
        path, config = hub.locate(name)
        assert (path / "model.safetensors").is_file() and config is None


@pytest.mark.parametrize(("given", "meant"), [("ViT-B-32", "clip/ViT-B-32"), ("clip/rn50x64", "clip/RN50x64")])
def test_unknown_id_names_the_nearest(given: str, meant: str) -> None:
    with pytest.raises(ModelNotFound, match=meant):
        hub.locate(given)


def test_id_like_nothing_lists_all() -> None:
    with pytest.raises(ModelNotFound, match="the models are: clipref/shapes-vit, .*clip/ViT-L-14-336px"):
        hub.locate("zzz")
