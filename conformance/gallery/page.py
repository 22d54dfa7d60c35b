"""The gallery as Markdown and as a page of HTML, both of the same blocks, made of the table and the results."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, TypeAlias

from clipref.cli.pages import html_page

from .. import reports
from .table import Absent, Difference, Outsider

Found: TypeAlias = Mapping[str, Mapping[str, Any]]  # the results by the outsider's name
_STYLE = Path(reports.__file__).with_name("report.css")

_INTRODUCTION = (
    "Other implementations of CLIP, installed from the package index, each asked by the suite what it claims to do, "
    "and, where it differs from OpenAI's code, why. `python -m clipref.conformance.gallery` makes this page: "
    "an environment for each set of pinned packages, the suite on a small adapter in it, and what people found in the "
    "code.",
    "A difference is no ranking. **choice**: it is stated, or follows from what the implementation is for; who "
    "compares embeddings has to know of it. **mistake**: nobody who knew of it would want it. **limit**: "
    "something that isn't done. How often a difference shows, and by what cosines on a small trained model, is in the "
    "suite's words.",
    "Each adapter is a file to copy: `clipref conformance run ADAPTER:Engine` where clipref is installed beside the "
    "outsider, or `clipref conformance run python:PYTHON:ADAPTER.py:Engine` where it has an environment of its own.",
    "The figures are questions answered rightly, of those answered: what an implementation has no code for, such as "
    "another size than its own, isn't counted. The claims in parentheses are [SPEC.md](SPEC.md)'s. Each verdict was "
    "checked by hand against the code; a line of it is named by file and number, in site-packages, of the version "
    "shown.",
)


@dataclass(frozen=True)
class Heading:
    """A heading of a level, with the name that links to it have, if there are any."""

    level: int
    text: str
    anchor: str = ""


@dataclass(frozen=True)
class Listing:
    """Lines of a list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Table:
    """Rows of a table, the first of them its head."""

    rows: Sequence[Sequence[str]]


Block: TypeAlias = (
    Heading | Listing | Table | str
)  # a text is a paragraph; `code`, **strong** and [links](to) are marked


def blocks(outsiders: Sequence[Outsider], absent: Sequence[Absent], found: Found) -> Iterator[Block]:
    """All that the gallery shows."""
    yield Heading(1, "Gallery: other implementations of CLIP, and what the suite finds")
    yield from _INTRODUCTION
    yield Table([("implementation", "version", "right, of what was asked", "differs in"), *(
        (f"[{_cell(o.title)}](#{o.name})", o.version, scores(found.get(o.name)), _kinds(o)) for o in outsiders
    )])  # fmt: skip
    for outsider in outsiders:
        yield from _section(outsider, found.get(outsider.name))
    yield Heading(2, "Not asked")
    yield Table([("implementation", "version", "why"), *((_cell(a.title), a.version, _cell(a.why)) for a in absent)])


def scores(found: Mapping[str, Any] | None) -> str:
    """Right answers of those asked, level by level: "tokenize 16/16 · preprocess (openai) 21/33"."""
    if found is None:
        return "not asked yet"
    if "not_installed" in found:
        return "could not be installed"
    parts = []
    for run in found["runs"]:
        for level, counts in run["levels"].items():
            asked = counts["pass"] + counts["fail"]
            profile = f" ({run['profile']})" if level in ("preprocess", "pipeline") else ""
            parts.append(f"{level}{profile} {counts['pass']}/{asked}" if asked else f"{level} not done")
    return " · ".join(parts)


def _kinds(outsider: Outsider) -> str:
    known = dict.fromkeys((d.level, d.kind) for d in outsider.differences)
    return "; ".join(f"{level}: {kind}" for level, kind in known) or "nothing"


