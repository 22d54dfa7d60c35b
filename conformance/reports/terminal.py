"""A report as the command line prints it: what explains failures, cases, a table of levels, the verdict."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from clipref.cli.common import print_json, print_table

if TYPE_CHECKING:
    from ..grading.verdicts import Report, Result

# Failing cases that are shown of each level where not all are asked for.
_SHOWN = 2


def tell_progress(result: Result) -> None:
    """One question that was answered, on the line of the last one."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{result.verdict:5} {result.case}", end="", file=sys.stderr, flush=True)


def tell(report: Report, json: bool = False, verbose: bool = False) -> None:
    """The report in words and tables, or as JSON; `verbose`: with every case."""
    from .files import as_json
    from .words import explanations, summary

    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if json:
        print_json(as_json(report))
        return
    known = list(explanations(report))
    for said in known:
        print(said)
    if known:
        print()
    _print_cases(report, verbose)
    print_table([("level", "pass", "fail", "xfail", "skip", "grade", "worst, in units"), *_by_level(report)])
    print()
    print(f"{report.engine}: {summary(report)}.")


def _print_cases(report: Report, verbose: bool) -> None:
    """Every case, or of each level the first that fail and nothing explains, or that were expected to."""
    from .words import line

    explained = {case for diagnosis in report.diagnoses for case in diagnosis.cases}
    failed = [r for r in report.results if r.verdict in ("FAIL", "XFAIL")]
    # Cases that a diagnosis explains are left out, unless they have a problem beside their values.
    shown = list(report.results) if verbose else [r for r in failed if r.case not in explained or r.problem is not None]
    if not verbose:
        levels: dict[tuple[str, str], list[Result]] = {}
        for result in shown:
            levels.setdefault((result.level, result.verdict), []).append(result)
        shown = [result for of_level in levels.values() for result in of_level[:_SHOWN]]
    if shown:
        rows = ((result.verdict, result.case, result.grade or "-", line(result)) for result in shown)
        print_table([("", "case", "grade", ""), *rows])
    if more := len(failed) - sum(result.verdict in ("FAIL", "XFAIL") for result in shown):
        print(_not_shown(more, bool(shown)))
    if shown or more:
        print()


def _not_shown(count: int, others: bool) -> str:
    """A sentence on failing cases that aren't listed. `others`: some are; else what stands above explains all."""
    fail = "case fails" if count == 1 else "cases fail"
    if others:
        return f"{count} more {fail}; --verbose shows every case."
    return f"{count} {fail}, which {'is' if count == 1 else 'are'} explained above; --verbose shows every case."


def _by_level(report: Report) -> list[tuple[str, ...]]:
    from .words import VERDICTS, number

    return [
        (level, *(str(part.count(verdict)) for verdict in VERDICTS), part.grade_if_passed or "-", number(part.worst))
        for level, part in report.by_level().items()
    ]
