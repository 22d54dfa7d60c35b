"""The residual attention block that the vision and the text transformer share, and the stack of them.

From "Learning Transferable Visual Models From Natural Language Supervision" (https://arxiv.org/abs/2103.00020) and
OpenAI's clip/model.py. Differs from most transformers: LayerNorm comes before attention and MLP, q, k and v come from
one stacked matrix, and the last block computes one position only, because no other is read.

Parameters are nested as their names in the checkpoint are (`nest` in clipref/nesting.py): the tensor
`transformer.resblocks.0.attn.in_proj_weight` is `transformer["resblocks"][0]["attn"]["in_proj_weight"]`. So a function
whose arguments have the names of tensors is called with `**` and a part of them, and a tensor that is missing, or one
too many, is a TypeError. Matrices lie in two ways, as they do in the checkpoint: those of linear layers [O, I], an
output a row, as torch's nn.Linear has them (`ops.linear` multiplies with their transpose); the towers' last projections
[W, E], an input a row, which is `x @ proj`.

Axes: N items, L positions, Q queries, W channels, M channels inside the MLP, H heads, D = W / H.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from .architecture import Activation, Shape, linear_shapes, norm_shapes

Array: TypeAlias = Any  # whatever the operations take: numpy arrays, or arrays that record
Ops: TypeAlias = Any  # a module with the functions of clipref.ops
Params: TypeAlias = Mapping[str, Any]  # nested: names of a checkpoint, numbered ones as a list
Tap: TypeAlias = Callable[[str, Array], Array]


class BlockConfig(Protocol):
    """What a block needs to know beside its weights."""

    @property
    def heads(self) -> int: ...

    @property
    def activation(self) -> Activation: ...


def no_tap(name: str, x: Array) -> Array:
    """The tap of a plain run: looks at nothing."""
    return x


def split_heads(x: Array, heads: int) -> Array:
    """[N, L, W] -> [N, H, L, D]"""
    n, length, width = x.shape
    return x.reshape(n, length, heads, width // heads).swapaxes(1, 2)


def merge_heads(x: Array) -> Array:
    """[N, H, L, D] -> [N, L, W]"""
    n, heads, length, channels = x.shape
    return x.swapaxes(1, 2).reshape(n, length, heads * channels)


def multi_head_attention(
    ops: Ops, x: Array, queries: Array | None, heads: int, visible: Array | None,
    *, in_proj_weight: Array, in_proj_bias: Array, out_proj: Params,
) -> Array:  # fmt: skip
    """Multi-head attention of queries [N, Q, W], or of all positions where they are None, to x [N, L, W].

    `visible` says which positions each query may see, [N, Q, L]; None: all.
    """
    width = x.shape[-1]
    if queries is None:
        qkv = ops.linear(x, in_proj_weight, in_proj_bias)  # [N, L, 3W]
        q, k, v = (qkv[:, :, i * width : (i + 1) * width] for i in range(3))
    else:
        q = ops.linear(queries, in_proj_weight[:width], in_proj_bias[:width])  # [N, Q, W]
        kv = ops.linear(x, in_proj_weight[width:], in_proj_bias[width:])  # [N, L, 2W]
        k, v = kv[:, :, :width], kv[:, :, width:]
    q, k, v = (split_heads(y, heads) for y in (q, k, v))  # 3 x [N, H, L, D]
    y = merge_heads(ops.attention(q, k, v, visible))  # [N, Q, W]
    return ops.linear(y, **out_proj)


def feed_forward(ops: Ops, x: Array, activation: Activation, *, c_fc: Params, c_proj: Params) -> Array:
    """[N, L, W] -> [N, L, M] -> [N, L, W]"""
    return ops.linear(getattr(ops, activation)(ops.linear(x, **c_fc)), **c_proj)


def resblock(
    ops: Ops, x: Array, config: BlockConfig, visible: Array | None, pool: Callable[[Array], Array] | None,
    tap: Tap, name: str, *, ln_1: Params, attn: Params, ln_2: Params, mlp: Params,
) -> Array:  # fmt: skip
    """One block: x [N, L, W] -> [N, L, W], or [N, S, W] if `pool` picks S positions of each item.

    `visible` has a row for each position that is computed: [N, L, L] or [N, S, L]. None: each sees all.
    """
    # ln_1, attn, ln_2 and mlp are dicts, nested as the checkpoint's names are (`nest` in clipref/nesting.py); so
    # `**attn` is in_proj_weight=, in_proj_bias= and out_proj=, and `**ln_1` weight= and bias=.
    y = tap(f"{name}.ln_1", ops.layer_norm(x, **ln_1))
    queries = None if pool is None else pool(y)
    x = x if pool is None else pool(x)
    x = x + tap(f"{name}.attn", multi_head_attention(ops, y, queries, config.heads, visible, **attn))
    y = tap(f"{name}.ln_2", ops.layer_norm(x, **ln_2))
    x = x + tap(f"{name}.mlp", feed_forward(ops, y, config.activation, **mlp))
    return tap(name, x)


def residual_blocks(
    ops: Ops, x: Array, config: BlockConfig, visible: Array | None, pool: Callable[[Array], Array], tap: Tap, name: str,
    *, resblocks: Sequence[Params],
) -> Array:  # fmt: skip
    """All blocks: x [N, L, W] -> [N, S, W], the positions that `pool` picks.

    `visible` [N, L, L] says which positions (columns) each position (row) may see. Of a picture it is None: all see
    all. Of a text it is made with its ids (text_transformer.py). It goes through the blocks as it is, but the last
    block computes S positions only, so `pool` picks their rows of it too.
    """
    for i, block in enumerate(resblocks[:-1]):
        x = resblock(ops, x, config, visible, None, tap, f"{name}.resblocks.{i}", **block)
    visible_to_picked = None if visible is None else pool(visible)  # [N, S, L]
    i = len(resblocks) - 1
    return resblock(ops, x, config, visible_to_picked, pool, tap, f"{name}.resblocks.{i}", **resblocks[-1])


def resblock_shapes(width: int, layers: int, mlp_width: int) -> dict[str, Shape]:
    """Names and shapes of the tensors of `residual_blocks`."""
    shapes: dict[str, Shape] = {}
    for i in range(layers):
        block = f"transformer.resblocks.{i}"
        shapes |= {
            **norm_shapes(f"{block}.ln_1", width),
            f"{block}.attn.in_proj_weight": (3 * width, width),
            f"{block}.attn.in_proj_bias": (3 * width,),
            **linear_shapes(f"{block}.attn.out_proj", width, width),
            **norm_shapes(f"{block}.ln_2", width),
            **linear_shapes(f"{block}.mlp.c_fc", width, mlp_width),
            **linear_shapes(f"{block}.mlp.c_proj", mlp_width, width),
        }
    return shapes
