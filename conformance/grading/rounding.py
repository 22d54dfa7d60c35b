"""What a correct engine would err: the towers re-run with every result rounded to a precision.

No tolerance of the suite is anybody's taste. For each case the reference runs in float64; then again with the arguments
and the result of every operation, and the residual stream, rounded as an engine of that precision rounds them. The
products of lower precisions add up in float32, as processors do it. Sums are taken in several orders, by permuting what
is summed over, because an engine may take any. The largest error among these runs is the unit of that precision: an
engine that is right errs by about one unit.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from clipref import ops
from clipref.backends import overlay
from clipref.engine import NumpyEngine
from clipref.numerics import rms, rms_error, round_mantissa, to_bfloat16
from clipref.weights import Checkpoint

from ..protocol import Array, Outputs

# Precisions from the finest to the coarsest, and the relative distance between neighbours in each; int8's is of the
# largest value. TF32 has float16's digits, but only factors of products are rounded to it: an engine that uses it
# passes as float16.
EPSILON = {
    "float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "tf32": 2.0**-10, "bfloat16": 2.0**-7,
    "int8": 1 / 127,
}  # fmt: skip
PRECISIONS = tuple(EPSILON)
# Orders in which sums are taken: where errors are small, which it is matters most. A large model has so many values
# that one order shows what others do.
ORDERS = {"float64": 3, "float32": 6}
FEW_ORDERS = {"float64": 1, "float32": 2}


def _keep(x: Array) -> Array:
    return x


def _float16(x: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(x).astype(np.float16).astype(np.float32)


def _int8(x: Array, axis: int | None = None) -> Array:
    """Symmetric, 127 steps to either side of zero: of the whole, or of each slice along `axis`."""
    others = None if axis is None else tuple(i for i in range(x.ndim) if i != axis % x.ndim)
    step = np.abs(x).max(axis=others, keepdims=True) / 127.0
    return np.asarray(np.rint(x / np.where(step, step, 1.0)) * step, np.float32)


# What is rounded: everything, or only the factors of products.
_EVERYTHING: dict[str, Callable[[Array], Array]] = {"float16": _float16, "bfloat16": to_bfloat16}
_FACTORS: dict[str, Callable[[Array], Array]] = {**_EVERYTHING, "tf32": partial(round_mantissa, bits=10), "int8": _int8}


def operations(precision: str, order: int = 0) -> tuple[Any, Callable[[Array], Array]]:
    """The operations as an engine of this precision has them, and how it rounds what it keeps.

    `order` is that of the sums; 0 is the reference's own.
    """
    if precision == "float64":
        # Another order of sums shows as much of float64's errors as twice as many digits, which would be needed to see
        # them.
        return overlay(SimpleNamespace(**_reorder(_keep, _keep, _keep, order + 1))), _keep
    everything = _EVERYTHING.get(precision, _keep)
    factors = _FACTORS.get(precision, _keep)
    weights = (lambda w: _int8(w, axis=0)) if precision == "int8" else factors
    products = _reorder(factors, weights, everything, order)
    rest = {
        name: _round_all(function, everything) for name, function in vars(overlay(None)).items() if name not in products
    }
    return overlay(SimpleNamespace(**rest, **products)), everything


def emulate(
    checkpoint: Checkpoint, verb: str, x: Array, precision: str, order: int = 0, kept: Collection[str] = ()
) -> dict[str, Array]:
    """The embeddings, and the activations that are to be kept, that a correct engine of this precision might have."""
    ops, rounded = operations(precision, order)
    engine = NumpyEngine(checkpoint, "float64" if precision == "float64" else "float32", ops)
    taps: dict[str, Array] = {}

    def tap(name: str, y: Array) -> Array:  # also where the towers add without an operation: the residual stream
        y = rounded(y)
        if name in kept:
            taps[name] = y
        return y

    if verb.endswith("image"):
        return {"embeddings": engine.encode_image(rounded(x), tap), **taps}
    return {"embeddings": engine.encode_text(x, tap), **taps}


def _round_all(function: Callable[..., Array], to: Callable[[Array], Array]) -> Callable[..., Array]:
    def call(*arguments: Any, **named: Any) -> Array:
        return to(function(*(to(a) if _is_float(a) else a for a in arguments), **named))

    return call


def _is_float(x: Any) -> bool:
    return isinstance(x, np.ndarray) and x.dtype == np.float32


def permutation(length: int, order: int) -> Array:
    """The order of a sum of so many terms; 0 is the usual one."""
    if order == 0:
        return np.arange(length)
    return np.random.Generator(np.random.PCG64([order, length])).permutation(length)


def rounding(precision: str) -> Callable[[Array], Array]:
    """How an engine of this precision rounds what it keeps, where there is nothing but products and sums."""
    return _FACTORS.get(precision, _keep)


def _reorder(
    factors: Callable[[Array], Array], weights: Callable[[Array], Array], result: Callable[[Array], Array], order: int
) -> dict[str, Callable[..., Array]]:
    """Products with rounded factors, whose sums are taken in the order that a seed decides; 0 is the reference's."""

    def linear(x: Array, weight: Array, bias: Array | None = None) -> Array:
        p = permutation(x.shape[-1], order)
        y = ops.linear(factors(x)[..., p], weights(weight)[:, p])
        return result(y if bias is None else y + bias)

    def conv2d(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
        p = permutation(x.shape[1], order)
        return result(ops.conv2d(factors(x)[:, p], weights(weight)[:, p], stride, padding))

    def attention(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
        p = permutation(k.shape[2], order)
        seen = None if visible is None else visible[:, :, p]
        return result(ops.attention(result(q), result(k)[:, :, p], result(v)[:, :, p], seen))

    return {"linear": linear, "conv2d": conv2d, "attention": attention}


def units(
    checkpoint: Checkpoint, verb: str, x: Array, exact: Outputs, orders: Mapping[str, int] = ORDERS
) -> dict[str, dict[str, float]]:
    """For each output of an encoder, embeddings or activations by name: the units of every precision.

    Those of activations are of the whole ones, compared with the reference's, because `exact` has samples of them.
    """
    taps = exact.keys() - {"embeddings"}
    whole = emulate(checkpoint, verb, x, "float64", -1, taps) if taps else {}
    found: dict[str, dict[str, float]] = {name: dict.fromkeys(PRECISIONS, 0.0) for name in exact}
    for precision in PRECISIONS:
        for order in range(orders.get(precision, 1)):
            run = emulate(checkpoint, verb, x, precision, order, taps)
            for name, truth in exact.items():
                off = rms_error(run[name], truth if name == "embeddings" else whole[name])
                found[name][precision] = max(found[name][precision], off)
    return {name: {p: max(u, _one_rounding(exact[name], p)) for p, u in by.items()} for name, by in found.items()}


def units_of(function: Callable[[str, int], Outputs], exact: Outputs) -> dict[str, dict[str, float]]:
    """The same of anything else: `function` computes the outputs in a precision and an order of its sums."""
    found: dict[str, dict[str, float]] = {name: {} for name in exact}
    for precision in PRECISIONS:
        runs = [function(precision, order) for order in range(ORDERS["float32"])]
        for name, truth in exact.items():
            worst = max(rms_error(run[name], truth) for run in runs)
            found[name][precision] = max(worst, _one_rounding(truth, precision))
    return found


def _one_rounding(exact: Array, precision: str) -> float:
    """What rounding the result alone may cost, and an engine can't avoid: half a step of the largest value."""
    size = rms(exact)
    return float(np.abs(exact).max() / size * 0.5 * EPSILON[precision]) if size else 0.0
