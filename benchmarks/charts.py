"""Charts of the benchmarks, as SVG."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

COLOURS = ("#2a6fbb", "#d1495b", "#3b8b5a", "#8e5ea2", "#e08e0b", "#00798c", "#6b6b6b", "#b35c1e", "#c77dbb", "#4c956c")

Point = tuple[float, float]


def bars(title: str, groups: Mapping[str, Sequence[tuple[str, float, str, bool]]]) -> str:
    """Horizontal bars, a group under each heading: (name, length, label, ours), the shortest first; ours in blue."""
    lines, y = [], 50
    for heading, members in groups.items():
        lines.append(f'<text x="10" y="{y}" font-weight="bold">{html.escape(heading)}</text>')
        longest = max(length for _, length, _, _ in members)
        for name, length, label, ours in sorted(members, key=lambda member: member[1]):
            y += 20
            width = 480 * length / longest
            colour = COLOURS[0] if ours else "#b0b0b0"
            lines.append(f'<text x="220" y="{y}" text-anchor="end">{html.escape(name)}</text>')
            lines.append(f'<rect x="230" y="{y - 12}" width="{width:.1f}" height="15" fill="{colour}"/>')
            lines.append(f'<text x="{235 + width:.1f}" y="{y}">{html.escape(label)}</text>')
        y += 35
    return _svg(title, 910, y, lines)


def curves(title: str, panels: Mapping[str, Mapping[str, Sequence[Point]]], across: str) -> str:
    """A panel under each heading, both axes logarithmic: a line through the points (x, y) of each name."""
    lines, y = [], 40
    names = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    for heading, panel in panels.items():
        lines += _panel(heading, panel, across, colours, y)
        y += 330
    for i, name in enumerate(names):
        at = 60 + 18 * i
        dash = _dash(i)
        lines.append(f'<line x1="650" y1="{at}" x2="680" y2="{at}" stroke="{colours[name]}" stroke-width="2"{dash}/>')
        lines.append(f'<text x="686" y="{at + 4}">{html.escape(name)}</text>')
    return _svg(title, 910, max(y, 80 + 18 * len(names)), lines)


def _dash(i: int) -> str:
    """Lines beyond the colours are dashed."""
    return "" if i < len(COLOURS) else f' stroke-dasharray="{2 + 4 * (i // len(COLOURS))} 3"'


def _panel(
    heading: str, panel: Mapping[str, Sequence[Point]], across: str, colours: Mapping[str, str], top: int
) -> list[str]:
    left, width, height = 60, 560, 250
    points = [point for line in panel.values() for point in line if min(point) > 0]
    if not points:
        return [f'<text x="10" y="{top}" font-weight="bold">{html.escape(heading)}: no points</text>']
    (x_low, x_high), (y_low, y_high) = (_range([p[axis] for p in points]) for axis in (0, 1))

    def place(point: Point) -> Point:
        x = left + width * math.log(point[0] / x_low) / math.log(x_high / x_low)
        return x, top + 20 + height - height * math.log(point[1] / y_low) / math.log(y_high / y_low)

    lines = [f'<text x="10" y="{top}" font-weight="bold">{html.escape(heading)}</text>']
    lines.append(f'<rect x="{left}" y="{top + 20}" width="{width}" height="{height}" fill="none" stroke="#ccc"/>')
    for x in sorted({point[0] for point in points}):
        at = place((x, y_low))[0]
        lines.append(f'<text x="{at:.1f}" y="{top + height + 36}" text-anchor="middle">{x:g}</text>')
    for y in _ticks(y_low, y_high):
        at = place((x_low, y))[1]
        lines.append(f'<line x1="{left}" x2="{left + width}" y1="{at:.1f}" y2="{at:.1f}" stroke="#eee"/>')
        lines.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{y:g}</text>')
    lines.append(f'<text x="{left + width}" y="{top + height + 52}" text-anchor="end">{html.escape(across)}</text>')
    names = list(colours)
    for name, line in panel.items():
        placed = [place(point) for point in sorted(line) if min(point) > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        stroke = f'stroke="{colours[name]}" stroke-width="2"{_dash(names.index(name))}'
        lines.append(f'<polyline points="{path}" fill="none" {stroke}/>')
        lines += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="{colours[name]}"/>' for x, y in placed]
    return lines


def _range(values: Sequence[float]) -> Point:
    """The least and the greatest, a little apart where they are one."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low / 1.1, high * 1.1)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten between."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [tick for power in powers for step in (1, 2, 5) if low <= (tick := step * 10.0**power) <= high]


def _svg(title: str, width: int, height: int, lines: Sequence[str]) -> str:
    head = f'<text x="10" y="22" font-size="15">{html.escape(title)}</text>'
    style = 'font-family="sans-serif" font-size="12"'
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    body = "\n".join([head, *lines])
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n{background}\n{body}\n</svg>\n'
