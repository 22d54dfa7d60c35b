"""The towers as fast as numpy alone goes: every operation as few passes over memory, and matrix products BLAS likes.

Shapes are those of clipref.ops; only where things lie in memory differs, and numpy's strides say so. Activations of
a transformer lie feature by feature, [W, N, L]: `weight @ x` then takes weights as they are in the checkpoint, and is
up to half faster than `x @ weight.T` when there are few positions. Feature maps lie channels-last, [N, R, R, C].
Convolutions are laid out once, with their BatchNorm in them; 3x3 ones in the transformed domain of
"Fast Algorithms for Convolutional Neural Networks" (https://arxiv.org/abs/1509.09308, 4.1, F(2x2, 3x3)), which takes
4 products a pixel instead of 9. Items go through a tower a few at a time, so that activations stay in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from clipref import ops
from clipref.architecture import TowerConfig
from clipref.backends import Traits

from .fold import fold_norms

Array: TypeAlias = NDArray[Any]

# Numbers that are worked on at a time: what a core's own cache holds; the tiles of a convolution, whose products get
# slow if they are small; a tower's widest activation.
BLOCK = 2**17
TILES = 2**20
WIDEST = 2**22

TRAITS = Traits(
    {"float32": "graded float32", "float64": "within 1e-10 of the reference"},
    speed=lambda precision, kind, features: 0.0 if precision == "float64" else 1.6 if kind == "resnet" else 1.9,
)


def features(x: Array) -> Array:
    """x [..., W] -> [W, P], all positions of a feature side by side; a view where it lies like that already."""
    return np.ascontiguousarray(np.moveaxis(x, -1, 0)).reshape(x.shape[-1], -1)


def positions(y: Array, shape: tuple[int, ...]) -> Array:
    """The inverse of `features`: [W, P] -> [*shape, W], a view."""
    return np.moveaxis(y.reshape(-1, *shape), 0, -1)


def product(rows: Array, matrix: Array) -> Array:
    """rows [P, I] @ matrix [I, O]. Of few rows the other way round, [O, P] in memory: BLAS is faster at it then."""
    y: Array = rows @ matrix if len(rows) >= 512 else (matrix.T @ rows.T).T
    return y


@dataclass(frozen=True)
class Convolution:
    """A convolution's weight [O, C, k, k], laid out to be multiplied with, and what is added after it."""

    shape: tuple[int, ...]
    matrix: Array  # [C*k*k, O]; [16, C, O] if transformed
    bias: Array | None


# F(2x2, 3x3): a kernel's three taps to four, along an axis.
_TAPS = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])


def lay_out(weight: Array, bias: Array | None = None) -> Convolution:
    """A convolution of weight [O, C, k, k] and bias [O]."""
    outputs, inputs = weight.shape[:2]
    if transforms(weight.shape):
        exact = weight.astype(np.float64)
        matrix = np.einsum("jt,is,ocst->jico", _TAPS, _TAPS, exact, optimize=True).reshape(16, inputs, outputs)
    else:
        matrix = weight.reshape(outputs, -1).T
    return Convolution(weight.shape, np.ascontiguousarray(matrix, weight.dtype), bias)


def transforms(shape: tuple[int, ...]) -> bool:
    """Whether a convolution is done in the transformed domain; of few channels, its transforms would cost the most."""
    return shape[1] >= 16 and shape[2:] == (3, 3)


def lay_out_convolutions(params: Any) -> Any:
    """A tower's parameters, `fold_norms`, with each convolution laid out."""
    if isinstance(params, list):
        return [lay_out_convolutions(item) for item in params]
    if not isinstance(params, Mapping):
        return params
    params = dict(params)
    if getattr(params.get("weight"), "ndim", 0) == 4:
        return {"weight": lay_out(**params)}
    return {name: lay_out_convolutions(item) for name, item in params.items()}


