"""The vision transformer of CLIP: pixels to an embedding.

From "An Image is Worth 16x16 Words" (https://arxiv.org/abs/2010.11929) as OpenAI's clip/model.py changed it: no bias
on the patches, a LayerNorm before the blocks, and after them one on the class token alone.

Axes: N items, R pixels a side, G patches a side, L = 1 + G*G positions, W channels, E embedding.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar

from .architecture import (
    Activation,
    Family,
    ImageConfig,
    Shape,
    Shapes,
    axis_of,
    check_numbers,
    count_of,
    heads_of,
    norm_shapes,
    side_of,
)
from .errors import ConfigError
from .transformer import Array, Ops, Params, Tap, no_tap, resblock_shapes, residual_blocks


@dataclass(frozen=True)
class ViTConfig(ImageConfig):
    """A vision transformer: `resolution` and `patch_size` in pixels, `width` in channels."""

    kind: ClassVar[str] = "vit"
    family: ClassVar[Family] = "vit"
    title: ClassVar[str] = "ViT"

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

    @property
    def widest(self) -> int:
        """What the MLPs have inside."""
        return (1 + self.grid**2) * self.mlp_width

    def check(self, where: str) -> None:
        check_numbers(where, self, ("resolution", "patch_size", "width", "heads", "mlp_width"), (self.layers,))
        if self.grid < 1:
            raise ConfigError(f"{where}: patches of {self.patch_size} don't fit a resolution of {self.resolution}.")

    def shapes(self, embed_dim: int) -> dict[str, Shape]:
        return {
            "class_embedding": (self.width,),
            "positional_embedding": (self.grid**2 + 1, self.width),
            "proj": (self.width, embed_dim),
            "conv1.weight": (self.width, 3, self.patch_size, self.patch_size),
            **norm_shapes("ln_pre", self.width),
            **resblock_shapes(self.width, self.layers, self.mlp_width),
            **norm_shapes("ln_post", self.width),
        }

    @classmethod
    def is_in(cls, names: Collection[str]) -> bool:
        return any(name.startswith("visual.") for name in names)

    @classmethod
    def infer(cls, shapes: Shapes, activation: Activation, heads: int | None) -> tuple[Any, int]:
        patch_size, width = axis_of(shapes, "visual.conv1.weight", 3), axis_of(shapes, "visual.conv1.weight", 0)
        vision = cls(
            resolution=patch_size * side_of(axis_of(shapes, "visual.positional_embedding", 0)),
            patch_size=patch_size,
            width=width,
            layers=count_of(shapes, r"visual\.transformer\.resblocks\.(\d+)\."),
            # Wider ViTs have other heads: open_clip's ViT-H, g and bigG have 16, of 80, 88 and 104 channels.
            heads=heads or heads_of(width, "vision", widest=1024),
            mlp_width=axis_of(shapes, "visual.transformer.resblocks.0.mlp.c_fc.weight", 0),
            activation=activation,
        )
        return vision, axis_of(shapes, "visual.proj", 1)


def patches(ops: Ops, pixels: Array, patch_size: int, *, weight: Array) -> Array:
    """[N, 3, R, R] -> [N, G*G, W], row by row from the top left."""
    x = ops.conv2d(pixels, weight, stride=patch_size)  # [N, W, G, G]
    n, width, rows, columns = x.shape
    return x.reshape(n, width, rows * columns).swapaxes(1, 2)


def class_token(x: Array) -> Array:
    """[N, L, W] -> [N, 1, W]: the first position, the only one that the embedding is made of."""
    return x[:, :1]


def encode_image(
    ops: Ops, pixels: Array, config: ViTConfig, tap: Tap = no_tap,
    *, conv1: Params, class_embedding: Array, positional_embedding: Array, ln_pre: Params,
    transformer: Params, ln_post: Params, proj: Array,
) -> Array:  # fmt: skip
    """Preprocessed pixels [N, 3, R, R] -> embeddings [N, E], not normalised."""
    x = tap("visual.conv1", patches(ops, pixels, config.patch_size, **conv1))  # [N, G*G, W]
    x = ops.prepend_token(x, class_embedding)  # [N, L, W]
    x = ops.add_positions(x, positional_embedding)
    x = tap("visual.ln_pre", ops.layer_norm(x, **ln_pre))
    x = residual_blocks(ops, x, config, None, class_token, tap, "visual.transformer", **transformer)  # [N, 1, W]
    x = tap("visual.ln_post", ops.layer_norm(x[:, 0], **ln_post))  # [N, W]
    return tap("visual", x @ proj)  # [N, E]


TOWERS = {ViTConfig: encode_image}
