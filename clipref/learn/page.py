"""A chapter that was run as one page of HTML, which needs nothing else: its pictures are inside."""

from __future__ import annotations

from html import escape
from pathlib import Path

from ..cli.pages import html_page
from .chapters import Cell, Ran, chapters
from .markdown import html_of

_STYLES = [Path(__file__).parent.parent / "look" / "page.css", Path(__file__).with_name("page.css")]


def chapter_page(ran: Ran) -> str:
    """The page of a chapter. Links to other chapters lead to their pages, beside it."""
    style = "".join(path.read_text(encoding="utf-8") for path in _STYLES)
    body = "\n".join(_cell(part) if isinstance(part, Cell) else html_of(part, page_address) for part in ran.parts)
    links = " ".join(
        f'<a href="{one.name}.html"{" aria-current=page" if one.name == ran.chapter.name else ""}>'
        f"{escape(one.key if one.key.isdigit() else 'names')}<span class=title> {escape(one.title)}</span></a>"
        for one in chapters()
    )
    frame = f'<main class="chapter">\n{body}\n<nav aria-label="All chapters">{links}</nav></main>\n'
    return html_page(f"{ran.chapter.title} - CLIP, opened", style, frame)


def page_address(address: str) -> str:
    """Where a link leads from a page: to another chapter's page, or where it led."""
    return address if "://" in address else address.replace(".md", ".html")


def _cell(cell: Cell) -> str:
    if cell.hidden:
        return ""
    code = f'<pre class="cell" tabindex="0" role="region" aria-label="code"><code>{escape(cell.code)}</code></pre>'
    pictures = "".join(f'<div class="picture">{picture.html}</div>' for picture in cell.pictures)
    printed = cell.output
    for picture in cell.pictures:
        printed = printed.replace(f"{picture!r}\n", "")
    if printed:
        code += (
            f'<pre class="output" tabindex="0" role="region" aria-label="output"><samp>{escape(printed)}</samp></pre>'
        )
    return code + pictures
