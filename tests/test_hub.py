"""Where models are found, and how they get there: against a local server that speaks as much of the hub as is asked."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load, load_file, save

from clipref import AutoModel, ClipError, ConfigError, InputError, ModelNotFound, WeightsError, hub
from clipref.cli import main
from clipref.config import PUBLISHED
from clipref.files import SCRATCH_SUFFIX
from clipref.weights import Checkpoint, read_config
from clipref.weights_tools import download, synthetic
from clipref.weights_tools.convert import convert

from . import cases
from .conftest import MERGES, TINY, make_tiny
from .layouts import as_open_clip, as_transformers

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


@pytest.fixture
def server() -> Iterator[Hub]:
    state = Hub("")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler(state)) as http:
        http.handle_error = lambda request, address: None  # type: ignore[method-assign, assignment]
        thread = threading.Thread(target=http.serve_forever, args=(0.02,))
        thread.start()
        state.url = f"http://127.0.0.1:{http.server_address[1]}"
        yield state
        http.shutdown()
        thread.join()


@pytest.fixture
def published(server: Hub, tiny_vit: Path, tmp_path: Path) -> Hub:
    """The repository of clip/ViT-B-32, with a tiny model in it."""
    server.files[PUBLISHED_REPOSITORY] = as_open_clip(tiny_vit, TINY["vit"])
    return server


# In a process of its own, because huggingface_hub reads the environment once; and there clip/ViT-B-32 is tiny.
CODE = """
import json, sys
from clipref import ClipError, hub
from clipref.config import PUBLISHED, ClipConfig
PUBLISHED["clip/ViT-B-32"] = ClipConfig.from_dict(json.loads(sys.argv[2]))
try:
    print(hub.locate(sys.argv[1], **json.loads(sys.argv[3]))[0])
except ClipError as error:
    assert error.__suppress_context__ or "could not be downloaded" not in str(error), "a chain of tracebacks"
    print("ERROR", error)
