"""The minute: what it asks, what it catches, and that numpy and safetensors are enough for it."""

import contextlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from clipref.cli import main
from clipref.conformance import coverage, packages, suite
from clipref.conformance.engines.files import read_case, write_arrays
from clipref.conformance.engines.python import backend
from clipref.conformance.faults import BY_ID, FAULTS, FaultyEngine
from clipref.conformance.goldens import GOLDEN
from clipref.conformance.minute import MINUTE, among
from clipref.conformance.protocol import Case, Outputs, Question
from clipref.conformance.questions import questions
from clipref.conformance.questions.images import pixels_of
from clipref.errors import ClipError, InputError

from .test_conformance_action import checkout

PACKS = (GOLDEN.parent / "PACKS.md").read_text(encoding="utf-8")


def minute(*levels: str) -> list[Question]:
    return [q for q in questions(levels or ("tokenize", "preprocess")) if q.id in MINUTE]


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An environment without Pillow, regex and ftfy, as far as the suite looks."""
    monkeypatch.setattr(packages, "find_spec", lambda module: None)
    pixels_of.cache_clear()
    yield
    pixels_of.cache_clear()


class Right:
    """The right pixels and ids, which were computed before the packages were gone."""

    def __init__(self, asked: list[Question], folder: Path) -> None:
        self.outputs: dict[str, Outputs] = {}
        for question in asked:
            exact = question.exact(question.make(folder))
            self.outputs[question.id] = exact.bits or exact.outputs

    def answer(self, case: Case) -> Outputs:
        if not self.outputs[case.id]:
            raise ValueError("too long")
        return self.outputs[case.id]


@pytest.fixture(scope="module")
def right(tmp_path_factory: pytest.TempPathFactory) -> Right:
    return Right(minute(), tmp_path_factory.mktemp("right"))


def test_the_minute_is_of_questions_that_there_are() -> None:
    ids = {question.id for question in questions()}
    assert ids >= MINUTE and 20 < len(MINUTE) < len(ids) == among(minute(*coverage.LEVELS), "openai")
    assert among(minute("towers"), "openai") == len(ids) and not among(minute("towers")[1:], "openai")
    assert f"asks {len(MINUTE)} of the {len(ids)} questions" in PACKS and f"each of the {len(FAULTS)} known" in PACKS
    assert not among(list(questions(["towers"])), "openai")


def test_what_is_large_is_graded_by_its_digest(right: Right, bare: None) -> None:
    asked = minute("preprocess")
    by_digest = [q.id for q in asked if q.exact(q.make(Path())).digest]
    assert by_digest and len(by_digest) < len(asked)
    report = suite.run(right, asked)
    assert report.passed and report.count("PASS") == len(asked)
    assert all(result.grade == "exact" for result in report.results)


def a_level_off(x: np.ndarray) -> np.ndarray:
    x[1, 2, 3] += 0.015
    return x


def half_a_level_off(x: np.ndarray) -> np.ndarray:
    x[1, 2, 3] += 1e-4
    return x


def not_finite(x: np.ndarray) -> np.ndarray:
    x[0, 0, 0] = np.nan
    return x


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (a_level_off, "other pixels than the golden ones; with pillow installed it is told which"),
        (half_a_level_off, None),
        (not_finite, "1 values that are not finite"),
        (lambda x: x[:, :-1], "of shape [3, 223, 224], expected [3, 224, 224]"),
        (lambda x: x.astype(np.float16), "in float16, expected float32"),
    ],
)
def test_what_is_wrong_fails_by_its_digest(spoil: Any, told: str | None, right: Right, bare: None) -> None:
    (question,) = [q for q in minute("preprocess") if q.id.endswith(" 224")][:1]

    class Spoilt:
        def answer(self, case: Case) -> Outputs:
            return {"pixels": spoil(right.answer(case)["pixels"].copy())}

    (result,) = suite.run(Spoilt(), [question]).results
    assert result.verdict == "FAIL" and (told is None or told in (result.problem or ""))


def test_causes_that_were_not_searched_are_said_to_be(right: Right, bare: None, tmp_path: Path) -> None:
    class Wrong:
        def answer(self, case: Case) -> Outputs:
            return {name: x * 0 for name, x in right.answer(case).items()}

    report = suite.run(Wrong(), minute())
    said = " ".join(report.shared)
    assert not report.passed and not report.diagnoses and report.advice is None
    assert re.search(r"The cause of \d+ failures of tokenize was not searched: that takes regex and ftfy", said)
    assert re.search(r"The cause of \d+ failures of preprocess was not searched: that takes pillow \(pip", said)


def test_causes_in_towers_are_searched_without_their_costs(bare: None) -> None:
    (asked,) = (question for question in minute("towers") if question.id == "towers/vit-a plain/image")
    report = suite.run(FaultyEngine(BY_ID["gelu-exact"]), [asked])
    assert {d.faults for d in report.diagnoses} == {("gelu-exact",)} and not any(d.cost for d in report.diagnoses)


def test_what_needs_a_package_says_so(bare: None, tmp_path: Path) -> None:
    (question,) = (q for q in questions(["pipeline"]) if "image RGB 97x64" in q.id and "shapes-vit" in q.id)
    with pytest.raises(InputError, match=r"is made with pillow and regex and ftfy: pip install .* or ask --minute"):
        question.exact(question.make(tmp_path))


def test_a_tolerance_of_pixels_needs_pillow(bare: None) -> None:
    with pytest.raises(InputError, match=r"How far pixels are off is measured with pillow: pip install pillow\.$"):
        suite.run(FaultyEngine(), [], pixels="as-torchvision")


def test_the_verdict_says_that_it_was_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["conformance", "run", "backend:reference", "--minute", "--levels", "similarity"]
    assert main(asked) == 0
    count = len(minute("similarity"))
    out = capsys.readouterr().out
    assert f"{count} of {count} questions answered" in out
    assert out.endswith(f"; of {sum(1 for _ in questions())} questions, those of the minute were asked.\n")
    assert main(["conformance", "run", "backend:reference", "--minute", "--levels", "taps"]) == 1
    assert "The minute has no such question of taps; leave out --minute." in capsys.readouterr().err


# --- what it catches --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_minute_catches_what_the_table_says() -> None:
    table = PACKS.partition("<!-- python -m clipref.conformance.coverage -->\n")[2].partition("\n<!-- end -->")[0]
    assert coverage.table() == table
    assert all(f"| {place} |" in table for fault in FAULTS for place in fault.places)


def test_every_claim_is_asked_as_often_as_can_be() -> None:
    claims = [
        Counter(c for q in asked for c in q.claims) for asked in (minute(*coverage.LEVELS), questions(coverage.LEVELS))
    ]
    assert all(claims[0][claim] >= min(2, n) for claim, n in claims[1].items())


def test_what_is_missed_is_named() -> None:
    """A table that can tell, of a few questions."""
    table = coverage.table({"similarity/3 images 5 texts of 11"}, places=["similarity"])
    assert table.splitlines()[2:] == ["| similarity | 10 | 10 | 8 | scale-at-most-100, length-plus-epsilon |"]


# --- what it needs ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_numpy_and_safetensors_are_enough(tmp_path: Path) -> None:
    """In an environment of its own: answers that were given elsewhere, right and wrong, and an engine."""
    python = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "bare"], check=True)
    pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "numpy>=2.0", "safetensors>=0.4.3"], check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    without_compiler = {**environment, "CC": str(tmp_path / "no-compiler")}  # it is there sooner
    subprocess.run([*pip, "--no-deps", checkout(tmp_path / "checkout")], check=True, env=without_compiler)
    listed = subprocess.run([python, "-m", "pip", "list", "--format=json"], check=True, capture_output=True, text=True)
    assert {p["name"] for p in json.loads(listed.stdout)} <= {"clipref", "numpy", "safetensors", "pip", "setuptools"}

    asked = ["conformance", "export", str(tmp_path / "asked"), "--minute"]

    def clipref(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command: list[str | Path] = [python.parent / "clipref", *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = clipref(*asked)
    assert done.returncode == 0, done.stderr
    answer_all(tmp_path / "asked" / "cases")
    reports = ["--junit", "junit.xml", "--html", "page.html", "--badge", "badge.svg"]
    done = clipref("conformance", "check", "asked", *reports)
    assert done.returncode == 0, done.stdout + done.stderr
    answered = len(MINUTE - {"tokenize/refused"})  # no file says that something was refused
    assert f"CLIP, float32-conformant: every answer is within 6 units of float32; {answered} of" in done.stdout
    assert (tmp_path / "badge.svg").exists()
    for case, file in (("tokenize/words", "words"), ("preprocess", "to-224")):
        (path,) = [p for p in (tmp_path / "asked").rglob("answer.safetensors") if file in str(p)][:1]
        assert case in str(path)
        (name,) = tensors = load_file(path)
        write_arrays(path, {name: tensors[name] * 0})
    done = clipref("conformance", "check", "asked", *reports)
    assert done.returncode == 1 and "Traceback" not in done.stderr, done.stderr
    assert "2 of" in done.stdout and "was not searched: that takes regex and ftfy" in done.stdout

    # An engine that is asked here, in a process of its own.
    (tmp_path / "mine.py").write_text(ENGINE)
    done = clipref("conformance", "run", "mine:factory", "--minute")
    assert done.returncode == 0, done.stdout + done.stderr


# Of clipref's own, without the model object, which opens images and texts.
ENGINE = """
from clipref.engine import ReferenceEngine
from clipref.weights import Checkpoint

def factory(folder):
    return None if folder is None else ReferenceEngine(Checkpoint(folder), "float32")
"""


def answer_all(cases: Path) -> None:
    """The reference's answers beside all exported cases, as somebody else's engine would put them there."""
    reference = backend("reference")
    for path in cases.rglob("case.json"):
        case = read_case(path.parent)
        with contextlib.suppress(ClipError):
            write_arrays(path.parent / "answer.safetensors", reference.answer(case))
