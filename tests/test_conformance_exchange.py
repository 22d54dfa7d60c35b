"""Cases go out as files, and answers that another process has put beside them come back as verdicts."""

import json
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import InputError
from clipref.cli import main
from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.engines import files, open_engine
from clipref.conformance.engines.failures import Garbage
from clipref.conformance.engines.files import digest, read_answer
from clipref.conformance.exchange import ANSWER, export, read_export
from clipref.kernels.runtime import onnxruntime

EXAMPLE = Path(suite.__file__).parent / "examples" / "engine.py"
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
    assert export(made, folder) == (len(made), {}) and len(made) == 5
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


@pytest.fixture
def copy(answered: Path, tmp_path: Path) -> Path:
    """The answered folder, to be spoiled."""
    return Path(shutil.copytree(answered, tmp_path / "copy"))


def test_a_case_that_is_gone_fails(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(copy / "cases" / "towers")
    assert main(["conformance", "check", str(copy), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["counts"] == {"PASS": 2, "FAIL": 3, "XFAIL": 0, "SKIP": 0}
    assert all(
        "is missing; bring the original back" in r["problem"] for r in report["results"] if "towers/" in r["case"]
    )


TEXT = "cases/towers/vit-b-plain/text"


@pytest.mark.parametrize(
    "file",
    [f"{TEXT}/case.json", f"{TEXT}/inputs.safetensors", "checkpoints/vit-b-plain/model.safetensors",
     "checkpoints/vit-b-plain/config.json"],
)  # fmt: skip
def test_a_file_that_is_not_as_it_was_exported_is_told(file: str, copy: Path, tmp_path: Path) -> None:
    case = next(q for q in levels.questions(["towers"]) if q.id == "towers/vit-b plain/text").make(tmp_path)
    original = (copy / file).read_bytes()
    for spoiled in (b"{", b"{}", b"[]", b"\xff\x00", original[:-1] + b" "):
        (copy / file).write_bytes(spoiled)
        with pytest.raises(Garbage, match=f"{file} is not as it was exported"):
            open_engine(f"results:{copy}").answer(case)
    (copy / file).unlink()
    with pytest.raises(Garbage, match=f"{file} is missing"):
        open_engine(f"results:{copy}").answer(case)
    (copy / file).write_bytes(original)
    assert "embeddings" in open_engine(f"results:{copy}").answer(case)


def test_answers_of_another_checkpoint_are_refused(copy: Path, tmp_path: Path) -> None:
    case = next(q for q in levels.questions(["towers"]) if q.id == "towers/vit-b plain/text").make(tmp_path)
    assert case.checkpoint is not None
    with (case.checkpoint / "model.safetensors").open("ab") as file:
        file.write(b" ")
    with pytest.raises(Garbage, match="exported with another checkpoints/vit-b-plain/model.safetensors"):
        open_engine(f"results:{copy}").answer(case)


@pytest.mark.fast_cases("openai-I;16")
@pytest.mark.parametrize(
    ("exported", "only", "asked", "profile", "verdict"),
    [
        ("openai", "I;16 50x40", [], "openai", "FAIL"),
        ("openai", "I;16 50x40", ["--profile", "transformers-5"], "transformers-5", "SKIP"),  # which has no such case
        ("transformers-5", "P 9x7", [], "transformers-5", "FAIL"),
    ],
)
def test_what_was_exported_is_checked_in_its_profile(
    exported: str, only: str, asked: list[str], profile: str, verdict: str,
    tmp_path: Path, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    out = tmp_path / "out"
    assert (
        main(["conformance", "export", str(out), "--levels", "preprocess", "--only", only, "--profile", exported]) == 0
    )
    (case,) = out.glob("cases/**/case.json")
    save_file({"pixels": np.zeros((3, 24, 24), np.float32)}, case.with_name(ANSWER))
    capsys.readouterr()
    assert main(["conformance", "check", str(out), "--json", *asked]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["profile"], [r["verdict"] for r in report["results"]]) == (profile, [verdict])


@pytest.mark.parametrize(
    "text", [b"{", b"{}", b"[]", b"1", b"\xff\x00", b'{"clipref": "0.1.0", "cases": 5}', b"[" * 9999]
)
def test_a_broken_export_json_is_told(text: bytes, copy: Path) -> None:
    (copy / "export.json").write_bytes(text)
    with pytest.raises(InputError, match=r"export\.json is not as this version"):
        read_export(copy)


def test_a_case_that_there_is_no_more_is_told(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads((copy / "export.json").read_text())
    (copy / "export.json").write_text(json.dumps({**found, "cases": ["towers/vit-z/image"]}))
    assert main(["conformance", "check", str(copy)]) == 1
    assert "a case 'towers/vit-z/image', which this version of clipref doesn't know" in capsys.readouterr().err


def tensors(dtype: str, size: int) -> bytes:
    """A safetensors file with two values."""
    header = json.dumps({"embeddings": {"dtype": dtype, "shape": [2], "data_offsets": [0, 2 * size]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(2 * size)


@pytest.mark.parametrize(("dtype", "size"), [("BF16", 2), ("F8_E4M3", 1), ("F8_E5M2", 1)])
def test_a_dtype_that_numpy_has_not_is_named(dtype: str, size: int, tmp_path: Path) -> None:
    (tmp_path / ANSWER).write_bytes(tensors(dtype, size))
    with pytest.raises(Garbage, match=f"'embeddings' in {ANSWER} has dtype {dtype}; expected F32"):
        read_answer(tmp_path / ANSWER, "encode_text")


def test_an_answer_is_a_regular_file_of_some_size(copy: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    case = next(q for q in levels.questions(["towers"]) if q.id == "towers/vit-b plain/text").make(tmp_path)
    answer = copy / TEXT / ANSWER
    monkeypatch.setattr(files, "_LARGEST_ANSWER", answer.stat().st_size - 1)
    with pytest.raises(Garbage, match="expected at most"):
        read_answer(answer, "encode_text")
    monkeypatch.undo()
    assert "embeddings" in read_answer(answer, "encode_text")
    (tmp_path / ANSWER).symlink_to(answer)
    with pytest.raises(Garbage, match="not a regular file"):
        read_answer(tmp_path / ANSWER, "encode_text")
    answer.unlink()
    answer.mkdir()
    with pytest.raises(Garbage, match="not a regular file"):
        open_engine(f"results:{copy}").answer(case)


@pytest.mark.parametrize(("verb", "most"), [("encode_text", 2**26), ("similarity", 2**26), ("trace_image", 5 * 2**26)])
def test_a_sparse_answer_is_not_read(verb: str, most: int, tmp_path: Path) -> None:
    """It takes no disk, and would take its whole size of memory, twice."""
    header = json.dumps({"y": {"dtype": "F32", "shape": [most // 4], "data_offsets": [0, most]}}).encode()
    with (tmp_path / ANSWER).open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + most)
    tracemalloc.start()
    with pytest.raises(Garbage, match="expected at most"):
        read_answer(tmp_path / ANSWER, verb)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()


def test_a_case_comes_back_as_it_was_written(tmp_path: Path) -> None:
    for question in levels.questions(["similarity", "operations", "tokenize"]):
        case = question.make(tmp_path)
        files.write_case(tmp_path, case, None)
        read = files.read_case(tmp_path)
        assert (read.id, read.level, read.verb, read.claims) == (case.id, case.level, case.verb, case.claims)
        assert dict(read.attributes) == dict(case.attributes) and read.inputs.keys() == case.inputs.keys()
        for name, x in case.inputs.items():
            assert (read.inputs[name].shape, read.inputs[name].dtype) == (x.shape, x.dtype)
            np.testing.assert_array_equal(read.inputs[name], x)


def test_what_is_no_exported_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no export\.json that can be read"):
        read_export(tmp_path)
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
    assert export((q.make(tmp_path) for q in cases), tmp_path / "all") == (len(cases), {})
    assert set(read_export(tmp_path / "all").cases) == {q.id for q in cases}
    assert not [path for path in (tmp_path / "all").rglob("*") if " " in path.name]


def test_onnx_backend_tests_run_with_onnx_runtime(tmp_path: Path) -> None:
    """As onnx.backend.test does it: load the model and the data, run, compare with its own tolerance."""
    import onnx
    from onnx import numpy_helper

    asked = [q for q in levels.questions(["towers"]) if q.id.startswith(("towers/vit-b plain", "towers/rn-b trained"))]
    export([q.make(tmp_path) for q in asked], tmp_path / "out", onnx=True)
    models = sorted((tmp_path / "out" / "onnx").rglob("model.onnx"))
    assert len(models) == 4
    for model in models:
        onnx.checker.check_model(str(model), full_check=True)
        session = onnxruntime().InferenceSession(str(model), providers=["CPUExecutionProvider"])
        data = model.parent / "test_data_set_0"
        given, right = (
            onnx.TensorProto.FromString((data / f"{name}_0.pb").read_bytes()) for name in ("input", "output")
        )
        assert [i.name for i in session.get_inputs()] == [given.name]
        (found,) = session.run(None, {given.name: numpy_helper.to_array(given)})
        expected = numpy_helper.to_array(right)
        assert found.dtype == expected.dtype == np.float32 and found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
