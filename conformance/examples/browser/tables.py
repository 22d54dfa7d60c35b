"""The tables that cleaning.js needs, taken from the ftfy and the Python that are installed, as JSON.

They are data of ftfy (https://ftfy.readthedocs.io, Apache 2.0) and of Python's `html` and `codecs`; nothing of them is
kept here, so that the JavaScript repairs texts by the same tables as clipref does.
"""

from __future__ import annotations

import html
import html.entities
import json
from pathlib import Path
from typing import Any

from ftfy import badness, chardata, fixes

# Python's classes of characters, where JavaScript means less by the same name.
CLASSES = {r"\w": r"[\p{L}\p{N}_]", ".": r"[^\n]"}


def write_tables(path: Path) -> None:
    """Write all tables to a file."""
    path.write_text(json.dumps(tables()), encoding="ascii")


def tables() -> dict[str, Any]:
    """Patterns as JavaScript has them, and characters by what stands for them."""
    return {
        "bad": plain_pattern(badness.BADNESS_RE.pattern),
        "mojibake": plain_pattern(chardata.UTF8_DETECTOR_RE.pattern),
        # A pattern of bytes, as text of the characters U+0000 to U+00FF.
        "spaced": chardata.ALTERED_UTF8_RE.pattern.decode("latin-1"),
        "graveWord": fixes.A_GRAVE_WORD_RE.pattern.decode("latin-1"),
        "lossy": chardata.LOSSY_UTF8_RE.pattern.decode("latin-1"),
        "encodings": [[name, characters_of(name)] for name in chardata.CHARMAP_ENCODINGS],
        "windows1252": characters_of("windows-1252"),
        "ligatures": {chr(code): letters for code, letters in chardata.LIGATURES.items()},
        "safeEntities": chardata.HTML_ENTITIES,
        "entities": html.entities.html5,
        "numbers": html._invalid_charrefs | dict.fromkeys(html._invalid_codepoints, ""),
    }


def characters_of(encoding: str) -> list[str | None]:
    """The character of each of the 256 bytes, or None where there is none."""
    characters: list[str | None] = []
    for byte in range(256):
        try:
            characters.append(bytes([byte]).decode(encoding))
        except UnicodeDecodeError:
            characters.append(None)
    return characters


def plain_pattern(verbose: str) -> str:
    """A verbose pattern of Python's as JavaScript has it: no white space, no comments, Python's classes."""
    found, i, within = "", 0, False  # within square brackets, where white space counts
    while i < len(verbose):
        part = verbose[i : i + 2] if verbose[i] == "\\" else verbose[i]
        i += len(part)
        if within:
            within = part != "]"
            found += part
        elif part == "#":
            i = verbose.index("\n", i)
        elif not part.isspace():
            within = part == "["
            found += CLASSES.get(part, part)
    return found
