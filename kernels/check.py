"""Is a set of operations right: each of them against clipref.ops in float64, on inputs that reach the corners.

`clipref kernels --check NAME` prints it. For engines that aren't sets of operations, clipref's conformance is the way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from clipref import ops as reference
from clipref.backends import load, operations, overlay, traits
from clipref.errors import BackendError

Array = NDArray[Any]

# The largest difference allowed, in units of the dtype's epsilon times the root mean square of what is expected.
# Measured of clipref.ops itself: up to 21 in float32 (attention to 77 positions), 22 in float64 (softmax of a strided
# array, whose exp numpy computes otherwise). Room is left for sums in another order.
BUDGET = 48.0


class Finding(NamedTuple):
    """How far an operation was off on one input; `given` is how that lay in memory, `problem` what was raised."""

    operation: str
    units: float
    given: str = "contiguous"
    problem: str | None = None


@dataclass(frozen=True)
class Checked:
    """The largest error of each operation in each dtype, and in words where an operation is wrong."""

    units: dict[str, dict[str, float]]
    problems: dict[str, str]


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
        rows = np.arange(shape[0] * shape[1]).reshape(shape[:2]) * 3 % (shape[1] + 1)
        yield "add_positions", (np.sin(np.arange(math.prod(shape))).reshape(shape), np.eye(shape[1] + 2, width), rows)
        yield "embed", (generator.integers(0, 9, shape[:2]), normal(9, width))
        yield "take", (normal(*shape), generator.integers(0, shape[1], (shape[0], 2)))
    for n, heads, queries, keys, channels in ((1, 2, 3, 3, 4), (2, 3, 7, 7, 5), (2, 3, 1, 9, 8), (1, 8, 77, 77, 16)):
        q, k, v = normal(n, heads, queries, channels), *(normal(n, heads, keys, channels) for _ in range(2))
        visible = generator.random((n, queries, keys)) < 0.5
        visible[..., 0] |= ~visible.any(axis=-1)
        yield "attention", (q, k, v)
        yield "attention", (q * 2, k, v)
        yield "attention", (q, k, v, visible)
        causal = np.tri(queries, keys, keys - queries, dtype=bool)
        yield "attention", (q, k, v, np.broadcast_to(causal, visible.shape))  # as a batch of texts has it
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


def copy_with_gaps(x: Array) -> Array:
    """The same values with the last axis first in memory, and gaps of NaN (or of zeros) between all of them."""
    around = np.full([2 * length for length in x.shape[::-1]], np.nan if x.dtype.kind == "f" else 0, x.dtype)
    view = around[(slice(None, None, 2),) * x.ndim].T
    view[...] = x
    return np.asarray(view)


def read_only_copy(x: Array) -> Array:
    """The same values in memory that can't be written to, as a checkpoint's file is."""
    x = x.copy()
    x.flags.writeable = False
    return x


# Layouts of what the towers hand to an operation: results of others, slices and transposed views of those, and weights.
LAYOUTS: dict[str, Callable[[Array], Array]] = {
    "contiguous": lambda x: x,
    "strided": copy_with_gaps,
    "read-only": read_only_copy,
}


def errors(kernels: Any, dtype: str) -> Iterator[Finding]:
    """Each case of each operation, in units of `dtype`; inf where shape or dtype is wrong, or the input was changed."""
    place, fetch = getattr(kernels, "place", lambda x: x), getattr(kernels, "fetch", np.asarray)

    def call(name: str, arguments: list[Any]) -> Any:
        return fetch(getattr(kernels, name)(*(place(a) if isinstance(a, np.ndarray) else a for a in arguments)))

    for name, arguments in cases():
        exact = [a.astype(dtype).astype("f8") if _is_float(a) else a for a in arguments]
        expected = getattr(reference, name)(*exact)
        for layout, lay in LAYOUTS.items():
            values = [a.astype(dtype) if _is_float(a) else a for a in exact]
            given = [lay(a) if isinstance(a, np.ndarray) else a for a in values]
            try:
                units = _units(call(name, given), expected, dtype)
            except Exception as error:  # whatever somebody's operation raises
                yield Finding(name, float("inf"), layout, f"{type(error).__name__}: {error}")
                continue
            if any(not np.array_equal(a, b, equal_nan=_is_float(a)) for a, b in zip(given, values, strict=True)):
                yield Finding(name, float("inf"), layout, "it changes its input")
            yield Finding(name, units, layout)
    for name in ("relu", "quick_gelu", "gelu", "softmax"):
        kept = np.isnan(np.ravel(call(name, [np.array([[np.nan, 1.0]], dtype)]))[:1]).all()
        yield Finding(name, 0.0) if kept else Finding(name, float("inf"), problem="NaN is lost")


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype.kind == "f"


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


def check(name: str) -> Checked:
    """Every operation of a backend that is a kernel set, in the dtypes that it states.

    Raises BackendError if it isn't one.
    """
    kernels = load(name)
    if hasattr(kernels, "engine"):
        raise BackendError(f"Backend {name!r} is an engine of its own, not a set of operations to check one by one.")
    own = overlay(None if kernels is None else operations(kernels))
    dtypes = traits(kernels).dtypes
    units: dict[str, dict[str, float]] = {}
    problems: dict[str, str] = {}
    for dtype in dtypes:
        for operation, off, given, problem in errors(own, dtype):
            found = units.setdefault(operation, dict.fromkeys(dtypes, 0.0))
            found[dtype] = max(found[dtype], off)
            if not off <= BUDGET and operation not in problems:
                words = problem or f"off by {off:.3g} eps of the RMS, of which {BUDGET} is right"
                problems[operation] = f"{words} ({dtype}, {given} input)"
    return Checked(units, problems)


def check_operations(name: str) -> None:
    """Raise AssertionError if an operation of the backend `name` is off by more than BUDGET."""
    for operation, problem in check(name).problems.items():
        raise AssertionError(f"{operation}: {problem}")
