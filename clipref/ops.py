"""The definition of every operation that CLIP is made of, in plain numpy: the meaning that all kernels are held to.

Each function returns the dtype it is given, float32 or float64, and never modifies its input. None is tuned: where
the plain statement and the fast one differ, the plain one stands here and the fast one in a kernel set.

Axes: N items, L positions, T context length, W channels of a transformer, H heads, D channels a head, C channels of
a feature map, R pixels a side, G positions a side.
"""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]

_erf = np.frompyfunc(math.erf, 1, 1)  # numpy has no erf of its own


def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """`x @ weight.T + bias`: [..., I] with weight [O, I], bias [O] -> [..., O]."""
    y: Array = x @ weight.T
    return y if bias is None else y + bias


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    """x [..., W], weight and bias [W] -> [..., W]: over the last axis, with the biased variance and eps 1e-5."""
    centred = x - x.mean(axis=-1, keepdims=True)
    variance = (centred * centred).mean(axis=-1, keepdims=True)
    y: Array = centred / np.sqrt(variance + 1e-5) * weight + bias
    return y


def quick_gelu(x: Array) -> Array:
    """`x * sigmoid(1.702 x)`, in which OpenAI's models were trained. The exponent never overflows."""
    e = np.exp(-abs(1.702 * x))
    y: Array = x * np.where(x >= 0, 1.0, e) / (1.0 + e)
    return y


def gelu(x: Array) -> Array:
    """`x * Phi(x)` with the normal distribution itself (https://arxiv.org/abs/1606.08415), not a tanh like it."""
    erf: Array = np.asarray(_erf(x / math.sqrt(2.0)), x.dtype)
    y: Array = 0.5 * x * (1.0 + erf)
    return y


def relu(x: Array) -> Array:
    """`max(x, 0)`; NaN stays NaN."""
    return np.maximum(x, 0.0)


def softmax(x: Array) -> Array:
    """x [..., K] -> [..., K], of sum 1: over the last axis, less its maximum first, so that it can't overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    y: Array = e / e.sum(axis=-1, keepdims=True)
    return y


def attention(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """Scaled dot-product attention (https://arxiv.org/abs/1706.03762, 3.2.1): q [N, H, Q, D], k and v [N, H, K, D].

    `visible` [N, Q, K] bool says which positions each query may see, at least one; None lets it see all.
    """
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2)  # [N, H, Q, K]
    if visible is not None:
        scores = np.where(visible[:, None], scores, -np.inf)
    y: Array = softmax(scores) @ v
    return y


def conv2d(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    """Cross-correlation without bias: x [N, C, R, R], weight [O, C, k, k] -> [N, O, R', R']."""
    n, outputs, kernel = x.shape[0], weight.shape[0], weight.shape[2:]
    if padding:
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
    windows = sliding_window_view(x, kernel, axis=(2, 3))[:, :, ::stride, ::stride]  # [N, C, R', R', k, k]
    height, width = windows.shape[2:4]
    columns = windows.transpose(0, 1, 4, 5, 2, 3).reshape(n, -1, height * width)  # [N, C*k*k, R'*R']
    y: Array = weight.reshape(outputs, -1) @ columns
    return y.reshape(n, outputs, height, width)


def batch_norm(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
    """Per channel of x [N, C, R, R], with the running statistics and eps 1e-5."""
    mean, gain, offset = (a[:, None, None] for a in (running_mean, weight / np.sqrt(running_var + 1e-5), bias))
    y: Array = (x - mean) * gain + offset
    return y


def avg_pool(x: Array, size: int) -> Array:
    """Mean of each `size` x `size` square of x [N, C, R, R]; what doesn't fill a square at the edge is left out."""
    n, c, height, width = x.shape
    height, width = height // size, width // size
    squares = x[:, :, : height * size, : width * size].reshape(n, c, height, size, width, size)
    y: Array = squares.mean(axis=(3, 5))
    return y


def prepend_mean(x: Array) -> Array:
    """x [N, L, W] -> [N, 1 + L, W]: the mean over positions becomes the first of them."""
    return np.concatenate([x.mean(axis=1, keepdims=True), x], axis=1)


def prepend_token(x: Array, token: Array) -> Array:
    """x [N, L, W], token [W] -> [N, 1 + L, W]: the same token before every sequence."""
    return np.concatenate([np.broadcast_to(token, (x.shape[0], 1, x.shape[2])), x], axis=1)


def add_positions(x: Array, positional_embedding: Array, positions: Array | None = None) -> Array:
    """x [N, L, W] plus rows of positional_embedding [T, W]: those at positions [N, L], or the first L of them."""
    rows = positional_embedding[: x.shape[1]] if positions is None else positional_embedding[positions]
    y: Array = x + rows
    return y


def embed(ids: Array, weight: Array) -> Array:
    """Rows of the table `weight` [V, W] for ids [N, L] -> [N, L, W]."""
    y: Array = weight[ids]
    return y


def take(x: Array, positions: Array) -> Array:
    """x [N, L, W], positions [N, S] -> [N, S, W]: some positions of each item."""
    return np.take_along_axis(x, positions[:, :, None], axis=1)
