"""The configuration of a tower, apart from its weights: what those of all kinds have in common.

Each kind of tower is one file, with a configuration (a frozen dataclass of the classes below), the function that
computes it, and a table `TOWERS` of the two; clipref/towers.py lists the files. Whatever others need to know of a kind
they ask its configuration, so that nobody has to tell the kinds apart.

Shapes are tables of tensor names: `shapes` goes from the numbers to the tensors, `infer` the way back. What shapes
don't tell is given, never assumed.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, TypeAlias, get_args

from .arguments import brief
from .errors import ConfigError

Shape: TypeAlias = tuple[int, ...]
Shapes: TypeAlias = Mapping[str, Shape]
Activation: TypeAlias = Literal["quick_gelu", "gelu"]
# The two families of image towers that CLIP has: those of one are alike in how fast they are and what they need.
Family: TypeAlias = Literal["vit", "resnet"]

# The deepest tower that anyone published has 56 layers. A file that claims millions is refused before their names fill
# the memory.
MAX_LAYERS = 1000
# Nothing in a tower is as long as this on any axis, and products of what is shorter can be shown in messages.
MAX_COUNT = 2**31 - 1
COUNTS = f"at least 1 and at most {MAX_COUNT}"


@dataclass(frozen=True)
class TowerConfig:
    """A tower in numbers: what image and text towers of any kind have in common."""

    kind: ClassVar[str]  # as config.json calls it
    # Settings of open_clip's vision_cfg or text_cfg (src/open_clip/model.py) that make a tower one of this kind.
    open_clip: ClassVar[Mapping[str, Any]] = {}

    def check(self, where: str) -> None:
        """Raise ConfigError where numbers contradict each other; it calls the tower `where`."""
        raise NotImplementedError

    def shapes(self, embed_dim: int) -> dict[str, Shape]:
        """Name and shape of every tensor of the tower, without what stands before the names of all of them."""
        raise NotImplementedError

    @property
    def widest(self) -> int:
        """How many numbers the widest activation of an item has."""
        raise NotImplementedError

    @classmethod
    def is_in(cls, names: Collection[str]) -> bool:
        """Whether tensors of these names are a tower of this kind; of several kinds the first counts."""
        raise NotImplementedError

    @classmethod
    def infer(cls, shapes: Shapes, activation: Activation, heads: int | None) -> Any:
        """The configuration that tensors of these shapes have, and how many dimensions the tower embeds in.

        Unless `heads` are given, they are taken to be of 64 channels, as in all models of these widths. Raises
        ConfigError where a tensor that decides is missing, or where something is left in doubt.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class ImageConfig(TowerConfig):
    """An image tower: it takes pixels [N, 3, R, R], R being `resolution`."""

    family: ClassVar[Family]
    title: ClassVar[str]  # as CLIP's paper calls it

    resolution: int

    @property
    def grid(self) -> int:
        """Positions along one side of the image, where attention sees it."""
        raise NotImplementedError


def is_count(value: Any) -> bool:
    """Whether a value is a whole number that an axis can be long."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


def check_counts(where: str, counts: Mapping[str, Any]) -> None:
    """Raise ConfigError unless each of the values is a length."""
    for name, value in counts.items():
        if not is_count(value):
            raise ConfigError(f"{where}.{name} is {brief(value)}; expected a whole number, {COUNTS}.")


def check_numbers(where: str, tower: Any, names: tuple[str, ...], layers: Any, channels: int = 1) -> None:
    """Raise ConfigError unless a tower's numbers of these names are lengths, and those of `layers` can be its depth.

    Its activation, if it has one, has to be known, and its heads to share its width, times `channels`, among them.
    """
    activation = getattr(tower, "activation", "gelu")
    if activation not in get_args(Activation):
        raise ConfigError(f"{where}.activation is {brief(activation)}; expected 'quick_gelu' or 'gelu'.")
    if not isinstance(layers, tuple) or not all(map(is_count, layers)):
        raise ConfigError(f"{where}.layers is {brief(tower.layers)}; expected whole numbers of at least 1.")
    if any(count > MAX_LAYERS for count in layers):
        raise ConfigError(f"{where}.layers is {brief(tower.layers)}; expected at most {MAX_LAYERS}.")
    check_counts(where, {name: getattr(tower, name) for name in names})
    if (width := channels * tower.width) % tower.heads:
        raise ConfigError(f"{where}: a width of {width} can't be divided among {tower.heads} heads.")


def linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    """A weight [O, I] and a bias [O], as `ops.linear` takes them."""
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm_shapes(name: str, width: int) -> dict[str, Shape]:
    """Gain and bias of a LayerNorm."""
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def axis_of(shapes: Shapes, name: str, axis: int) -> int:
    """How long an axis of a tensor is. Raises ConfigError without it."""
    if name not in shapes:
        raise ConfigError(f"No tensor {name!r}: is this a CLIP's checkpoint, with all of its tensors?")
    if len(shapes[name]) <= axis:
        raise ConfigError(f"{name} has shape {shapes[name]}; expected at least {axis + 1} axes.")
    return shapes[name][axis]


def count_of(names: Iterable[str], pattern: str) -> int:
    """How many there are of what is numbered from 0, where `pattern` has the number."""
    found = {int(match[1][:9]) for name in names if (match := re.match(pattern, name))}  # more are too many anyway
    return max(found, default=-1) + 1


def side_of(positions: int) -> int:
    """The side of the square that positions form, the first left out. Raises ConfigError if they form none."""
    side = math.isqrt(max(positions - 1, 0))
    if side**2 != positions - 1:
        raise ConfigError(
            f"visual positional embedding: {positions - 1} positions beside the first don't form a square."
        )
    return side


def heads_of(width: int, tower: str, widest: int | None = None) -> int:
    """The heads of a width, 64 channels each. Raises ConfigError for a width that OpenAI's models have none like."""
    if width % 64 or (widest is not None and width > widest):
        raise ConfigError(
            f"The {tower} tower is {width} wide, unlike OpenAI's, so its heads can't be inferred: "
            f"put a config.json with {tower}.heads beside the weights."
        )
    return width // 64
