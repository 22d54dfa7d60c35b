"""Error growth as SVG: how far an engine is off, from activation to activation."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

from ..grading.verdicts import MARGIN, Report, Result, Tap
from .words import RAISED, line, number

_WIDTH, _LEFT, _RIGHT, _TOP = 1000, 56, 14, 14


def growth(report: Report) -> list[str]:
    """An overview of all traces, and the first that fails of each tower; nothing where nothing was traced."""
    traced = [r for r in report.results if r.taps]
    if not traced:
        return []
    failed = [r for r in traced if r.verdict in ("FAIL", "XFAIL")]
    plots = [_overview(traced, report.precision)]
    for tower in ("image", "text"):  # the rest is in the overview
        plots += [_detail(r, report.precision) for r in failed if r.case.endswith(tower)][:1]
    return plots


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
            told = f"10{str(power).translate(RAISED)}" if power > 3 else f"{10.0**power:g}"
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
        lines.append(_line(r.taps, scale, colour, width, f"{r.case}: {line(r)}"))
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
    title = f"<p><b>{escape(r.case)}</b> <span class=soft>{escape(line(r))}</span></p>"
    return f"<div>{title}{_svg(_TOP + height + room, body, r.case)}</div>"
