"""`pytest --pyargs clipref.conformance --engine=...`, in a folder of its own."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from clipref.conformance import questions as levels

WRONG = """
from clipref.conformance.faults import BY_ID, FaultyEngine
class Engine(FaultyEngine):
    def __init__(self): super().__init__(BY_ID["scale-not-exponentiated"])
"""


@dataclass(frozen=True)
class Done:
    """How a run of pytest ended, and what it said."""

    code: int
    out: str
    err: str


Run = Callable[..., Done]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """pytest, run in this process in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)

    def run(*arguments: str) -> Done:
        code = pytest.main(["-q", "-rs", "-p", "no:cacheprovider", *arguments])
        return Done(int(code), *capsys.readouterr())

    return run


def test_each_case_is_a_test(run: Run) -> None:
    done = run("--pyargs", "clipref.conformance", "--engine=backend:onnx", "--levels", "similarity", "describe")
    assert done.code == 0, done.out + done.err
    assert "8 passed, 5 skipped" in done.out and "has no similarity" in done.out


SKIPS = """
class Engine:
    def answer(self, case): raise NotImplementedError("not yet")
"""


@pytest.mark.slow
@pytest.mark.parametrize(("asked", "says"), [((), "5 skipped"), (("-k", "nothing"), "5 deselected")])
def test_nothing_answered_is_no_pass(asked: tuple[str, ...], says: str, tmp_path: Path, run: Run) -> None:
    (tmp_path / "skips.py").write_text(SKIPS)
    given = ("--pyargs", "clipref.conformance", "--engine=skips:Engine", "--levels", "similarity")
    done = run(*given, *asked)
    assert done.code in (1, 5) and says in done.out, done.out
    assert "skips:Engine: No verdict: nothing was answered." in done.out


@pytest.mark.slow
def test_a_failure_is_explained_and_may_be_expected(tmp_path: Path, run: Run) -> None:
    (tmp_path / "wrong.py").write_text(WRONG)
    asked = ("--pyargs", "clipref.conformance", "--engine=wrong:Engine", "--levels", "similarity")
    done = run(*asked)
    assert done.code == 1 and "5 failed" in done.out
    assert "what explains the failures" in done.out and "(SIM-" in done.out.partition("what explains")[2]
    names = [question.id for question in levels.questions(["similarity"])]
    (tmp_path / "expected.txt").write_text("".join(f"{name}  # not yet\n" for name in names))
    done = run(*asked, "--expected-failures", "expected.txt")
    assert done.code == 0 and "5 xfailed" in done.out, done.out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "--engine=SPEC is missing"),
        pytest.param(("--engine=backend:none",), "No backend 'none'", marks=pytest.mark.slow),
        pytest.param(("--engine=backend:onnx", "--levels", "every"), "invalid choice", marks=pytest.mark.slow),
        (("--engine=backend:onnx", "--levels", "released"), "invalid choice"),
        pytest.param(
            ("--engine=backend:onnx", "--levels", "full"), "The level full needs --full MODEL", marks=pytest.mark.slow
        ),
        (("--engine=backend:onnx", "-n", "2"), "-n shares the cases among processes"),
    ],
)
def test_wrong_usage_is_explained(arguments: tuple[str, ...], says: str, run: Run) -> None:
    done = run("--pyargs", "clipref.conformance", *arguments)
    assert done.code == 4 and says in done.err


@pytest.mark.slow
def test_other_runs_of_pytest_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test(): assert 'clipref.conformance.pytest_plugin' not in sys.modules\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)


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
def test_what_is_wrong_only_in_all_answers_together_fails_the_run(tmp_path: Path, run: Run) -> None:
    (tmp_path / "leans.py").write_text(LEANS)
    asked = ("--pyargs", "clipref.conformance", "--engine=leans:Engine", "--levels", "towers", "--precision", "int8")
    done = run(*asked)
    assert done.code == 1 and "failed" not in done.out, done.out
    assert "lean, within their precision, to patches read column by column (VIT-1)" in done.out
