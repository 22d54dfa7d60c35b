"""Scenes of one or two kinds of object, drawn with Pillow, each of them decided by a number.

A kind has a shape, a colour, a size, a count, a place and a pattern. Two kinds lie side by side or one above the other,
one object each, so that "left of" and "above" are true or false of them. Tones, outlines, edges and places vary from
scene to scene. Where each object lies is known to the pixel (`Scene.masks`).

A scene of two kinds has variants, which show the same colours, shapes and places bound otherwise: learning and
measuring what belongs to what needs them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from clipref.errors import InputError

from ..shapes.world import CLASSES, HELD_OUT, PATTERNS, SHAPES, SIZES
from .outlines import Point, blur, draw_shape

if TYPE_CHECKING:
    from PIL.Image import Image

RGB = tuple[int, int, int]

# The tones of a colour: what is drawn lies between two of them.
TONES: dict[str, tuple[RGB, ...]] = {
    "red": ((214, 39, 40), (255, 0, 0), (178, 24, 30), (232, 62, 48)),
    "green": ((44, 160, 44), (0, 128, 0), (40, 200, 70), (60, 130, 60)),
    "blue": ((31, 85, 200), (0, 0, 255), (65, 105, 225), (25, 60, 160)),
    "yellow": ((250, 215, 40), (255, 255, 0), (240, 205, 20), (255, 235, 90)),
    "orange": ((255, 140, 20), (255, 165, 0), (240, 115, 20), (250, 150, 60)),
    "purple": ((130, 50, 180), (128, 0, 128), (150, 60, 200), (100, 30, 140)),
    "pink": ((250, 120, 190), (255, 105, 180), (255, 150, 200), (255, 182, 193)),
    "cyan": ((40, 200, 215), (0, 255, 255), (0, 190, 205), (100, 220, 232)),
    "brown": ((125, 75, 35), (139, 69, 19), (150, 95, 50), (100, 60, 30)),
}
BACKGROUNDS: dict[str, tuple[RGB, ...]] = {
    "white": ((250, 250, 250), (255, 255, 255), (240, 240, 238)),
    "black": ((15, 15, 15), (0, 0, 0), (30, 30, 30)),
    "grey": ((128, 128, 128), (105, 105, 105), (160, 160, 160)),
    "beige": ((235, 220, 190), (225, 205, 170), (240, 228, 205)),
    "navy": ((20, 25, 75), (12, 15, 60), (15, 15, 95)),
}
RADII = {size: 0.95 * radius for size, radius in SIZES.items()}  # of one object, in widths of the picture
SHRINK = {1: 1.0, 2: 0.7, 3: 0.6, 4: 0.56}  # what becomes of the radius when a kind has as many objects
BESIDE_ANOTHER = 0.68  # what becomes of it when there is another kind
PLACES: dict[str, Point] = {
    "left": (0.25, 0.5),
    "right": (0.75, 0.5),
    "top": (0.5, 0.25),
    "bottom": (0.5, 0.75),
    "middle": (0.5, 0.5),
}
AXES = (("left", "right"), ("top", "bottom"))  # where two kinds lie

KIND: dict[str, tuple[object, ...]] = {
    "colour": tuple(TONES),
    "shape": SHAPES,
    "size": tuple(SIZES),
    "count": tuple(SHRINK),
    "place": tuple(PLACES),
    "pattern": PATTERNS,
}

assert TONES.keys() == {colour for colour, _ in CLASSES} and PLACES.keys() == {*AXES[0], *AXES[1], "middle"}


@dataclass(frozen=True)
class Kind:
    """One kind of object in a scene, as far as words say it."""

    colour: str
    shape: str
    size: str
    count: int
    place: str
    pattern: str

    def __post_init__(self) -> None:
        for name, values in KIND.items():
            if (value := getattr(self, name)) not in values:
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(map(str, values))}.")

    @property
    def attributes(self) -> tuple[object, ...]:
        """Values in the order of KIND."""
        return tuple(getattr(self, name) for name in KIND)

    @property
    def is_held_out(self) -> bool:
        """Whether its colour and shape are a pair that training never shows."""
        return (self.colour, self.shape) in HELD_OUT


@dataclass(frozen=True)
class Scene:
    """A picture in words: one or two kinds, in the order of their places; `seed` decides what words leave open. Its
    objects are `scale` times as large as their kind's size says.
    """

    kinds: tuple[Kind, ...]
    background: str
    seed: int
    scale: float = 1.0

    @property
    def is_held_out(self) -> bool:
        """Whether one of its kinds is a pair that training never shows."""
        return any(kind.is_held_out for kind in self.kinds)

    def draw(self, size: int = 224) -> Image:
        """The picture, RGB, `size` pixels a side."""
        from PIL import Image, ImageFilter

        style = random.Random(f"edges {self.seed}")
        sampling = style.choice((1, 2, 2, 4))  # Pillow draws without antialiasing
        softness = style.choice((0.0, 0.0, 0.004, 0.008)) * size
        picture = Image.new("RGB", (size * sampling,) * 2, _tone(BACKGROUNDS[self.background], style))
        for kind, masks in zip(self.kinds, self._masks(size * sampling), strict=True):
            colour = _tone(TONES[kind.colour], style)
            for mask in masks:
                box = mask.getbbox()
                picture.paste(colour, box, mask.crop(box))
        if sampling > 1:
            picture = picture.reduce(sampling)
        return picture.filter(ImageFilter.GaussianBlur(softness)) if softness else picture

    def masks(self, size: int = 224) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where each kind's objects are in `draw(size)`: [kinds, size, size]."""
        masks = []
        for of_kind in self._masks(size * 2):
            whole = np.maximum.reduce([np.asarray(mask.reduce(2)) for mask in of_kind])
            masks.append(whole > 127)
        return np.stack(masks)

    def exchange(self, *names: str) -> Scene:
        """The scene with the two kinds' values of some attributes exchanged: `exchange("colour")`."""
        first, second = self.kinds
        changed = (
            replace(first, **{name: getattr(second, name) for name in names}),
            replace(second, **{name: getattr(first, name) for name in names}),
        )
        return replace(self, kinds=changed)

    def enlarge(self, most: float) -> Scene:
        """The scene with its object up to `most` times as large, where it is a single large one of a single kind: no
        word says how large a large object is at most.
        """
        if len(self.kinds) > 1 or (self.kinds[0].count, self.kinds[0].size) != (1, "large"):
            return self
        return replace(self, scale=random.Random(f"scale {self.seed}").uniform(1, most))

    @property
    def variants(self) -> tuple[Scene, Scene, Scene, Scene]:
        """The four ways of binding two colours and two shapes to two places; the first is the scene itself."""
        return self, self.exchange("colour"), self.exchange("shape"), self.exchange("colour", "shape")

    def _masks(self, side: int) -> list[list[Image]]:
        """Each object's mask, by kind: solid, or with the gaps of its pattern."""
        masks = []
        for index, kind in enumerate(self.kinds):
            radius, centres = self._layout(index, side)
            style = random.Random(f"outline {self.seed} {index}")
            masks.append([_object_mask(kind, side, centre, radius, style) for centre in centres])
        return masks

    def _layout(self, index: int, side: int) -> tuple[float, list[Point]]:
        """Radius and centres of a kind's objects in pixels, inside the picture and apart from each other."""
        kind = self.kinds[index]
        place = random.Random(f"place {self.seed} {index}")
        shrink = SHRINK[kind.count] * (BESIDE_ANOTHER if len(self.kinds) > 1 else 1)
        radius = RADII[kind.size] * shrink * side * place.uniform(0.9, 1.08) * self.scale
        gap = 1.12 * radius
        offsets = place.choice(_ARRANGEMENTS[kind.count])
        centre = []
        for axis in (0, 1):
            reach = max(abs(offset[axis]) for offset in offsets) * gap + 1.05 * radius
            wanted = (PLACES[kind.place][axis] + place.uniform(-0.025, 0.025)) * side
            centre.append(min(max(wanted, reach), side - reach))
        return radius, [(centre[0] + dx * gap, centre[1] + dy * gap) for dx, dy in offsets]


