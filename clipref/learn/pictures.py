"""Pictures of chapters: each says in words what it shows, which is what stands in its place where there are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..look.drawing import as_html, data_address, map_figure, wide, with_sign

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Picture:
    """What a cell shows: `words` say it, `html` draws it."""

    words: str
    html: str

    def __repr__(self) -> str:
        return f"[picture: {self.words}]"


def show(images: Any, words: str) -> Picture:
    """A picture (PIL, or [H, W, 3] uint8), or several by their captions."""
    listed = images if isinstance(images, Mapping) else {"": images}
    figures = []
    for caption, image in listed.items():
        below = f"<figcaption><b>{as_html(caption)}</b></figcaption>" if caption else ""
        alternative = as_html(caption or words)
        figures.append(f'<figure><img src="{data_address(_rgb(image))}" alt="{alternative}">{below}</figure>')
    return Picture(words, f'<div class="maps">{"".join(figures)}</div>')


def show_maps(image: Any, maps: Mapping[str, Array], words: str) -> Picture:
    """Maps [rows, columns] over the picture that they are of: warm where they are above 0, cold below."""
    figures = "".join(map_figure(np.asarray(values), title, "map") for title, values in maps.items())
    return Picture(words, f'<div class="maps" style="--picture: url({data_address(_rgb(image))})">{figures}</div>')


def show_matrix(values: Any, rows: Sequence[Any], columns: Sequence[Any], words: str, digits: int = 2) -> Picture:
    """Numbers [rows, columns], each on its colour."""
    values = np.asarray(values, np.float64)
    largest = float(np.abs(values).max()) or 1.0
    head = "".join(f'<th scope="col">{as_html(str(name))}</th>' for name in columns)
    body = "".join(
        f'<tr><th scope="row">{as_html(str(name))}</th>'
        + "".join(_cell(float(v), largest, digits) for v in row)
        + "</tr>"
        for name, row in zip(rows, values, strict=True)
    )
    table = f"<thead><tr><td></td>{head}</tr></thead><tbody>{body}</tbody>"
    return Picture(words, wide(words, f'<table class="heads"><caption>{as_html(words)}</caption>{table}</table>'))


def _cell(value: float, largest: float, digits: int) -> str:
    share = abs(value) / largest * 0.45  # so pale that the number can be read
    colour = "var(--more)" if value > 0 else "var(--less)"
    number = with_sign(value, digits).removeprefix("+")
    return f'<td style="background: color-mix(in srgb, {colour} {share:.0%}, transparent)">{number}</td>'


def show_curves(curves: Mapping[str, Any], words: str) -> Picture:
    """Numbers [steps] as lines over their steps, from 0 up, the first and the last of each in words."""
    values = {name: np.asarray(ys, np.float64) for name, ys in curves.items()}
    top = max(float(ys.max()) for ys in values.values()) or 1.0
    lines, key = [], []
    for i, (name, ys) in enumerate(values.items()):
        xs = np.linspace(0, 600, len(ys))
        points = " ".join(f"{x:.1f},{190 - 180 * y / top:.1f}" for x, y in zip(xs, ys, strict=True))
        lines.append(f'<polyline class="line{i % 3}" points="{points}"/>')
        key.append(
            f'<li><span class="key line{i % 3}"></span>{as_html(name)}: '
            f"from {float(ys[0]):.2f} to {float(ys[-1]):.2f}</li>"
        )
    svg = f'<svg class="curves" role="img" viewBox="0 0 600 200" aria-label="{as_html(words)}">{"".join(lines)}'
    svg += '<line class="zero" x1="0" x2="600" y1="190" y2="190"/></svg>'
    return Picture(words, f'{svg}<ul class="keys">{"".join(key)}</ul>')


def _rgb(image: Any) -> Array:
    array = np.asarray(image.convert("RGB") if hasattr(image, "convert") else image)
    return np.ascontiguousarray(array, np.uint8)
