"""The residual attention block that the vision and the text transformer share, and the stack of them.

From "Learning Transferable Visual Models From Natural Language Supervision" (https://arxiv.org/abs/2103.00020) and
OpenAI's clip/model.py. Differs from most transformers: LayerNorm comes before attention and MLP, q, k and v come from
one stacked matrix, and the last block computes one position only, because no other is read.

Axes: N items, L positions, Q queries, W channels, M channels inside the MLP, H heads, D = W / H.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

from .config import Activation

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
    ops: Ops, x: Array, queries: Array, heads: int, visible: Array | None,
    *, in_proj_weight: Array, in_proj_bias: Array, out_proj: Params,
) -> Array:  # fmt: skip
    """Multi-head attention of queries [N, Q, W] to x [N, L, W], which may be the same array."""
    width = x.shape[-1]
    if queries is x:
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

    `visible` is that of ops.attention, for the positions that are computed.
    """
    y = tap(f"{name}.ln_1", ops.layer_norm(x, **ln_1))
    queries = y if pool is None else pool(y)
    x = x if pool is None else pool(x)
    x = x + tap(f"{name}.attn", multi_head_attention(ops, y, queries, config.heads, visible, **attn))
    y = tap(f"{name}.ln_2", ops.layer_norm(x, **ln_2))
    x = x + tap(f"{name}.mlp", feed_forward(ops, y, config.activation, **mlp))
    return tap(name, x)


def residual_blocks(
    ops: Ops, x: Array, config: BlockConfig, visible: Array | None, pool: Callable[[Array], Array], tap: Tap, name: str,
    *, resblocks: Sequence[Params],
) -> Array:  # fmt: skip
    """All blocks: x [N, L, W], visible [N, L, L] as in ops.attention -> [N, S, W], the positions that `pool` picks."""
    for i, block in enumerate(resblocks[:-1]):
        x = resblock(ops, x, config, visible, None, tap, f"{name}.resblocks.{i}", **block)
    visible = None if visible is None else pool(visible)  # [N, S, L]
    i = len(resblocks) - 1
    return resblock(ops, x, config, visible, pool, tap, f"{name}.resblocks.{i}", **resblocks[-1])
