"""How many floating-point operations a tower really does, counted while it runs.

One multiply-add counts as 2. Only products are counted (linear, convolution, attention), as in the published tables;
work that clipref leaves out, such as the last block's other positions, is not counted.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from clipref import ops
from clipref.backends import overlay
from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint


class Counter:
    """The operations of clipref.ops, and `flop`, the sum of what they did."""

    def __init__(self) -> None:
        self.flop = 0
        self.ops = overlay(self)

    def linear(self, x: Any, weight: Any, bias: Any = None) -> Any:
        self.flop += 2 * x.size * len(weight)
        return ops.linear(x, weight, bias)

    def conv2d(self, x: Any, weight: Any, stride: int = 1, padding: int = 0) -> Any:
        y = ops.conv2d(x, weight, stride, padding)
        self.flop += 2 * y.size * math.prod(weight.shape[1:])
        return y

    def attention(self, q: Any, k: Any, v: Any, visible: Any = None) -> Any:
        self.flop += 4 * q.size * k.shape[2]
        return ops.attention(q, k, v, visible)


def per_item(checkpoint: Checkpoint, pixels: Any = None, ids: Any = None) -> float:
    """GFLOP of one image, or of one text, the mean over the batch given."""
    counter = Counter()
    engine = NumpyEngine(checkpoint, "float32", counter.ops)
    if pixels is not None:
        engine.encode_image(np.asarray(pixels))
        return counter.flop / len(pixels) / 1e9
    engine.encode_text(np.asarray(ids))
    return counter.flop / len(ids) / 1e9