class BlasOps:
    """The operations of clipref.ops that numpy can do faster than they are written there.

    After `prepare`, the weight of a convolution is a `Convolution`.
    """

    def prepare(self, params: Any) -> Any:
        """A tower's parameters with each BatchNorm part of its convolution, and each convolution laid out."""
        return lay_out_convolutions(fold_norms(params))

    def batch_size(self, tower: TowerConfig) -> int:
        """So few items that their widest activation stays in the cache."""
        return max(1, WIDEST // tower.widest)

    def linear(self, x: Array, weight: Array, bias: Array | None = None) -> Array:
        y = weight @ features(x)
        if bias is not None:
            y += bias[:, None]
        return positions(y, x.shape[:-1])

    def layer_norm(self, x: Array, weight: Array, bias: Array) -> Array:
        y = features(x)
        y = y - y.mean(axis=0)
        variance = np.einsum("wp,wp->p", y, y) / len(y)
        y *= 1.0 / np.sqrt(variance + 1e-5)
        y *= weight[:, None]
        y += bias[:, None]
        return positions(y, x.shape[:-1])

    def quick_gelu(self, x: Array) -> Array:
        # sigmoid(z) is (1 + tanh(z / 2)) / 2: nothing overflows, and nothing is divided.
        y = np.empty_like(x)
        for block, out in blocks(x, y):
            np.multiply(block, 0.851, out=out)
            np.tanh(out, out=out)
            out += 1.0
            out *= block
            out *= 0.5
        return y

    def relu(self, x: Array) -> Array:
        # `clip` is three times as fast as np.maximum with a number.
        y: Array = x.clip(0.0, np.inf)
        return y

    def attention(self, q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
        n, heads, queries, channels = q.shape
        y = np.empty((heads, channels, n, queries), q.dtype).transpose(2, 0, 1, 3)  # [N, H, D, Q]
        for part in parts(n, heads, queries * k.shape[2], BLOCK):
            scores = (q[part] * channels**-0.5) @ k[part].swapaxes(-1, -2)  # [N, H, Q, K]
            if visible is not None:
                np.copyto(scores, -np.inf, where=~visible[part[0], None])
            scores -= scores.max(axis=-1, keepdims=True)
            np.exp(scores, out=scores)
            scores /= scores.sum(axis=-1, keepdims=True)
            np.matmul(v[part].swapaxes(-1, -2), scores.swapaxes(-1, -2), out=y[part])
        return np.swapaxes(y, -1, -2)

    def conv2d(self, x: Array, weight: Array | Convolution, stride: int = 1, padding: int = 0) -> Array:
        convolution = weight if isinstance(weight, Convolution) else lay_out(weight)
        if transforms(convolution.shape):
            return transformed_conv2d(x, convolution, padding)[:, :, ::stride, ::stride]
        return plain_conv2d(x, convolution, stride, padding)

    def batch_norm(self, x: Array, *norm: Array, **named: Array) -> Array:
        # A norm that `prepare` has made part of its convolution has no parameters left.
        return ops.batch_norm(x, *norm, **named) if norm or named else x

    def avg_pool(self, x: Array, size: int) -> Array:
        height, width = x.shape[2] // size * size, x.shape[3] // size * size
        y = np.zeros_like(x[:, :, :height:size, :width:size])
        for i in range(size):
            for j in range(size):
                y += x[:, :, i:height:size, j:width:size]
        y *= 1.0 / size**2
        return y

    def embed(self, ids: Array, weight: Array) -> Array:
        return positions(features(weight[ids]), ids.shape)


def parts(n: int, rows: int, numbers: int, limit: int) -> Iterator[tuple[slice, slice]]:
    """Several items, or some rows of one, at a time: as many as have at most `limit` numbers, with `numbers` a row."""
    items, some = max(1, limit // (rows * numbers)), max(1, limit // numbers)
    for i in range(0, n, items):
        for j in range(0, rows, some):
            yield slice(i, min(i + items, n)), slice(j, min(j + some, rows))


def blocks(x: Array, y: Array) -> Iterator[tuple[Array, Array]]:
    """Two arrays of the same layout, a block of memory after the other."""
    one, other = x.ravel(order="K"), y.ravel(order="K")
    for start in range(0, one.size, BLOCK):
        yield one[start : start + BLOCK], other[start : start + BLOCK]


def plain_conv2d(x: Array, convolution: Convolution, stride: int, padding: int) -> Array:
    """The product with columns of all that a pixel's kernel covers."""
    outputs, _, *kernel = convolution.shape
    if kernel == [1, 1] and not padding:
        columns = x.transpose(1, 0, 2, 3)[:, :, ::stride, ::stride]  # [C, N, R', R']
    else:
        x = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)))
        windows = sliding_window_view(x, kernel, axis=(2, 3))[:, :, ::stride, ::stride]  # [N, C, R', R', k, k]
        columns = windows.transpose(1, 4, 5, 0, 2, 3)  # [C, k, k, N, R', R']
    shape = columns.shape[-3:]
    rows = np.moveaxis(columns.reshape(-1, *shape), 0, -1).reshape(-1, len(convolution.matrix))
    y = product(rows, convolution.matrix)  # [N*R'*R', O]
    if convolution.bias is not None:
        y += convolution.bias
    return np.moveaxis(y.reshape(*shape, outputs), 3, 1)


