"""The options of `pytest --pyargs clipref.conformance --engine=SPEC`, and its last words; see test_engine.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipref.conformance.engines import KINDS, TIME_LIMIT, open_engine
from clipref.conformance.expectations import all_ids, read
from clipref.conformance.grading.rounding import PRECISIONS
from clipref.conformance.minute import MINUTE, among
from clipref.conformance.protocol import PIXELS, Question
from clipref.conformance.questions import DEFAULT, LEVELS, questions
from clipref.conformance.reports.words import explanations, summary
from clipref.conformance.suite import Run
from clipref.errors import ClipError


def pytest_addoption(parser: pytest.Parser) -> None:
    """Those of `clipref conformance run`."""
    group = parser.getgroup("clipref conformance")
    levels = [level for level in LEVELS if level != "released"]
    group.addoption("--engine", metavar="SPEC", help="the engine under test, such as backend:onnx")
    group.addoption("--levels", nargs="+", default=list(DEFAULT), choices=levels, help="what the engine claims")
    group.addoption("--full", nargs="+", default=[], metavar="MODEL", help="published sizes: clip/ViT-B-32 ...")
    group.addoption("--minute", action="store_true", help="a few questions, with numpy and safetensors alone")
    group.addoption("--precision", choices=PRECISIONS, default="float32", help="what the engine claims (float32)")
    group.addoption("--profile", default="openai", help="of preprocessing (openai)")
    group.addoption("--pixels", choices=PIXELS, default="exact", help="how near pixels have to be (exact)")
    group.addoption("--expected-failures", type=Path, metavar="FILE", help="cases that fail, with reasons")
    group.addoption("--time-limit", type=float, default=TIME_LIMIT, metavar="S", help="seconds for an answer")


QUESTIONS = pytest.StashKey[list[Question]]()
RUN = pytest.StashKey[Run]()


def pytest_sessionstart(session: pytest.Session) -> None:
    """Open the engine, so that what is wrong with its name is said first."""
    option = session.config.option
    if not option.engine:
        raise pytest.UsageError(f"--engine=SPEC is missing; expected one of these:\n{KINDS}")
    if session.config.getoption("numprocesses", None):
        raise pytest.UsageError("-n shares the cases among processes, of which none could tell the verdict; add -n 0.")
    try:
        asked = list(questions(option.levels, option.full, option.profile))
        if option.minute:
            asked = [question for question in asked if question.id in MINUTE]
        if not asked and option.minute:
            raise pytest.UsageError(f"The minute has no question of {', '.join(option.levels)}; leave out --minute.")
        if not asked:
            raise pytest.UsageError("The level full needs --full MODEL, such as --full clip/ViT-B-32.")
        reasons = read(option.expected_failures, all_ids()) if option.expected_failures else {}
        engine = open_engine(option.engine, option.time_limit)
    except ClipError as problem:
        raise pytest.UsageError(str(problem)) from problem
    session.config.stash[QUESTIONS] = asked
    session.config.stash[RUN] = Run(
        engine, name=option.engine, precision=option.precision, profile=option.profile, pixels=option.pixels,
        reasons=reasons, among=among(asked, option.profile),
    )  # fmt: skip


def pytest_sessionfinish(session: pytest.Session) -> None:
    """The run fails where `clipref conformance run` fails: also if nothing was answered, or all is wrong together."""
    config = session.config
    asked = RUN in config.stash and session.exitstatus == pytest.ExitCode.OK and not config.option.collectonly
    if asked and not config.stash[RUN].report().passed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """What explains the failures, and the verdict."""
    if RUN not in config.stash or config.option.collectonly:
        return
    report = config.stash[RUN].report()
    known = list(explanations(report))
    if known:
        terminalreporter.section("what explains the failures")
    for said in known:
        terminalreporter.write_line(said)
    terminalreporter.write_line(f"{report.engine}: {summary(report)}.")


def pytest_unconfigure(config: pytest.Config) -> None:
    """The run is over."""
    if RUN in config.stash:
        config.stash[RUN].close()
