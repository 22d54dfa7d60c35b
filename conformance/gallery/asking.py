"""Runs the suite on an outsider in its environment, and keeps what it found as a small file of JSON."""

from __future__ import annotations

import datetime
import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipref import __version__
from clipref.errors import InputError

from .. import suite
from ..engines import open_engine
from ..grading.verdicts import Report
from ..questions import questions
from ..reports.files import as_json
from ..reports.words import line, summary
from .environments import Installed, NotInstalled
from .table import HERE, Asked, Line, Outsider

# Seconds for an answer: others may use the processors too.
_TIME_LIMIT = 180.0
_LONGEST = 240  # characters of a line about a case that fails


def results_file(name: str) -> Path:
    """Where the results of an outsider are kept."""
    return HERE / "results" / f"{name}.json"


def read_results(name: str) -> dict[str, Any] | None:
    """The kept result of an outsider; None if it wasn't asked."""
    path = results_file(name)
    found: dict[str, Any] | None = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    return found


def write_results(outsider: Outsider, found: Mapping[str, Any]) -> None:
    """Keep what was found of an outsider."""
    text = json.dumps(found, indent=1, ensure_ascii=False)
    results_file(outsider.name).write_text(f"{text}\n", encoding="utf-8")


def where() -> dict[str, str]:
    """When and where something is found, and with which version of clipref."""
    return {
        "clipref": __version__,
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
    }


def results(outsider: Outsider, environment: Installed) -> dict[str, Any]:
    """The suite's findings of an outsider.

    Raises NotInstalled if it can't be imported, InputError where a line of its table isn't what it was.
    """
    for difference in outsider.differences:
        look_up(difference.line, environment.site_packages)
    return {
        **where(),
        "python": environment.version,
        "operators_named": environment.operators_named,
        "megabytes": environment.megabytes,
        "packages": environment.packages,
        "runs": [_extract(_ask(outsider, asked, environment)) for asked in outsider.asked],
    }


def _ask(outsider: Outsider, asked: Asked, environment: Installed) -> Report:
    file, _, name = outsider.adapter.partition(":")
    try:
        engine = open_engine(f"python:{environment.python}:{HERE / 'adapters' / file}:{name}", _TIME_LIMIT)
    except InputError as problem:  # what is installed can't be imported
        raise NotInstalled(str(problem).replace(str(HERE / "adapters"), "adapters")) from problem
    chosen = [q for q in questions(asked.levels, asked.full, asked.profile) if asked.only in q.id]
    return suite.run(engine, chosen, name=outsider.name, profile=asked.profile)


def _extract(report: Report) -> dict[str, Any]:
    """The part of a report that the gallery shows, and the cases that fail."""
    said = as_json(report)
    return {
        **{name: said[name] for name in ("profile", "precision", "passed", "diagnoses", "shared", "advice")},
        "summary": summary(report),
        "seconds": round(report.seconds),
        "levels": {
            level: {
                **{verdict.lower(): part.count(verdict) for verdict in ("PASS", "FAIL", "SKIP")},
                "grade": part.grade_if_passed,
            }
            for level, part in report.by_level().items()
        },
        "failing": [{"case": r.case, "says": line(r)[:_LONGEST]} for r in report.results if r.verdict == "FAIL"],
        "skipped": [r.case for r in report.results if r.verdict == "SKIP"],
    }


def look_up(line: Line, site_packages: Path) -> None:
    """Raise InputError unless a line is there, with the name on it that the table has."""
    if line.source:
        return
    path = site_packages / line.file
    lines: Sequence[str] = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    if line.number > len(lines) or line.names not in lines[line.number - 1]:
        at = [str(number) for number, text in enumerate(lines, 1) if line.names in text]
        raise InputError(
            f"The gallery's table says that {line.names!r} is at {line}; "
            f"it is {'on lines ' + ', '.join(at) if at else 'not in that file'} of what is installed; mend it."
        )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    return next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.machine())
