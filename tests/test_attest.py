"""`clipref verify --attest`: what a model is and what was checked, the same bytes for the same model."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from clipref.cli import main
from clipref.hub import locate
from clipref.weights import read_config

MODEL = "clipref/shapes-vit"
CONFORMANCE = {"clipref": "0.1.0", "engine": "backend:onnx", "precision": "float32", "profile": "openai",
               "pixels": "exact",
               "passed": True, "grade": "float32", "counts": {"PASS": 9}, "results": []}  # fmt: skip


def attest(out: Path, *more: str, model: str = MODEL) -> int:
    return main(["verify", model, "--attest", str(out), *more])


def test_a_model_is_attested(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(json.dumps(CONFORMANCE))
    assert attest(tmp_path / "model.json", "--conformance", str(tmp_path / "run.json")) == 0
    found = json.loads((tmp_path / "model.json").read_text())
    folder = locate(MODEL)[0]
    weights = folder / "model.safetensors"
    assert found["files"]["model.safetensors"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    config = read_config(folder / "config.json").to_dict()
    assert found["config"] == json.loads(json.dumps(config)) and found["verified"] is True
    assert found["tensors"].keys() == load_file(weights).keys()
    assert found["findings"][-1]["outcome"] in ("ok", "not done") and found["versions"]["clipref"]
    assert found["conformance"] == {key: CONFORMANCE[key] for key in found["conformance"]}
    again = tmp_path / "again.json"
    assert attest(again, "--conformance", str(tmp_path / "run.json")) == 0
    assert again.read_bytes() == (tmp_path / "model.json").read_bytes()
    assert str(tmp_path) not in again.read_text() and str(folder) not in again.read_text()


def test_what_fails_is_attested_as_that(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(locate(MODEL)[0], folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["visual.proj"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors")
    assert attest(tmp_path / "found.json", model=str(folder)) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["verified"] is False
    assert any(f["outcome"] == "FAILED" and f["what"] == "visual.proj" for f in found["findings"])


def test_a_bill_of_materials_says_the_same(tmp_path: Path) -> None:
    assert attest(tmp_path / "a.json") == attest(tmp_path / "a.cdx.json") == 0
    own, bom = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "a.cdx.json"))
    model = bom["metadata"]["component"]
    assert (bom["bomFormat"], model["type"]) == ("CycloneDX", "machine-learning-model")
    properties = {p["name"]: p["value"] for p in model["properties"]}
    assert properties["clipref:digest"] == own["digest"] == model["version"]
    assert json.loads(properties["clipref:tensors"]) == own["tensors"]
    assert {file["name"]: file["hashes"][0]["content"] for file in bom["components"]} == own["files"]


@pytest.mark.extra
def test_the_bill_of_materials_is_valid_by_its_schema(tmp_path: Path) -> None:
    """By the schema that cyclonedx-python-lib carries."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    assert attest(tmp_path / "a.cdx.json") == 0
    text = (tmp_path / "a.cdx.json").read_text()
    validator = JsonStrictValidator(SchemaVersion.V1_6)
    assert validator.validate_str(text) is None
    assert validator.validate_str(text.replace('"machine-learning-model"', '"a model"')) is not None


def test_wrong_arguments_leave_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "run.json").write_text("{}")
    assert attest(tmp_path / "a.json", "--conformance", str(tmp_path / "run.json")) == 1
    assert "is not what clipref conformance run --json prints" in capsys.readouterr().err
    assert attest(tmp_path / "a.json", "--conformance", str(tmp_path / "none.json")) == 1
    assert "can't be read" in capsys.readouterr().err
    assert main(["verify", MODEL, "--conformance", str(tmp_path / "run.json")]) == 1
    assert "--conformance is for --attest FILE" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.json"]
