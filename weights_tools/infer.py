"""A configuration inferred from the names and shapes of a checkpoint's tensors, the way back from config.tensor_shapes.

What shapes don't tell is given, never assumed: the activation, and the heads where a width isn't one of OpenAI's. How
each kind of tower is known by its tensors, and what they tell, its own file says.
"""

from __future__ import annotations

from collections.abc import Collection

from clipref.architecture import Shapes
from clipref.config import NO_IMAGE_TOWER, NO_TEXT_TOWER, Activation, ClipConfig
from clipref.towers import IMAGE_KINDS, TEXT_KINDS


def has_image_tower(names: Collection[str]) -> bool:
    """Whether there are tensors of an image tower."""
    return any(kind.is_in(names) for kind in IMAGE_KINDS.values())


def has_text_tower(names: Collection[str]) -> bool:
    """Whether there are tensors of a text tower."""
    return any(kind.is_in(names) for kind in TEXT_KINDS.values())


def infer_config(
    shapes: Shapes,
    activation: Activation,
    vision_heads: int | None = None,
    text_heads: int | None = None,
) -> ClipConfig:
    """The configuration of a checkpoint that has tensors of these names and shapes, and this activation.

    Raises ConfigError where a tensor that decides is missing, or where something is left in doubt.
    """
    vision, text, embed_dim = NO_IMAGE_TOWER, NO_TEXT_TOWER, 0
    if kind := next((kind for kind in IMAGE_KINDS.values() if kind.is_in(shapes)), None):
        vision, embed_dim = kind.infer(shapes, activation, vision_heads)
    if kind_of_text := next((kind for kind in TEXT_KINDS.values() if kind.is_in(shapes)), None):
        text, embed_dim = kind_of_text.infer(shapes, activation, text_heads)
    return ClipConfig(embed_dim, vision, text)