"""


def start(
    name: str, folder: Path, arguments: dict[str, str] | None = None, **environment: str
) -> "subprocess.Popen[str]":
    clean = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
    return subprocess.Popen(
        [sys.executable, "-c", CODE, name, json.dumps(TINY["vit"].to_dict()), json.dumps(arguments or {})],
        env=clean
        | {"HF_HOME": str(folder / "hf"), "CLIPREF_HOME": str(folder / "home"), "HF_HUB_DOWNLOAD_TIMEOUT": "5"}
        | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def locate(name: str, folder: Path, arguments: dict[str, str] | None = None, **environment: str) -> str:
    process = start(name, folder, arguments, **environment)
    output, errors = process.communicate()
    assert process.returncode == 0, errors
    return output.strip()


def weights(folder: Path | str) -> dict[str, np.ndarray]:
    return load_file(Path(folder) / "model.safetensors")


def same_weights(one: Path | str, other: Path | str) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and np.array_equal(a[n], b[n]) for n in a)


def test_download_is_converted_once_and_then_needs_no_network(published: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    folder = locate("clip/ViT-B-32", tmp_path, HF_ENDPOINT=published.url)
    assert folder == str(tmp_path / "home" / "clip" / "ViT-B-32") and same_weights(folder, tiny_vit)
    provenance = json.loads((Path(folder) / "provenance.json").read_text())
    assert provenance["model"] == "clip/ViT-B-32"
    assert provenance["source"]["repository"] == PUBLISHED_REPOSITORY and provenance["source"]["revision"] == COMMIT
    count = len(published.asked)
    assert locate("clip/ViT-B-32", tmp_path, HF_ENDPOINT=published.url) == folder
    assert locate("clip/ViT-B-32", tmp_path, HF_HUB_OFFLINE="1") == folder
    assert len(published.asked) == count


@pytest.mark.parametrize(
    "environment",
    [
        {"HF_HUB_OFFLINE": "1"},
        {"HF_ENDPOINT": "http://127.0.0.1:9"},
    ],
    ids=["offline", "no network"],
)
def test_what_the_hubs_cache_has_is_converted(
    environment: dict[str, str], published: Hub, tiny_vit: Path, tmp_path: Path
) -> None:
    locate("clip/ViT-B-32", tmp_path, HF_ENDPOINT=published.url)
    folder = locate("clip/ViT-B-32", tmp_path, CLIPREF_HOME=str(tmp_path / "other"), **environment)
    assert folder == str(tmp_path / "other" / "clip" / "ViT-B-32") and same_weights(folder, tiny_vit)


def test_a_broken_connection_is_resumed(published: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    # huggingface_hub writes 10 MB at a time, so there has to be more than that to resume from.
    buffer = {"attn_mask": np.zeros(4_000_000, np.float32)}
    files = published.files[PUBLISHED_REPOSITORY]
    files["open_clip_model.safetensors"] = save(load(files["open_clip_model.safetensors"]) | buffer)
    published.breaks["open_clip_model.safetensors"] = 12_000_000
    folder = locate("clip/ViT-B-32", tmp_path, HF_ENDPOINT=published.url)
    assert same_weights(folder, tiny_vit)
    ranges = [asked for verb, path, asked in published.asked if verb == "GET" and path.endswith("_model.safetensors")]
    assert ranges[0] is None and 0 < int(str(ranges[1]).removeprefix("bytes=").split("-")[0]) <= 12_000_000


@pytest.mark.parametrize("at", [1000, 7], ids=["in a tensor", "in the header's length"])
def test_a_wrong_digest_is_refused_and_leaves_nothing(at: int, published: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    content = published.files[PUBLISHED_REPOSITORY]["open_clip_model.safetensors"]
    published.corrupt["open_clip_model.safetensors"] = at if at < 8 else len(content) - 1
    message = locate("clip/ViT-B-32", tmp_path, HF_ENDPOINT=published.url)
    assert message.startswith("ERROR What was downloaded is not what the repository has: open_clip_model.safetensors")
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    assert not [p for p in (tmp_path / "hf").rglob("*") if p.is_file() and p.stat().st_size > 5000]
    published.corrupt.clear()
    assert same_weights(locate("clip/ViT-B-32", tmp_path, HF_ENDPOINT=published.url), tiny_vit)


@pytest.mark.skipif(
    not hasattr(constants, "HF_HUB_DISABLE_SYMLINKS"), reason="this version of the hub's library has links always"
)
def test_caches_without_links_are_checked_too(published: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    """Where the name of no blob has the sha256, the hub is asked for it."""
    unlinked = {"HF_ENDPOINT": published.url, "HF_HUB_DISABLE_SYMLINKS": "1"}
    content = published.files[PUBLISHED_REPOSITORY]["open_clip_model.safetensors"]
    published.corrupt["open_clip_model.safetensors"] = len(content) - 1
    message = locate("clip/ViT-B-32", tmp_path, **unlinked)
    assert message.startswith("ERROR What was downloaded is not what the repository has: open_clip_model.safetensors")
    assert not list(tmp_path.rglob("*.safetensors"))
    published.corrupt.clear()
    folder = Path(locate("clip/ViT-B-32", tmp_path, **unlinked))
    (file,) = (tmp_path / "hf").rglob("*.safetensors")
    assert not file.is_symlink() and same_weights(folder, tiny_vit)
    assert json.loads((folder / "provenance.json").read_text())["source"]["checked"] == ["open_clip_model.safetensors"]
    # Without the hub nobody knows, and provenance.json says nothing.
    other = Path(locate("clip/ViT-B-32", tmp_path, CLIPREF_HOME=str(tmp_path / "other"), HF_HUB_OFFLINE="1"))
    assert "checked" not in json.loads((other / "provenance.json").read_text())["source"]


def test_a_local_dir_is_checked_by_what_the_hub_wrote_beside(tiny_vit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    (folder / ".cache" / "huggingface" / "download").mkdir(parents=True)
    for name, content in as_transformers(tiny_vit, TINY["vit"]).items():
        (folder / name).write_bytes(content)
        beside = folder / ".cache" / "huggingface" / "download" / f"{name}.metadata"
        beside.write_text(f"{COMMIT}\n{hashlib.sha256(content).hexdigest()}\n1712656091.123\n")
    assert same_weights(convert(folder, tmp_path / "ours"), tiny_vit)
    flip(folder / "model.safetensors")
    with pytest.raises(
        WeightsError, match=r"What is in .*theirs is not what the repository has: model\.safetensors has"
    ):
        convert(folder, tmp_path / "wrong")
    assert (folder / "model.safetensors").is_file() and not (tmp_path / "wrong").exists()
    (folder / ".cache" / "huggingface" / "download" / "model.safetensors.metadata").write_bytes(b"\xff")
    convert(folder, tmp_path / "whoever changed it says so")


def flip(file: Path) -> None:
    """One bit of the last tensor."""
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def test_revisions_and_digests_are_kept_to(published: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    name, digest, online = "clip/ViT-B-32", Checkpoint(tiny_vit).digest, {"HF_ENDPOINT": published.url}
    message = locate(name, tmp_path, {"digest": "0" * 64}, **online)
    assert f"have the digest {digest}, expected {'0' * 64}" in message and not list(
        tmp_path.rglob("*/model.safetensors")
    )
    folder = Path(locate(name, tmp_path, {"digest": digest.upper(), "revision": "v1"}, **online))
    assert folder == tmp_path / "home" / "clip" / "ViT-B-32@v1" and Checkpoint(folder).digest == digest
    source = json.loads((folder / "provenance.json").read_text())["source"]
    assert (source["revision"], source["endpoint"]) == (COMMIT, published.url)
    assert any("/resolve/v1/" in path for _, path, _ in published.asked)
    assert f"asked for the commit {'1' * 40}, and gave {COMMIT}" in locate(
        name, tmp_path, {"revision": "1" * 40}, **online
    )
    plain = locate(name, tmp_path, **online)
    assert plain == str(tmp_path / "home" / "clip" / "ViT-B-32")
    # What was recorded at first use can be asked for, without a second copy and without a network.
    assert locate(name, tmp_path, {"revision": COMMIT, "digest": digest}, HF_HUB_OFFLINE="1") == plain


@pytest.fixture
def kept(tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a model that was fetched before."""
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    origin = {"repository": "somebody/clip", "revision": COMMIT}
    return convert(tiny_vit, hub.folder_of("hf:somebody/clip"), origin=origin)


