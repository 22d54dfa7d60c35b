"""A run's report as JSON, as JUnit XML, and as one page of HTML that needs nothing else.

The page shows the verdicts, by level and one by one; what explains the failures; how errors grow from layer to layer;
and the worst pixels.
"""

from __future__ import annotations

import base64
import datetime
import io
import json
import math
import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np

from clipref import __version__
from clipref.config import OPENAI_MEAN, OPENAI_STD
from clipref.files import written_whole

from .case import Array
from .verdicts import GRADES, MARGIN, Picture, Report, Result, Tap, Verdict

VERDICTS: tuple[Verdict, ...] = ("PASS", "FAIL", "XFAIL", "SKIP")
# XML 1.0, UTF-8 and terminals have no characters for these, and a program's last words may.
_UNPRINTABLE = re.compile("[^\t\n\r -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def as_json(report: Report) -> dict[str, Any]:
    """Everything but the pictures; numbers that aren't finite are None."""
    return {
        "clipref": __version__,
        "engine": report.engine,
        "precision": report.precision,
        "profile": report.profile,
        "passed": report.passed,
        "grade": report.grade,
        "seconds": round(report.seconds, 3),
        "counts": {verdict: report.count(verdict) for verdict in VERDICTS},
        "diagnoses": [
            {
                "faults": list(d.faults), "claims": list(d.claims), "says": d.says, "units": _finite(d.units),
                "cases": list(d.cases),
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


def write_json(report: Report, path: Path) -> None:
    """A JSON file."""
    with written_whole(path) as scratch:
        scratch.write_text(json.dumps(as_json(report), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_junit(report: Report, path: Path) -> None:
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
    for r in report.results:
        case = ElementTree.SubElement(suite, "testcase", classname=r.level, name=r.case, time=f"{r.seconds:.3f}")
        if r.verdict == "FAIL":
            said = [d.says for d in report.diagnoses if r.case in d.cases]
            failure = ElementTree.SubElement(case, "failure", message=printable("; ".join([*said, told(r)])))
            failure.text = printable("\n".join([told(r), *said, f"claims: {', '.join(r.claims)}"]))
        elif r.verdict != "PASS":
            ElementTree.SubElement(case, "skipped", message=printable(r.problem or ""))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    with written_whole(path) as scratch:
        ElementTree.ElementTree(root).write(scratch, encoding="utf-8", xml_declaration=True)


def printable(text: str) -> str:
    """Without what a file of text can't hold, or a terminal obeys."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def told(result: Result) -> str:
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
    return f"{mantissa}·10{str(int(exponent)).translate(_RAISED)}"


_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


# --- HTML -------------------------------------------------------------------------------------------------------------


def write_html(report: Report, path: Path) -> None:
    """One page."""
    with written_whole(path) as scratch:
        scratch.write_text(printable(as_html(report)), encoding="utf-8")


def as_html(report: Report) -> str:
    """The page, style and pictures inside."""
    parts = [_head(report), _diagnoses(report), _levels(report), _growth(report), _pixels(report), _cases(report)]
    title = f"{report.engine}: CLIP conformance"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style></head>\n'
        f"<body><main>\n{''.join(parts)}</main></body></html>\n"
    )


_STYLE = """
:root { --ink: #1c2430; --soft: #5d6878; --line: #dfe3e8; --page: #f6f7f9; --card: #fff;
  --pass: #1a7f4b; --fail: #c0362c; --skip: #8a93a0; --xfail: #a06a00; --image: #2f6fb3; --text: #7a4fa3;
  --band: #e8f4ec; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ee; --soft: #9aa5b4; --line: #333b47; --page: #14181e; --card: #1c222b;
    --pass: #4cc38a; --fail: #f0776c; --skip: #7d8794; --xfail: #e0a83a; --image: #6aa9ea; --text: #b48ade;
    --band: #1d3327; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
main { max-width: 1040px; margin: 0 auto; padding: 28px 20px 60px }
h1 { font-size: 22px; margin: 0 } h2 { font-size: 16px; margin: 34px 0 10px }
section, header { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 18px 20px }
header { border-left: 6px solid var(--skip) } header.pass { border-left-color: var(--pass) }
header.fail { border-left-color: var(--fail) }
.verdict { font-size: 17px; font-weight: 600; margin: 4px 0 12px }
.pass .verdict, td.PASS, b.PASS { color: var(--pass) } .fail .verdict, td.FAIL, b.FAIL { color: var(--fail) }
td.SKIP, b.SKIP { color: var(--skip) } td.XFAIL, b.XFAIL { color: var(--xfail) }
td.PASS, td.FAIL, td.XFAIL { font-weight: 600 }
.facts { display: flex; flex-wrap: wrap; gap: 6px 28px; color: var(--soft) } .facts b { font-weight: 600 }
table { border-collapse: collapse; width: 100%; font-size: 13.5px }
th { text-align: left; color: var(--soft); font-weight: 500 }
td, th { padding: 4px 12px 4px 0; border-bottom: 1px solid var(--line); vertical-align: top }
tr:last-child td { border-bottom: 0 }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap }
td.id { white-space: nowrap } .soft { color: var(--soft) } p { margin: 6px 0 }
ul { margin: 0; padding-left: 20px } li { margin: 6px 0 }
summary { cursor: pointer; color: var(--soft) } details table { margin-top: 8px }
.wide { overflow-x: auto }
svg { width: 100%; min-width: 700px; height: auto; display: block }
svg text { fill: var(--soft); font: 11px system-ui, sans-serif }
.plots { display: grid; gap: 18px; grid-template-columns: minmax(0, 1fr) }
.pictures { display: flex; gap: 18px; flex-wrap: wrap; margin: 10px 0 18px }
figure { margin: 0 } figcaption { color: var(--soft); font-size: 12.5px; margin-top: 4px }
img { width: 240px; height: 240px; image-rendering: pixelated; border: 1px solid var(--line); display: block }
.marked { position: relative; width: 240px } .marked i { position: absolute; border: 2px solid var(--fail);
  border-radius: 50%; width: 18px; height: 18px;
  margin: -9px 0 0 -9px; box-shadow: 0 0 0 2px #fff }
"""


def summary(report: Report) -> str:
    """The verdict of the whole in a sentence."""
    if report.passed and not report.count("PASS"):
        return f"No answer is right: {report.count('XFAIL')} fail, as expected"
    if report.passed:
        right = f"every answer is within {MARGIN:g} units of {report.precision}"
        answered = f"{report.count('PASS')} of {len(report.results)} questions answered"
        missing = " or ".join(sorted({"images", "texts"} - report.embedded))
        if missing:
            levels = ", ".join(level for level, part in report.by_level().items() if part.count("PASS"))
            grade = "Right" if report.grade == "exact" else f"{report.grade}-conformant"
            return f"{grade} in {levels}: {right}; no {missing} were embedded, as CLIP does; {answered}"
        return f"CLIP, {report.grade}-conformant: {right}; {answered}"
    failed, answers = report.count("FAIL"), len(report.results) - report.count("SKIP")
    if not answers:
        return "No verdict: nothing was answered"
    coarser = report.grade is not None and GRADES.index(report.grade) > GRADES.index(report.precision)
    as_it_is = f"; as it is, {report.grade}-conformant" if coarser and not report.diagnoses else ""
    return f"Not {report.precision}-conformant: {failed} of {answers} answers fail{as_it_is}"


def _head(report: Report) -> str:
    counts = " · ".join(
        f'<b class="{verdict}">{report.count(verdict)} {verdict.lower()}</b>'
        for verdict in VERDICTS
        if report.count(verdict)
    )
    facts = {
        "claims": report.precision, "preprocessing": report.profile, "time": f"{report.seconds:.1f} s",
        "clipref": __version__, "on": datetime.date.today().isoformat(),
    }  # fmt: skip
    told = "".join(f"<span>{key} <b>{escape(value)}</b></span>" for key, value in facts.items())
    return (
        f'<header class="{"pass" if report.passed else "fail"}"><h1>{escape(report.engine)}</h1>'
        f'<p class="verdict">{escape(summary(report))}.</p>'
        f'<div class="facts"><span>{counts}</span>{told}</div></header>\n'
    )


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n<section>{body}</section>\n"


def _diagnoses(report: Report) -> str:
    if not report.diagnoses:
        return ""
    items = "".join(
        f"<li><b>{escape(d.sentence)}</b> <span class=soft>- reproduced to {number(d.units)} units; looked at "
        f"{escape(', '.join(d.cases))}</span></li>"
        for d in report.diagnoses
    )
    return _section("What explains the failures", f"<ul>{items}</ul>")


def _levels(report: Report) -> str:
    rows = []
    for level, part in report.by_level().items():
        counted = (part.count(verdict) for verdict in VERDICTS)
        cells = "".join(
            f'<td class="n {verdict if n else "soft"}">{n or "-"}</td>'
            for verdict, n in zip(VERDICTS, counted, strict=True)
        )
        cells += f"<td>{part.grade_if_passed or '-'}</td><td class=n>{number(part.worst)}</td>"
        rows.append(f"<tr><td>{escape(level)}</td>{cells}</tr>")
    head = "".join(f"<th class=n>{verdict.lower()}</th>" for verdict in VERDICTS)
    table = f"<table><tr><th>level</th>{head}<th>grade</th><th class=n>worst, in units</th></tr>{''.join(rows)}</table>"
    note = (
        f"<p class=soft>A unit is what a correct engine of {escape(report.precision)} errs in that very case; up to "
        f"{MARGIN:g} are right.</p>"
    )
    return _section("Levels", f"<div class=wide>{table}</div>{note}")


def _cases(report: Report) -> str:
    parts = []
    for verdict in ("FAIL", "XFAIL", "PASS", "SKIP"):
        results = [r for r in report.results if r.verdict == verdict]
        if not results:
            continue
        rows = "".join(
            f"<tr><td class={verdict}>{verdict.lower()}</td><td class=id>{escape(r.case)}</td>"
            f"<td>{escape(r.grade or '-')}</td><td class=n>{number(r.error)}</td><td class=n>{number(r.units)}</td>"
            f"<td>{escape(_remark(r))}</td><td class='soft id'>{escape(ranges(r.claims))}</td></tr>"
            for r in results
        )
        head = "<tr><th></th><th>case</th><th>grade</th><th class=n>error</th><th class=n>units</th><th></th>"
        table = f"<div class=wide><table>{head}<th>claims</th></tr>{rows}</table></div>"
        is_open = " open" if verdict == "FAIL" else ""
        parts.append(f"<details{is_open}><summary>{len(results)} {verdict.lower()}</summary>{table}</details>")
    return _section("Cases", "".join(parts))


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


def _remark(r: Result) -> str:
    """What the other columns don't say."""
    first = f"first off at {r.first_out_of_band}" if r.verdict == "FAIL" and r.first_out_of_band else ""
    pixels = r.picture.told if r.picture else ""
    return "; ".join(part for part in (r.problem, r.instead, pixels, first) if part)


# --- error growth -----------------------------------------------------------------------------------------------------

_WIDTH, _LEFT, _RIGHT, _TOP = 1000, 56, 14, 14


def _growth(report: Report) -> str:
    traced = [r for r in report.results if r.taps]
    if not traced:
        return ""
    failed = [r for r in traced if r.verdict in ("FAIL", "XFAIL")]
    plots = [_overview(traced, report.precision)]
    for tower in ("image", "text"):  # the rest is in the overview
        plots += [_detail(r, report.precision) for r in failed if r.case.endswith(tower)][:1]
    note = (
        "<p class=soft>Each line is one tower of one model, from its first activation to its last; the band holds what "
        "a correct engine errs.</p>"
    )
    return _section("Error growth, layer by layer", f"{note}<div class=plots>{''.join(plots)}</div>")


class _Scale:
    """Units on a logarithmic axis, as pixels from the top."""

    def __init__(self, values: Iterable[float], height: int) -> None:
        known = [v for v in values if math.isfinite(v) and v > 0]
        self.low = math.floor(math.log10(min([*known, 0.1])))
        self.low = max(self.low, -3)
        self.high = math.ceil(math.log10(max([*known, 10.0])))
        self.height = height

    def __call__(self, value: float) -> float:
        if not math.isfinite(value):
            return float(_TOP)
        level = math.log10(max(value, 10.0**self.low))
        return _TOP + (self.high - level) / (self.high - self.low) * self.height

    def axis(self, precision: str) -> str:
        """The band, lines at the powers of ten, and what they are."""
        band = self(MARGIN)
        parts = [
            f'<rect x="{_LEFT}" y="{band:.1f}" width="{_WIDTH - _LEFT - _RIGHT}" '
            f'height="{_TOP + self.height - band:.1f}" fill="var(--band)"/>'
        ]
        step = max(1, (self.high - self.low) // 8)
        for power in range(self.low, self.high + 1, step):
            y = self(10.0**power)
            parts.append(f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
            told = f"10{str(power).translate(_RAISED)}" if power > 3 else f"{10.0**power:g}"
            parts.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{told}</text>')
        parts.append(f'<text x="{_LEFT + 6}" y="{_TOP + 12}">units of {escape(precision)}</text>')
        return "".join(parts)


def _svg(height: int, body: str, label: str) -> str:
    drawn = f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{escape(label)}">{body}</svg>'
    return f"<div class=wide>{drawn}</div>"


def _line(taps: Sequence[Tap], scale: _Scale, colour: str, width: float, title: str) -> str:
    span = _WIDTH - _LEFT - _RIGHT - 20
    xs = [_LEFT + 10 + (span * i / (len(taps) - 1) if len(taps) > 1 else span / 2) for i in range(len(taps))]
    points = " ".join(f"{x:.1f},{scale(tap.units):.1f}" for x, tap in zip(xs, taps, strict=True))
    return (
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{width}" stroke-linejoin="round">'
        f"<title>{escape(title)}</title></polyline>"
    )


def _overview(traced: Sequence[Result], precision: str) -> str:
    height = 220
    scale = _Scale((tap.units for r in traced for tap in r.taps), height)
    lines = []
    for r in sorted(traced, key=lambda r: r.verdict != "PASS"):  # what fails is drawn last, on top
        colour = "var(--image)" if r.case.endswith("image") else "var(--text)"
        colour, width = ("var(--fail)", 1.8) if r.verdict == "FAIL" else (colour, 1.2)
        lines.append(_line(r.taps, scale, colour, width, f"{r.case}: {told(r)}"))
    bottom = _TOP + height + 20
    legend = (("var(--image)", "image towers"), ("var(--text)", "text towers"), ("var(--fail)", "out of the band"))
    keys = "".join(
        f'<line x1="{_LEFT + 150 * i}" x2="{_LEFT + 150 * i + 22}" y1="{bottom - 4}" y2="{bottom - 4}" '
        f'stroke="{colour}" stroke-width="2"/><text x="{_LEFT + 150 * i + 28}" y="{bottom}">{what}</text>'
        for i, (colour, what) in enumerate(legend)
    )
    return _svg(bottom + 8, scale.axis(precision) + "".join(lines) + keys, "Errors of all traces")


def _detail(r: Result, precision: str) -> str:
    """One trace with the names of its activations."""
    height = 170
    names = [tap.name.replace("visual.", "").replace("transformer.resblocks.", "") for tap in r.taps]
    room = 28 + 5 * max(map(len, names))  # for names of that length, turned
    scale = _Scale((tap.units for tap in r.taps), height)
    span = _WIDTH - _LEFT - _RIGHT - 20
    every = max(1, math.ceil(len(r.taps) / 48))
    marks = []
    for i, (tap, name) in enumerate(zip(r.taps, names, strict=True)):
        x = _LEFT + 10 + (span * i / (len(r.taps) - 1) if len(r.taps) > 1 else span / 2)
        off = not tap.units <= MARGIN
        colour = "var(--fail)" if off else "var(--pass)"
        first = tap.name == r.first_out_of_band
        said = f"{tap.name}: {number(tap.units)} units, {tap.grade or 'no precision explains it'}"
        marks.append(
            f'<circle cx="{x:.1f}" cy="{scale(tap.units):.1f}" r="{5 if first else 3}" fill="{colour}">'
            f"<title>{escape(said)}</title></circle>"
        )
        if i % every == 0 or first:
            weight = ' font-weight="700" style="fill: var(--fail)"' if first else ""
            y = _TOP + height + 12
            marks.append(
                f'<text x="{x:.1f}" y="{y}" text-anchor="end" transform="rotate(-55 {x:.1f} {y})"{weight}>'
                f"{escape(name)}</text>"
            )
    body = scale.axis(precision) + _line(r.taps, scale, "var(--soft)", 1.2, r.case) + "".join(marks)
    title = f"<p><b>{escape(r.case)}</b> <span class=soft>{escape(told(r))}</span></p>"
    return f"<div>{title}{_svg(_TOP + height + room, body, r.case)}</div>"


# --- pixels -----------------------------------------------------------------------------------------------------------

_PICTURES = 3


def _pixels(report: Report) -> str:
    shown = [r for r in report.results if r.picture is not None and r.verdict in ("FAIL", "XFAIL")]
    shown.sort(key=lambda r: -(r.picture.difference if r.picture else 0))
    if not shown:
        return ""
    return _section("The worst pixels", "".join(_picture(r, r.picture) for r in shown[:_PICTURES] if r.picture))


def _picture(r: Result, picture: Picture) -> str:
    found, exact = (_levels_of(x) for x in (picture.found, picture.exact))
    difference = np.abs(found.astype(int) - exact.astype(int))
    factor = 255 // (int(difference.max()) or 255)
    channel, row, column = picture.worst
    side = found.shape[0]
    mark = f'<i style="left:{(column + 0.5) / side:.1%};top:{(row + 0.5) / side:.1%}"></i>'
    figures = (
        ("what the engine made", found),
        ("what is right", exact),
        ("the difference" + (f", {factor} times as bright" if factor > 1 else ""), difference * factor),
    )
    drawn = "".join(
        f'<figure><div class="marked"><img alt="{what}" src="{_png(x)}">{mark}</div><figcaption>{what}</figcaption>'
        "</figure>"
        for what, x in figures
    )
    colour = ("red", "green", "blue")[channel]
    said = f"worst at row {row}, column {column}, {colour}: {picture.difference:.3g} levels of 255 off"
    return f"<p><b>{escape(r.case)}</b> <span class=soft>{said}</span></p><div class=pictures>{drawn}</div>"


def _levels_of(pixels: Array) -> Array:
    """Normalised pixels [3, R, R] as an image [R, R, 3] uint8."""
    x = np.nan_to_num(pixels.astype(np.float64).transpose(1, 2, 0), posinf=1e3, neginf=-1e3)
    levels: Array = np.clip(np.rint((x * OPENAI_STD + OPENAI_MEAN) * 255), 0, 255).astype(np.uint8)
    return levels


def _png(levels: Array) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(levels.astype(np.uint8)).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