_ARRANGEMENTS: dict[int, list[list[Point]]] = {
    1: [[(0, 0)]],
    2: [[(-1, 0), (1, 0)], [(0, -1), (0, 1)]],
    3: [[(-1, 1), (1, 1), (0, -1)], [(-1, -1), (1, -1), (0, 1)]],
    4: [[(-1, -1), (1, -1), (-1, 1), (1, 1)]],
}


def _tone(tones: tuple[RGB, ...], style: random.Random) -> RGB:
    """A tone between two of a colour's."""
    one, other = style.choice(tones), style.choice(tones)
    share = style.random()
    r, g, b = (round(x + share * (y - x)) for x, y in zip(one, other, strict=True))
    return r, g, b


def _object_mask(kind: Kind, side: int, centre: Point, radius: float, style: random.Random) -> Image:
    """One object's mask: its outline filled, less its pattern's gaps, with a rim that keeps the shape plain."""
    from PIL import Image, ImageChops, ImageDraw

    whole = draw_shape(kind.shape, side, centre, radius, style)
    if kind.pattern == "solid":
        return whole
    inside = blur(whole, 0.1 * radius).point(lambda value: 255 if value > 215 else 0)
    step = radius * style.uniform(0.36, 0.46)
    gaps = Image.new("L", (side, side), 0 if kind.pattern == "striped" else 255)
    draw = ImageDraw.Draw(gaps)
    ticks = [i * step for i in range(-3, 4)]
    for dy in ticks:
        top = centre[1] + dy
        if kind.pattern == "striped":
            draw.rectangle((0, top, side, top + step * 0.5), fill=255)
        else:
            for dx in ticks:
                left = centre[0] + dx
                draw.ellipse((left, top, left + step * 0.62, top + step * 0.62), fill=0)
    return ImageChops.subtract(whole, ImageChops.multiply(inside, gaps))


