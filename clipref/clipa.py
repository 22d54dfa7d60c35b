"""The two towers of CLIPA: pixels to an embedding, and how its texts are given to the text transformer.

From "An Inverse Scaling Law for CLIP Training" (https://arxiv.org/abs/2305.07017) as open_clip has it
(src/open_clip/transformer.py, model_configs/ViT-*-CLIPA*.json). Differs from CLIP: no LayerNorm before the blocks; the
embedding is made of the mean of the patches, without the class token, which takes part in attention alone; a text's
tokens see each other both ways, padding too, and its feature is at the last column. Its texts are made to ids by
another tokenizer, which this project doesn't have.

Axes: N items, R pixels a side, G patches a side, L = 1 + G*G positions, T context length, W channels, E embedding.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from .architecture import Activation, Shape, Shapes
from .errors import ConfigError, InputError
from .text_transformer import Ids, TextConfig, Texts, encode_tree
from .transformer import Array, Ops, Params, Tap, no_tap, residual_blocks
from .vision_transformer import ViTConfig, patches


@dataclass(frozen=True)
class ClipaConfig(ViTConfig):
    """CLIPA's vision transformer: the numbers of a ViT, and all of its tensors but `ln_pre`."""

    kind: ClassVar[str] = "clipa"
    title: ClassVar[str] = "CLIPA"
    open_clip: ClassVar[Mapping[str, Any]] = {"no_ln_pre": True, "pool_type": "avg", "final_ln_after_pool": True}

    def shapes(self, embed_dim: int) -> dict[str, Shape]:
        return {name: shape for name, shape in super().shapes(embed_dim).items() if not name.startswith("ln_pre.")}

    @classmethod
    def is_in(cls, names: Collection[str]) -> bool:
        return "visual.class_embedding" in names and "visual.ln_pre.weight" not in names

    @classmethod
    def infer(cls, shapes: Shapes, activation: Activation, heads: int | None) -> tuple[Any, int]:
        raise ConfigError(
            "There is no 'visual.ln_pre.weight': tensors are missing, or it is a CLIPA, which no tensor tells. Put "
            "its open_clip_config.json beside it."
        )


@dataclass(frozen=True)
class ClipaTextConfig(TextConfig):
    """CLIPA's text transformer: all tokens see each other, and the last column of all T is the feature."""

    kind: ClassVar[str] = "clipa"
    open_clip: ClassVar[Mapping[str, Any]] = {"no_causal_mask": True, "pool_type": "last"}

    @property
    def end_of_text(self) -> None:
        """There is none: texts end with their padding."""
        return None

    def single_texts(self, ids: Ids) -> Texts:
        """Token ids [N, T] as rows of one text each; no column is cut off."""
        n, length = ids.shape
        positions = np.broadcast_to(np.arange(length), ids.shape)
        return ids, positions, np.ones((n, length, length), bool), np.full((n, 1), length - 1)

    def check_ids(self, ids: Ids) -> None:
        if ids.shape[1] != self.context_length:
            raise InputError(
                f"ids have {ids.shape[1]} columns; expected {self.context_length}, padded with 0, because this model "
                f"sees the padding of its texts too."
            )

    def check(self, where: str) -> None:
        super().check(where)
        if self.eos_token_id is not None:
            raise ConfigError(f"{where}.eos_token_id is {self.eos_token_id}; a text of kind {self.kind!r} has no end.")
        if self.tokenizer is None:
            raise ConfigError(f"{where}.tokenizer is None; expected the name of the one that makes its ids.")

    @classmethod
    def is_in(cls, names: Collection[str]) -> bool:
        """Never: its tensors have the names of CLIP's own."""
        return False


def patch_tokens(x: Array) -> Array:
    """[N, L, W] -> [N, G*G, W]: all positions but the class token's."""
    return x[:, 1:]


def encode_image(
    ops: Ops, pixels: Array, config: ClipaConfig, tap: Tap = no_tap,
    *, conv1: Params, class_embedding: Array, positional_embedding: Array, transformer: Params, ln_post: Params,
    proj: Array,
) -> Array:  # fmt: skip
    """Preprocessed pixels [N, 3, R, R] -> embeddings [N, E], not normalised."""
    x = tap("visual.conv1", patches(ops, pixels, config.patch_size, **conv1))  # [N, G*G, W]
    x = ops.prepend_token(x, class_embedding)  # [N, L, W]
    x = ops.add_positions(x, positional_embedding)
    x = residual_blocks(ops, x, config, None, patch_tokens, tap, "visual.transformer", **transformer)  # [N, G*G, W]
    x = ops.prepend_mean(x)[:, 0]  # [N, W]
    x = tap("visual.ln_post", ops.layer_norm(x, **ln_post))
    return tap("visual", x @ proj)  # [N, E]


TOWERS = {ClipaConfig: encode_image, ClipaTextConfig: encode_tree}
