"""ONNX files for other runtimes: standard, complete, dynamic, checked, and the reference to the last digits."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from clipref import AutoModel, BackendError, InputError
from clipref.cli import main
from clipref.config import PUBLISHED, ClipConfig
from clipref.kernels import recording as kernels
from clipref.kernels.recording import record_text
from clipref.kernels.runtime import onnxruntime
from clipref.weights_tools import export_onnx as module
from clipref.weights_tools import synthetic
from clipref.weights_tools.export_onnx import export_onnx

from . import cases
from .conftest import pixels
from .tolerances import EXPORTED, assert_close


@pytest.fixture(scope="module", params=["vit-c", "vit-gelu", "rn-c"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A checkpoint, and the folder that was made of it."""
    folder = tmp_path_factory.mktemp("export")
    synthetic.write(folder / "checkpoint", cases.TINY[request.param], 3, "trained")
    errors = dict(export_onnx(folder / "checkpoint", folder / "out"))
    assert errors.keys() == {"visual.onnx", "textual.onnx"} and 0 < max(errors.values()) < EXPORTED
    return folder / "checkpoint", folder / "out"


@pytest.mark.fast_cases("vit-c")
@pytest.mark.skipif(
    tuple(map(int, version("onnx").split(".")[:2])) < (1, 23), reason="its evaluator refuses indices that are strided"
)
def test_another_runtime_computes_the_reference(exported: tuple[Path, Path]) -> None:
    """onnx's own evaluator, which shares no code with ONNX Runtime nor with us."""
    checkpoint, out = exported
    model = AutoModel.from_pretrained(checkpoint, backend="reference")
    end = model.config.text.vocab_size - 1
    for n, length in ((1, 3), (3, model.config.text.context_length)):
        batch = pixels(n, model.config.vision.resolution)
        (image,) = ReferenceEvaluator(str(out / "visual.onnx")).run(None, {"pixels": batch})
        assert_close(np.asarray(image), model.encode_image(batch), "onnx")
        ids = np.full((n, length), 4, np.int32)
        ids[np.arange(n), np.arange(n) % (length - 1) + 1] = end
        (text,) = ReferenceEvaluator(str(out / "textual.onnx")).run(None, {"ids": ids})
        assert_close(np.asarray(text), model.encode_text(ids), "onnx")


def test_each_file_is_complete_and_says_what_it_is(exported: tuple[Path, Path]) -> None:
    checkpoint, out = exported
    assert sorted(path.name for path in out.iterdir()) == ["textual.onnx", "visual.onnx"]
    for path, dtype in ((out / "visual.onnx", "tensor(float)"), (out / "textual.onnx", "tensor(int32)")):
        model = onnx.load(path, load_external_data=False)
        assert {node.domain for node in model.graph.node} == {""}
        assert not any(x.external_data for x in model.graph.initializer)
        notes = {entry.key: entry.value for entry in model.metadata_props}
        config = AutoModel.from_pretrained(checkpoint, backend="reference").config
        assert ClipConfig.from_dict(json.loads(notes["config"])) == config
        assert float(notes["logit_scale"]) == pytest.approx(100, rel=1e-5)
        (given,) = onnxruntime().InferenceSession(path, providers=["CPUExecutionProvider"]).get_inputs()
        assert given.type == dtype and given.shape[0] == "batch"


def test_int64_ids(exported: tuple[Path, Path], tmp_path: Path) -> None:
    checkpoint, _ = exported
    list(export_onnx(checkpoint, tmp_path / "out", "int64"))
    session = onnxruntime().InferenceSession(tmp_path / "out" / "textual.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].type == "tensor(int64)"


def test_a_wrong_file_is_not_left_behind(
    exported: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, _ = exported
    text = record_text

    def swapped(config, params, ids):  # type: ignore[no-untyped-def]
        return text(config, {**params, "text_projection": params["text_projection"][::-1]}, ids)

    monkeypatch.setattr(module, "record_text", swapped)
    with pytest.raises(BackendError, match=r"textual\.onnx is .* of the RMS off the reference"):
        list(export_onnx(checkpoint, tmp_path / "out"))
    monkeypatch.setattr(module, "record_text", text)
    monkeypatch.setattr(kernels, "MAX_BYTES", 5000)
    with pytest.raises(BackendError, match=r"'visual' would be \d+ bytes; one ONNX file holds at most 5000"):
        list(export_onnx(checkpoint, tmp_path / "out"))
    assert not list(tmp_path.iterdir())


def test_command(exported: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, out = exported
    assert main(["export-onnx", str(checkpoint), str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.count("of the RMS off the reference") == 2
    assert main(["export-onnx", str(checkpoint), str(out)]) == 1
    assert "exists already" in capsys.readouterr().err
    with pytest.raises(InputError, match="ids is 'int8'"):
        list(export_onnx(checkpoint, tmp_path / "other", "int8"))


@pytest.mark.slow
def test_the_largest_published_model_fits_in_single_files(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "checkpoint", PUBLISHED["clip/RN50x64"], 0, "plain")
    errors = dict(export_onnx(tmp_path / "checkpoint", tmp_path / "out"))
    assert max(errors.values()) < EXPORTED
    assert (tmp_path / "out" / "visual.onnx").stat().st_size > 1.6e9