def _section(outsider: Outsider, found: Mapping[str, Any] | None) -> Iterator[Block]:
    yield Heading(2, outsider.title, outsider.name)
    adapter = outsider.adapter.partition(":")[0]
    yield (
        f"`{outsider.package}` {outsider.version}. {outsider.claims} Adapter: [{adapter}](gallery/adapters/{adapter})."
    )
    if found is None or "not_installed" in found:
        yield "It wasn't asked." if found is None else f"It could not be installed: {_cell(found['not_installed'])}"
        return
    for run in found["runs"]:
        yield Listing([f"With `--profile {run['profile']}`: {_cell(run['summary'])}.", *map(_cell, _sentences(run))])
    if outsider.differences:
        yield Table([("where", "kind", "cause", "line", "how it was checked"), *map(_row, outsider.differences)])
    else:
        yield "Nothing differs."
    operators = "; torchvision's operators, which don't load there, were names only" if found["operators_named"] else ""
    yield (
        f"Asked on {found['date']} with clipref {found['clipref']} and Python {found['python']} on "
        f"{found['processor']}; {found['megabytes']} MB of packages, {sum(run['seconds'] for run in found['runs'])} s"
        f"{operators}."
    )


def _sentences(run: Mapping[str, Any]) -> Iterator[str]:
    yield from run["shared"]
    for diagnosis in run["diagnoses"]:
        says = diagnosis["says"]
        known = f"explains {diagnosis['explains']} of {diagnosis['of']}"
        cost = f"; {diagnosis['cost']}" if diagnosis["cost"] else ""
        yield f"{says[0].upper()}{says[1:]}: {known}{cost}."
    if run["advice"]:
        yield run["advice"]


def _row(difference: Difference) -> Sequence[str]:
    line = f"`{difference.line}`"
    source = f" of {difference.line.source}" if difference.line.source else ""
    return difference.level, difference.kind, _cell(difference.what), f"{line}{source}", _cell(difference.checked)


def _cell(text: str) -> str:
    """Without what would end a cell of a table or a line."""
    return " ".join(text.replace("|", "\\|").split())


def as_markdown(contents: Iterator[Block]) -> str:
    """The blocks in Markdown."""
    parts = []
    for block in contents:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {_anchor(block)}{_escape(block.text)}")
        elif isinstance(block, Listing):
            parts.append("\n".join(f"- {_escape(item)}" for item in block.items))
        elif isinstance(block, Table):
            head, *rows = (f"| {' | '.join(map(_escape, row))} |" for row in block.rows)
            parts.append("\n".join([head, f"|{'---|' * len(block.rows[0])}", *rows]))
        else:
            parts.append(_escape(block))
    return "\n\n".join(parts) + "\n"


def _anchor(heading: Heading) -> str:
    return f'<a id="{heading.anchor}"></a>' if heading.anchor else ""


def _escape(text: str) -> str:
    """Without what Markdown would take for HTML; in `code` it takes nothing."""
    code = text.split("`")
    return "`".join(part if i % 2 else part.replace("&", "&amp;").replace("<", "&lt;") for i, part in enumerate(code))


def as_html(contents: Iterator[Block]) -> str:
    """The blocks as a page that needs nothing else, to lie where GALLERY.md does."""
    parts = []
    for block in contents:
        if isinstance(block, Heading):
            parts.append(f"<h{block.level}>{_anchor(block)}{_inline(block.text)}</h{block.level}>")
        elif isinstance(block, Listing):
            parts.append(f"<ul>{''.join(f'<li>{_inline(item)}</li>' for item in block.items)}</ul>")
        elif isinstance(block, Table):
            rows = [_cells("th" if i == 0 else "td", row) for i, row in enumerate(block.rows)]
            parts.append(f'<div class="wide"><table>{"".join(rows)}</table></div>')
        else:
            parts.append(f"<p>{_inline(block)}</p>")
    body = "\n".join(parts)
    return html_page(
        "Gallery: other implementations of CLIP", _STYLE.read_text(encoding="utf-8"), f"<main>{body}</main>\n"
    )


def _cells(tag: str, row: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{_inline(cell)}</{tag}>' for cell in row)}</tr>\n"


def _inline(text: str) -> str:
    html = escape(text.replace("\\|", "|"))
    html = re.sub(r"`([^`]+)`", r"<code>\1</code>", html)
    html = re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", html)
    return re.sub(r"\[([^\]]+)\]\(([^)\s]+)\)", r'<a href="\2">\1</a>', html)
