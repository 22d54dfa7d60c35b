"""A configuration inferred from the names and shapes of a checkpoint's tensors, the way back from config.tensor_shapes.

What shapes don't tell is given, never assumed: the activation, and the heads where a width isn't one of OpenAI's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from clipref.config import (
    NO_IMAGE_TOWER,
    NO_TEXT_TOWER,
    Activation,
    ClipConfig,
    ResNetConfig,
    Shape,
    TextConfig,
    ViTConfig,
)
from clipref.errors import ConfigError


def has_image_tower(names: Mapping[str, object]) -> bool:
    """Whether there are tensors of an image tower."""
    return any(name.startswith("visual.") for name in names)


def has_text_tower(names: Mapping[str, object]) -> bool:
    """Whether there are tensors of a text tower."""
    parts = {"token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"}
    return any(name.split(".")[0] in parts for name in names)


def infer_config(
    shapes: Mapping[str, Shape],
    activation: Activation,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> ClipConfig:
    """The configuration of a checkpoint that has tensors of these names and shapes, and this activation.

    Unless the heads are given, they are taken to be of 64 channels, as in all models of these widths. Raises
    ConfigError where a tensor that decides is missing, or where a width leaves the heads in doubt.
    """
    vision: ViTConfig | ResNetConfig = NO_IMAGE_TOWER
    text: TextConfig = NO_TEXT_TOWER
    if "visual.layer1.0.conv1.weight" in shapes:
        vision = _resnet(shapes, vision_heads)
        embed_dim = _axis(shapes, "visual.attnpool.c_proj.weight", 0)
    elif has_image_tower(shapes):
        vision = _vit(shapes, activation, vision_heads)
        embed_dim = _axis(shapes, "visual.proj", 1)
    if has_text_tower(shapes):
        text = _text(shapes, activation, text_heads)
        embed_dim = _axis(shapes, "text_projection", 1)
    return ClipConfig(embed_dim, vision, text)


def _text(shapes: Mapping[str, Shape], activation: Activation, heads: int | None) -> TextConfig:
    width = _axis(shapes, "token_embedding.weight", 1)
    return TextConfig(
        context_length=_axis(shapes, "positional_embedding", 0),
        vocab_size=_axis(shapes, "token_embedding.weight", 0),
        width=width,
        layers=_count(shapes, r"transformer\.resblocks\.(\d+)\."),
        heads=heads or _heads(width, "text"),
        mlp_width=_axis(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 0),
        activation=activation,
    )


def _vit(shapes: Mapping[str, Shape], activation: Activation, heads: int | None) -> ViTConfig:
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


def _resnet(shapes: Mapping[str, Shape], heads: int | None) -> ResNetConfig:
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
        raise ConfigError(f"No tensor {name!r}: is this a CLIP's checkpoint, with all of its tensors?")
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
