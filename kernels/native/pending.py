"""A result that isn't computed yet, because what the tower does with it next may be done on the way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref import ops

from .rooms import for_result

Array: TypeAlias = NDArray[Any]
Compute: TypeAlias = Callable[[Array | None, str], Array]  # of what is added and the activation after it


class Pending:
    """A product or a convolution, to which a residual may be added and an activation applied while it is written.

    As much of numpy as the towers use; whatever isn't part of the one pass sees the array.
    """

    # numpy leaves `x + pending` to this class then.
    __array_ufunc__ = None

    def __init__(
        self, shape: tuple[int, ...], compute: Compute, residual: Array | None = None, activation: str = "none"
    ) -> None:
        self.shape = shape
        self._compute, self._residual, self._activation = compute, residual, activation
        self._made: Array | None = None

    @property
    def array(self) -> Array:
        """The values, computed once."""
        if self._made is None:
            self._made = self._compute(self._residual, self._activation)
        return self._made

    def activated(self, activation: str) -> Pending | None:
        """The same with an activation after all else, or None where it is too late for that."""
        if self._made is not None or self._activation != "none":
            return None
        return Pending(self.shape, self._compute, self._residual, activation)

    def __add__(self, other: Any) -> Any:
        if self._made is None and self._activation == "none" and self._residual is None:
            addend = as_array(other)
            if addend.shape == self.shape and addend.dtype == np.float32:
                return Pending(self.shape, self._compute, addend)
        return self.array + as_array(other)

    __radd__ = __add__

    def __matmul__(self, weight: Any) -> Any:
        return self.array @ weight

    def __getitem__(self, index: Any) -> Array:
        return np.asarray(self.array[index])

    def reshape(self, *shape: int) -> Array:
        """As numpy's."""
        return self.array.reshape(*shape)

    def swapaxes(self, first: int, second: int) -> Array:
        """As numpy's."""
        return np.swapaxes(self.array, first, second)


def as_array(x: Any) -> Array:
    """What an operation is handed, as numpy's array."""
    return x.array if isinstance(x, Pending) else np.asarray(x)


class Eager:
    """The operations of clipref.ops that have no kernel here, for arrays in float32 that may be pending."""

    def softmax(self, x: Any) -> Array:
        return ops.softmax(as_array(x))

    def prepend_mean(self, x: Any) -> Array:
        # Of channels-last maps numpy adds the positions one after the other, which float32 isn't enough for.
        x = as_array(x)
        mean = x.mean(axis=1, keepdims=True, dtype=np.float64)
        return np.concatenate([mean.astype(x.dtype), x], axis=1)

    def prepend_token(self, x: Any, token: Array) -> Array:
        x = as_array(x)
        n, length, width = x.shape
        out = for_result((n, 1 + length, width))
        out[:, 0], out[:, 1:] = token, x
        return out

    def add_positions(self, x: Any, positional_embedding: Array, positions: Array | None = None) -> Array:
        x = as_array(x)
        rows = positional_embedding[: x.shape[1]] if positions is None else positional_embedding[positions]
        out: Array = np.add(x, rows, out=for_result(x.shape))
        return out

    def take(self, x: Any, positions: Array) -> Array:
        return ops.take(as_array(x), positions)
