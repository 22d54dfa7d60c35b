"""Markdown to HTML, as much of it as chapters are written in; what isn't among that is an error, never shown wrong.

Headings, paragraphs, lists of one level, indented and fenced code, and within a line `code`, *emphasis*, **bold** and
[links](address). A library would be a dependency of everybody, for a syntax that is ours to choose.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from html import escape

from ..errors import InputError

_INLINE = re.compile(
    r"`(?P<code>[^`]+)`|\*\*(?P<bold>.+?)\*\*|\*(?P<emphasis>[^*\s][^*]*)\*|\[(?P<link>(?:[^\[\]`]|`[^`]*`)+)\]\((?P<address>[^()\s]+)\)",
    re.DOTALL,
)


def html_of(text: str, address_of: Callable[[str], str] = lambda address: address) -> str:
    """A piece of Markdown as HTML. `address_of` turns the addresses of links. Raises InputError."""
    return "\n".join(_block(block, address_of) for block in re.split(r"\n{2,}", text.strip("\n")) if block.strip())


def _block(block: str, address_of: Callable[[str], str]) -> str:
    if heading := re.fullmatch(r"(#{1,3}) (.+)", block):
        level = len(heading[1])
        return f"<h{level}>{inline(heading[2], address_of)}</h{level}>"
    if all(line.startswith("    ") for line in block.splitlines()):
        return f"<pre><code>{escape(re.sub(r'^    ', '', block, flags=re.MULTILINE))}</code></pre>"
    if block.startswith("- "):
        items = re.split(r"\n- ", block[2:])
        return "<ul>" + "".join(f"<li>{inline(item, address_of)}</li>" for item in items) + "</ul>"
    if re.match(r"[#>|<]|```|\d+\. |[*+] |---|!\[", block):
        raise InputError(f"This Markdown isn't among what chapters are written in: {block[:60]!r}.")
    return f"<p>{inline(block, address_of)}</p>"


def inline(text: str, address_of: Callable[[str], str] = lambda address: address) -> str:
    """What a line of Markdown is, as HTML."""

    def markup(match: re.Match[str]) -> str:
        if match["code"]:
            return f"<code>{escape(match['code'], quote=False)}</code>"
        if match["bold"]:
            return f"<b>{inline(match['bold'], address_of)}</b>"
        if match["emphasis"]:
            return f"<em>{inline(match['emphasis'], address_of)}</em>"
        address = escape(address_of(match["address"]), quote=True)
        return f'<a href="{address}">{inline(match["link"], address_of)}</a>'

    found, position = [], 0
    for match in _INLINE.finditer(text):
        found += [escape(text[position : match.start()], quote=False), markup(match)]
        position = match.end()
    return "".join([*found, escape(text[position:], quote=False)])