def test_what_is_kept_doesnt_change_in_silence(kept: Path, tiny_vit: Path, tmp_path: Path) -> None:
    name, digest = "hf:somebody/clip", Checkpoint(tiny_vit).digest
    assert hub.locate(name)[0] == kept == hub.locate(name, digest=digest)[0]
    (kept / "model.safetensors").touch()  # as a copy without times is
    assert hub.locate(name)[0] == kept and Checkpoint(kept).digest == digest
    times = (kept / "model.safetensors").stat()
    flip(kept / "model.safetensors")
    for given in (name, kept, kept / "model.safetensors"):
        with pytest.raises(WeightsError, match=f"has changed since it was made: its digest is .*, and was {digest}"):
            hub.locate(given)
    # A record is what the folder says of itself; whoever gives a digest doesn't ask it.
    record = json.loads((kept / "provenance.json").read_text())
    record["weights"]["mtime_ns"] = times.st_mtime_ns
    (kept / "provenance.json").write_text(json.dumps(record))
    os.utime(kept / "model.safetensors", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hub.locate(name)[0] == kept and Checkpoint(kept).digest == digest  # as size and time say
    with pytest.raises(WeightsError, match=f"have the digest .*, expected {digest}"):
        hub.locate(name, digest=digest)
    # What a user keeps elsewhere is the user's to change.
    shutil.copytree(kept, tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").touch()
    assert hub.locate(tmp_path / "mine")[0] == tmp_path / "mine" and Checkpoint(tmp_path / "mine").digest != digest


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("clipref/shapes-vit", {"revision": "main"}, "revision is 'main'; expected a commit, tag or branch, of a publ"),
        (".", {"revision": "main"}, "revision is 'main'; expected a commit"),
        ("hf:a/b", {"revision": ""}, "revision is ''; expected a commit"),
        ("hf:a/b", {"revision": 3}, "revision is 3; expected a commit"),
        ("hf:a/b@v1", {"revision": "v2"}, "revision is 'v2', but the model is 'hf:a/b@v1'; say it once"),
        ("hf:a/b", {"revision": "../../c"}, "'hf:a/b@../../c' is no repository; expected hf:owner/name"),
        ("clip/RN50", {"revision": "/etc"}, "'clip/RN50@/etc' is no repository"),
        ("clip/RN50@", {}, "'clip/RN50@' is no repository"),
        ("clipref/shapes-vit", {"digest": "abc"}, "digest is 'abc'; expected the 64 hexadecimal digits"),
        ("clipref/shapes-vit", {"digest": 3}, "digest is 3; expected the 64 hexadecimal digits"),
        ("clipref/shapes-vit", {"digest": "0" * 64}, "have the digest 87eaf7924bde.*, expected 000"),
    ],
)
def test_revisions_and_digests_that_cant_be(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ClipError, match=message):
        AutoModel.from_pretrained(name, **arguments)


