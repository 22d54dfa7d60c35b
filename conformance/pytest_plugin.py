"""The options of `pytest --pyargs clipref.conformance --engine=SPEC`, and its last words; see test_engine.py."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipref.conformance.case import Question
from clipref.conformance.diagnosis import diagnosed, leaning
from clipref.conformance.emulation import PRECISIONS
from clipref.conformance.engines import KINDS, TIME_LIMIT, open_engine
from clipref.conformance.expectations import all_ids, expected_result, read
from clipref.conformance.levels import DEFAULT, LEVELS, questions
from clipref.conformance.suite import Session
from clipref.conformance.verdicts import Result
from clipref.errors import ClipError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Those of `clipref conformance run`."""
    group = parser.getgroup("clipref conformance")
    group.addoption("--engine", metavar="SPEC", help="the engine under test, such as backend:onnx")
    group.addoption("--levels", nargs="+", default=list(DEFAULT), choices=[*LEVELS], help="what the engine claims")
    group.addoption("--full", nargs="+", default=[], metavar="MODEL", help="published sizes: clip/ViT-B-32 ...")
    group.addoption("--precision", choices=PRECISIONS, default="float32", help="what the engine claims (float32)")
    group.addoption("--profile", default="openai", help="of preprocessing (openai)")
    group.addoption("--expected-failures", type=Path, metavar="FILE", help="cases that fail, with reasons")
    group.addoption("--time-limit", type=float, default=TIME_LIMIT, metavar="S", help="seconds for an answer")


class Run:
    """What the tests of one run share: the questions, the engine, and what it got wrong."""

    def __init__(self, config: pytest.Config) -> None:
        option = config.option
        if not option.engine:
            raise pytest.UsageError(f"--engine=SPEC is missing; expected one of these:\n{KINDS}")
        try:
            self.questions = list(questions(option.levels, option.full, option.profile))
            self.session = Session(open_engine(option.engine, option.time_limit), option.precision)
            self._reasons = read(option.expected_failures, all_ids()) if option.expected_failures else {}
        except ClipError as problem:
            raise pytest.UsageError(str(problem)) from problem
        self._precision, self._profile = option.precision, option.profile
        self._scratch = tempfile.TemporaryDirectory()

    def ask(self, question: Question) -> Result:
        """The verdict of one case."""
        result = self.session.ask(question.make(Path(self._scratch.name)), question)
        return expected_result(result, self._reasons)

    def explanations(self) -> Iterator[str]:
        """What explains the failures."""
        for diagnosis in diagnosed(self.session.failed, self.session.passed, self._precision, self._profile):
            yield diagnosis.sentence
        yield from self.leans()

    def leans(self) -> list[str]:
        """What is wrong with answers that pass one by one."""
        found = leaning(self.session.failed, self.session.passed, self._precision, self._profile)
        return [diagnosis.sentence for diagnosis in found]

    def close(self) -> None:
        """Remove the checkpoints."""
        self._scratch.cleanup()


RUN = pytest.StashKey[Run]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Open the engine, so that what is wrong with its name is said first."""
    session.config.stash[RUN] = Run(session.config)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Answers that only together are wrong fail the run, as they do in `clipref conformance run`."""
    if RUN in session.config.stash and session.exitstatus == pytest.ExitCode.OK and session.config.stash[RUN].leans():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What explains the failures, below them."""
    if RUN in config.stash and (lines := list(config.stash[RUN].explanations())):
        terminalreporter.section("what explains the failures")
        for line in lines:
            terminalreporter.write_line(line)


def pytest_unconfigure(config: pytest.Config) -> None:
    """The run is over."""
    if RUN in config.stash:
        config.stash[RUN].close()
