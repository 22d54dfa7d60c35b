"""The configuration of a whole CLIP: two towers, and how pixels are made of an image; and its form as JSON.

What a tower is in numbers, its own file says (clipref/towers.py lists them). Here is also what follows from a whole
configuration: the table of a checkpoint's tensor names and shapes; the way back is weights_tools/infer.py. Nothing here
reads a file or touches a tensor. Names are OpenAI's (https://github.com/openai/CLIP, clip/model.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import UnionType
from typing import Any, ClassVar, Literal, TypeAlias, get_args, get_origin, get_type_hints

from .architecture import COUNTS, ImageConfig, is_count
from .architecture import Activation as Activation  # this and the next ones: for who makes configurations
from .architecture import Shape as Shape
from .arguments import brief
from .errors import ConfigError, InputError
from .published import MODELS
from .resnet import ResNetConfig as ResNetConfig
from .text_transformer import TextConfig as TextConfig
from .towers import IMAGE_KINDS, TEXT_KINDS
from .vision_transformer import ViTConfig as ViTConfig

Interpolation: TypeAlias = Literal["bicubic", "bilinear"]
ResizeMode: TypeAlias = Literal["shortest", "squash"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class NoTower:
    """Stands for the tower that a checkpoint of one tower alone hasn't got: to ask anything of it is an InputError."""

    kind: ClassVar[str] = "none"
    family: ClassVar[Any] = None

    tower: Literal["image", "text"]

    def check(self, where: str) -> None:
        """There is nothing to contradict."""

    def shapes(self, embed_dim: int) -> dict[str, Shape]:
        """No tensors."""
        return {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "tower":  # what copy and pickle look for, and before it is there
            raise AttributeError(name)
        has, embeds = ("text", "texts") if self.tower == "image" else ("image", "images")
        raise InputError(
            f"This checkpoint has no {self.tower} tower: it is a CLIP's {has} tower alone, and embeds {embeds} only."
        )


# The type is Any, because whoever has a tower's configuration may take it for one: asking finds out.
NO_IMAGE_TOWER: Any = NoTower("image")
NO_TEXT_TOWER: Any = NoTower("text")


@dataclass(frozen=True)
class PreprocessConfig:
    """How pixels are made of an image; the defaults are OpenAI's.

    Mean and standard deviation are per RGB channel, of values between 0 and 1. `resize_mode` "shortest" resizes the
    short side and crops the long one; "squash" resizes both sides, whatever becomes of the proportions (open_clip has
    it, and DFN's ViT-H-14 was trained so). `upright` turns an image as its EXIF says, before all else; the original
    doesn't.
    """

    mean: tuple[float, float, float] = OPENAI_MEAN
    std: tuple[float, float, float] = OPENAI_STD
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    upright: bool = False

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PreprocessConfig:
        """From JSON types. Raises ConfigError that names the key which is unknown or wrong."""
        preprocess: PreprocessConfig = _build(cls, _mapping(data, "preprocess"), "preprocess")
        return preprocess

    def check(self) -> None:
        """Raise ConfigError for settings that no image can be preprocessed with."""
        for name in ("mean", "std"):
            values = getattr(self, name)
            three = isinstance(values, tuple | list) and len(values) == 3
            if not three or not all(isinstance(v, float | int) and 0 < v < 1e6 for v in values):
                raise ConfigError(f"preprocess.{name} is {brief(values)}; expected three positive numbers.")
        for name, known in (("interpolation", get_args(Interpolation)), ("resize_mode", get_args(ResizeMode))):
            value = getattr(self, name)
            if value not in known:
                raise ConfigError(f"preprocess.{name} is {brief(value)}; expected one of {known}.")
        if not isinstance(self.upright, bool):
            raise ConfigError(f"preprocess.upright is {self.upright!r}; expected True or False.")


@dataclass(frozen=True)
class ClipConfig:
    """A whole CLIP: two towers that meet in `embed_dim` dimensions. Or one of them, and a NoTower for the other."""

    embed_dim: int
    vision: ImageConfig
    text: TextConfig
    preprocess: PreprocessConfig = PreprocessConfig()

    def __post_init__(self) -> None:
        """Numbers that contradict each other are refused here, so that no tower has to doubt its configuration."""
        if isinstance(self.vision, NoTower) and isinstance(self.text, NoTower):
            raise ConfigError("vision and text are both missing; expected at least one tower.")
        self.vision.check("vision")
        self.text.check("text")
        if not is_count(self.embed_dim):
            raise ConfigError(f"embed_dim is {brief(self.embed_dim)}; expected a whole number, {COUNTS}.")
        self.preprocess.check()

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON types, `config.json`'s content."""
        data = dataclasses.asdict(self)
        for name, tower in (("vision", self.vision), ("text", self.text)):
            if isinstance(tower, NoTower):
                data[name] = None
                continue
            # Most text towers are of one kind, and have no settings but its numbers; these go without saying.
            said = {key: value for key, value in data[name].items() if value is not None}
            data[name] = said if tower.kind == TextConfig.kind else {"kind": tower.kind, **said}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClipConfig:
        """The inverse of `to_dict`. Raises ConfigError that names the key which is missing, unknown or wrong."""
        data = _mapping(data, "config.json")
        unknown = sorted(set(data) - {"embed_dim", "vision", "text", "preprocess"})
        if unknown:
            raise ConfigError(f"config.json: unknown key {brief(unknown[0])}; remove it, or check its spelling.")
        missing = sorted({"vision", "text"} - set(data))
        if missing:
            raise ConfigError(f"config.json: {missing[0]} is missing; expected a tower's settings, or null for none.")
        return cls(
            embed_dim=_value(data, "embed_dim", int, "config.json"),
            vision=NO_IMAGE_TOWER if data["vision"] is None else _tower(data, "vision", IMAGE_KINDS),
            text=NO_TEXT_TOWER if data["text"] is None else _tower(data, "text", TEXT_KINDS, TextConfig.kind),
            preprocess=PreprocessConfig.from_dict(data.get("preprocess", {})),
        )


def _tower(data: Mapping[str, Any], where: str, kinds: Mapping[str, type[Any]], unsaid: str | None = None) -> Any:
    settings = _mapping(data[where], where)
    kind = settings.pop("kind", unsaid)
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"config.json: {where}.kind is {brief(kind)}; expected one of {sorted(kinds)}.")
    return _build(kinds[kind], settings, where)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}: expected a JSON object, got {type(value).__name__}; see clipref.config.ClipConfig."
        )
    return dict(value)


