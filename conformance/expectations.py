"""Failures that an engine is known for, in a file of its own: one case a line, and after a `#` the reason.

    preprocess/LA 50x40 to 24  # Pillow's LA is converted to RGB first

They are strict: a case that is listed and passes is a failure, and so is one that there isn't. The file belongs beside
the engine, not here, so that the suite knows no engine.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from clipref.errors import InputError
from clipref.files import read_bytes, text_lines

from .grading.verdicts import Result

_LARGEST = 2**20  # bytes; all cases with a line of reasons each have less than a tenth of it


def all_ids() -> set[str]:
    """The ids of all cases, whatever is asked this time."""
    from clipref.config import PUBLISHED

    from . import released
    from .questions import ASKABLE, questions

    return {*(question.id for question in questions(ASKABLE, list(PUBLISHED))), *released.ids()}


def read(path: Path, known: Collection[str]) -> dict[str, str]:
    """The reason for each case listed. `known`: the ids of all cases. Raises InputError."""
    reasons: dict[str, str] = {}
    try:
        lines = text_lines(read_bytes(path, _LARGEST))
    except OSError as problem:
        raise InputError(f"{path} can't be read: {problem}. Expected a file with one case a line.") from problem
    except UnicodeDecodeError as problem:
        raise InputError(f"{path} is not text in UTF-8 ({problem}); save it as that.") from problem
    for number, line in enumerate(lines, 1):
        case, _, reason = (part.strip() for part in line.partition("#"))
        if not case:
            continue
        where = f"{path}, line {number}"
        if case not in known:
            near = difflib.get_close_matches(case, known, n=1)
            raise InputError(f"{where}: no case {case!r}{f'; did you mean {near[0]!r}?' if near else '.'}")
        if not reason:
            raise InputError(f"{where}: no reason; expected {case}  # why it fails.")
        if case in reasons:
            raise InputError(f"{where}: {case!r} is there twice.")
        reasons[case] = reason
    return reasons


def expected_result(result: Result, reasons: Mapping[str, str]) -> Result:
    """A result with the failure that was expected, or the pass that wasn't. `reasons` by case."""
    reason = reasons.get(result.case)
    if reason is None or result.verdict == "SKIP":
        return result
    if result.verdict == "FAIL":
        found = f" ({result.problem})" if result.problem else ""
        return dataclasses.replace(result, verdict="XFAIL", problem=f"expected to fail: {reason}{found}")
    return dataclasses.replace(
        result, verdict="FAIL", problem=f"passes, but is expected to fail ({reason}); take it from the list"
    )
