"""Cases go out as files, and answers that another process has put beside them come back as verdicts."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import InputError
from clipref.cli import main
from clipref.conformance import levels, suite
from clipref.conformance.engines import open_engine
from clipref.conformance.engines.failures import Garbage
from clipref.conformance.exchange import ANSWER, digest, export, exported

EXAMPLE = Path(levels.__file__).parent / "examples" / "engine.py"
ASKED = ("describe/vit-b", "towers/vit-b plain", "similarity/3", "towers/rn-b plain/image")

# What somebody's own script does with an exported folder: nothing of clipref in it.
ANSWERER = f"""
import json, subprocess, sys
from pathlib import Path
for file in Path(sys.argv[1]).glob("cases/**/case.json"):
    verb = json.loads(file.read_text())["verb"]
    subprocess.run([sys.executable, {str(EXAMPLE)!r}, verb, str(file.parent), str(file.parent / "answer.safetensors")])
"""


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported folder, answered by the example in processes of its own."""
    scratch = tmp_path_factory.mktemp("exchange")
    folder = scratch / "exported"
    made = [q.make(scratch) for q in levels.questions() if any(part in q.id for part in ASKED)]
    assert export(made, folder) == len(made) == 5
    subprocess.run([sys.executable, "-c", ANSWERER, str(folder)], check=True)
    return folder


def test_an_exported_case_says_all_that_an_engine_needs(answered: Path) -> None:
    folder = answered / "cases" / "towers" / "vit-b-plain" / "image"
    case = json.loads((folder / "case.json").read_text())
    assert (case["id"], case["verb"]) == ("towers/vit-b plain/image", "encode_image")
    assert {file.name for file in (folder / case["checkpoint"]).iterdir()} == {"model.safetensors", "config.json"}
    inputs = load_file(folder / "inputs.safetensors")
    assert list(inputs) == ["pixels"] and digest(inputs) == case["inputs_sha256"]
    assert len(list((answered / "checkpoints").iterdir())) == 2  # each once, however many cases need it


def test_answers_of_another_process_are_graded(answered: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "check", str(answered), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"PASS": 4, "FAIL": 0, "XFAIL": 0, "SKIP": 1} and report["grade"] == "float32"
    (skipped,) = (result for result in report["results"] if result["verdict"] == "SKIP")
    assert skipped["case"] == "towers/rn-b plain/image" and ANSWER in skipped["problem"]


def test_a_wrong_answer_fails(answered: Path, tmp_path: Path) -> None:
    engine = open_engine(f"results:{answered}")
    (question,) = (q for q in levels.questions(["towers"]) if q.id == "towers/vit-b plain/text")
    file = answered / "cases/towers/vit-b-plain/text" / ANSWER
    right = file.read_bytes()
    try:
        save_file({"embeddings": load_file(file)["embeddings"] * np.float32(1.001)}, file)
        assert suite.run(engine, [question], diagnose=False).results[0].verdict == "FAIL"
        file.write_bytes(right[: len(right) // 2])
        (result,) = suite.run(engine, [question], diagnose=False).results
        assert result.verdict == "FAIL" and "not a safetensors file" in (result.problem or "")
    finally:
        file.write_bytes(right)
    assert suite.run(engine, [question], diagnose=False).results[0].verdict == "PASS"


def test_answers_to_other_inputs_are_refused(answered: Path, tmp_path: Path) -> None:
    (question,) = (q for q in levels.questions(["towers"]) if q.id == "towers/vit-b plain/text")
    case = question.make(tmp_path)
    case.inputs["ids"][0, 1] += 1
    with pytest.raises(Garbage, match="exported with other inputs"):
        open_engine(f"results:{answered}").answer(case)


def test_what_is_no_exported_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no export\.json"):
        exported(tmp_path)
    with pytest.raises(InputError, match="no cases to export"):
        export([], tmp_path / "none")
    scratch = tmp_path / "scratch"
    export([next(levels.questions(["similarity"])).make(scratch)], tmp_path / "unanswered")
    with pytest.raises(InputError, match="has no answers"):
        open_engine(f"results:{tmp_path / 'unanswered'}")
    with pytest.raises(InputError, match="exists already"):
        export([next(levels.questions(["similarity"])).make(scratch)], tmp_path / "unanswered")


def test_every_case_has_a_folder_of_its_own(tmp_path: Path) -> None:
    cases = [q for q in levels.questions() if q.level not in ("towers", "taps", "properties", "describe")]
    assert export((q.make(tmp_path) for q in cases), tmp_path / "all") == len(cases)
    assert exported(tmp_path / "all") == {q.id for q in cases}
    assert not [path for path in (tmp_path / "all").rglob("*") if " " in path.name]


def test_onnx_backend_tests_run_with_onnx_runtime(tmp_path: Path) -> None:
    """As onnx.backend.test does it: load the model and the data, run, compare with its own tolerance."""
    import onnx
    import onnxruntime as ort
    from onnx import numpy_helper

    asked = [q for q in levels.questions(["towers"]) if q.id.startswith(("towers/vit-b plain", "towers/rn-b trained"))]
    export([q.make(tmp_path) for q in asked], tmp_path / "out", onnx=True)
    models = sorted((tmp_path / "out" / "onnx").rglob("model.onnx"))
    assert len(models) == 4
    for model in models:
        onnx.checker.check_model(str(model), full_check=True)
        session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        data = model.parent / "test_data_set_0"
        given, right = (
            onnx.TensorProto.FromString((data / f"{name}_0.pb").read_bytes()) for name in ("input", "output")
        )
        assert [i.name for i in session.get_inputs()] == [given.name]
        (found,) = session.run(None, {given.name: numpy_helper.to_array(given)})
        expected = numpy_helper.to_array(right)
        assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
