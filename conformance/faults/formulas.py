"""Operations gone wrong: functions that stand in the place of some of `clipref.ops`, or make what does."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from clipref import ops
from clipref.text_transformer import causal

from ..protocol import Array
from .tower import Operation


def layer_norm(eps: float, ddof: int = 0) -> Callable[..., Array]:
    def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        y: Array = centred / np.sqrt(x.var(-1, keepdims=True, ddof=ddof) + eps) * weight + bias
        return y

    return layer_norm


def layer_norm_eps_outside(x: Array, weight: Array, bias: Array) -> Array:
    y: Array = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-5) * weight + bias
    return y


def rms_norm(x: Array, weight: Array, bias: Array) -> Array:
    y: Array = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * weight + bias
    return y


def attention(power: float) -> Callable[..., Array]:
    """Attention with its scores multiplied by D ** power besides."""
    return lambda q, k, v, visible=None: ops.attention(q * q.shape[-1] ** power, k, v, visible)


def attention_by_width(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """Attention scaled by the width of the model instead of a head's."""
    return ops.attention(q * q.shape[1] ** -0.5, k, v, visible)


def attention_masked_mildly(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """Attention in which scores that should be hidden are lowered by 1 instead of by infinity."""
    if visible is None:
        return ops.attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2) - (~visible[:, None]).astype(q.dtype)
    y: Array = ops.softmax(scores) @ v
    return y


def tanh_gelu(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def quick_gelu_by(factor: float) -> Operation:
    """x * sigmoid(factor x)"""

    def quick_gelu(x: Array) -> Array:
        y: Array = x / (1 + np.exp(-np.clip(factor * x, -500, None)))
        return y

    return quick_gelu


def without_diagonal(ids: Array) -> Array:
    seen = causal(ids) & ~np.eye(ids.shape[1], dtype=bool)
    seen[:, 0, 0] = True  # the first has nothing else to see
    return seen


def pool_at(position: Callable[[Array, Array], Array]) -> Callable[..., Any]:
    def find_end_of_text(ids: Array) -> tuple[Array, Array]:
        return ids, np.asarray(position(ids, ids.argmax(1)))[:, None]

    return find_end_of_text


def first_padding(ids: Array, end: Array) -> Array:
    return np.asarray(np.minimum(end + 1, ids.shape[1] - 1))


def before_the_first_0(ids: Array, end: Array) -> Array:
    zeros = ids == 0
    before: Array = np.where(zeros.any(1), zeros.argmax(1), ids.shape[1]) - 1
    return before


def last_of_the_largest(ids: Array, end: Array) -> Array:
    last: Array = ids.shape[1] - 1 - ids[:, ::-1].argmax(1)
    return last


def same_padding(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    """TensorFlow's SAME: where the stride is 2, an even side gets its row of zeros behind, and none before."""
    if stride == 2 and padding:
        return ops.conv2d(np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), weight, stride, 0)
    return ops.conv2d(x, weight, stride, padding)


def edge_padding(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    sides = (padding, padding)
    return ops.conv2d(np.pad(x, ((0, 0), (0, 0), sides, sides), mode="edge"), weight, stride, 0)


def batch_norm(eps: float) -> Callable[..., Array]:
    def batch_norm(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
        return ops.batch_norm(x, weight, bias, running_mean, running_var + (eps - 1e-5))

    return batch_norm


def batch_norm_of_the_batch(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    return ops.batch_norm(x, weight, bias, mean, variance)


def max_pool(x: Array, size: int) -> Array:
    n, c, height, width = x.shape
    y: Array = x.reshape(n, c, height // size, size, width // size, size).max(axis=(3, 5))
    return y


def flip_kernels(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    return ops.conv2d(x, weight[:, :, ::-1, ::-1], stride, padding)


def exchange_colours(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    return ops.conv2d(x[:, ::-1] if x.shape[1] == 3 else x, weight, stride, padding)


def columns_first(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    y = ops.conv2d(x, weight, stride, padding)
    return y.swapaxes(2, 3) if stride > 2 else y


def sums_in_float16(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Products whose running sum is kept in float16, 32 terms at a time, as half-precision kernels without care do."""
    total = np.zeros((*x.shape[:-1], len(weight)), np.float16)
    for i in range(0, x.shape[-1], 32):
        part = x[..., i : i + 32] @ weight[:, i : i + 32].T
        total = (total + part).astype(np.float16)
    y: Array = total.astype(x.dtype)
    return y if bias is None else y + bias
