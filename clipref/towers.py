"""The one list of what kinds of towers there are: a new kind is a file and a row of `FILES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import clipa, resnet, text_transformer, vision_transformer
from .architecture import ImageConfig, TowerConfig
from .text_transformer import TextConfig

# Kinds of towers; where tensors are of several, the first counts.
FILES: tuple[Any, ...] = (resnet, clipa, vision_transformer, text_transformer)

ENCODERS: Mapping[type[TowerConfig], Callable[..., Any]] = {
    config: encode for file in FILES for config, encode in file.TOWERS.items()
}
# Configurations of image towers by the name that config.json has for them.
IMAGE_KINDS: Mapping[str, type[ImageConfig]] = {c.kind: c for c in ENCODERS if issubclass(c, ImageConfig)}
TEXT_KINDS: Mapping[str, type[TextConfig]] = {c.kind: c for c in ENCODERS if issubclass(c, TextConfig)}


def encoder(config: TowerConfig) -> Callable[..., Any]:
    """The function that computes a tower: `encode_image`, or of a text tower `encode_tree`."""
    return ENCODERS[type(config)]
