"""Each operation against a second statement of it, as loops over single numbers; its dtype; its input left alone."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from clipref import ops
from clipref.backends import overlay

from .tolerances import assert_close

Array = np.ndarray
GENERATOR = np.random.Generator(np.random.PCG64(3))


def normal(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape)


def filled(shape: tuple[int, ...], value: Callable[..., float]) -> Array:
    y = np.empty(shape)
    for index in np.ndindex(shape):
        y[index] = value(*index)
    return y


def linear(x: Array, weight: Array, bias: Array) -> Array:
    return filled((*x.shape[:-1], len(weight)), lambda n, i, o: math.fsum([*(x[n, i] * weight[o]), bias[o]]))


def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
    def value(n: int, i: int) -> float:
        mean = math.fsum(x[n]) / len(x[n])
        variance = math.fsum((v - mean) ** 2 for v in x[n]) / len(x[n])
        return float((x[n, i] - mean) / math.sqrt(variance + 1e-5) * weight[i] + bias[i])

    return filled(x.shape, value)


def attention(q: Array, k: Array, v: Array, visible: Array) -> Array:
    def value(n: int, h: int, i: int, d: int) -> float:
        seen = np.flatnonzero(visible[n, i])
        weights = [math.exp(math.fsum(q[n, h, i] * k[n, h, j]) / math.sqrt(q.shape[3])) for j in seen]
        return math.fsum(w * v[n, h, j, d] for j, w in zip(seen, weights, strict=True)) / math.fsum(weights)

    return filled(q.shape, value)


def conv2d(x: Array, weight: Array, stride: int, padding: int) -> Array:
    def value(n: int, o: int, row: int, column: int) -> float:
        terms = []
        for c, i, j in np.ndindex(weight.shape[1:]):
            y, z = row * stride + i - padding, column * stride + j - padding
            if 0 <= y < x.shape[2] and 0 <= z < x.shape[3]:
                terms.append(x[n, c, y, z] * weight[o, c, i, j])
        return math.fsum(terms)

    sides = [(s + 2 * padding - weight.shape[2]) // stride + 1 for s in x.shape[2:]]
    return filled((len(x), len(weight), *sides), value)


def avg_pool(x: Array, size: int) -> Array:
    shape = (*x.shape[:2], x.shape[2] // size, x.shape[3] // size)

    def value(n: int, c: int, i: int, j: int) -> float:
        return math.fsum(x[n, c, i * size + a, j * size + b] for a, b in np.ndindex(size, size)) / size**2

    return filled(shape, value)


def batch_norm(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
    def value(n: int, c: int, i: int, j: int) -> float:
        return float((x[n, c, i, j] - running_mean[c]) / math.sqrt(running_var[c] + 1e-5) * weight[c] + bias[c])

    return filled(x.shape, value)


def each(function: Callable[[float], float]) -> Callable[[Array], Array]:
    return lambda x: filled(x.shape, lambda *index: function(float(x[index])))


VISIBLE = (GENERATOR.random((2, 4, 4)) < 0.5) | np.eye(4, dtype=bool)
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "linear": (linear, (normal(3, 4, 5), normal(6, 5), normal(6))),
    "layer_norm": (layer_norm, (normal(3, 7) * 0.01 + 0.02, normal(7), normal(7))),
    "quick_gelu": (each(lambda v: v / (1 + math.exp(-1.702 * v))), (normal(3, 50) * 4,)),
    "gelu": (each(lambda v: v / 2 * math.erfc(-v / math.sqrt(2))), (normal(3, 50) * 2,)),
    "relu": (each(lambda v: max(v, 0.0)), (normal(3, 50),)),
    "attention": (attention, (*(normal(2, 3, 4, 5) for _ in range(3)), VISIBLE)),
    "conv2d": (conv2d, (normal(2, 3, 7, 8), normal(4, 3, 3, 3), 2, 1)),
    "batch_norm": (batch_norm, (normal(2, 3, 4, 5), normal(3), normal(3), normal(3), normal(3) ** 2 * 1e-4)),
    "avg_pool": (avg_pool, (normal(2, 3, 5, 8), 2)),
}


@pytest.mark.parametrize("name", CASES)
def test_operation_is_its_definition(name: str) -> None:
    definition, arguments = CASES[name]
    assert_close(getattr(ops, name)(*arguments), definition(*arguments), "operation")


def as_dtype(arguments: tuple[Any, ...], dtype: str) -> list[Any]:
    cast = [a.astype(dtype) if isinstance(a, Array) and a.dtype.kind == "f" else a for a in arguments]
    for a in cast:
        if isinstance(a, Array):
            a.flags.writeable = False
    return cast


MORE: dict[str, tuple[Any, ...]] = {
    **{name: arguments for name, (_, arguments) in CASES.items()},
    "softmax": (normal(3, 4),),
    "prepend_mean": (normal(2, 3, 4),),
    "prepend_token": (normal(2, 3, 4), normal(4)),
    "add_positions": (normal(2, 3, 4), normal(5, 4)),
    "embed": (np.array([[1, 4], [0, 2]]), normal(5, 4)),
    "take": (normal(2, 3, 4), np.array([[2, 1], [0, 0]])),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MORE)
def test_operation_keeps_dtype_and_input(name: str, dtype: str) -> None:
    arguments = as_dtype(MORE[name], dtype)  # read-only: writing to one raises
    assert getattr(ops, name)(*arguments).dtype == dtype


def test_every_operation_is_tested() -> None:
    assert set(vars(overlay(None))) == {*MORE}


def test_nothing_overflows() -> None:
    x = np.array([-3e4, -700.0, 0.0, 700.0, 3e4], np.float32)  # warnings are errors here
    assert ops.quick_gelu(x).tolist() == [0.0, 0.0, 0.0, 700.0, 3e4]
    assert ops.softmax(x).tolist() == [0.0, 0.0, 0.0, 0.0, 1.0]


def test_nan_is_not_hidden() -> None:
    x = np.array([np.nan, 1.0], np.float32)
    assert np.isnan(ops.relu(x)[0]) and np.isnan(ops.quick_gelu(x)[0]) and np.isnan(ops.layer_norm(x, x, x)).all()


def test_positions() -> None:
    x = np.zeros((2, 3, 4))
    table = normal(5, 4)
    assert (ops.add_positions(x, table) == table[:3]).all()
    rows = np.array([[2, 0, 0], [4, 1, 2]])
    assert (ops.add_positions(x, table, rows) == table[rows]).all()
    x = normal(2, 3, 4)
    assert (ops.take(x, np.array([[2], [0]])) == np.stack([x[:1, 2], x[1:, 0]])).all()
    assert (ops.prepend_token(x, table[0])[:, 0] == table[0]).all()
    assert_close(ops.prepend_mean(x)[:, 0], (x[:, 0] + x[:, 1] + x[:, 2]) / 3, "operation")
