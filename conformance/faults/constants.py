"""Operations whose constants are slightly off: by less than a coarse precision rounds, but always to the same side."""

from __future__ import annotations

import numpy as np

from clipref import ops

from ..protocol import Array
from .tower import Operation


def attention_by(factor: float) -> Operation:
    """Scores a little too large."""
    return lambda q, k, v, visible=None: ops.attention(q * factor, k, v, visible)


def softmax_of_sum(total: float) -> dict[str, Operation]:
    """A softmax of another sum than 1, by itself and inside of attention."""

    def softmax(x: Array) -> Array:
        y: Array = ops.softmax(x) * total
        return y

    def attention(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
        y: Array = ops.attention(q, k, v, visible) * total
        return y

    return {"softmax": softmax, "attention": attention}


def batch_norm_eps_outside(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
    """Eps added to the deviation, as where weight / (sqrt(variance) + eps) is folded into a convolution."""
    return ops.batch_norm(x, weight, bias, running_mean, (np.sqrt(running_var) + 1e-5) ** 2 - 1e-5)
