"""`pytest --pyargs clipref.conformance --engine=...`, in a process and a folder of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

from clipref.conformance import questions as levels

WRONG = """
from clipref.conformance.faults import BY_ID, FaultyEngine
class Engine(FaultyEngine):
    def __init__(self): super().__init__(BY_ID["scale-not-exponentiated"])
"""


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_each_case_is_a_test(tmp_path: Path) -> None:
    done = run(
        tmp_path, "--pyargs", "clipref.conformance", "--engine=backend:onnx", "--levels", "similarity", "describe"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 passed, 5 skipped" in done.stdout and "has no similarity" in done.stdout


SKIPS = """
class Engine:
    def answer(self, case): raise NotImplementedError("not yet")
"""


@pytest.mark.parametrize(
    ("asked", "says"), [((), "5 skipped"), pytest.param(("-k", "nothing"), "5 deselected", marks=pytest.mark.slow)]
)
def test_nothing_answered_is_no_pass(asked: tuple[str, ...], says: str, tmp_path: Path) -> None:
    (tmp_path / "skips.py").write_text(SKIPS)
    given = ("--pyargs", "clipref.conformance", "--engine=skips:Engine", "--levels", "similarity")
    done = run(tmp_path, *given, *asked)
    assert done.returncode in (1, 5) and says in done.stdout, done.stdout
    assert "skips:Engine: No verdict: nothing was answered." in done.stdout


@pytest.mark.slow
def test_a_failure_is_explained_and_may_be_expected(tmp_path: Path) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    asked = ("--pyargs", "clipref.conformance", "--engine=wrong:Engine", "--levels", "similarity")
    done = run(tmp_path, *asked)
    assert done.returncode == 1 and "5 failed" in done.stdout
    assert "what explains the failures" in done.stdout and "(SIM-" in done.stdout.partition("what explains")[2]
    names = [question.id for question in levels.questions(["similarity"])]
    (tmp_path / "expected.txt").write_text("".join(f"{name}  # not yet\n" for name in names))
    done = run(tmp_path, *asked, "--expected-failures", "expected.txt")
    assert done.returncode == 0 and "5 xfailed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--engine=SPEC is missing"),
        (("--engine=backend:none",), "No backend 'none'"),
        (("--engine=backend:onnx", "--levels", "every"), "invalid choice"),
        (("--engine=backend:onnx", "--levels", "released"), "invalid choice"),
        (("--engine=backend:onnx", "--levels", "full"), "The level full needs --full MODEL"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    done = run(tmp_path, "--pyargs", "clipref.conformance", *arguments)
    assert done.returncode == 4 and says in done.stderr


def test_other_runs_of_pytest_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test(): assert 'clipref.conformance.pytest_plugin' not in sys.modules\n"
    )
    assert run(tmp_path).returncode == 0


LEANS = """
from clipref.conformance.grading import rounding
from clipref.conformance import faults
from clipref.conformance.protocol import Unsupported
from clipref.weights import Checkpoint
FAULT = faults.BY_ID["patches-columns-first"]
class Engine:
    def answer(self, case):
        if faults.place(case) != "vit":
            raise Unsupported
        right, wrong = (faults.answer(case, f)["embeddings"] for f in ((), (FAULT,)))
        found = rounding.emulate(Checkpoint(case.checkpoint), case.verb, case.inputs["pixels"], "int8")["embeddings"]
        return {"embeddings": (found + wrong - right).astype("float32")}
"""


@pytest.mark.slow
def test_what_is_wrong_only_in_all_answers_together_fails_the_run(tmp_path: Path) -> None:
    (tmp_path / "leans.py").write_text(LEANS)
    asked = ("--pyargs", "clipref.conformance", "--engine=leans:Engine", "--levels", "towers", "--precision", "int8")
    done = run(tmp_path, *asked)
    assert done.returncode == 1 and "failed" not in done.stdout, done.stdout
    assert "lean, within their precision, to patches read column by column (VIT-1)" in done.stdout
