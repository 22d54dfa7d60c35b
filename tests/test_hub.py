"""Where models are found: names, folders and what is kept of a download; without a network."""

import hashlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, ClipError, ConfigError, InputError, ModelNotFound, WeightsError, hub
from clipref.cli import main
from clipref.config import PUBLISHED
from clipref.files import SCRATCH_SUFFIX
from clipref.weights import Checkpoint, read_config
from clipref.weights_tools import download, synthetic
from clipref.weights_tools.convert import convert
from clipref.weights_tools.sources import OPENAI_FILES

from . import cases
from .conftest import MERGES, TINY, make_tiny
from .hub_server import COMMIT, flip, same_weights
from .layouts import as_open_clip, as_transformers


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
    for name, digest in ((name, model.digest) for name, model in hub.EMBEDDED.items()):
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
    monkeypatch.setitem(OPENAI_FILES, "clip/RN50", hashlib.sha256(b"PK").hexdigest())
    with pytest.raises(WeightsError, match=r"This is that of clip/RN50\."):
        download.from_openai("clip/ViT-B-32", file)
    with pytest.raises(InputError, match="'clip/B' is no model of OpenAI's"):
        download.from_openai("clip/B", file)
    assert [path.name for path in tmp_path.iterdir()] == ["ViT-B-32.pt"]


def test_openais_file_is_converted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    source = make_tiny(tmp_path, "vit") / "model.safetensors"  # what kind of file it is doesn't matter here
    monkeypatch.setitem(PUBLISHED, "clip/ViT-B-32", TINY["vit"])
    monkeypatch.setitem(OPENAI_FILES, "clip/ViT-B-32", hashlib.sha256(source.read_bytes()).hexdigest())
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
    assert PUBLISHED.keys() == OPENAI_FILES.keys()
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
    with pytest.raises(ModelNotFound, match="the models are: clipref/scenes-vit, .*clip/ViT-L-14-336px"):
        hub.locate("zzz")
