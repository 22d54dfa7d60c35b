"""The units of errors: each question has its own, as they were measured; the grader's machine changes no verdict."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from clipref.config import PUBLISHED
from clipref.conformance import measure
from clipref.conformance import questions as levels
from clipref.conformance.asking import ask
from clipref.conformance.engines import open_engine
from clipref.conformance.engines.files import write_arrays
from clipref.conformance.exchange import ANSWER, export, folder_name
from clipref.conformance.grading import units
from clipref.conformance.grading.rounding import PRECISIONS
from clipref.conformance.restated.preprocessing import PROFILES

FULL = list(PUBLISHED)
CLI = "import sys; from clipref.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("profile", PROFILES)
def test_every_question_that_is_measured_has_units_in_every_precision(profile: str) -> None:
    asked = [q for q in levels.questions(levels.ASKABLE, FULL, profile) if q.measure is not None]
    assert len(asked) > 130
    for question in asked:
        found = units.frozen_units(question.id, profile)
        assert found and all(list(by) == list(PRECISIONS) for by in found.values()), question.id
        assert all(
            0 < by["float64"] < by["float32"] < by["float16"] < by["bfloat16"] < 2 and by["float32"] < by["int8"]
            for by in found.values()
        )


def test_no_units_are_kept_of_questions_that_there_are_not() -> None:
    known = {
        units.key(q.id, profile)
        for profile in PROFILES
        for q in levels.questions(levels.ASKABLE, FULL, profile)
        if q.measure is not None
    }
    assert units.table().keys() == known


def test_units_are_what_is_measured_here() -> None:
    """The largest over several kernels of OpenBLAS: one of them measures no more, and not much less."""
    chosen = ("similarity/3", "operations/attention", "operations/linear", "preprocess/RGB 50x40", "towers/vit-b plain")
    asked = [q for q in levels.questions() if q.id.startswith(chosen)]
    for key, found in measure.measure(asked, "openai"):
        for name, by in found.items():
            for precision, unit in by.items():
                assert 0.4 <= unit / units.table()[key][name][precision] <= 1.2, (key, name, precision)


def test_the_largest_of_several_measurements_counts() -> None:
    found = measure.largest([{"y": {"float32": 1.23456e-7, "int8": 0.1}}, {"y": {"float32": 1.1e-7, "int8": 0.2}}])
    assert found == {"y": {"float32": 1.23e-7, "int8": 0.2}}


@pytest.mark.slow
def test_the_graders_blas_decides_nothing(tmp_path: Path) -> None:
    """Answers from one process, graded under three kernels of OpenBLAS: the same verdicts, grades and units."""
    engine, scratch = open_engine("backend:reference"), tmp_path / "made"
    asked = list(levels.questions())
    cases = [question.make(scratch) for question in asked]
    export(cases, tmp_path / "out")
    for case in cases:
        answer = ask(engine, case)
        if not isinstance(answer, BaseException):
            write_arrays(tmp_path / "out" / folder_name(case) / ANSWER, answer)
    found = []
    for kernel in ("Haswell", "Nehalem", "SkylakeX"):
        command = [sys.executable, "-c", CLI, "conformance", "check", str(tmp_path / "out"), "--json"]
        environment = {**os.environ, "OPENBLAS_CORETYPE": kernel}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        report = json.loads(done.stdout)
        assert report["passed"] and report["grade"] == "float32", done.stderr
        found.append(report["results"])
    for results in zip(*found, strict=True):
        assert len({(r["case"], r["verdict"], r["grade"], r["problem"]) for r in results}) == 1
        measured = [r["units"] for r in results if r["units"]]
        assert not measured or max(measured) <= 1.001 * min(measured), results
