"""The vision transformer of CLIP: pixels to an embedding.

From "An Image is Worth 16x16 Words" (https://arxiv.org/abs/2010.11929) as OpenAI's clip/model.py changed it: no bias
on the patches, a LayerNorm before the blocks, and after them one on the class token alone.

Axes: N items, R pixels a side, G patches a side, L = 1 + G*G positions, W channels, E embedding.
"""

from __future__ import annotations

from .config import ViTConfig
from .transformer import Array, Ops, Params, Tap, no_tap, residual_blocks


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
