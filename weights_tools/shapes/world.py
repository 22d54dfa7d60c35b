"""The world that the embedded models know: one kind of object a scene, drawn with Pillow.

A scene has a shape, a colour, a size, a count, a position, a fill pattern and a background, all drawn from a seed, so
that a number is all it takes to see a scene again. Some pairs of colour and shape are held out: training never shows
them, though it shows each such colour and each such shape in other pairs.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

COLOURS = {
    "red": (214, 39, 40),
    "green": (44, 160, 44),
    "blue": (31, 85, 200),
    "yellow": (250, 215, 40),
    "orange": (255, 140, 20),
    "purple": (130, 50, 180),
    "pink": (250, 120, 190),
    "cyan": (40, 200, 215),
    "brown": (125, 75, 35),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart", "crescent")
SIZES = {"small": 0.17, "medium": 0.23, "large": 0.3}  # radius, in widths of the picture
COUNTS = {1: 1.0, 2: 0.68, 3: 0.58, 4: 0.55}  # objects, and what becomes of their radius when there are as many
PATTERNS = ("solid", "striped", "dotted")
BACKGROUNDS = {
    "white": (250, 250, 250),
    "black": (15, 15, 15),
    "grey": (128, 128, 128),
    "beige": (235, 220, 190),
    "navy": (20, 25, 75),
}
POSITIONS = {"left": (0.28, 0.5), "right": (0.72, 0.5), "top": (0.5, 0.28), "bottom": (0.5, 0.72), "middle": (0.5, 0.5)}

# A scene's attributes and the values of each, in one order for captions, training and tests.
ATTRIBUTES: dict[str, tuple[object, ...]] = {
    "colour": tuple(COLOURS),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "count": tuple(COUNTS),
    "position": tuple(POSITIONS),
    "pattern": PATTERNS,
    "background": tuple(BACKGROUNDS),
}

CLASSES = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("green", "heart"),
        ("blue", "ring"),
        ("yellow", "cross"),
        ("orange", "square"),
        ("purple", "crescent"),
        ("pink", "triangle"),
        ("cyan", "circle"),
        ("brown", "star"),
        ("blue", "triangle"),
    }
)

_SUPERSAMPLING = 2  # Pillow draws without antialiasing


@dataclass(frozen=True)
class Scene:
    """A picture in words; `seed` decides what the words leave open, such as where exactly and which shade."""

    colour: str
    shape: str
    size: str
    count: int
    position: str
    pattern: str
    background: str
    seed: int

    @property
    def attributes(self) -> tuple[object, ...]:
        """Values in the order of ATTRIBUTES."""
        return tuple(getattr(self, name) for name in ATTRIBUTES)

    def draw(self, size: int = 224) -> Image:
        """The picture, RGB, `size` pixels a side."""
        from PIL import Image

        side = size * _SUPERSAMPLING
        shade = random.Random(f"shade {self.seed}")
        picture = Image.new("RGB", (side, side), BACKGROUNDS[self.background])
        r, g, b = (min(255, round(value * shade.uniform(0.92, 1.06))) for value in COLOURS[self.colour])
        radius, centres = self._layout(side)
        for centre in centres:
            picture.paste((r, g, b), mask=self._mask(side, centre, radius))
        return picture.reduce(_SUPERSAMPLING)

    def _layout(self, side: int) -> tuple[float, list[tuple[float, float]]]:
        """The objects' radius and centres in pixels, inside the picture and apart from each other."""
        place = random.Random(f"place {self.seed}")
        radius = SIZES[self.size] * COUNTS[self.count] * side * place.uniform(0.93, 1.07)
        gap = 1.15 * radius
        around = {
            1: [[(0.0, 0.0)]],
            2: [[(-gap, 0.0), (gap, 0.0)], [(0.0, -gap), (0.0, gap)]],
            3: [[(-gap, gap), (gap, gap), (0.0, -gap)], [(-gap, -gap), (gap, -gap), (0.0, gap)]],
            4: [[(-gap, -gap), (gap, -gap), (-gap, gap), (gap, gap)]],
        }[self.count]
        offsets = place.choice(around)
        middle = []
        for axis in (0, 1):
            reach = max(abs(offset[axis]) for offset in offsets) + radius
            wanted = (POSITIONS[self.position][axis] + place.uniform(-0.03, 0.03)) * side
            middle.append(min(max(wanted, reach), side - reach))
        return radius, [(middle[0] + dx, middle[1] + dy) for dx, dy in offsets]

    def _mask(self, side: int, centre: tuple[float, float], radius: float) -> Image:
        """Where one object is: its outline filled, less its pattern's gaps, with a rim that keeps the shape plain."""
        from PIL import ImageChops

        whole = _shape_mask(self.shape, side, centre, radius)
        if self.pattern == "solid":
            return whole
        inside = _shape_mask(self.shape, side, centre, radius * 0.84)
        gaps = ImageChops.multiply(inside, _gaps(self.pattern, side, centre, radius))
        return ImageChops.subtract(whole, gaps)


