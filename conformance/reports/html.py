"""A run's report as one page of HTML that needs nothing else.

The page shows the verdicts, by level and one by one; what explains the failures; how errors grow from layer to layer;
and the worst pixels.
"""

from __future__ import annotations

import base64
import datetime
from html import escape
from pathlib import Path

import numpy as np

from clipref import __version__
from clipref.cli.pages import html_page
from clipref.config import OPENAI_MEAN, OPENAI_STD

from ..grading.verdicts import MARGIN, Picture, Report, Result
from ..pictures import compressed_png
from ..protocol import Array
from .plot import growth
from .words import VERDICTS, number, ranges, summary

_STYLE = Path(__file__).with_name("report.css")


def as_html(report: Report) -> str:
    """The page, style and pictures inside."""
    parts = [_head(report), _diagnoses(report), _levels(report), _growth(report), _pixels(report), _cases(report)]
    style = _STYLE.read_text(encoding="utf-8")
    return html_page(f"{report.engine}: CLIP conformance", style, f"<main>\n{''.join(parts)}</main>")


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
    items = "".join(f"<li>{escape(said)}</li>" for said in report.shared)
    items += "".join(
        f"<li><b>{escape(d.sentence)}</b> <span class=soft>- reproduced to {number(d.units)} units: "
        f"{escape(', '.join(d.cases))}</span></li>"
        for d in report.diagnoses
    )
    items += f"<li>{escape(report.advice)}</li>" if report.advice else ""
    return _section("What explains the failures", f"<ul>{items}</ul>") if items else ""


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


def _remark(r: Result) -> str:
    """What the other columns don't say."""
    first = f"first off at {r.first_out_of_band}" if r.verdict == "FAIL" and r.first_out_of_band else ""
    pixels = r.picture.told if r.picture else ""
    return "; ".join(part for part in (r.problem, r.instead, pixels, first) if part)


def _growth(report: Report) -> str:
    plots = growth(report)
    if not plots:
        return ""
    note = (
        "<p class=soft>Each line is one tower of one model, from its first activation to its last; the band holds what "
        "a correct engine errs.</p>"
    )
    return _section("Error growth, layer by layer", f"{note}<div class=plots>{''.join(plots)}</div>")


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
    return f"data:image/png;base64,{base64.b64encode(compressed_png(levels.astype(np.uint8))).decode()}"
