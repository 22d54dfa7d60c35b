"""Configurations: what a CLIP is, in numbers, apart from its weights.

The nine published shapes, the table of tensor names and shapes that follows from a configuration, and the way back:
a configuration inferred from the tensor shapes of a checkpoint. Nothing here reads a file or touches a tensor.

Names are OpenAI's (https://github.com/openai/CLIP, clip/model.py); the nine shapes are those of open_clip's
`model_configs/*-quickgelu.json` and `RN*.json`.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .errors import ConfigError

Shape: TypeAlias = tuple[int, ...]
Activation: TypeAlias = Literal["quick_gelu", "gelu"]
Interpolation: TypeAlias = Literal["bicubic", "bilinear"]
ResizeMode: TypeAlias = Literal["shortest", "squash"]

OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)

# The deepest tower that anyone published has 56 layers. A file that claims millions is refused before their names fill
# the memory.
MAX_LAYERS = 1000


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
    """The causal text transformer. The end-of-text token is the largest id, `vocab_size - 1`."""

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"


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


@dataclass(frozen=True)
class ClipConfig:
    """A whole CLIP: two towers that meet in `embed_dim` dimensions."""

    embed_dim: int
    vision: ViTConfig | ResNetConfig
    text: TextConfig
    preprocess: PreprocessConfig = PreprocessConfig()

    def __post_init__(self) -> None:
        _check(self)

    def to_dict(self) -> dict[str, Any]:
        """The configuration as JSON types, `config.json`'s content."""
        vision = {"kind": "vit" if isinstance(self.vision, ViTConfig) else "resnet", **dataclasses.asdict(self.vision)}
        return {**dataclasses.asdict(self), "vision": vision}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ClipConfig:
        """The inverse of `to_dict`. Raises ConfigError that names the key which is missing, unknown or wrong."""
        data = _mapping(data, "config.json")
        vision = _mapping(data.get("vision"), "vision")
        kinds: dict[str, type[ViTConfig] | type[ResNetConfig]] = {"vit": ViTConfig, "resnet": ResNetConfig}
        kind = vision.pop("kind", None)
        if kind not in kinds:
            raise ConfigError(f"config.json: vision.kind is {kind!r}; expected one of {sorted(kinds)}.")
        unknown = sorted(set(data) - {"embed_dim", "vision", "text", "preprocess"})
        if unknown:
            raise ConfigError(f"config.json: unknown key {unknown[0]!r}; remove it, or check its spelling.")
        preprocess = _mapping(data.get("preprocess", {}), "preprocess")
        return cls(
            embed_dim=_value(data, "embed_dim", int, "config.json"),
            vision=_build(kinds[kind], vision, "vision"),
            text=_build(TextConfig, _mapping(data.get("text"), "text"), "text"),
            preprocess=_build(PreprocessConfig, preprocess, "preprocess"),
        )


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{where}: expected a JSON object, got {type(value).__name__}; see clipref.config.ClipConfig."
        )
    return dict(value)