def transformed_conv2d(x: Array, convolution: Convolution, padding: int) -> Array:
    """F(2x2, 3x3): tiles of 4x4 pixels, two apart, become 16 numbers a channel, and those 2x2 pixels of the result."""
    n, channels, height, width = x.shape
    outputs = convolution.shape[0]
    down, across = (-(-(side + 2 * padding - 2) // 2) for side in (height, width))  # tiles
    result = np.empty((n, down, 2, across, 2, outputs), x.dtype)
    x = x.transpose(0, 2, 3, 1)

    for items, band in parts(n, down, 16 * across * max(channels, outputs), TILES):
        top, bottom = 2 * band.start - padding, 2 * band.stop + 2 - padding
        pixels = np.zeros((items.stop - items.start, bottom - top, 2 * across + 2, channels), x.dtype)
        first, last = max(top, 0), min(bottom, height)
        pixels[:, first - top : last - top, padding : padding + width] = x[items, first:last]
        y = input_tiles(pixels) @ convolution.matrix  # [16, P, O]
        if convolution.bias is not None:
            y[5] += convolution.bias  # which goes into each of the four pixels once
        y = y.reshape(4, 4, -1, band.stop - band.start, across, outputs)
        for j, column in enumerate(_two(y)):  # [4, N, down, across, O]
            for i, row in enumerate(_two(column)):
                result[items, band, i, :, j] = row
    y = result.reshape(n, 2 * down, 2 * across, outputs)[:, : height + 2 * padding - 2, : width + 2 * padding - 2]
    return np.moveaxis(y, 3, 1)


def input_tiles(pixels: Array) -> Array:
    """Pixels [N, 2D + 2, 2A + 2, C] -> [16, N*D*A, C], the transformed tiles."""
    n, height, width, channels = pixels.shape
    down, across = height // 2 - 1, width // 2 - 1
    pixels = pixels.reshape(n, height, across + 1, 2, channels).transpose(3, 0, 1, 2, 4)  # even and odd columns
    rows = np.empty((4, 2, n, down, across + 1, channels), pixels.dtype)
    _four(rows, *(pixels[:, :, i : i + 2 * down : 2] for i in range(4)))
    even, odd = rows[:, 0], rows[:, 1]
    tiles = np.empty((4, 4, n, down, across, channels), pixels.dtype)
    _four(tiles, even[..., :-1, :], odd[..., :-1, :], even[..., 1:, :], odd[..., 1:, :])
    return tiles.reshape(16, -1, channels)


def _four(out: Array, a: Array, b: Array, c: Array, d: Array) -> None:
    np.subtract(a, c, out=out[0])
    np.add(b, c, out=out[1])
    np.subtract(c, b, out=out[2])
    np.subtract(b, d, out=out[3])


def _two(x: Array) -> tuple[Array, Array]:
    first, second = x[1] + x[2], x[1] - x[2]
    first += x[0]
    second -= x[3]
    return first, second


def operations() -> BlasOps:
    """The kernel set of the backend `blas`."""
    return BlasOps()
