"""Is a set of operations right: each of them against clipref.ops in float64, on inputs that reach the corners.

`clipref kernels --check NAME` prints it. For engines that aren't sets of operations, clipref's conformance is the way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipref import ops as reference
from clipref.engine import backends, operations, overlay
from clipref.errors import BackendError

Array = NDArray[Any]

# In units of the dtype's epsilon times the root mean square of what is expected, for the largest difference. Measured
# of clipref.ops itself in float32: up to 7. Room is left for sums in another order, and for other exp and division.
BUDGET = 32.0

_DTYPES = ("float32", "float64")


def cases() -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Operations and their arguments in float64: no two axes alike, small and large, one item and several."""
    generator = np.random.Generator(np.random.PCG64(11))

    def normal(*shape: int) -> Array:
        return generator.standard_normal(shape)

    for shape in ((1, 1, 5), (3, 4, 5), (2, 50, 48)):
        width = shape[-1]
        yield "linear", (normal(*shape), normal(7, width), normal(7))
        yield "linear", (normal(*shape), normal(3 * width, width))
        yield "layer_norm", (normal(*shape) * 0.01 + 0.02, normal(width), normal(width))
        outlier = normal(*shape)
        outlier[..., 1] *= 60.0  # trained CLIPs have such channels
        yield "layer_norm", (outlier, normal(width), normal(width))
        wide = normal(*shape) * 5
        wide.flat[:4] = (-3e4, -30.0, 0.0, 3e4)
        for name in ("quick_gelu", "gelu", "relu"):
            yield name, (normal(*shape) * 3,)
            yield name, (wide,)
        yield "softmax", (normal(*shape) * 20,)
        yield "prepend_mean", (normal(*shape),)
        yield "prepend_token", (normal(*shape), normal(width))
        yield "add_positions", (normal(*shape), normal(shape[1] + 2, width))
        yield "embed", (generator.integers(0, 9, shape[:2]), normal(9, width))
        yield "take", (normal(*shape), generator.integers(0, shape[1], (shape[0], 2)))
    for n, heads, queries, keys, channels in ((1, 2, 3, 3, 4), (2, 3, 7, 7, 5), (2, 3, 1, 9, 8), (1, 8, 77, 77, 16)):
        q, k, v = normal(n, heads, queries, channels), *(normal(n, heads, keys, channels) for _ in range(2))
        visible = generator.random((n, queries, keys)) < 0.5
        visible[..., 0] |= ~visible.any(axis=-1)
        yield "attention", (q, k, v)
        yield "attention", (q * 2, k, v)
        yield "attention", (q, k, v, visible)
    for n, inputs, outputs, height, width, kernel, stride, padding in (
        (2, 3, 4, 9, 9, 3, 3, 0),
        (1, 5, 7, 6, 8, 1, 1, 0),
        (2, 6, 5, 7, 6, 3, 1, 1),
        (3, 3, 8, 12, 10, 3, 2, 1),
        (2, 3, 4, 11, 13, 3, 2, 1),
        (1, 16, 12, 28, 28, 3, 1, 1),
    ):
        x = normal(n, inputs, height, width)
        yield "conv2d", (x, normal(outputs, inputs, kernel, kernel), stride, padding)
        variance = np.exp(normal(inputs) * 4)
        yield "batch_norm", (x * np.sqrt(variance)[:, None, None], *(normal(inputs) for _ in range(3)), variance)
        yield "avg_pool", (x, 2)
        yield "avg_pool", (x, 3)
    for ids in ([[8, 3, 9, 0, 0]], [[8, 3, 9, 0, 0], [8, 1, 2, 9, 9]]):
        yield "find_end_of_text", (np.array(ids),)
        yield "causal", (np.array(ids),)


def errors(kernels: Any, dtype: str) -> Iterator[tuple[str, float]]:
    """Each case's operation, and how far it is off in units of `dtype`; inf where shape, dtype or input is wrong."""
    for name, arguments in cases():
        given = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in arguments]
        exact = [a.astype("f8") if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in given]
        kept = [np.array(a) for a in given]
        found, expected = getattr(kernels, name)(*given), getattr(reference, name)(*exact)
        pairs = zip(found, expected, strict=True) if isinstance(expected, tuple) else [(found, expected)]
        worst = max(_units(actual, truth, dtype) for actual, truth in pairs)
        changed = any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(given, kept, strict=True))
        yield name, float("inf") if changed else worst
    for name in ("relu", "quick_gelu", "gelu", "softmax"):
        x = np.array([[np.nan, 1.0]], dtype)
        yield name, 0.0 if np.isnan(np.ravel(getattr(kernels, name)(x))[:1]).all() else float("inf")


def _units(actual: Any, expected: Array, dtype: str) -> float:
    actual = np.asarray(actual)
    right = np.dtype(dtype) if expected.dtype.kind == "f" else expected.dtype
    if actual.shape != expected.shape or actual.dtype != right or not np.isfinite(actual).all():
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(actual, expected) else float("inf")
    difference = float(np.abs(actual - expected).max())
    scale = float(np.sqrt(np.square(expected).mean())) * float(np.finfo(right).eps)
    return difference / scale if difference else 0.0


def check(name: str) -> dict[str, dict[str, float]]:
    """The largest error of each operation of a backend that is a set of operations, in both dtypes.

    Raises BackendError if it isn't one.
    """
    known = backends()
    if name not in known:
        raise BackendError(f"No backend {name!r}; there are: {', '.join(sorted(known))}.")
    entry = known[name]
    kernels = reference if entry is None else entry.load()
    if hasattr(kernels, "engine") and not hasattr(kernels, "operations"):
        raise BackendError(f"Backend {name!r} is an engine of its own, not a set of operations to check one by one.")
    kernels = overlay(operations(kernels))
    worst: dict[str, dict[str, float]] = {}
    for dtype in _DTYPES:
        for operation, units in errors(kernels, dtype):
            found = worst.setdefault(operation, dict.fromkeys(_DTYPES, 0.0))
            found[dtype] = max(found[dtype], units)
    return worst


def check_operations(name: str) -> None:
    """Raise AssertionError if an operation of the backend `name` is off by more than BUDGET."""
    for operation, found in check(name).items():
        for dtype, units in found.items():
            if not units <= BUDGET:
                raise AssertionError(f"{operation} is off by {units:.3g} eps of the RMS in {dtype}; {BUDGET} is right.")
