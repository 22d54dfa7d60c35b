"""A run's report as JSON and as JUnit XML."""

from __future__ import annotations

import math
from typing import Any
from xml.etree import ElementTree

from clipref import __version__

from ..grading.verdicts import Report
from .words import VERDICTS, explanations, line, printable, summary


def as_json(report: Report) -> dict[str, Any]:
    """Everything but the pictures; numbers that aren't finite are None."""
    return {
        "clipref": __version__,
        "engine": report.engine,
        "precision": report.precision,
        "profile": report.profile,
        "pixels": report.pixels,
        "passed": report.passed,
        "grade": report.grade,
        "seconds": round(report.seconds, 3),
        "counts": {verdict: report.count(verdict) for verdict in VERDICTS},
        "shared": list(report.shared),
        "advice": report.advice,
        "diagnoses": [
            {
                "faults": list(d.faults), "claims": list(d.claims), "says": d.says, "units": _finite(d.units),
                "cases": list(d.cases), "explains": len(d.cases), "of": d.of or len(d.cases),
                "cost": d.cost,
            }
            for d in report.diagnoses
        ],
        "results": [
            {
                "case": r.case, "level": r.level, "claims": list(r.claims), "verdict": r.verdict, "grade": r.grade,
                "error": _finite(r.error), "units": _finite(r.units), "problem": r.problem and printable(r.problem),
                "instead": r.instead, "seconds": round(r.seconds, 4), "first_out_of_band": r.first_out_of_band,
                "taps": [{"name": t.name, "units": _finite(t.units), "grade": t.grade} for t in r.taps],
            }
            for r in report.results
        ],
    }  # fmt: skip


def _finite(x: float) -> float | None:
    return float(x) if math.isfinite(x) else None


def as_junit(report: Report) -> str:
    """JUnit XML, one test case a case, as continuous integration reads it."""
    counts = {verdict: report.count(verdict) for verdict in VERDICTS}
    suite = ElementTree.Element(
        "testsuite",
        name=f"clipref conformance: {printable(report.engine)}",
        tests=str(len(report.results)),
        failures=str(counts["FAIL"]),
        errors="0",
        skipped=str(counts["SKIP"] + counts["XFAIL"]),
        time=f"{report.seconds:.3f}",
    )
    unexplained = {r.case for r in report.unexplained}
    for r in report.results:
        case = ElementTree.SubElement(suite, "testcase", classname=r.level, name=r.case, time=f"{r.seconds:.3f}")
        if r.verdict == "FAIL":
            said = [d.says for d in report.diagnoses if r.case in d.cases]
            said += [report.advice] if report.advice and r.case in unexplained else []
            failure = ElementTree.SubElement(case, "failure", message=printable("; ".join([*said, line(r)])))
            failure.text = printable("\n".join([line(r), *said, f"claims: {', '.join(r.claims)}"]))
        elif r.verdict != "PASS":
            ElementTree.SubElement(case, "skipped", message=printable(r.problem or ""))
    out = ElementTree.SubElement(suite, "system-out")
    out.text = printable("\n".join([*explanations(report), f"{report.engine}: {summary(report)}."]))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    data: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return data.decode("utf-8")
