"""The folder that roboflow's own AutoModel opens, and the models that it could only open wrongly."""

import dataclasses
import gzip
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from clipref import AutoModel, InputError
from clipref.cli import main
from clipref.kernels.runtime import onnxruntime
from clipref.vocabulary import DEFAULT_MERGES
from clipref.weights_tools import synthetic
from clipref.weights_tools.export_onnx import export_onnx

from . import cases
from .conftest import pixels
from .tolerances import assert_close


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model in the published vocabulary."""
    tiny = cases.TINY["vit-a"]
    text = dataclasses.replace(tiny.text, vocab_size=49408, context_length=77)
    folder = tmp_path_factory.mktemp("roboflow") / "checkpoint"
    synthetic.write(folder, dataclasses.replace(tiny, text=text), 3, "plain")
    return folder


def test_the_folder_is_what_inference_models_reads(checkpoint: Path, tmp_path: Path) -> None:
    assert main(["export-onnx", str(checkpoint), str(tmp_path / "out"), "--roboflow"]) == 0
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["model_config.json", "textual.onnx", "visual.onnx"]
    assert json.loads((out / "model_config.json").read_text()) == {
        "model_architecture": "clip",
        "task_type": "embedding",
        "backend_type": "onnx",
    }
    model = AutoModel.from_pretrained(checkpoint, backend="reference")
    for name, tower, given in (
        ("visual.onnx", model.encode_image, pixels(2, model.config.vision.resolution)),
        ("textual.onnx", model.encode_text, model.tokenize(["a photo of a cat", "a dog"])),
    ):
        session = onnxruntime().InferenceSession(str(out / name), providers=["CPUExecutionProvider"])
        (taken,) = session.get_inputs()
        assert (
            taken.shape[2:] == [model.config.vision.resolution] * 2
            if "visual" in name
            else taken.type == "tensor(int32)"
        )
        assert given.dtype == (np.float32 if "visual" in name else np.int32) and given.shape[1] in (3, 77)
        assert_close(session.run(None, {taken.name: given})[0], tower(given), "onnx")


@pytest.mark.slow
def test_merges_beside_the_weights_must_be_the_published_ones(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "checkpoint")
    shutil.copy(DEFAULT_MERGES, folder / "merges.txt.gz")
    assert len(dict(export_onnx(folder, tmp_path / "out", roboflow=True))) == 2
    lines = gzip.decompress(Path(DEFAULT_MERGES).read_bytes()).decode().split("\n")
    lines[5], lines[6] = lines[6], lines[5]
    (folder / "merges.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    with pytest.raises(InputError, match="published vocabulary"):
        list(export_onnx(folder, tmp_path / "other", roboflow=True))


def test_what_it_would_open_wrongly_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    for path, ids, words in (
        ("clipref/shapes-vit", "int32", "published vocabulary"),
        (checkpoint, "int64", "int32"),
    ):
        with pytest.raises(InputError, match=words):
            list(export_onnx(path, tmp_path / "out", ids, roboflow=True))
        assert not (tmp_path / "out").exists()