def _value(data: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
    value = data.get(key)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ConfigError(f"{where}: {key} is {value!r}; expected a value of type {kind.__name__}.")
    return value


def _build(cls: type[Any], data: dict[str, Any], where: str) -> Any:
    """One dataclass from JSON: every key known, none missing, every value of the field's type."""
    fields = {field.name: field for field in dataclasses.fields(cls)}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ConfigError(f"config.json: unknown key {where}.{unknown[0]}; expected {', '.join(fields)}.")
    values = {}
    for name, field in fields.items():
        if name not in data:
            if field.default is dataclasses.MISSING:
                raise ConfigError(f"config.json: {where}.{name} is missing.")
        elif name in ("mean", "std", "layers") and isinstance(data[name], list | tuple):
            values[name] = tuple(data[name])
        else:
            kinds = {"activation": str, "interpolation": str, "resize_mode": str, "upright": bool}
            values[name] = _value(data, name, kinds.get(name, int), f"config.json: {where}")
    return cls(**values)


def _check(config: ClipConfig) -> None:
    """Numbers that contradict each other are refused here, so that no tower has to doubt its configuration."""
    vision, text = config.vision, config.text
    for where, part in (("vision", vision), ("text", text)):
        for name, value in dataclasses.asdict(part).items():
            for item in value if isinstance(value, tuple) else (value,):
                if not isinstance(item, str) and (not isinstance(item, int) or item < 1):
                    raise ConfigError(f"{where}.{name} is {value!r}; expected whole numbers of at least 1.")
        layers = part.layers if isinstance(part.layers, tuple) else (part.layers,)
        if max(layers) > MAX_LAYERS:
            raise ConfigError(f"{where}.layers is {part.layers}; expected at most {MAX_LAYERS}.")
        activation = getattr(part, "activation", "quick_gelu")
        if activation not in ("quick_gelu", "gelu"):
            raise ConfigError(f"{where}.activation is {activation!r}; expected 'quick_gelu' or 'gelu'.")
    if not isinstance(config.embed_dim, int) or config.embed_dim < 1:
        raise ConfigError(f"embed_dim is {config.embed_dim!r}; expected a whole number of at least 1.")
    for where, width, heads in (
        ("vision", vision.width * (1 if isinstance(vision, ViTConfig) else 32), vision.heads),
        ("text", text.width, text.heads),
    ):
        if width % heads:
            raise ConfigError(f"{where}: a width of {width} can't be divided among {heads} heads.")
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
        if len(values) != 3 or not all(isinstance(v, float | int) and 0 < v < 1e6 for v in values):
            raise ConfigError(f"preprocess.{name} is {values!r}; expected three positive numbers.")
    for name, known in (("interpolation", ("bicubic", "bilinear")), ("resize_mode", ("shortest", "squash"))):
        if getattr(config.preprocess, name) not in known:
            raise ConfigError(f"preprocess.{name} is {getattr(config.preprocess, name)!r}; expected one of {known}.")
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
    """Name and shape of every tensor of a checkpoint: the image tower's, the text tower's, and `logit_scale`."""
    return {**visual_shapes(config), **text_shapes(config), "logit_scale": ()}


def visual_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the image tower, all of them under `visual.`."""
    if isinstance(config.vision, ViTConfig):
        shapes = _vit_shapes(config.vision, config.embed_dim)
    else:
        shapes = _resnet_shapes(config.vision, config.embed_dim)
    return {f"visual.{name}": shape for name, shape in shapes.items()}


def text_shapes(config: ClipConfig) -> dict[str, Shape]:
    """Name and shape of every tensor of the text tower."""
    text = config.text
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


def infer_config(
    shapes: Mapping[str, Shape],
    activation: Activation = "quick_gelu",
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> ClipConfig:
    """The configuration of a checkpoint that has tensors of these names and shapes.

    What shapes can't tell is assumed as in all published models, unless it is given: QuickGELU, heads of 64 channels.
    Raises ConfigError where a tensor that decides is missing, or where a width leaves the heads in doubt.
    """
    resnet = "visual.layer1.0.conv1.weight" in shapes
    return ClipConfig(
        embed_dim=_axis(shapes, "text_projection", 1),
        vision=_infer_resnet(shapes, vision_heads) if resnet else _infer_vit(shapes, activation, vision_heads),
        text=TextConfig(
            context_length=_axis(shapes, "positional_embedding", 0),
            vocab_size=_axis(shapes, "token_embedding.weight", 0),
            width=(width := _axis(shapes, "token_embedding.weight", 1)),
            layers=_count(shapes, r"transformer\.resblocks\.(\d+)\."),
            heads=text_heads or _heads(width, "text"),
            mlp_width=_axis(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 0),
            activation=activation,
        ),
    )


def _infer_vit(shapes: Mapping[str, Shape], activation: Activation, heads: int | None) -> ViTConfig:
    patch_size = _axis(shapes, "visual.conv1.weight", 3)
    width = _axis(shapes, "visual.conv1.weight", 0)
    return ViTConfig(
        resolution=patch_size * _side(_axis(shapes, "visual.positional_embedding", 0) - 1),
        patch_size=patch_size,
        width=width,
        layers=_count(shapes, r"visual\.transformer\.resblocks\.(\d+)\."),
        # Wider ViTs have other heads: open_clip's ViT-H, g and bigG have 16, of 80, 88 and 104 channels.
        heads=heads or _heads(width, "vision", widest=1024),
        mlp_width=_axis(shapes, "visual.transformer.resblocks.0.mlp.c_fc.weight", 0),
        activation=activation,
    )


def _infer_resnet(shapes: Mapping[str, Shape], heads: int | None) -> ResNetConfig:
    width = _axis(shapes, "visual.layer1.0.conv1.weight", 0)
    one, two, three, four = (_count(shapes, rf"visual\.layer{stage}\.(\d+)\.") for stage in (1, 2, 3, 4))
    return ResNetConfig(
        resolution=32 * _side(_axis(shapes, "visual.attnpool.positional_embedding", 0) - 1),
        layers=(one, two, three, four),
        width=width,
        heads=heads or _heads(32 * width, "vision"),
    )


def _axis(shapes: Mapping[str, Shape], name: str, axis: int) -> int:
    if name not in shapes:
        raise ConfigError(f"No tensor {name!r}: is this a CLIP checkpoint in OpenAI's names, with both towers?")
    if len(shapes[name]) <= axis:
        raise ConfigError(f"{name} has shape {shapes[name]}; expected at least {axis + 1} axes.")
    return shapes[name][axis]


def _count(shapes: Mapping[str, Shape], pattern: str) -> int:
    found = {int(match[1][:9]) for name in shapes if (match := re.match(pattern, name))}  # more are too many anyway
    return max(found, default=-1) + 1


def _side(positions: int) -> int:
    side = math.isqrt(max(positions, 0))
    if side**2 != positions:
        raise ConfigError(f"visual positional embedding: {positions} positions beside the first don't form a square.")
    return side


def _heads(width: int, tower: str, widest: int | None = None) -> int:
    if width % 64 or (widest is not None and width > widest):
        raise ConfigError(
            f"The {tower} tower is {width} wide, unlike OpenAI's, so its heads can't be inferred: "
            f"put a config.json with {tower}.heads beside the weights."
        )
    return width // 64
