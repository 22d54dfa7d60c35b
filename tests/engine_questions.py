"""A few questions of the suite, and their verdicts; an engine written to a file."""

import sys
from pathlib import Path
from typing import Any

import pytest

from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.engines import open_engine
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import EngineUnderTest, Question

EXAMPLE = Path(suite.__file__).parent / "examples" / "engine.py"
TINY_VIT = "vit-a plain"


def questions(*parts: str) -> list[Question]:
    """The questions with one of these in their id."""
    chosen = [q for q in levels.questions() if any(part in q.id for part in parts)]
    assert chosen
    return chosen


def run(engine: EngineUnderTest, *parts: str) -> Report:
    return suite.run(engine, questions(*parts), diagnose=False)


def verdicts(report: Report) -> dict[str, str]:
    return {result.case: result.verdict for result in report.results}


ENDLESS = """
import ctypes, itertools, os, signal, subprocess, sys, time
import numpy as np
class Engine:
    def describe(self): return dict(embed_dim=np.longdouble(1))
    def similarity(self, **inputs): DO
"""


def python_engine(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch, time_limit: float = 30.0) -> Any:
    name = f"ends_{abs(hash(body))}"
    (folder / f"{name}.py").write_text(ENDLESS.replace("DO", body) + "def make(folder): return Engine()\n")
    monkeypatch.syspath_prepend(folder)
    return open_engine(f"{name}:make", time_limit)


def program(path: Path, body: str) -> str:
    """A program, as the name of an engine. `out` is where its answer belongs."""
    path.write_text(f"import os, struct, sys, time\nverb, case, out = sys.argv[1:]\n{body}\n")
    return f"exec:{sys.executable} {path}"
