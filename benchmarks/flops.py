"""How many floating-point operations a tower really does, counted while it runs.

One multiply-add counts as 2. Only products are counted (linear, convolution, attention), as in the published tables;
work that clipref leaves out, such as the last block's other positions, is not counted.

A convolution is the product of what each pixel's kernel covers. Ways that need fewer operations, as Winograd's for 3x3,
can therefore be faster than the limit that is measured of products.
"""

from __future__ import annotations

import math
from collections import Counter as Counts
from typing import Any, NamedTuple

import numpy as np

from clipref import ops
from clipref.backends import overlay
from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint


class Product(NamedTuple):
    """The shape of a product [rows, inputs] x [inputs, outputs]."""

    rows: int
    inputs: int
    outputs: int

    @property
    def flop(self) -> int:
        """Its floating-point operations: two for each factor of a sum."""
        return 2 * self.rows * self.inputs * self.outputs


class Counter:
    """The operations of clipref.ops, `flop`, the sum of what they did, and how often each product with weights came."""

    def __init__(self) -> None:
        self.flop = 0
        self.products: Counts[Product] = Counts()
        self.ops = overlay(self)

    def _count(self, rows: int, inputs: int, outputs: int) -> None:
        product = Product(rows, inputs, outputs)
        self.products[product] += 1
        self.flop += product.flop

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        """As `clipref.ops.linear`, counted."""
        self._count(x.size // x.shape[-1], x.shape[-1], len(weight))
        return ops.linear(x, weight, bias)

    def conv2d(self, x: Any, weight: Any, stride: int = 1, padding: int = 0) -> Any:
        """As `clipref.ops.conv2d`, counted as the product that it is."""
        y = ops.conv2d(x, weight, stride, padding)
        self._count(y.size // y.shape[1], math.prod(weight.shape[1:]), len(weight))
        return y

    def attention(self, q: Any, k: Any, v: Any, visible: Any = None) -> Any:
        """As `clipref.ops.attention`, both its products counted."""
        self.flop += 4 * q.size * k.shape[2]
        return ops.attention(q, k, v, visible)


def count(checkpoint: Checkpoint, pixels: Any = None, ids: Any = None) -> Counter:
    """The operations that the tower of these pixels, or of these ids, does with one item.

    All items of a batch are alike: texts of one length.
    """
    counter = Counter()
    engine = NumpyEngine(checkpoint, "float32", counter.ops)
    if pixels is not None:
        engine.encode_image(np.asarray(pixels[:1]))
    else:
        engine.encode_text(np.asarray(ids[:1]))
    return counter
