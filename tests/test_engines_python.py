"""Engines that are Python objects: what is right passes, and each way to go wrong has its verdict."""

import json
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import clipref
from clipref import AutoModel, InputError
from clipref.cli import main
from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.asking import Misbehaved
from clipref.conformance.engines import KINDS, open_engine, open_here, worker
from clipref.conformance.engines.failures import Crashed, Exited, Garbage, Hung, Killed, Raised
from clipref.conformance.protocol import Case, Outputs, Unsupported
from clipref.numerics import cosines

from .engine_questions import TINY_VIT, python_engine, questions, run, verdicts


@pytest.mark.slow_cases("json:no_such_name")
@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("onnx", "expected one of these"),
        ("onnx:", "expected one of these"),
        ("backend:fastest", "No backend 'fastest'"),
        ("exec:./no-such-program", "can't be run"),
        ("onnx:no-such-folder", "does not exist"),
        ("results:no-such-folder", "has no export.json"),
        ("no_such_module:engine", "can't be imported"),
        ("json:no_such_name", "can't be imported"),
        ("json:__name__", "expected a function"),
    ],
)
def test_a_wrong_name_is_explained(spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_engine(spec)


def test_every_kind_is_listed() -> None:
    assert [line.split(":")[0].strip() for line in KINDS.splitlines()] == [
        "module", "python", "backend", "exec", "onnx", "onnx", "results", "http", "openai", "transformers",
    ]  # fmt: skip


# --- Python objects ---------------------------------------------------------------------------------------------------


def test_a_python_engine_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_clip.py").write_text(
        "from clipref import AutoModel\n"
        "class Towers:\n"
        "    def __init__(self, folder): self.encode_text = AutoModel.from_pretrained(folder).encode_text\n"
        "def make(folder): return Towers(folder) if folder else object()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    report = run(open_engine("my_clip:make"), TINY_VIT, "tokenize/words")
    assert verdicts(report) == {
        "tokenize/words": "SKIP",
        f"towers/{TINY_VIT}/image": "SKIP",
        f"towers/{TINY_VIT}/text": "PASS",
        f"taps/{TINY_VIT}/image": "SKIP",
        f"taps/{TINY_VIT}/text": "SKIP",
    }


@pytest.mark.fast_cases("RuntimeError", "SystemExit")
@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
        ("def make(", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("class make:\n def answer(self, case): ...\n def __init__(self): raise OSError('no weights')", "no weights"),
    ],
)
def test_a_module_that_fails_is_explained(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "fails", raising=False)
    with pytest.raises(InputError, match=f"The engine fails:make can't be imported: .*{says}"):
        open_engine("fails:make")


