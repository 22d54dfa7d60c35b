"""Maps, bars and tables of numbers as HTML and SVG: what is drawn is said in words too, for those who don't see it."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..cli.streams import printable

Array: TypeAlias = NDArray[Any]

# An embedding's parts are small shares of a cosine; three digits tell them apart.
DIGITS = 3


def as_html(text: str) -> str:
    """A text as HTML, on one line, what a terminal would obey escaped."""
    return escape(printable(text), quote=True)


def with_sign(value: float, digits: int = DIGITS) -> str:
    """A number with its sign; a true minus, which screen readers say."""
    rounded = f"{abs(value):.{digits}f}"
    sign = "" if float(rounded) == 0 else "+" if value > 0 else "\N{MINUS SIGN}"
    return sign + rounded


def data_address(picture: Array) -> str:
    """An image [R, R, 3] uint8 as an address that contains it."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"


def map_figure(values: Array, title: str, what: str) -> str:
    """A map [rows, columns] over the picture: where values are high warm, where they are below 0 cold.

    What is between is left to the darkened picture. `what` says what the values are.
    """
    rows, columns = values.shape
    largest = float(np.abs(values).max()) or 1.0
    cells = []
    for row in range(rows):
        for column in range(columns):
            value = float(values[row, column])
            opacity = abs(value) / largest * 0.85
            tip = f"<title>row {row + 1}, column {column + 1}: {with_sign(value, 4)}</title>"
            kind = "more" if value > 0 else "less"
            cells.append(
                f'<rect class="{kind}" x="{column}" y="{row}" width="1" height="1" opacity="{opacity:.2f}">{tip}</rect>'
            )
    high, low = (np.unravel_index(pick(values), values.shape) for pick in (np.argmax, np.argmin))
    words = (
        f"{what} for {title}: highest {with_sign(float(values[high]), 4)} at row {high[0] + 1}, column {high[1] + 1}; "
        f"lowest {with_sign(float(values[low]), 4)} at row {low[0] + 1}, column {low[1] + 1}; "
        f"{rows} by {columns} cells"
    )
    return (
        f'<figure><svg class="map" role="img" viewBox="0 0 {columns} {rows}" preserveAspectRatio="none" '
        f'aria-label="{as_html(words)}"><rect class="shade" width="{columns}" height="{rows}"/>{"".join(cells)}</svg>'
        f'<figcaption><b>{as_html(title)}</b><span class="soft">from {with_sign(float(values[low]), 3)} to '
        f"{with_sign(float(values[high]), 3)}</span></figcaption></figure>"
    )


def bar(value: float, largest: float) -> str:
    """A bar from the middle to the right or the left; the number stands beside it, so that it need not be read out."""
    size = 50 * min(1.0, abs(value) / (largest or 1.0))
    left = 50 if value > 0 else 50 - size
    kind = "more" if value > 0 else "less"
    return (
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="{kind}" x="{left:.2f}" y="1" width="{size:.2f}" height="8"/>'
        '<line class="zero" x1="50" x2="50" y1="0" y2="10"/></svg>'
    )


def bars_table(caption: str, head: Sequence[str], rows: Sequence[tuple[str, Sequence[float] | Array]]) -> str:
    """Names and numbers, each number with its bar, all of one scale."""
    largest = max((abs(float(v)) for _, values in rows for v in values), default=1.0)
    heads = "".join(f'<th scope="col" colspan="2">{as_html(name)}</th>' for name in head[1:])
    body = "".join(
        f'<tr><th scope="row">{as_html(name)}</th>'
        + "".join(f'<td class="n">{with_sign(float(v))}</td><td>{bar(float(v), largest)}</td>' for v in values)
        + "</tr>"
        for name, values in rows
    )
    return wide(
        caption,
        f"<table><caption>{as_html(caption)}</caption><thead><tr>"
        f'<th scope="col">{as_html(head[0])}</th>{heads}</tr></thead><tbody>{body}</tbody></table>',
    )


def heads_table(caption: str, values: Array) -> str:
    """Numbers [layers, heads], each on its colour."""
    largest = float(np.abs(values).max()) or 1.0
    head = "".join(f'<th scope="col">head {i}</th>' for i in range(values.shape[1]))
    body = "".join(
        f'<tr><th scope="row">layer {i}&nbsp;</th>' + "".join(_cell(float(v), largest) for v in row) + "</tr>"
        for i, row in enumerate(values)
    )
    return wide(
        caption,
        f'<table class="heads"><caption>{as_html(caption)}</caption><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table>",
    )


def _cell(value: float, largest: float) -> str:
    share = abs(value) / largest * 0.45  # so pale that the number can be read
    colour = "var(--more)" if value > 0 else "var(--less)"
    return f'<td style="background: color-mix(in srgb, {colour} {share:.0%}, transparent)">{with_sign(value)}</td>'


def numbers_table(caption: str, values: Array) -> str:
    """A map's numbers [rows, columns] as a table."""
    head = "".join(f'<th scope="col" class="n">{i + 1}</th>' for i in range(values.shape[1]))
    body = "".join(
        f'<tr><th scope="row">{i + 1}</th>'
        + "".join(f'<td class="n">{with_sign(float(v))}</td>' for v in row)
        + "</tr>"
        for i, row in enumerate(values)
    )
    table = f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody>"
    return wide(caption, f"<table><caption>{as_html(caption)}</caption>{table}</table>")


def wide(label: str, content: str) -> str:
    """What may be wider than the window: it scrolls by itself, by keyboard too."""
    return f'<div class="wide" role="region" tabindex="0" aria-label="{as_html(label)}">{content}</div>'
