"""Questions of single operations and of similarities, which follow their definitions in float64."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from clipref import ops
from clipref.weights_tools import synthetic

from ..grading import rounding
from ..grading.units import frozen_units
from ..protocol import Array, Case, Exact, Question, Units
from ..restated import similarity as restated
from .make import question


def similarity() -> Iterator[Question]:
    """Cosines and logits of made-up embeddings, of several sizes and scales."""
    # A scale above the 100 that training stops at, and embeddings so short that nothing may be added to their lengths.
    for images, texts, width, scale, factor in (
        (3, 5, 11, 100.0, 1), (4, 2, 64, 14.3, 1), (1, 7, 512, 100.0, 1), (2, 6, 17, 150.0, 1), (5, 3, 29, 100.0, 2e-5),
    ):  # fmt: skip
        key = f"similarity {images} {texts} {width}"
        image = (synthetic.normal(f"{key} image", images * width) * 3).reshape(images, width).astype(np.float32)
        text = synthetic.normal(f"{key} text", texts * width).reshape(texts, width).astype(np.float32)
        text[0] = image[0] * 0.5  # a cosine of 1
        image, text = (x * np.float32(factor) for x in (image, text))
        inputs = {"image": image, "text": text, "logit_scale": np.asarray(np.log(scale), np.float32)}
        yield question(
            f"similarity/{images} images {texts} texts of {width}", ("SIM-1", "SIM-2", "SIM-3"), "similarity", None,
            inputs, {}, _compare, _measure_similarity,
        )  # fmt: skip


def _compare(case: Case) -> Exact:
    image, text, logit_scale = (case.inputs[name].astype(np.float64) for name in ("image", "text", "logit_scale"))
    return Exact(restated.compare(image, text, logit_scale), frozen_units(case.id))


def _measure_similarity(case: Case, exact: Exact) -> Units:
    def compute(precision: str, order: int) -> dict[str, Array]:
        rounded = rounding.rounding(precision)
        dtype = np.float64 if precision == "float64" else np.float32
        image, text, logit_scale = (case.inputs[name].astype(dtype) for name in ("image", "text", "logit_scale"))
        # Another order of float64's sums, always, as in grading/rounding.py.
        shuffled = rounding.permutation(image.shape[1], order + (precision == "float64"))
        return restated.compare(image, text, logit_scale, restated.Steps(), rounded, shuffled)

    return rounding.units_of(compute, exact.outputs)


def _operations() -> Iterator[tuple[str, str, tuple[str, ...], dict[str, tuple[int, ...]], dict[str, Any]]]:
    """Name, what is special, claims, shapes of the arguments, attributes. No two axes of one are equally long."""
    yield "linear", "", ("BLK-2",), {"x": (2, 5, 12), "weight": (7, 12), "bias": (7,)}, {}
    yield "linear", "without bias", ("BLK-2",), {"x": (2, 5, 129), "weight": (7, 129)}, {}
    for special in ("", "nearly constant", "far from zero"):
        yield "layer_norm", special, ("BLK-1",), {"x": (2, 5, 12), "weight": (12,), "bias": (12,)}, {}
    for name in ("quick_gelu", "gelu"):
        for special in ("", "large"):
            yield name, special, ("BLK-5",), {"x": (2, 5, 12)}, {}
    yield "softmax", "", ("OPS-2",), {"x": (2, 3, 5, 7)}, {}
    yield "softmax", "large", ("OPS-2",), {"x": (2, 3, 5, 7)}, {}
    attention: dict[str, tuple[int, ...]] = {"q": (2, 3, 5, 7), "k": (2, 3, 11, 7), "v": (2, 3, 11, 7)}
    yield "attention", "", ("BLK-3",), attention, {}
    causal: dict[str, tuple[int, ...]] = {"q": (2, 3, 5, 7), "k": (2, 3, 5, 7), "v": (2, 3, 5, 7), "visible": (2, 5, 5)}
    yield "attention", "causal", ("BLK-3", "TXT-2"), causal, {}
    yield "conv2d", "of patches", ("OPS-1", "VIT-1"), {"x": (2, 3, 20, 20), "weight": (7, 3, 5, 5)}, {"stride": 5}
    yield "conv2d", "", ("OPS-1",), {"x": (2, 5, 9, 8), "weight": (7, 5, 3, 3)}, {"padding": 1}
    yield "conv2d", "strided", ("OPS-1", "RN-1"), {"x": (2, 3, 10, 8), "weight": (7, 3, 3, 3)}, {
        "stride": 2, "padding": 1,
    }  # fmt: skip
    norms = {name: (5,) for name in ("weight", "bias", "running_mean", "running_var")}
    yield "batch_norm", "", ("RN-3",), {"x": (2, 5, 6, 7), **norms}, {}
    yield "batch_norm", "of little variance", ("RN-3",), {"x": (2, 5, 6, 7), **norms}, {}
    yield "avg_pool", "", ("RN-2",), {"x": (2, 5, 6, 8)}, {"size": 2}


def operations() -> Iterator[Question]:
    """Each operation, on ordinary values and on those that naive arithmetic gets wrong."""
    for name, special, claims, shapes, settings in _operations():
        case = f"operations/{name}{f' {special}' if special else ''}"
        inputs = {key: _argument(case, key, shape, special) for key, shape in shapes.items()}
        yield question(
            case, claims, "operation", None, inputs, {"name": name, **settings}, _operate, _measure_operation
        )


def _argument(case: str, key: str, shape: tuple[int, ...], special: str) -> Array:
    if key == "visible":
        return np.array(np.broadcast_to(np.tri(shape[-1], dtype=bool), shape))
    x: Array = synthetic.normal(f"{case} {key}", int(np.prod(shape))).reshape(shape)
    if key == "running_var":
        x = np.abs(x) * (1e-5 if special else 1) + 1e-6
    if key == "x":
        x = {"large": x * 90, "nearly constant": x * 2e-3 + 1, "far from zero": x + 50}.get(special, x)
    return np.asarray(x, np.float32)


def _arguments(case: Case) -> tuple[str, dict[str, Any], dict[str, Array]]:
    """An operation's name, its numbers, and its arrays in float64."""
    settings = {key: value for key, value in case.attributes.items() if key != "name"}
    arrays = {key: x.astype(np.float64) if x.dtype != bool else x for key, x in case.inputs.items()}
    return case.attributes["name"], settings, arrays


def _operate(case: Case) -> Exact:
    name, settings, arrays = _arguments(case)
    return Exact({"y": getattr(ops, name)(**arrays, **settings)}, frozen_units(case.id))


def _measure_operation(case: Case, exact: Exact) -> Units:
    name, settings, arrays = _arguments(case)

    def compute(precision: str, order: int) -> dict[str, Array]:
        operation = getattr(rounding.operations(precision, order)[0], name)
        return {"y": operation(**(arrays if precision == "float64" else case.inputs), **settings)}

    return rounding.units_of(compute, exact.outputs)
