"""What a run found, in words."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

from ..grading.verdicts import GRADES, MARGIN, Report, Result, Verdict

VERDICTS: tuple[Verdict, ...] = ("PASS", "FAIL", "XFAIL", "SKIP")
# XML 1.0, UTF-8 and terminals have no characters for these, and a program's last words may.
_UNPRINTABLE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def printable(text: str) -> str:
    """Without what a file of text can't hold, or a terminal obeys."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def line(result: Result) -> str:
    """What there is to say of a result in a line."""
    parts = [printable(text) for text in (result.problem, result.instead) if text]
    if result.picture is not None:
        parts.append(result.picture.told)
    elif math.isfinite(result.units):
        parts.append(f"{number(result.units)} units ({result.grade or 'no precision explains it'})")
    if result.verdict == "FAIL" and result.first_out_of_band:
        parts.append(f"first off at {result.first_out_of_band}")
    return "; ".join(parts)


def number(x: float) -> str:
    """Three digits, as people write them."""
    if not math.isfinite(x):
        return "-"
    if x == 0 or 1e-2 <= abs(x) < 1e4:
        return f"{x:.3g}" if abs(x) < 1e3 else f"{x:.0f}"
    mantissa, exponent = f"{x:.1e}".split("e")
    return f"{mantissa}·10{str(int(exponent)).translate(RAISED)}"


RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


# The share of a level's questions that has to be answered for a word about that level. Engines with one fixed size
# answer a third of those about pixels.
_SHARE = 0.2


def _is_shown(part: Report) -> bool:
    """Whether enough of a level's questions were answered to say what the engine is in it."""
    return part.count("PASS") + part.count("XFAIL") >= _SHARE * len(part.results)


def _level_and_count(level: str, part: Report) -> str:
    return f"{level} ({part.count('PASS')} of {len(part.results)})"


def summary(report: Report) -> str:
    """The verdict of the whole in a sentence."""
    asked = f"; of {report.among} questions, those of the minute were asked" if report.among else ""
    return f"{_verdict(report)}{asked}"


def _verdict(report: Report) -> str:
    if report.passed and not report.count("PASS"):
        return f"No answer is right: {report.count('XFAIL')} fail, as expected"
    expected = f"; {report.count('XFAIL')} fail as expected" if report.count("XFAIL") else ""
    if report.passed:
        every = "every other answer" if expected else "every answer"
        right = f"{every} is within {MARGIN:g} units of {report.precision}{_tolerance_in_words(report)}"
        answered = f"{report.count('PASS')} of {report.asked} questions answered{expected}"
        if report.count("PASS") and not any(map(_is_shown, report.by_level().values())):
            parts = (_level_and_count(level, part) for level, part in report.by_level().items() if part.count("PASS"))
            return f"Right as far as it was answered, which is too little for a word: {', '.join(parts)}{expected}"
        missing = " or ".join(sorted({"images", "texts"} - report.embedded))
        if missing:
            known = {level: part for level, part in report.by_level().items() if part.count("PASS")}
            levels = ", ".join(level for level, part in known.items() if _is_shown(part))
            few = "".join(
                f"; too few in {_level_and_count(level, part)}" for level, part in known.items() if not _is_shown(part)
            )
            grade = "Right" if report.grade == "exact" else f"{report.grade}-conformant"
            return f"{grade} in {levels}: {right}; no {missing} were embedded, as CLIP does; {answered}{few}"
        return f"CLIP, {report.grade}-conformant: {right}; {answered}"
    failed, answers = report.count("FAIL"), len(report.results) - report.count("SKIP")
    if not answers:
        return "No verdict: nothing was answered"
    return f"Not {report.precision}-conformant: {failed} of {answers} answers fail{expected}{_as_it_is(report)}"


# Answers that all err as a precision does, when there are so many, are not a wrong constant that happens to.
_ANSWERS_TO_GRADE = 8


def _as_it_is(report: Report) -> str:
    """The coarser precision that all answers look like, if nothing else explains what fails, and how many these are.

    A word is withheld of few: what one or two answers err by is always near to that of some precision.
    """
    if report.grade is None or report.diagnoses or GRADES.index(report.grade) <= GRADES.index(report.precision):
        return ""
    rounded = sum(r.verdict in ("PASS", "FAIL") and r.grade != "exact" for r in report.results)
    if rounded < _ANSWERS_TO_GRADE:
        few = "one answer is" if rounded == 1 else f"{rounded} answers are"
        return f"; {few} too little to tell whether a coarser precision is all that it is"
    return f"; as it is, {report.grade}-conformant, by {rounded} answers"


def _tolerance_in_words(report: Report) -> str:
    """What a tolerance that was asked for was needed for."""
    if report.pixels == "exact":
        return ""
    few = sum(r.verdict == "PASS" and r.picture is not None for r in report.results)
    return f", with pixels {report.pixels.replace('-', ' ')}: {few} pictures are a level off"


def explanations(report: Report) -> Iterator[str]:
    """What there is to say of failures, a sentence a line: what they share, what explains them, and what to do."""
    yield from (printable(said) for said in report.shared)
    yield from (printable(diagnosis.sentence) for diagnosis in report.diagnoses)
    if report.advice is not None:
        yield report.advice


def ranges(claims: Sequence[str]) -> str:
    """Claims of one kind together: "BLK-1..5, OUT-1, OUT-3"."""
    runs: list[list[tuple[str, int]]] = []
    for claim in claims:
        kind, _, count = claim.rpartition("-")
        if runs and runs[-1][-1] == (kind, int(count) - 1):
            runs[-1].append((kind, int(count)))
        else:
            runs.append([(kind, int(count))])
    return ", ".join(f"{run[0][0]}-{run[0][1]}{f'..{run[-1][1]}' if len(run) > 1 else ''}" for run in runs)