def _shape_mask(shape: str, side: int, centre: tuple[float, float], radius: float) -> Image:
    """White where the shape is, on black, 8-bit."""
    from PIL import Image, ImageDraw

    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    x, y = centre

    def disc(x: float, y: float, rx: float, ry: float, fill: int) -> None:
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=fill)

    if shape in ("circle", "ring", "crescent"):
        disc(x, y, radius, radius, 255)
    if shape == "ring":
        disc(x, y, radius * 0.55, radius * 0.55, 0)
    elif shape == "crescent":
        disc(x + radius * 0.6, y, radius * 0.85, radius * 0.85, 0)
    elif shape != "circle":
        draw.polygon([(x + radius * px, y + radius * py) for px, py in _OUTLINES[shape]], fill=255)
    return mask


def _gaps(pattern: str, side: int, centre: tuple[float, float], radius: float) -> Image:
    """White where a pattern lets the background through: between stripes, or between dots."""
    from PIL import Image, ImageDraw

    step = radius * 0.4
    gaps = Image.new("L", (side, side), 0 if pattern == "striped" else 255)
    draw = ImageDraw.Draw(gaps)
    ticks = [i * step for i in range(-3, 4)]
    for dy in ticks:
        top = centre[1] + dy
        if pattern == "striped":
            draw.rectangle((0, top, side, top + step * 0.5), fill=255)
        else:
            for dx in ticks:
                left = centre[0] + dx
                draw.ellipse((left, top, left + step * 0.62, top + step * 0.62), fill=0)
    return gaps


def _star() -> list[tuple[float, float]]:
    radii = [1.0, 0.42] * 5
    return [(r * math.sin(i * math.pi / 5), -r * math.cos(i * math.pi / 5)) for i, r in enumerate(radii)]


def _cross(arm: float = 0.33) -> list[tuple[float, float]]:
    quarter = [(-arm, -1.0), (arm, -1.0), (arm, -arm)]
    turned = [[(x, y), (-y, x), (-x, -y), (y, -x)] for x, y in quarter]
    return [corner[turn] for turn in range(4) for corner in turned]


def _heart(points: int = 48) -> list[tuple[float, float]]:
    angles = [2 * math.pi * i / points for i in range(points)]
    lobes = [13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t) for t in angles]
    return [(math.sin(t) ** 3, -lobe / 16) for t, lobe in zip(angles, lobes, strict=True)]


_OUTLINES = {
    "square": [(-0.85, -0.85), (0.85, -0.85), (0.85, 0.85), (-0.85, 0.85)],
    "triangle": [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)],
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
}


def scene(seed: int, held_out: bool | None = None) -> Scene:
    """The scene of a seed: with `held_out` True of a pair that is never trained on, with False of any other pair."""
    draw = random.Random(f"scene {seed}")
    pairs = [pair for pair in CLASSES if held_out is None or (pair in HELD_OUT) == held_out]
    colour, shape = draw.choice(pairs)
    return Scene(
        colour=colour,
        shape=shape,
        size=draw.choice(list(SIZES)),
        count=draw.choice([1, 1, 1, 2, 3, 4]),
        position=draw.choice(list(POSITIONS)),
        pattern=draw.choice(PATTERNS),
        background=draw.choice(list(BACKGROUNDS)),
        seed=seed,
    )