def test_the_embedded_models_are_pinned(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert hub.EMBEDDED_DIGESTS.keys() == hub.EMBEDDED.keys()
    for name, digest in hub.EMBEDDED_DIGESTS.items():
        assert hub.locate(name, digest=digest)[0] == hub.find(name)
        assert main(["verify", name]) == 0
        assert re.search(
            f"ok +digest of all tensors, of an embedded model +{digest} +{digest}", capsys.readouterr().out
        )


def test_a_changed_bit_of_an_embedded_model_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(str(hub.find("clipref/shapes-vit")), tmp_path / "data" / "shapes-vit")
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "hub.py"))
    assert hub.find("clipref/shapes-vit") == copy and main(["verify", "clipref/shapes-vit"]) == 0
    flip(copy / "model.safetensors")
    assert main(["verify", "clipref/shapes-vit"]) == 1
    assert re.search("FAILED +digest of all tensors, of an embedded model", capsys.readouterr().out)


def test_the_next_conversion_removes_what_a_killed_one_left_anywhere_in_home(
    kept: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    abandoned = tmp_path / "home" / "clip" / f".0123{SCRATCH_SUFFIX}"
    abandoned.mkdir(parents=True)
    (abandoned / "model.safetensors").write_bytes(bytes(1000))
    for name, content in as_open_clip(kept, TINY["vit"], "text.").items():
        (tmp_path / name).write_bytes(content)
    assert hub.locate(tmp_path)[0].parent == tmp_path / "home" / "local"
    assert not abandoned.exists() and kept.is_dir()


def test_two_processes_at_once(published: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    processes = [start("clip/ViT-B-32", tmp_path, HF_ENDPOINT=published.url) for _ in range(3)]
    folders = {process.communicate()[0].strip() for process in processes}
    assert folders == {str(tmp_path / "home" / "clip" / "ViT-B-32")} and same_weights(folders.pop(), tiny_vit)
    assert [path.name for path in (tmp_path / "home" / "clip").iterdir()] == ["ViT-B-32"]


def test_any_repository_at_any_revision(server: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    server.files["somebody/clip"] = as_transformers(tiny_vit, TINY["vit"]) | {"merges.txt": MERGES.encode()}
    for name, kept in (("hf:somebody/clip", "clip"), ("hf:somebody/clip@v1.0", "clip@v1.0")):
        folder = locate(name, tmp_path, HF_ENDPOINT=server.url)
        assert folder == str(tmp_path / "home" / "hf" / "somebody" / kept) and same_weights(folder, tiny_vit)
        assert AutoModel.from_pretrained(folder).embed_text("a cat").shape == (1, 22)
    assert any("/resolve/v1.0/" in path for _, path, _ in server.asked)


def test_openais_weights_are_known_by_their_repository(server: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    server.files["openai/clip-vit-base-patch32"] = as_transformers(tiny_vit, TINY["vit"])
    folder = locate("hf:openai/clip-vit-base-patch32", tmp_path, HF_ENDPOINT=server.url)
    assert json.loads((Path(folder) / "provenance.json").read_text())["model"] == "clip/ViT-B-32"
    assert set(download.OPENAI_REPOSITORIES.values()) == PUBLISHED.keys()


@pytest.mark.parametrize(
    ("environment", "why"),
    [({"HF_HUB_OFFLINE": "1"}, "offline"), ({"HF_ENDPOINT": "http://127.0.0.1:9"}, "connection refused")],
    ids=["offline", "no network"],
)
def test_nothing_there_and_no_way_to_get_it(environment: dict[str, str], why: str, tmp_path: Path) -> None:
    """One attempt, one error: huggingface_hub would try for 24 seconds, and its errors be chained below ours."""
    begun = time.monotonic()
    message = locate("clip/RN50", tmp_path, **environment)
    assert time.monotonic() - begun < 10
    assert message.startswith("ERROR clip/RN50 is not on this machine") and len(message.splitlines()) == 1
    assert "timm/resnet50_clip.openai" in message and why in message.lower()
    assert message.endswith(f"clipref convert FOLDER {tmp_path / 'home' / 'clip' / 'RN50'} --model clip/RN50")


@pytest.mark.parametrize("name", ["clip/RN50", "hf:nobody/nothing"])
def test_a_repository_that_is_not_there(name: str, tmp_path: Path, server: Hub) -> None:
    message = locate(name, tmp_path, HF_ENDPOINT=server.url)
    assert message.startswith(f"ERROR {name} is not on this machine") and len(message.splitlines()) == 1
    assert "404" in message and not (tmp_path / "home").exists()


def test_a_repository_without_weights(tmp_path: Path, server: Hub) -> None:
    server.files["somebody/words"] = {"README.md": b"no weights"}
    message = locate("hf:somebody/words", tmp_path, HF_ENDPOINT=server.url)
    assert message.startswith("ERROR somebody/words: No weights among 1 files; expected one of")


@pytest.mark.parametrize("name", ["hf:", "hf:owner", "hf:../..", "hf:a/b/c", "hf:a b/c", "hf:a/b@../../c"])
def test_what_is_no_repository(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path))
    with pytest.raises(ModelNotFound, match="is no repository; expected hf:owner/name"):
        hub.locate(name)
    assert not list(tmp_path.iterdir())


def test_a_path_of_another_layout_is_converted_once(
    tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name, content in (as_transformers(tiny_vit, TINY["vit"]) | {"merges.txt": MERGES.encode()}).items():
        (folder / name).write_bytes(content)
    first, _ = hub.locate(folder)
    assert first.is_relative_to(tmp_path / "home" / "local") and hub.locate(folder)[0] == first
    assert same_weights(first, tiny_vit)
    ours, theirs = (AutoModel.from_pretrained(path).embed_text("a cat") for path in (tiny_vit, folder))
    assert np.array_equal(ours, theirs)
    (folder / "merges.txt").write_text(MERGES.replace("0.2", "0.2 again"))
    assert hub.locate(folder)[0] != first


def test_a_torch_file_that_leaves_a_doubt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"say --vision-heads.*: clipref convert .*vit\.pt FOLDER"):
        hub.locate(cases.GOLDEN / "torch" / "vit.pt")
    assert not list(tmp_path.iterdir())


def test_openais_file_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path))
    file = tmp_path / "ViT-B-32.pt"
    with pytest.raises(ModelNotFound, match="does not exist; expected OpenAI's file of clip/ViT-B-32"):
        download.from_openai("clip/ViT-B-32", file)
    file.write_bytes(b"PK")
    with pytest.raises(WeightsError, match="has sha256 .*; clip/ViT-B-32 has 40d365715913c9da.*the file is damaged or"):
        download.from_openai("clip/ViT-B-32", file)
    monkeypatch.setitem(download.OPENAI_FILES, "clip/RN50", hashlib.sha256(b"PK").hexdigest())
    with pytest.raises(WeightsError, match=r"This is that of clip/RN50\."):
        download.from_openai("clip/ViT-B-32", file)
    with pytest.raises(InputError, match="'clip/B' is no model of OpenAI's"):
        download.from_openai("clip/B", file)
    assert [path.name for path in tmp_path.iterdir()] == ["ViT-B-32.pt"]


def test_openais_file_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    source = make_tiny(tmp_path, "vit") / "model.safetensors"  # what kind of file it is doesn't matter here
    monkeypatch.setitem(PUBLISHED, "clip/ViT-B-32", TINY["vit"])  # type: ignore[misc]
    monkeypatch.setitem(download.OPENAI_FILES, "clip/ViT-B-32", hashlib.sha256(source.read_bytes()).hexdigest())
    folder = download.from_openai("clip/ViT-B-32", source)
    assert hub.locate("clip/ViT-B-32") == (folder, TINY["vit"]) and same_weights(folder, source.parent)
    with pytest.raises(InputError, match="exists already"):
        download.from_openai("clip/ViT-B-32", source)


def test_files_put_there_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path))
    synthetic.write(tmp_path / "clip" / "RN50", TINY["resnet"])
    (tmp_path / "clip" / "RN50" / "config.json").unlink()
    assert hub.locate("clip/RN50") == (tmp_path / "clip" / "RN50", PUBLISHED["clip/RN50"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["clip/ViT-B32"], "did you mean clip/ViT-B-32"),
        ([str(cases.GOLDEN)], "is on this machine; download takes a published id or hf:owner/name"),
        (["clip/RN50", "clip/RN101", "--from", "x.pt"], "--from takes one model, got 2"),
        (["hf:a/b", "--from", "x.pt"], "'hf:a/b' is no model of OpenAI's, as --from needs"),
        (["clip/RN50", "--from", "x.pt"], "x.pt does not exist; expected OpenAI's file of clip/RN50"),
    ],
)
def test_command_used_wrongly(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["download", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_names() -> None:
    assert PUBLISHED.keys() == hub.REPOSITORIES.keys() and set(hub.models()) == {*hub.EMBEDDED, *PUBLISHED}
    assert PUBLISHED.keys() == download.OPENAI_FILES.keys()
    for name in hub.EMBEDDED:
        path, config = hub.locate(name)
        assert (path / "model.safetensors").is_file() and config == read_config(path / "config.json")


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("ViT-B-32", "did you mean clip/ViT-B-32"),
        ("clip/rn50x64", "did you mean clip/RN50x64"),
        ("laion/CLIP-ViT-H-14", "is a repository of Hugging Face, say hf:laion/CLIP-ViT-H-14."),
        ("openai/clip-vit-base-patch32@main", "say hf:openai/clip-vit-base-patch32@main."),
        ("https://huggingface.co/laion/CLIP-ViT-H-14/resolve/main/x.bin", "an address.*say hf:laion/CLIP-ViT-H-14."),
        ("https://example.com/owner/x.safetensors", "is an address.*; fetch the file, and give its path"),
        ("s3://bucket/model.safetensors", "is an address"),
    ],
)
def test_unknown_name_says_what_may_be_meant(given: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelNotFound, match=meant):
        hub.locate(given)
    for command in (["download", given], ["convert", given, "x"], ["export-onnx", given, "x"]):
        assert main(command) == 1 and re.search(meant, capsys.readouterr().err)


@pytest.mark.parametrize("name", [None, "", b"clip/RN50", 3, "x" * 5000, "a\0b", "~nobody/x"])
def test_what_is_no_name_is_an_error_of_ours(name: Any) -> None:
    for function in (hub.locate, hub.present, AutoModel.from_pretrained):
        with pytest.raises(ModelNotFound) as caught:
            function(name)
        assert len(str(caught.value)) < 600


def test_id_like_nothing_lists_all() -> None:
    with pytest.raises(ModelNotFound, match="the models are: clipref/shapes-vit, .*clip/ViT-L-14-336px"):
        hub.locate("zzz")
