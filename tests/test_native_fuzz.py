"""The native backend's kernels on shapes of any size, against clipref.ops in float64, each sum within its own bound."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipref import ops
from clipref.kernels.native import NativeOps

from .native import PROCESSORS, assert_within, few, needs_library, normal, sizes, wide

pytestmark = needs_library
ACTIVATIONS = ("quick_gelu", "gelu", "relu")

kernels = st.sampled_from([(name, threads) for name in PROCESSORS for threads in (1, 2)])


@few
@given(kernels, sizes, sizes, sizes, st.booleans(), st.booleans(), st.sampled_from([None, *ACTIVATIONS]), st.booleans())
def test_products(
    made: tuple[str, int], rows: int, inputs: int, outputs: int,
    biased: bool, added: bool, activation: str | None, strided: bool,
) -> None:  # fmt: skip
    own = NativeOps(*made)
    x, weight = normal(1, rows, inputs), normal(2, outputs, inputs)
    if strided:
        x = normal(1, rows, inputs + 3)[:, 2:-1]
    bias, residual = normal(3, outputs) if biased else None, normal(4, rows, outputs) if added else None
    y: Any = own.linear(x, weight, bias)
    expected = ops.linear(wide(x), wide(weight), wide(bias))
    size = np.abs(wide(x)) @ np.abs(wide(weight)).T + 2
    if residual is not None:
        y, expected, size = residual + y, residual + expected, size + np.abs(residual)
    if activation is not None:
        y, expected = getattr(own, activation)(y), getattr(ops, activation)(expected)
    assert_within(own.fetch(y), expected, (inputs + 8) * size)


@few
@given(kernels, sizes, sizes)
def test_rows(made: tuple[str, int], rows: int, width: int) -> None:
    own = NativeOps(*made)
    x, weight, bias = normal(1, rows, width) * 3, normal(2, width), normal(3, width)
    # A row of numbers that are nearly alike is divided by next to nothing.
    spread = 1 / np.sqrt(wide(x).var(axis=-1, keepdims=True) + 1e-5)
    bound = 20 * (np.abs(x).max(axis=-1, keepdims=True) * spread * np.abs(weight) * (1 + spread) + np.abs(bias))
    assert_within(own.layer_norm(x, weight, bias), ops.layer_norm(wide(x), wide(weight), wide(bias)), bound)
    for name in ACTIVATIONS:
        assert_within(getattr(own, name)(x), getattr(ops, name)(wide(x)), 4 * np.abs(x) + 1)


@few
@given(
    kernels, st.integers(1, 3), st.integers(1, 4), sizes, sizes, sizes,
    st.sampled_from(["all", "some", "causal", "itself"]),
)  # fmt: skip
def test_attention(
    made: tuple[str, int], items: int, heads: int, queries: int, keys: int, channels: int, seen: str
) -> None:
    attended(made, items, heads, queries, keys, channels, seen)


def test_attention_of_sizes_that_models_have() -> None:
    for name in PROCESSORS:
        for length, channels in ((1, 64), (50, 64), (50, 80), (77, 64), (257, 64), (577, 32)):
            attended((name, 2), 1, 1, min(length, 35), length, channels, "all" if length > 77 else "causal")


def test_attention_of_scores_far_apart() -> None:
    """Each query's greatest score is its own: those of the first are of the order of 1, of others 1,000."""
    q, k, v = (normal(i, 1, 1, 50, 64) for i in range(3))
    q[:, :, 1:] *= 400
    expected = ops.attention(wide(q), wide(k), wide(v))
    for name in PROCESSORS:
        assert np.abs(NativeOps(name, 1).attention(q, k, v) - expected).max() < 0.01


def attended(made: tuple[str, int], items: int, heads: int, queries: int, keys: int, channels: int, seen: str) -> None:
    """Queries, keys and values lie in one array, as the towers have them."""
    own = NativeOps(*made)
    lengths = (queries, keys, keys)
    qkv = normal(1, items, max(lengths), 3, heads, channels).swapaxes(1, 3)
    q, k, v = (qkv[:, :, i, :length] for i, length in enumerate(lengths))
    visible = None
    if seen == "some":
        visible = normal(4, items, queries, keys) > 0
        visible[..., 0] |= ~visible.any(axis=-1)
    elif seen == "causal":
        causal = np.tri(queries, keys, max(0, keys - queries), dtype=bool)
        visible = np.broadcast_to(causal, (items, queries, keys))
    elif seen == "itself":
        visible = np.broadcast_to(np.arange(queries)[:, None] % keys == np.arange(keys), (items, queries, keys))
    size = np.abs(wide(q)) @ np.abs(wide(k)).swapaxes(-1, -2) * channels**-0.5  # what a score is summed of
    bound = 8 * (channels + keys + size.max()) * (1 + size.max()) * np.abs(v).max()
    assert_within(own.attention(q, k, v, visible), ops.attention(wide(q), wide(k), wide(v), visible), bound)


@few
@given(
    kernels, st.integers(1, 2), st.integers(1, 9), sizes, st.integers(1, 12), st.integers(1, 12),
    st.sampled_from([(1, 1, 0), (1, 2, 0), (1, 1, 1), (2, 2, 0), (3, 1, 1), (3, 2, 1), (3, 1, 0), (4, 3, 2)]),
    st.booleans(),
)  # fmt: skip
def test_convolutions(
    made: tuple[str, int], items: int, inputs: int, outputs: int, height: int, width: int,
    kind: tuple[int, int, int], last: bool,
) -> None:  # fmt: skip
    kernel, stride, padding = kind
    height, width = max(height, kernel), max(width, kernel)
    own = NativeOps(*made)
    x, weight = normal(1, items, inputs, height, width), normal(2, outputs, inputs, kernel, kernel)
    if last:
        x = np.ascontiguousarray(x.transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    expected = ops.conv2d(wide(x), wide(weight), stride, padding)
    size = ops.conv2d(np.abs(wide(x)), np.abs(wide(weight)), stride, padding) + 1
    found = own.fetch(own.relu(own.conv2d(x, weight, stride, padding)))
    assert_within(found, ops.relu(expected), (inputs * kernel**2 + 8) * size)
    size_of_pool = min(kernel, height, width)
    pooled = own.avg_pool(x, size_of_pool)
    assert_within(pooled, ops.avg_pool(wide(x), size_of_pool), 4 * kernel**2 * np.abs(x).max())
