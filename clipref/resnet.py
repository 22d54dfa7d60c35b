"""The modified ResNet of CLIP: pixels to an embedding.

From the CLIP paper, section 2.3 (https://arxiv.org/abs/2103.00020), and OpenAI's clip/model.py. Differs from other
ResNets: three 3x3 convolutions and an average pool as stem; every stride is an average pool, before the convolution
it belongs to (https://arxiv.org/abs/1812.01187, ResNet-D; https://arxiv.org/abs/1904.11486); the last pool is
attention whose only query is the mean.

Axes: N items, R pixels a side, C channels, G = R / 32 positions a side at the end, L = 1 + G*G, E embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .config import ResNetConfig
from .transformer import Array, Ops, Params, Tap, merge_heads, no_tap, split_heads


def conv_norm(ops: Ops, x: Array, conv: Params, norm: Params, stride: int = 1) -> Array:
    """A convolution that keeps the size (up to its stride) and its BatchNorm: [N, C, R, R] -> [N, C', R', R']."""
    padding = conv["weight"].shape[-1] // 2
    return ops.batch_norm(ops.conv2d(x, **conv, stride=stride, padding=padding), **norm)


def bottleneck(
    ops: Ops, x: Array, stride: int, tap: Tap, name: str,
    *, conv1: Params, bn1: Params, conv2: Params, bn2: Params, conv3: Params, bn3: Params,
    downsample: Any = None,
) -> Array:  # fmt: skip
    """[N, C, R, R] -> [N, 4P, R / stride, R / stride] through P planes."""
    y = tap(f"{name}.relu1", ops.relu(conv_norm(ops, x, conv1, bn1)))  # [N, P, R, R]
    y = tap(f"{name}.relu2", ops.relu(conv_norm(ops, y, conv2, bn2)))
    y = y if stride == 1 else tap(f"{name}.avgpool", ops.avg_pool(y, stride))  # [N, P, R', R']
    y = tap(f"{name}.bn3", conv_norm(ops, y, conv3, bn3))  # [N, 4P, R', R']
    if downsample is not None:
        x = x if stride == 1 else tap(f"{name}.downsample.-1", ops.avg_pool(x, stride))  # [N, C, R', R']
        conv, norm = downsample
        x = tap(f"{name}.downsample", conv_norm(ops, x, conv, norm))  # [N, 4P, R', R']
    return tap(name, ops.relu(y + x))


def attention_pool(
    ops: Ops, x: Array, heads: int,
    *, positional_embedding: Array, q_proj: Params, k_proj: Params, v_proj: Params, c_proj: Params,
) -> Array:  # fmt: skip
    """[N, C, G, G] -> [N, E]"""
    n, channels, rows, columns = x.shape
    x = x.reshape(n, channels, rows * columns).swapaxes(1, 2)  # [N, G*G, C]
    x = ops.add_positions(ops.prepend_mean(x), positional_embedding)  # [N, L, C]
    q = split_heads(ops.linear(x[:, :1], **q_proj), heads)  # [N, H, 1, D]
    k = split_heads(ops.linear(x, **k_proj), heads)  # [N, H, L, D]
    v = split_heads(ops.linear(x, **v_proj), heads)
    y = merge_heads(ops.attention(q, k, v))  # [N, 1, C]
    return ops.linear(y[:, 0], **c_proj)


def encode_image(
    ops: Ops, pixels: Array, config: ResNetConfig, tap: Tap = no_tap,
    *, conv1: Params, bn1: Params, conv2: Params, bn2: Params, conv3: Params, bn3: Params,
    layer1: Sequence[Params], layer2: Sequence[Params], layer3: Sequence[Params], layer4: Sequence[Params],
    attnpool: Params,
) -> Array:  # fmt: skip
    """Preprocessed pixels [N, 3, R, R] -> embeddings [N, E], not normalised."""
    x = tap("visual.relu1", ops.relu(conv_norm(ops, pixels, conv1, bn1, stride=2)))  # [N, C/2, R/2, R/2]
    x = tap("visual.relu2", ops.relu(conv_norm(ops, x, conv2, bn2)))
    x = tap("visual.relu3", ops.relu(conv_norm(ops, x, conv3, bn3)))  # [N, C, R/2, R/2]
    x = tap("visual.avgpool", ops.avg_pool(x, 2))  # [N, C, R/4, R/4]
    for stage, layer in enumerate((layer1, layer2, layer3, layer4), start=1):  # 4C 8C 16C 32C; R/4 R/8 R/16 R/32
        for i, block in enumerate(layer):
            stride = 2 if i == 0 and stage > 1 else 1
            x = bottleneck(ops, x, stride, tap, f"visual.layer{stage}.{i}", **block)
    return tap("visual", attention_pool(ops, x, config.heads, **attnpool))  # [N, E]
