"""Configurations: what a CLIP is, in numbers, apart from its weights.

The nine published shapes, and the table of tensor names and shapes that follows from a configuration; the way back is
weights_tools/infer.py. Nothing here reads a file or touches a tensor.

Names are OpenAI's (https://github.com/openai/CLIP, clip/model.py); the nine shapes are those of open_clip's
`model_configs/*-quickgelu.json` and `RN*.json`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .arguments import shown
from .errors import ConfigError, InputError

Shape: TypeAlias = tuple[int, ...]
Activation: TypeAlias = Literal["quick_gelu", "gelu"]
Interpolation: TypeAlias = Literal["bicubic", "bilinear"]
ResizeMode: TypeAlias = Literal["shortest", "squash"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

# The deepest tower that anyone published has 56 layers. A file that claims millions is refused before their names fill
# the memory.
MAX_LAYERS = 1000
# Nothing in a tower is as long as this on any axis, and products of what is shorter can be shown in messages.
MAX_COUNT = 2**31 - 1


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer: `resolution` and `patch_size` in pixels, `width` in channels."""

    resolution: int
    patch_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"

    @property
    def grid(self) -> int:
        """Patches along one side of the image."""
        return self.resolution // self.patch_size


@dataclass(frozen=True)
class ResNetConfig:
    """CLIP's modified ResNet: `layers` counts the bottlenecks of each of the four stages, `width` is the first's."""

    resolution: int
    layers: tuple[int, int, int, int]
    width: int
    heads: int

    @property
    def grid(self) -> int:
        """Positions along one side of the last feature map, which is 32 times smaller than the image."""
        return self.resolution // 32


@dataclass(frozen=True)
class TextConfig:
    """The causal text transformer.

    It pools at the first end-of-text token of a text. That is the largest id of all, and so the largest of a text,
    unless `eos_token_id` says otherwise: a vocabulary may have been grown by tokens behind it.
    """

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"
    eos_token_id: int | None = None

    @property
    def end_of_text(self) -> int:
        """The id of the end-of-text token."""
        return self.vocab_size - 1 if self.eos_token_id is None else self.eos_token_id


@dataclass(frozen=True)
class NoTower:
    """Stands for the tower that a checkpoint of one tower alone hasn't got: to ask anything of it is an InputError."""

    tower: Literal["image", "text"]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "tower":  # what copy and pickle look for, and before it is there
            raise AttributeError(name)
        has, embeds = ("text", "texts") if self.tower == "image" else ("image", "images")
        raise InputError(
            f"This checkpoint has no {self.tower} tower: it is a CLIP's {has} tower alone, and embeds {embeds} only."
        )


# Of no type, because whoever has a tower's configuration may take it for one: asking finds out.
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


@dataclass(frozen=True)
class ClipConfig:
    """A whole CLIP: two towers that meet in `embed_dim` dimensions. Or one of them, and a NoTower for the other."""

    embed_dim: int
    vision: ViTConfig | ResNetConfig
    text: TextConfig
    preprocess: PreprocessConfig = PreprocessConfig()

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON types, `config.json`'s content."""
        data = dataclasses.asdict(self)
        if isinstance(self.text, NoTower):
            data["text"] = None
        elif self.text.eos_token_id is None:
            del data["text"]["eos_token_id"]
        if isinstance(self.vision, NoTower):
            data["vision"] = None
        else:
            data["vision"] = {"kind": "vit" if isinstance(self.vision, ViTConfig) else "resnet", **data["vision"]}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClipConfig:
        """The inverse of `to_dict`. Raises ConfigError that names the key which is missing, unknown or wrong."""
        data = _mapping(data, "config.json")
        unknown = sorted(set(data) - {"embed_dim", "vision", "text", "preprocess"})
        if unknown:
            raise ConfigError(f"config.json: unknown key {shown(unknown[0])}; remove it, or check its spelling.")
        missing = sorted({"vision", "text"} - set(data))
        if missing:
            raise ConfigError(f"config.json: {missing[0]} is missing; expected a tower's settings, or null for none.")
        return cls(
            embed_dim=_value(data, "embed_dim", int, "config.json"),
            vision=NO_IMAGE_TOWER if data["vision"] is None else _vision(_mapping(data["vision"], "vision")),
            text=NO_TEXT_TOWER if data["text"] is None else _build(TextConfig, _mapping(data["text"], "text"), "text"),
            preprocess=PreprocessConfig.from_dict(data.get("preprocess", {})),
        )


def _vision(data: dict[str, Any]) -> ViTConfig | ResNetConfig:
    kinds: dict[str, type[ViTConfig] | type[ResNetConfig]] = {"vit": ViTConfig, "resnet": ResNetConfig}
    kind = data.pop("kind", None)
    if not isinstance(kind, str) or kind not in kinds:
        raise ConfigError(f"config.json: vision.kind is {shown(kind)}; expected one of {sorted(kinds)}.")
    vision: ViTConfig | ResNetConfig = _build(kinds[kind], data, "vision")
    return vision


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}: expected a JSON object, got {type(value).__name__}; see clipref.config.ClipConfig."
        )
    return dict(value)


