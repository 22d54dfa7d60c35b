"""The suite as tests of pytest, one for each case: `pytest --pyargs clipref.conformance --engine=backend:onnx`.

Its options are those of `clipref conformance run`; pytest's own choose cases (-k), stop (-x), and write JUnit XML.
"""

from __future__ import annotations

import pytest

from clipref.conformance.protocol import Question
from clipref.conformance.pytest_plugin import QUESTIONS, RUN
from clipref.conformance.reports.words import line


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each question; none where pytest has come here by another way."""
    asked = metafunc.config.stash.get(QUESTIONS, [])
    metafunc.parametrize("question", asked, ids=[question.id for question in asked])


def test_case(question: Question, pytestconfig: pytest.Config) -> None:
    """Passes, fails, is skipped or fails as expected, as the suite has it."""
    result = pytestconfig.stash[RUN].ask(question)
    if result.verdict == "SKIP":
        pytest.skip(result.problem or "")
    if result.verdict == "XFAIL":
        pytest.xfail(result.problem or "")
    if result.verdict == "FAIL":
        pytest.fail(f"{line(result)} [{', '.join(result.claims)}]", pytrace=False)
