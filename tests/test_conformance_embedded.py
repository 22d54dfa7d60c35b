"""Questions about the models in the package: asked where named, answered and diagnosed as others."""

import pytest

from clipref.conformance import faults, suite
from clipref.conformance import questions as levels
from clipref.conformance.engines import open_engine
from clipref.conformance.protocol import Case, Outputs, Question
from clipref.hub import EMBEDDED

NAMES = [name.partition("/")[2] for name in EMBEDDED]


class Faulty:
    """The reference with the exact GELU."""

    def answer(self, case: Case) -> Outputs:
        return faults.answer(case, [faults.BY_ID["gelu-exact"]], "float32")


def asked(name: str) -> list[Question]:
    return [question for question in levels.questions(["embedded"]) if question.model == name]


def test_they_are_asked_where_they_are_named() -> None:
    assert "embedded" not in levels.DEFAULT
    found = [question.id for question in levels.questions(["embedded"])]
    assert found == [f"embedded/{name}/{tower}" for name in NAMES for tower in ("image", "text")]


@pytest.mark.parametrize("name", ["scenes-vit", *(pytest.param(name, marks=pytest.mark.slow) for name in NAMES[1:])])
def test_a_right_engine_is_graded_float32(name: str) -> None:
    report = suite.run(open_engine("backend:reference"), asked(name))
    assert report.passed and report.grade == "float32" and report.count("PASS") == 2


@pytest.mark.slow
def test_what_is_wrong_is_named() -> None:
    report = suite.run(Faulty(), asked("scenes-vit"))
    assert report.count("FAIL") == 2
    assert {fault for diagnosis in report.diagnoses for fault in diagnosis.faults} == {"gelu-exact"}