def _value(data: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = data.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: {key} is {shown(value)}; expected a value of type {kind.__name__}.")
    return value


def _build(cls: type[Any], data: dict[str, Any], where: str) -> Any:
    """One dataclass from JSON: every key known, none missing, every value of the field's type."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(f"config.json: unknown key {where}.{unknown[0][:80]}; expected {', '.join(fields)}.")
    values = {}
    for name, field in fields.items():
        if data.get(name, field.default) is None and field.default is None:
            continue
        if name not in data:
            if field.default is dataclasses.MISSING:
                raise ConfigError(f"config.json: {where}.{name} is missing.")
        elif name in ("mean", "std", "layers") and isinstance(data[name], list | tuple):
            values[name] = tuple(data[name])
        else:
            kinds = {"activation": str, "interpolation": str, "resize_mode": str, "upright": bool}
            values[name] = _value(data, name, kinds.get(name, int), f"config.json: {where}")
    return cls(**values)


_COUNTS = f"at least 1 and at most {MAX_COUNT}"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_COUNT


def _check(config: ClipConfig) -> None:
    """Numbers that contradict each other are refused here, so that no tower has to doubt its configuration."""
    vision, text = config.vision, config.text
    towers = [(where, part) for where, part in (("vision", vision), ("text", text)) if not isinstance(part, NoTower)]
    if not towers:
        raise ConfigError("vision and text are both missing; expected at least one tower.")
    for where, part in towers:
        settings = dataclasses.asdict(part)
        activation = settings.pop("activation", "quick_gelu")  # which a ResNet has none of
        if activation not in ("quick_gelu", "gelu"):
            raise ConfigError(f"{where}.activation is {shown(activation)}; expected 'quick_gelu' or 'gelu'.")
        layers = settings.pop("layers") if isinstance(part, ResNetConfig) else (part.layers,)
        if not isinstance(layers, tuple) or not all(map(_is_count, layers)):
            raise ConfigError(f"{where}.layers is {shown(part.layers)}; expected whole numbers of at least 1.")
        if any(count > MAX_LAYERS for count in layers):
            raise ConfigError(f"{where}.layers is {shown(part.layers)}; expected at most {MAX_LAYERS}.")
        for name, value in settings.items():
            if not _is_count(value) and (name, value) != ("eos_token_id", None):
                raise ConfigError(f"{where}.{name} is {shown(value)}; expected a whole number, {_COUNTS}.")
        width = part.width * (32 if isinstance(part, ResNetConfig) else 1)
        if width % part.heads:
            raise ConfigError(f"{where}: a width of {width} can't be divided among {part.heads} heads.")
    if not isinstance(text, NoTower) and text.end_of_text >= text.vocab_size:
        raise ConfigError(f"text.eos_token_id is {text.eos_token_id}; expected one of {text.vocab_size} tokens.")
    if not _is_count(config.embed_dim):
        raise ConfigError(f"embed_dim is {shown(config.embed_dim)}; expected a whole number, {_COUNTS}.")
    if isinstance(vision, ViTConfig) and vision.grid < 1:
        raise ConfigError(f"vision: patches of {vision.patch_size} don't fit a resolution of {vision.resolution}.")
    if isinstance(vision, ResNetConfig):
        if len(vision.layers) != 4:
            raise ConfigError(f"vision.layers is {vision.layers}; expected the bottlenecks of four stages.")
        if vision.resolution % 32 or vision.width % 2:
            raise ConfigError(
                f"vision: a ResNet's resolution must be a multiple of 32 and its width even, "
                f"got {vision.resolution} and {vision.width}."
            )
    for name in ("mean", "std"):
        values = getattr(config.preprocess, name)
        three = isinstance(values, tuple | list) and len(values) == 3
        if not three or not all(isinstance(v, float | int) and 0 < v < 1e6 for v in values):
            raise ConfigError(f"preprocess.{name} is {shown(values)}; expected three positive numbers.")
    for name, known in (("interpolation", ("bicubic", "bilinear")), ("resize_mode", ("shortest", "squash"))):
        value = getattr(config.preprocess, name)
        if value not in known:
            raise ConfigError(f"preprocess.{name} is {shown(value)}; expected one of {known}.")
    if not isinstance(config.preprocess.upright, bool):
        raise ConfigError(f"preprocess.upright is {config.preprocess.upright!r}; expected True or False.")


def _text(width: int, heads: int) -> TextConfig:
    return TextConfig(context_length=77, vocab_size=49408, width=width, layers=12, heads=heads, mlp_width=4 * width)


def _vit(resolution: int, patch_size: int, width: int, layers: int, embed_dim: int, text: TextConfig) -> ClipConfig:
    vision = ViTConfig(resolution, patch_size, width, layers, heads=width // 64, mlp_width=4 * width)
    return ClipConfig(embed_dim, vision, text)


def _resnet(resolution: int, layers: Shape, width: int, embed_dim: int, text: TextConfig) -> ClipConfig:
    one, two, three, four = layers
    vision = ResNetConfig(resolution, (one, two, three, four), width, heads=width * 32 // 64)
    return ClipConfig(embed_dim, vision, text)


PUBLISHED: Mapping[str, ClipConfig] = {
    "clip/RN50": _resnet(224, (3, 4, 6, 3), 64, 1024, _text(512, 8)),
    "clip/RN101": _resnet(224, (3, 4, 23, 3), 64, 512, _text(512, 8)),
    "clip/RN50x4": _resnet(288, (4, 6, 10, 6), 80, 640, _text(640, 10)),
    "clip/RN50x16": _resnet(384, (6, 8, 18, 8), 96, 768, _text(768, 12)),
    "clip/RN50x64": _resnet(448, (3, 15, 36, 10), 128, 1024, _text(1024, 16)),
    "clip/ViT-B-32": _vit(224, 32, 768, 12, 512, _text(512, 8)),
    "clip/ViT-B-16": _vit(224, 16, 768, 12, 512, _text(512, 8)),
    "clip/ViT-L-14": _vit(224, 14, 1024, 24, 768, _text(768, 12)),
    "clip/ViT-L-14-336px": _vit(336, 14, 1024, 24, 768, _text(768, 12)),
}


def tensor_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of a checkpoint: those of its towers, and `logit_scale` if it has both."""
    both = not isinstance(config.vision, NoTower) and not isinstance(config.text, NoTower)
    return {**visual_shapes(config), **text_shapes(config), **({"logit_scale": ()} if both else {})}


def visual_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the image tower, all of them under `visual.`."""
    if isinstance(config.vision, NoTower):
        return {}
    if isinstance(config.vision, ViTConfig):
        shapes = _vit_shapes(config.vision, config.embed_dim)
    else:
        shapes = _resnet_shapes(config.vision, config.embed_dim)
    return {f"visual.{name}": shape for name, shape in shapes.items()}


def text_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the text tower."""
    text = config.text
    if isinstance(text, NoTower):
        return {}
    return {
        "token_embedding.weight": (text.vocab_size, text.width),
        "positional_embedding": (text.context_length, text.width),
        **_transformer_shapes(text.width, text.layers, text.mlp_width),
        **_norm_shapes("ln_final", text.width),
        "text_projection": (text.width, config.embed_dim),
    }


def _linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, Shape]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def _norm_shapes(name: str, width: int) -> dict[str, Shape]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _transformer_shapes(width: int, layers: int, mlp_width: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        shapes |= {
            **_norm_shapes(f"{block}.ln_1", width),
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            **_linear_shapes(f"{block}.attn.out_proj", width, width),
            **_norm_shapes(f"{block}.ln_2", width),
            **_linear_shapes(f"{block}.mlp.c_fc", width, mlp_width),
            **_linear_shapes(f"{block}.mlp.c_proj", mlp_width, width),
        }
    return shapes


def _vit_shapes(vision: ViTConfig, embed_dim: int) -> dict[str, Shape]:
    width = vision.width
    return {
        "class_embedding": (width,),
        "positional_embedding": (vision.grid**2 + 1, width),
        "proj": (width, embed_dim),
        "conv1.weight": (width, 3, vision.patch_size, vision.patch_size),
        **_norm_shapes("ln_pre", width),
        **_transformer_shapes(width, vision.layers, vision.mlp_width),
        **_norm_shapes("ln_post", width),
    }


def _resnet_shapes(vision: ResNetConfig, embed_dim: int) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {}

    def conv_and_norm(conv: str, norm: str, inputs: int, outputs: int, kernel: int) -> None:
        shapes[f"{conv}.weight"] = (outputs, inputs, kernel, kernel)
        shapes.update({f"{norm}.{n}": (outputs,) for n in ("weight", "bias", "running_mean", "running_var")})

    width = vision.width
    conv_and_norm("conv1", "bn1", 3, width // 2, 3)
    conv_and_norm("conv2", "bn2", width // 2, width // 2, 3)
    conv_and_norm("conv3", "bn3", width // 2, width, 3)
    inputs = width
    for stage, blocks in enumerate(vision.layers):
        planes = width * 2**stage
        for i in range(blocks):
            block = f"layer{stage + 1}.{i}"
            conv_and_norm(f"{block}.conv1", f"{block}.bn1", inputs, planes, 1)
            conv_and_norm(f"{block}.conv2", f"{block}.bn2", planes, planes, 3)
            conv_and_norm(f"{block}.conv3", f"{block}.bn3", planes, 4 * planes, 1)
            if i == 0:
                conv_and_norm(f"{block}.downsample.0", f"{block}.downsample.1", inputs, 4 * planes, 1)
            inputs = 4 * planes
    shapes["attnpool.positional_embedding"] = (vision.grid**2 + 1, inputs)
    for name in ("q_proj", "k_proj", "v_proj"):
        shapes |= _linear_shapes(f"attnpool.{name}", inputs, inputs)
    return shapes | _linear_shapes("attnpool.c_proj", inputs, embed_dim)