def one_kind(seed: int, held_out: bool | None = None) -> Scene:
    """The scene of one kind that a seed stands for; `held_out` as in `two_kinds`."""
    draw = random.Random(f"one kind {seed}")
    pairs = [pair for pair in CLASSES if held_out is None or (pair in HELD_OUT) == held_out]
    count = draw.choice((1, 1, 1, 2, 3, 4))
    return Scene((_kind(draw, draw.choice(pairs), count, draw.choice(list(PLACES))),), _background(draw), seed)


def two_kinds(seed: int, held_out: bool | None = None) -> Scene:
    """The scene of two kinds that a seed stands for, of different colours and shapes.

    With `held_out` False none of its variants shows a pair that is kept from training; with True the scene itself has
    one; with None pairs are any.
    """
    draw = random.Random(f"two kinds {seed}")
    while True:
        first, second = draw.sample(CLASSES, 2)
        if first[0] == second[0] or first[1] == second[1]:
            continue
        kinds = [_kind(draw, pair, 1, place) for pair, place in zip((first, second), draw.choice(AXES), strict=True)]
        scene = Scene(tuple(kinds), _background(draw), seed)
        if held_out is None or (scene.is_held_out if held_out else not any(v.is_held_out for v in scene.variants)):
            return scene


def _kind(draw: random.Random, pair: tuple[str, str], count: int, place: str) -> Kind:
    colour, shape = pair
    return Kind(colour, shape, draw.choice(list(SIZES)), count, place, draw.choice(PATTERNS))


def _background(draw: random.Random) -> str:
    return draw.choice(list(BACKGROUNDS))
