"""A run's badge: what was asked of the engine, level by level, and how much of it is right.

It never says "conformant" alone: a level is named with the profile or the precision that was claimed, with how many of
all its questions are right, and with what failed, failed as expected, was declined or not asked. Levels without any
answer share their words: "operations, taps declined". As SVG, which needs nothing else, or as JSON for
https://shields.io/badges/endpoint-badge.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Literal, TypeAlias

from clipref import __version__
from clipref.errors import InputError

from ..grading.verdicts import NOT_CLAIMED, Report, Result
from ..questions import LEVELS, questions
from .words import printable

State: TypeAlias = Literal["whole", "partial", "wrong", "not asked"]

# Levels of which a badge says so where they weren't asked; the title names all of them.
_CORE = ("tokenize", "preprocess", "towers")
# Levels that have no rounding, and so no precision.
_WITHOUT_PRECISION = ("describe", "tokenize", "released")
# The number of models is said where there are more than these.
_NAMED = 2
_LABEL = f"clipref {__version__}"


@dataclass(frozen=True)
class Part:
    """The words of a level: "preprocess (transformers-4) 31/31"."""

    level: str
    says: str
    state: State
    nothing: str = ""  # "not asked", "not claimed" or "declined", if that is what became of all of its questions


def parts(report: Report) -> list[Part]:
    """A part for each level that was asked, and for each that wasn't: with no question, or as not claimed."""
    by_level: dict[str, list[Result]] = {level: [] for level in LEVELS}
    for result in report.results:
        by_level[result.level].append(result)
    return [_part(report, level, results) for level, results in by_level.items()]


def _part(report: Report, level: str, results: Sequence[Result]) -> Part:
    asked = [r for r in results if r.problem != NOT_CLAIMED]
    if not asked:
        nothing = f"not {'claimed' if results else 'asked'}"
        return Part(level, f"{level} {nothing}", "not asked", nothing)
    count = {verdict: sum(r.verdict == verdict for r in asked) for verdict in ("PASS", "FAIL", "XFAIL", "SKIP")}
    there = sum(1 for _ in questions([level], profile=report.profile)) if level not in ("full", "released") else 0
    of = max(there, len(asked))
    rest = {
        "fail": count["FAIL"], "fail as expected": count["XFAIL"], "declined": count["SKIP"],
        "not asked": of - len(asked),
    }  # fmt: skip
    says = ", ".join([f"{level}{_claim(report, level, asked)} {count['PASS']}/{of}", *_counts_in_words(rest)])
    state: State = "wrong" if count["FAIL"] else "whole" if count["PASS"] == of else "partial"
    return Part(level, says, state, "declined" if count["SKIP"] == of else "")


def _counts_in_words(counts: dict[str, int]) -> list[str]:
    """ "1 fails", "2 fail as expected", "3 declined", of what there is."""
    singular = {"fail": "fails", "fail as expected": "fails as expected"}
    return [f"{n} {singular.get(what, what) if n == 1 else what}" for what, n in counts.items() if n]


def _claim(report: Report, level: str, asked: Sequence[Result]) -> str:
    """In brackets, of which models, in which profile and in which precision the answers are right."""
    known: list[str] = []
    if level in ("full", "released"):
        models = dict.fromkeys(r.case.split("/")[1].split(" ")[0] for r in asked)
        known += models if len(models) <= _NAMED else [f"{len(models)} models"]
    if level in ("preprocess", "pipeline"):
        known += [report.profile, *[f"pixels {report.pixels.replace('-', ' ')}"] * (report.pixels != "exact")]
    if level not in _WITHOUT_PRECISION and (level != "preprocess" or report.precision != "float32"):
        known.append(report.precision)
    return f" ({', '.join(known)})" if known else ""


def message(report: Report) -> str:
    """The whole in a line: levels that were asked, and those of the core that weren't."""
    return " · ".join(part.says for part in _parts_to_show(report)) or "nothing asked"


