"""What `inspect` says of a checkpoint's container, layout and identity."""

import hashlib
from pathlib import Path

import pytest

from clipref.cli import main
from clipref.config import PUBLISHED
from clipref.weights_tools import inspect as inspecting
from clipref.weights_tools import sources
from clipref.weights_tools.inspect import inspect

from . import cases

TORCH = cases.GOLDEN / "torch" / "rn.bin"


def test_identity_of_embedded_models(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "clipref/shapes-vit"]) == 0
    printed = capsys.readouterr().out
    assert "container    safetensors" in printed and "layout       the tensor names of OpenAI and open_clip" in printed
    assert "identity     equal to clipref/shapes-vit, by its digest" in printed


def test_a_shape_is_no_identity(trained_vit: Path) -> None:
    facts = inspect(trained_vit)
    assert facts["identity"].startswith("no published architecture (the nearest is clip/ViT-B-32)")


def test_openais_file_is_known_by_its_sha256(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = inspect(TORCH)
    assert facts["kind"] == "torch.save" and facts["layout"] == "openai" and "equal" not in facts["identity"]
    sha256 = hashlib.sha256(TORCH.read_bytes()).hexdigest()
    monkeypatch.setitem(sources.OPENAI_FILES, "clip/RN50", sha256)
    source = sources.open_source(
        TORCH,
        sources.Options(activation="gelu", vision_heads=1, text_heads=1, model=None, config=PUBLISHED["clip/RN50"]),
    )
    said = inspecting._identity(source, "", "clip/RN50", [])
    assert said == "equal to OpenAI's file of clip/RN50, by its sha256"
    monkeypatch.undo()
    source = sources.open_source(TORCH, sources.Options(config=PUBLISHED["clip/RN50"]))
    said = inspecting._identity(source, "", "clip/RN50", [])
    assert said == "architecture of clip/RN50; its weights are not known to be the published ones"
