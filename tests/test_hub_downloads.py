"""How models get here: against a local server that speaks as much of the hub as is asked."""

import hashlib
import json
import sys
import threading
import time
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import constants
from safetensors.numpy import load, save

from clipref import AutoModel, ModelNotFound, WeightsError
from clipref.config import PUBLISHED
from clipref.weights import Checkpoint
from clipref.weights_tools import download
from clipref.weights_tools.convert import convert

from .conftest import MERGES, TINY
from .hub_server import COMMIT, PUBLISHED_REPOSITORY, Hub, Locating, flip, handler, locate, same_weights
from .layouts import as_open_clip, as_transformers


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


def test_without_huggingface_hub_there_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path))
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # importing it raises ImportError
    with pytest.raises(ModelNotFound, match=r"clip/ViT-B-32 is not on this machine, .*pip install huggingface_hub"):
        AutoModel.from_pretrained("clip/ViT-B-32")


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


def test_two_processes_at_once(published: Hub, tiny_vit: Path, tmp_path: Path) -> None:
    processes = [Locating("clip/ViT-B-32", tmp_path, HF_ENDPOINT=published.url) for _ in range(3)]
    folders = {process.answer() for process in processes}
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