def _parts_to_show(report: Report) -> list[Part]:
    """Levels with answers, each by itself; those without any by what became of them, together."""
    meant = [part for part in parts(report) if part.state != "not asked" or part.level in _CORE]
    alike = {nothing: [p for p in meant if p.nothing == nothing] for nothing in dict.fromkeys(p.nothing for p in meant)}
    shown = []
    for part in meant:
        together = alike[part.nothing] if part.nothing else [part]
        if part is together[0]:
            shown.append(dataclasses.replace(part, says=_together(together)) if part.nothing else part)
    return shown


def _together(alike: Sequence[Part]) -> str:
    """Of levels that the same became of: "preprocess, towers and 2 more declined", those of the core by name."""
    levels = sorted((part.level for part in alike), key=lambda level: level not in _CORE)
    more = f" and {len(levels) - len(_CORE)} more" if len(levels) > len(_CORE) else ""
    return f"{', '.join(levels[: len(_CORE)])}{more} {alike[0].nothing}"


def _title(report: Report) -> str:
    """The whole with every level that wasn't asked, for who can't see the badge, or wants to know more."""
    return printable(f"{_LABEL}: {' · '.join(part.says for part in parts(report))}")


def badge_path(path: Path) -> Path:
    """The path of a badge. Raises InputError if its name tells no format."""
    if path.suffix not in _FORMATS:
        raise InputError(f"--badge {path}: expected a name that ends in {' or '.join(_FORMATS)}.")
    return path


def as_badge(report: Report, path: Path) -> str:
    """The badge in the format that a file's name tells."""
    return _FORMATS[path.suffix](report)


def as_shields(report: Report) -> str:
    """JSON of shields.io's endpoint badge, schema version 1."""
    states = {part.state for part in _parts_to_show(report)}
    failed = "wrong" in states or not report.passed
    known = {
        "schemaVersion": 1,
        "label": _LABEL,
        "message": message(report),
        "color": "red" if failed else "yellow" if "partial" in states else "brightgreen",
        "isError": failed,  # so that nobody's query string makes it green
    }
    return f"{json.dumps(known, indent=2, ensure_ascii=False)}\n"


# White text has a contrast of 4.5 and more on each (https://www.w3.org/TR/WCAG22/#contrast-minimum).
_COLOURS: dict[State, str] = {"whole": "#1a7f37", "partial": "#8a6100", "wrong": "#cf222e", "not asked": "#5c6670"}
_LABEL_COLOUR = "#24292f"
_HEIGHT, _PADDING, _GAP, _FONT = 22, 8, 1, 12
# Widths of characters in hundredths of an em, of DejaVu Sans, which is as wide as such fonts get; others are fitted.
_NARROW, _WIDE = frozenset(" ,./()-:'|ijlfrtI1"), frozenset("mwMW%·")


def as_svg(report: Report) -> str:
    """A picture of one row, a field a level, in colours that the text doesn't depend on."""
    fields = [(_LABEL, _LABEL_COLOUR), *((part.says, _COLOURS[part.state]) for part in _parts_to_show(report))]
    drawn, left = [], 0
    for text, colour in fields:
        width = _width(text)
        drawn.append(f'<rect x="{left}" width="{width + 2 * _PADDING}" height="{_HEIGHT}" fill="{colour}"/>')
        drawn.append(
            f'<text x="{left + _PADDING}" y="15" textLength="{width}" lengthAdjust="spacingAndGlyphs">'
            f"{escape(printable(text))}</text>"
        )
        left += width + 2 * _PADDING + _GAP
    left -= _GAP
    title = escape(_title(report), quote=True)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left}" height="{_HEIGHT}" viewBox="0 0 {left} {_HEIGHT}" '
        f'role="img" aria-label="{title}"><title>{title}</title>'
        f'<g fill="#fff" font-family="Verdana,DejaVu Sans,Geneva,sans-serif" '
        f'font-size="{_FONT}">{"".join(drawn)}</g></svg>\n'
    )


def _width(text: str) -> int:
    """About as many pixels as a text takes."""
    ems = sum(0.38 if c in _NARROW else 0.92 if c in _WIDE else 0.62 for c in text)
    return round(ems * _FONT)


_FORMATS = {".svg": as_svg, ".json": as_shields}
