"""The operations of clipref.ops by the kernels of the C library."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref import ops
from clipref.architecture import TowerConfig
from clipref.backends import overlay

from ..batching import POSITIONS
from .calibration import balanced
from .library import ACTIVATIONS, REST, Attention, Convolution, Heads, Norm, Product, address, function, part
from .packing import Weight, pack, pack_tower
from .pending import Eager, Pending, as_array
from .rooms import for_result
from .sharing import Sharing

Array: TypeAlias = NDArray[Any]

_FLOAT = 4  # bytes


class NativeOps(Eager):
    """The kernels made for a processor, on as many threads as are given.

    After `prepare`, whatever is multiplied with is a `Weight` in the precision of the set; one that is an array is
    packed at each call. The last projections, attention and all else are in float32. Results of `linear` and `conv2d`
    are computed when something is done with them that isn't part of the same pass.
    """

    def __init__(self, processor: str, threads: int, precision: str = "float32") -> None:
        self.processor, self.threads, self.precision = processor, threads, precision
        self._sharing = Sharing(threads)
        rest = REST.get(processor, processor)
        makers = {precision: processor, "float32": rest}
        self._product = {made: part("product", made, makers[made]) for made in makers}
        self._convolve = part("convolve", precision, processor)
        self._attention = part("attention", "float32", rest)
        self._layer_norm = part("layer_norm", "float32", rest)
        self._activate = function("activate", "float32", rest)
        self._avg_pool = function("avg_pool", "float32", rest)

    def calibrate(self, params: Any, config: TowerConfig) -> Any:
        """A tower's parameters; for int8 with the same result in real arithmetic, and no channel far above the rest."""
        if self.precision != "int8":
            return params
        exact = overlay(NativeOps(REST.get(self.processor, self.processor), self.threads))
        return balanced(exact, params, config)

    def prepare(self, params: Any) -> Any:
        """A tower's parameters with all that is multiplied with packed, and BatchNorms part of their convolutions."""
        return pack_tower(params, self.precision, self.project, self._sharing)

    def fetch(self, own: Any) -> Array:
        """A result, computed by now."""
        return as_array(own)

    def in_parts(self, encode: Callable[..., Array], config: TowerConfig, *inputs: Array) -> Array:
        """Whole items to each thread, a few at a time; where they are few, operations are shared out."""
        n, threads = len(inputs[0]), self.threads
        at_a_time = max(1, POSITIONS // positions(config, inputs))
        if threads == 1 or n < 3 * threads or (n % threads and n < 4 * threads):
            size = at_a_time * threads
            found = [encode(*(x[i : i + size] for x in inputs)) for i in range(0, n, size)]
        else:
            turns = -(-n // (threads * at_a_time))
            shares = zip(*(np.array_split(x, min(n, turns * threads)) for x in inputs), strict=True)
            found = self._sharing.items(encode, shares)
        return found[0] if len(found) == 1 else np.concatenate(found)

    def packed(self, weight: Any) -> Weight:
        """A weight, packed by now."""
        return weight if isinstance(weight, Weight) else pack(weight, self.precision)

    def linear(self, x: Any, weight: Any, bias: Array | None = None) -> Pending:
        x, weight = as_array(x), self.packed(weight)
        shape = (*x.shape[:-1], weight.outputs)

        def compute(residual: Array | None, activation: str) -> Array:
            added = None if residual is None else as_rows(residual)
            return self.multiply(as_rows(x), weight, bias, added, activation).reshape(shape)

        return Pending(shape, compute)

    def project(self, x: Array, weight: Weight) -> Array:
        """What `x @ proj` is of a packed projection."""
        return self.linear(x, weight).array

    def multiply(
        self, rows: Array, weight: Weight, bias: Array | None, residual: Array | None, activation: str
    ) -> Array:
        """Rows [M, I] and a weight [O, I] -> [M, O], with what is done to the sums."""
        out = for_result((len(rows), weight.outputs))
        bias = None if bias is None else np.ascontiguousarray(bias)
        product = Product(
            address(rows), rows.strides[0] // _FLOAT, *rows.shape,
            weight.address, weight.panels.strides[0] // _FLOAT, weight.outputs,
            None if bias is None else address(bias),
            None if residual is None else address(residual),
            0 if residual is None else residual.strides[0] // _FLOAT,
            address(out), weight.outputs, ACTIVATIONS[activation],
        )  # fmt: skip
        self._sharing.parts(self._product[weight.precision], product, len(weight.panels))
        return out

    def layer_norm(self, x: Any, weight: Array, bias: Array) -> Array:
        x = as_array(x)
        rows, out = as_rows(x), for_result(x.shape)
        weight, bias = np.ascontiguousarray(weight), np.ascontiguousarray(bias)
        norm = Norm(
            address(rows), rows.strides[0] // _FLOAT, rows.shape[1], address(weight), address(bias), address(out)
        )
        self._sharing.parts(self._layer_norm, norm, len(rows))
        return out

    def quick_gelu(self, x: Any) -> Any:
        return self._activated(x, "quick_gelu")

    def gelu(self, x: Any) -> Any:
        return self._activated(x, "gelu")

    def relu(self, x: Any) -> Any:
        return self._activated(x, "relu")

    def _activated(self, x: Any, activation: str) -> Any:
        later = x.activated(activation) if isinstance(x, Pending) else None
        if later is not None:
            return later
        x = np.ascontiguousarray(as_array(x))
        out = for_result(x.shape)
        self._activate(address(x), x.size, address(out), ACTIVATIONS[activation])
        return out

    def attention(self, q: Any, k: Any, v: Any, visible: Array | None = None) -> Array:
        q, k, v = (in_rows(as_array(x)) for x in (q, k, v))
        n, heads, queries, channels = q.shape
        out = for_result((n, queries, heads, channels))
        mask: tuple[Any, ...] = (None, 0, 0)
        if visible is not None:
            visible = visible.view(np.uint8)
            if visible.strides[2] != 1:
                visible = np.ascontiguousarray(visible)
            mask = (address(visible), *visible.strides[:2])
        first = [Heads(address(x), *(stride // _FLOAT for stride in x.strides[:3])) for x in (q, k, v)]
        attention = Attention(*first, *mask, n, heads, queries, k.shape[2], channels, address(out))
        self._sharing.parts(self._attention, attention, heads)
        return np.swapaxes(out, 1, 2)  # [N, H, Q, D]

    def conv2d(self, x: Any, weight: Any, stride: int = 1, padding: int = 0, bias: Array | None = None) -> Pending:
        x, weight = as_array(x), self.packed(weight)
        n, _, height, width = x.shape
        kernel = weight.shape[2]
        rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        shape = (n, weight.outputs, rows, columns)
        bias = None if bias is None else np.ascontiguousarray(bias)

        def compute(residual: Array | None, activation: str) -> Array:
            added = None if residual is None else channels_last(residual)
            if kernel == 1 and stride == 1 and not padding:
                pixels = channels_last(x).reshape(-1, x.shape[1])
                if added is not None:
                    added = added.reshape(-1, weight.outputs)
                out = self.multiply(pixels, weight, bias, added, activation).reshape(n, rows, columns, -1)
            else:
                out = self._convolved(x, weight, bias, stride, padding, (rows, columns), added, activation)
            return np.moveaxis(out, 3, 1)

        return Pending(shape, compute)

    def _convolved(
        self, x: Array, weight: Weight, bias: Array | None, stride: int, padding: int, sides: tuple[int, int],
        residual: Array | None, activation: str,
    ) -> Array:  # fmt: skip
        """Maps [N, C, R, R] -> [N, R', R', O]; a residual has the shape of the result."""
        rows, columns = sides
        kernel = weight.shape[2]
        x = np.require(x, np.float32, "A")
        out = for_result((len(x), rows, columns, weight.outputs))
        n, channels, *size = x.shape
        following, channel, down, across = (stride // _FLOAT for stride in x.strides)
        convolution = Convolution(
            address(x), down, across, channel, *size, channels,
            following, n, kernel, stride, padding, rows, columns, weight.address, weight.outputs,
            None if bias is None else address(bias), None if residual is None else address(residual),
            address(out), ACTIVATIONS[activation],
        )  # fmt: skip
        self._sharing.parts(self._convolve, convolution, rows)
        return out

    def batch_norm(self, x: Any, *norm: Array, **named: Array) -> Any:
        # A norm that `prepare` has made part of its convolution has no parameters left.
        return ops.batch_norm(as_array(x), *norm, **named) if norm or named else x

    def avg_pool(self, x: Any, size: int) -> Array:
        maps = channels_last(as_array(x))
        n, height, width, channels = maps.shape
        out = for_result((n, height // size, width // size, channels))
        for item, result in zip(maps, out, strict=True):
            self._avg_pool(address(item), height, width, channels, size, address(result))
        return np.moveaxis(out, 3, 1)


def positions(config: TowerConfig, inputs: tuple[Array, ...]) -> int:
    """How many positions an item of a tower's inputs has: pixels, ids that the tower cuts, or a tree of tokens."""
    first: Any = inputs[0]
    tower: Any = config
    if first.ndim == 4:
        return int(tower.grid**2 + 1)
    return int((tower.single_texts(first)[0] if len(inputs) == 1 else first).shape[1])


def as_rows(x: Array) -> Array:
    """x [..., W] -> [P, W] whose rows are contiguous; a view where that is possible."""
    return in_rows(x.reshape(-1, x.shape[-1]))


def in_rows(x: Array) -> Array:
    """x [..., W] in float32, whose rows are contiguous; itself where they are."""
    if x.strides[-1] == _FLOAT and x.dtype == np.float32 and x.flags.aligned:
        return x
    return np.require(x, np.float32, ["C", "A"])


def channels_last(x: Array) -> Array:
    """x [N, C, R, R] -> [N, R, R, C], contiguous; a view where it lies like that already."""
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
