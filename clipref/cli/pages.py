"""Pages of HTML that need nothing else: what stands around the contents of all of them."""

from __future__ import annotations

from html import escape


def html_page(title: str, style: str, body: str) -> str:
    """A whole page. The title is text, and is escaped here; `style` is CSS and `body` HTML, both taken as they are.

    A title with what UTF-8 can't write, as names of files may have, is shown with replacements.
    """
    name = escape(title.encode("utf-8", "replace").decode("utf-8"))
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{name}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{style}</style></head>\n'
        f"<body>\n{body}</body></html>\n"
    )
