"""Drawings that share no code with the worlds the embedded models were trained on: numpy alone, named web colours.

A shape is a predicate over the plane, sampled 4 x 4 times a pixel; nothing of it comes from Pillow or from the worlds'
outlines. `drawings()` gives as many as asked for, each with its colour and its shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
# Names and values of CSS Color Module Level 4, section 6.1, https://www.w3.org/TR/css-color-4/#named-colors
WEB_COLOURS = {
    "red": ["ff0000", "b22222"],  # red, firebrick
    "green": ["008000", "228b22"],  # green, forestgreen
    "blue": ["0000ff", "4169e1"],  # blue, royalblue
    "yellow": ["ffff00", "ffd700"],  # yellow, gold
    "orange": ["ffa500", "ff8c00"],  # orange, darkorange
    "purple": ["800080", "9932cc"],  # purple, darkorchid
    "pink": ["ff69b4", "ffb6c1"],  # hotpink, lightpink
    "cyan": ["00ffff", "00ced1"],  # cyan, darkturquoise
    "brown": ["8b4513", "a0522d"],  # saddlebrown, sienna
}
WEB_GROUNDS = ["ffffff", "f5f5f5", "000000", "808080"]  # white, whitesmoke, black, grey


def _regular(x: Array, y: Array, corners: int, turn: float = 0.0) -> Array:
    """Inside a regular polygon of circumradius 1, a corner up."""
    angle = np.arctan2(x, -y) + turn
    sector = 2 * math.pi / corners
    return np.hypot(x, y) * np.cos((angle % sector) - sector / 2) <= math.cos(sector / 2)


def _star(x: Array, y: Array) -> Array:
    """A pentagram with its inside: at least four of its five half-planes hold."""
    angles = [2 * math.pi * i / 5 for i in range(5)]
    inside = [x * math.sin(a) + y * math.cos(a) >= -math.cos(2 * math.pi / 5) for a in angles]
    return np.asarray(np.sum(inside, axis=0) >= 4)


def _heart(x: Array, y: Array) -> Array:
    """The sextic (x^2 + y^2 - 1)^3 = x^2 y^3 (https://mathworld.wolfram.com/HeartCurve.html), y up."""
    u, v = 1.2 * x, -1.2 * y + 0.1
    return (u * u + v * v - 1) ** 3 <= u * u * v**3


SHAPES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": lambda x, y: x * x + y * y <= 0.9,
    "square": lambda x, y: np.maximum(abs(x), abs(y)) <= 0.8,
    "triangle": lambda x, y: _regular(x, y, 3),
    "star": _star,
    "cross": lambda x, y: (np.minimum(abs(x), abs(y)) <= 0.3) & (np.maximum(abs(x), abs(y)) <= 0.95),
    "ring": lambda x, y: (x * x + y * y <= 1) & (x * x + y * y >= 0.36),
    "heart": _heart,
    "crescent": lambda x, y: (x * x + y * y <= 1) & ((x - 0.45) ** 2 + y * y >= 0.64),
}


def drawings(n: int, size: int = 200, seed: int = 0) -> Iterator[tuple[Array, str, str]]:
    """n pictures [size, size, 3] uint8 with the colour and the shape that each shows, all pairs in turn."""
    rng = np.random.default_rng(seed)
    pairs = [(colour, shape) for colour in WEB_COLOURS for shape in SHAPES]
    steps = (np.arange(4 * size) + 0.5) / 4
    for i in range(n):
        colour, shape = pairs[i % len(pairs)]
        radius = size * rng.uniform(0.2, 0.34)
        x, y = rng.uniform(1.1 * radius, size - 1.1 * radius, 2)
        inside = SHAPES[shape]((steps[None, :] - x) / radius, (steps[:, None] - y) / radius)
        cover = inside.reshape(size, 4, size, 4).mean((1, 3))[..., None]
        tone, ground = _rgb(rng.choice(WEB_COLOURS[colour])), _rgb(rng.choice(WEB_GROUNDS))
        yield np.rint(cover * tone + (1 - cover) * ground).astype(np.uint8), colour, shape


def _rgb(hexadecimal: str) -> Array:
    return np.array(list(bytes.fromhex(hexadecimal)), np.float64)