def _value(data: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = data.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: {key} is {brief(value)}; expected a value of type {kind.__name__}.")
    return value


@cache
def _types(cls: type[Any]) -> dict[str, Any]:
    return get_type_hints(cls)


def _build(cls: type[Any], data: dict[str, Any], where: str) -> Any:
    """One dataclass from JSON: every key known, none missing, every value of the field's type."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    types = _types(cls)  # type: ignore[arg-type]  # mypy takes the hash of its instances for a class's
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(f"config.json: unknown key {where}.{unknown[0][:80]}; expected {', '.join(fields)}.")
    values = {}
    for name, field in fields.items():
        if data.get(name, field.default) is None and field.default is None:
            continue
        if name in data:
            kind = _json_type(types[name])
            if kind is list and isinstance(data[name], list | tuple):
                values[name] = tuple(data[name])
            else:
                values[name] = _value(data, name, kind, f"config.json: {where}")
        elif field.default is dataclasses.MISSING:
            raise ConfigError(f"config.json: {where}.{name} is missing.")
    return cls(**values)


def _json_type(hint: Any) -> type:
    """The type in JSON of a field's: a tuple is a list, one of several words a str, a value or None the value."""
    origin = get_origin(hint)
    if origin is UnionType:
        return _json_type(get_args(hint)[0])
    known: dict[Any, type] = {tuple: list, Literal: str}
    kind: type = known.get(origin, hint)
    return kind


PUBLISHED: Mapping[str, ClipConfig] = {
    name: ClipConfig(model.embed_dim, model.vision, model.text) for name, model in MODELS.items()
}


def tensor_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a checkpoint: those of its towers, and `logit_scale` if it has both."""
    towers = [visual_shapes(config), text_shapes(config)]
    return {**towers[0], **towers[1], **({"logit_scale": ()} if all(towers) else {})}


def visual_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the image tower, all of them under `visual.`."""
    return {f"visual.{name}": shape for name, shape in config.vision.shapes(config.embed_dim).items()}


def text_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the text tower."""
    return config.text.shapes(config.embed_dim)