NOISY = """
import ctypes, os
import numpy as np
os.chdir("/")
print("loading")
class Engine:
    def __init__(self, folder): print("made")
    def similarity(self, image, text, logit_scale):
        print("asked")
        os.write(1, b"from below\\n")
        ctypes.CDLL(None).puts(b"from C")
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        return {"cosines": a @ b.T, "logits": np.exp(logit_scale) * (a @ b.T)}
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no C library of that name")
def test_an_engine_may_print_and_change_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "expected.txt").write_text("tokenize/words  # not yet\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    asked = ["conformance", "run", "noisy:Engine", "--levels", "similarity", "--json", "--junit", "junit.xml"]
    assert main([*asked, "--html", "report.html", "--expected-failures", "expected.txt"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["counts"]["PASS"] == 5
    assert all(said in err for said in ("loading", "made", "asked", "from below", "from C"))
    assert (tmp_path / "junit.xml").is_file() and (tmp_path / "report.html").is_file()


def test_what_never_answers_is_not_asked_everything() -> None:
    asked = []

    class Dead:
        def answer(self, case: Case) -> Outputs:
            asked.append(case.verb)
            if case.verb == "similarity":
                raise Unsupported
            raise OSError("no such file: model.bin")

    report = suite.run(Dead(), levels.questions(), diagnose=False)
    assert max(Counter(asked).values()) == 10 and asked.count("similarity") == report.count("SKIP") == 5
    assert "not asked" in str(next(r.problem for r in report.results[::-1] if r.level == "preprocess"))


def test_the_end_of_the_process_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ends.py").write_text("import sys\nclass Engine:\n def answer(self, case): sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["conformance", "run", "ends:Engine", "--levels", "similarity"]) == 1
    assert "raised SystemExit: 0" in capsys.readouterr().out


class Answers:
    def answer(self, case: Case) -> dict[str, np.ndarray]:
        return {"length": np.array(len(case.id))}


ANSWERS = Answers()


@pytest.mark.parametrize("name", ["Answers", "ANSWERS"])
def test_an_object_may_answer_for_itself(name: str, image_case: Case) -> None:
    assert open_here(f"{__name__}:{name}").answer(image_case)["length"] == len(image_case.id)


@pytest.mark.fast_cases("SIGSEGV", "no such scale")
@pytest.mark.skipif(sys.platform == "win32", reason="pipes that can be waited for")
@pytest.mark.parametrize(
    ("body", "problem", "says"),
    [
        ("sum(itertools.repeat(0))", Hung, "stopped after 0.5 s"),  # which never comes back to Python
        ("ctypes.string_at(0)", Killed, "ended by SIGSEGV"),
        ("raise ValueError('no such scale')", Raised, "no such scale"),
        *(
            pytest.param(*way, marks=pytest.mark.slow)
            for way in (
                ("[None for _ in itertools.count()]", Hung, "stopped after 0.5 s"),
                ("os._exit(0)", Crashed, "exit code 0"),
                ("sys.exit(5)", Exited, "5"),
                ("raise NotImplementedError", Unsupported, "not implemented"),
                ("return {'cosines': [1.0]}", Misbehaved, "a list as 'cosines'"),
                ("return {'cosines': np.ones(3, np.longdouble)}", Garbage, "can't be written to a file"),
            )
        ),
    ],
)
def test_an_engine_in_python_is_stopped_and_outlived(
    body: str, problem: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = python_engine(tmp_path, body, monkeypatch, 0.5 if problem is Hung else 30.0)
    (question, again), started = questions("similarity/3", "similarity/4"), time.monotonic()
    for asked in (question, again):
        with pytest.raises(problem, match=says):
            engine.answer(asked.make(tmp_path))
    assert time.monotonic() - started < 10
    report = suite.run(engine, [question] * (problem is not Hung), diagnose=False)
    assert problem is Hung or report.results[0].verdict == ("SKIP" if problem is Unsupported else "FAIL")


@pytest.mark.fast_cases("PASS")
@pytest.mark.parametrize(("verdict", "body"), [("FAIL", "sys.exit(0)"), ("PASS", "raise ValueError('too long')")])
def test_an_exit_is_no_refusal(verdict: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unused", None)
    code = f"import sys\nclass Engine:\n    def answer(self, case): {body}\n"
    (tmp_path / f"refuses_{verdict.lower()}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    report = run(open_engine(f"refuses_{verdict.lower()}:Engine"), "tokenize/refused")
    assert report.results[0].verdict == verdict


@pytest.mark.slow
def test_an_engine_that_does_not_open_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text("while True: pass\n")
    (tmp_path / "gone.py").write_text("import os; os._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker, "_TO_OPEN", 0.5)
    with pytest.raises(InputError, match="never:x doesn't open: stopped after 0.5 s"):
        open_engine("never:x", 0.1)
    with pytest.raises(InputError, match="gone:x ends its process when it is opened: exit code 7"):
        open_engine("gone:x", 30)


@pytest.mark.parametrize("name", [pytest.param("reference", marks=pytest.mark.slow), "onnx"])
def test_the_backends_are_right_from_files_to_cosines(name: str) -> None:
    report = run(open_engine(f"backend:{name}"), "pipeline/", "describe/rn", "tokenize/words", "preprocess/LA")
    assert report.passed and report.count("SKIP") == 0


def test_a_vocabulary_that_is_built_in_is_the_published_one() -> None:
    """As most engines have it: no question about texts is of a model with another."""

    class BuiltIn:
        def answer(self, case: Case) -> Outputs:
            if case.verb not in ("embed_text", "compare") or case.checkpoint is None:
                raise Unsupported
            model = AutoModel.from_pretrained(case.checkpoint)
            ids = clipref.tokenize(json.loads(case.inputs["texts"].tobytes()))
            text = model.encode_text(ids)
            if case.verb == "embed_text":
                return {"embeddings": text}
            image = model.embed_image(case.inputs["image"].tobytes())
            return {"similarity": cosines(image, text)[0]}

    report = run(BuiltIn(), "pipeline/")
    assert report.passed and report.count("PASS") == 2
