"""A page of thumbnails in one file of HTML, which opens anywhere and asks nothing of a network."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ..cli.pages import html_page
from ..cli.texts import name_of
from ..errors import ImageError
from ..preprocessing import open_image
from .shards import member_bytes

# Pixels of a thumbnail's longer side, and JPEG's quality: about 8 KB each.
SIDE, QUALITY = 240, 80

STYLE = """
body { font: 14px system-ui, sans-serif; margin: 2em; background: #fff; color: #222 }
section { display: flex; flex-wrap: wrap; gap: 1em; margin-bottom: 2em }
figure { margin: 0; width: 240px }
img { display: block; max-width: 240px; max-height: 240px }
figcaption { overflow-wrap: anywhere; margin-top: .3em }
small { color: #666 }
@media (prefers-color-scheme: dark) { body { background: #111; color: #ddd } small { color: #999 } }
"""


class Section(NamedTuple):
    """Pictures under a title: (path relative to the folder, what is said of it)."""

    title: str
    pictures: Sequence[tuple[str, str]]


def page(title: str, sections: Sequence[Section], folder: Path, upright: bool = True) -> str:
    """The page, with the pictures of the folder as small copies in it. One that can't be read shows why."""
    parts = [f"<h1>{as_html(title)}</h1>"]
    for section in sections:
        if section.title:
            parts.append(f"<h2>{as_html(section.title)}</h2>")
        figures = (figure(folder, path, caption, upright) for path, caption in section.pictures)
        parts += ["<section>", *figures, "</section>"]
    return html_page(name_of(title), STYLE, "\n".join(parts) + "\n")


def figure(folder: Path, path: str, caption: str, upright: bool) -> str:
    """A picture with its path and what is said of it."""
    try:
        small = base64.b64encode(thumbnail(member_bytes(folder, path) or folder / path, upright)).decode()
        picture = f'<img loading="lazy" alt="" src="data:image/jpeg;base64,{small}">'
    except ImageError as error:
        picture = f"<p>{as_html(str(error))}</p>"
    return f"<figure>{picture}<figcaption>{as_html(path)}<br><small>{as_html(caption)}</small></figcaption></figure>"


def thumbnail(picture: str | os.PathLike[str] | io.BytesIO, upright: bool = True, side: int = SIDE) -> bytes:
    """A JPEG of at most `side` pixels a side. Raises ImageError."""
    image: Any = open_image(picture, upright=upright)
    image = image.convert("RGB")
    image.thumbnail((side, side))
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def as_html(text: str) -> str:
    """A text as HTML; bytes of a name that are no UTF-8 are replaced."""
    return html.escape(name_of(text).encode("utf-8", "replace").decode("utf-8"))
