"""Shapes as masks: each outline varies in its proportions, its turn, its stretch, its corners and its edge."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from PIL.Image import Image

Point: TypeAlias = tuple[float, float]
Outline: TypeAlias = tuple[Sequence[Point], Sequence[Point]]  # what is filled, and what is cut out of it

_MOST_TURNED = math.radians(12)
_MOST_STRETCHED = 0.12
_SEGMENTS = 64  # of a closed curve


def draw_shape(shape: str, side: int, centre: Point, radius: float, style: random.Random) -> Image:
    """The mask of one object: 8-bit, `side` pixels a side, 255 inside.

    The outline's unit is `radius` pixels, and `style` decides all in which two objects of one shape differ.
    """
    from PIL import Image, ImageDraw

    filled, cut = OUTLINES[shape](style)
    turn = style.uniform(-_MOST_TURNED, _MOST_TURNED)
    wide, high = (style.uniform(1 - _MOST_STRETCHED, 1) for _ in range(2))
    rounding = style.choice((0.0, 0.0, 0.06, 0.12)) * radius

    def place(points: Sequence[Point]) -> list[Point]:
        placed = []
        for x, y in points:
            x, y = x * wide, y * high
            x, y = x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)
            placed.append((centre[0] + radius * x, centre[1] + radius * y))
        return placed

    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    draw.polygon(place(filled), fill=255)
    if cut:
        draw.polygon(place(cut), fill=0)
    if rounding:  # blurred and cut at half, a corner becomes an arc
        mask = blur(mask, rounding).point(lambda value: 255 if value > 127 else 0)
    return mask


def blur(mask: Image, radius: float) -> Image:
    """`mask.filter(GaussianBlur(radius))`, computed around the object alone: further off, all is and stays 0."""
    from PIL import Image, ImageFilter

    left, top, right, bottom = mask.getbbox() or (0, 0, 0, 0)
    margin = math.ceil(4 * radius) + 4  # Pillow's three boxes reach less far
    around = (max(left - margin, 0), max(top - margin, 0), right + margin, bottom + margin)
    blurred = Image.new("L", mask.size, 0)
    part = mask.crop((*around[:2], min(around[2], mask.width), min(around[3], mask.height)))
    blurred.paste(part.filter(ImageFilter.GaussianBlur(radius)), around[:2])
    return blurred


def _ellipse(x: float, y: float, radius: float) -> list[Point]:
    angles = [2 * math.pi * i / _SEGMENTS for i in range(_SEGMENTS)]
    return [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in angles]


def _circle(style: random.Random) -> Outline:
    return _ellipse(0, 0, style.uniform(0.9, 1)), ()


def _square(style: random.Random) -> Outline:
    half = style.uniform(0.78, 0.88)
    return [(-half, -half), (half, -half), (half, half), (-half, half)], ()


def _triangle(style: random.Random) -> Outline:
    half, foot, apex = style.uniform(0.8, 1), style.uniform(0.5, 0.8), style.uniform(-0.15, 0.15)
    return [(apex, -1), (half, foot), (-half, foot)], ()


def _star(style: random.Random) -> Outline:
    inner = style.uniform(0.36, 0.52)
    points = [(1.0 if i % 2 == 0 else inner, i * math.pi / 5) for i in range(10)]
    return [(r * math.sin(t), -r * math.cos(t)) for r, t in points], ()


def _cross(style: random.Random) -> Outline:
    arm = style.uniform(0.22, 0.4)
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    turned = [[(x, y), (-y, x), (-x, -y), (y, -x)] for x, y in quarter]
    return [corner[turn] for turn in range(4) for corner in turned], ()


def _ring(style: random.Random) -> Outline:
    return _ellipse(0, 0, 1), _ellipse(0, 0, style.uniform(0.45, 0.72))


def _heart(style: random.Random) -> Outline:
    """Two round lobes over a point; `dip` is how far the notch between them reaches down."""
    dip, foot = style.uniform(3, 6.5), style.uniform(0.85, 1.05)
    angles = [2 * math.pi * i / _SEGMENTS for i in range(_SEGMENTS)]
    heights = [13 * math.cos(t) - dip * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in angles]
    return [(math.sin(t) ** 3, -foot * h / 17) for t, h in zip(angles, heights, strict=True)], ()


def _crescent(style: random.Random) -> Outline:
    """A disc less another one, which lies to its right or, as often, to its left."""
    shift, hole = style.uniform(0.42, 0.68), style.uniform(0.75, 0.9)
    side = style.choice((-1, 1))
    return _ellipse(0, 0, 1), _ellipse(side * shift, 0, hole)


OUTLINES: dict[str, Callable[[random.Random], Outline]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
    "ring": _ring,
    "heart": _heart,
    "crescent": _crescent,
}
