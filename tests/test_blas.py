"""The blas backend: the towers against the reference, each operation's mutants, threads, and what is left alone."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, ops
from clipref.backends import make_engine, overlay, own_operations
from clipref.kernels import blas
from clipref.kernels.blas import BlasOps, Convolution
from clipref.kernels.check import BUDGET, check, check_operations, errors
from clipref.kernels.fold import fold
from clipref.weights_tools import synthetic

from . import cases
from .conftest import pixels
from .tolerances import assert_close

Array = np.ndarray
GENERATOR = np.random.Generator(np.random.PCG64(5))


def normal(*shape: int) -> Array:
    return GENERATOR.standard_normal(shape)


def test_operations_are_right() -> None:
    check_operations("blas")
    assert max(max(units.values()) for units in check("blas").units.values()) < BUDGET / 1.5


@pytest.mark.fast_cases("trained")
@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", cases.TINY)
def test_towers_are_the_reference(name: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = cases.checkpoint(tmp_path, cases.TINY[name], style)
    batch, ids = cases.tiny_inputs(checkpoint.config)
    batch.flags.writeable = ids.flags.writeable = False
    exact = AutoModel.from_pretrained(checkpoint.file.path, config=checkpoint.config, dtype="float64")
    image, text = exact.encode_image(batch), exact.encode_text(ids)
    double = make_engine("blas", checkpoint, "float64").engine
    assert_close(double.encode_image(batch), image, "oracle float64")
    assert_close(double.encode_text(ids), text, "oracle float64")
    single = make_engine("blas", checkpoint, "float32").engine
    for widest in (blas.WIDEST, 1):  # all at once; one by one
        monkeypatch.setattr(blas, "WIDEST", widest)
        assert_close(single.encode_image(batch), image.astype("f4"), "blas")
        assert_close(single.encode_text(ids), text.astype("f4"), "blas")


@pytest.mark.slow  # test_engine.py has it for every backend, with tiny towers
@pytest.mark.parametrize("name", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_eight_threads_get_the_bits_of_one(name: str) -> None:
    model = AutoModel.from_pretrained(name, backend="blas")
    assert model.backend == "blas"
    batch = pixels(3, model.config.vision.resolution)
    texts = ["a red circle", "two small blue stars on a white background", "a red ring"]
    exact = AutoModel.from_pretrained(name, backend="reference", dtype="float64")
    assert_close(model.encode_image(batch), exact.encode_image(batch).astype("f4"), "blas")
    assert_close(model.embed_text(texts), exact.embed_text(texts).astype("f4"), "blas")
    alone = model.encode_image(batch)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(model.encode_image, [batch] * 32):
            assert np.array_equal(found, alone)


@pytest.mark.parametrize("name", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_nan_is_not_hidden(name: str) -> None:
    model = AutoModel.from_pretrained(name, backend="blas")
    batch = pixels(2, model.config.vision.resolution)
    batch[1, 2, 5, 7] = np.nan
    found = model.engine.encode_image(batch)
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


# Inputs, outputs, kernel, height, width, stride, padding: transformed ones first, of odd and even sides.
CONVOLUTIONS = [
    (17, 5, 3, 7, 10, 1, 1),
    (16, 18, 3, 8, 9, 1, 0),
    (19, 4, 3, 9, 6, 2, 1),
    (3, 5, 3, 8, 11, 2, 1),
    (6, 5, 1, 7, 4, 1, 0),
    (6, 5, 1, 25, 24, 1, 0),
    (6, 5, 1, 7, 4, 2, 1),
    (3, 5, 4, 8, 12, 4, 0),
]


def with_norm(weight: Array, norm: Any) -> Convolution:
    return blas.lay_out(weight) if norm is None else blas.lay_out(**fold({"weight": weight}, norm)[0])


def convolve(case: tuple[int, ...], dtype: str, laid_out: Callable[..., Convolution]) -> None:
    """Compare a convolution with its BatchNorm in it with one after the other in float64."""
    inputs, outputs, kernel, height, width, stride, padding = case
    x, weight = normal(2, inputs, height, width).astype(dtype), normal(outputs, inputs, kernel, kernel).astype(dtype)
    norm = {name: normal(outputs).astype(dtype) for name in ("weight", "bias", "running_mean")}
    norm["running_var"] = np.exp(normal(outputs) - 8).astype(dtype)  # so small that eps matters
    doubled = {name: value.astype("f8") for name, value in norm.items()}
    expected = ops.batch_norm(ops.conv2d(x.astype("f8"), weight.astype("f8"), stride, padding), **doubled)
    actual = BlasOps().conv2d(x, laid_out(weight, norm), stride, padding)
    assert_close(actual, expected.astype(dtype), "operation")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CONVOLUTIONS)
def test_convolution_with_its_norm(case: tuple[int, ...], dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for tiles in (blas.TILES, 1):  # all at once; a band of tiles after the other
        monkeypatch.setattr(blas, "TILES", tiles)
        convolve(case, dtype, with_norm)


def test_attention_by_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = normal(3, 4, 5, 6), normal(3, 4, 7, 6), normal(3, 4, 7, 6)
    visible = GENERATOR.random((3, 5, 7)) < 0.5
    visible[..., 0] = True
    for block in (1, 70, 2 * 4 * 35):  # a head, two heads, two items at a time
        monkeypatch.setattr(blas, "BLOCK", block)
        assert_close(BlasOps().attention(q, k, v, visible), ops.attention(q, k, v, visible), "operation")


def changed(change: Callable[[Array, Any], tuple[Array, Any]]) -> Callable[..., Convolution]:
    return lambda weight, norm: with_norm(*change(weight, norm))


WRONGLY_LAID_OUT: dict[str, Callable[..., Convolution]] = {
    "flipped": changed(lambda weight, norm: (weight[:, :, ::-1], norm)),
    "transposed": changed(lambda weight, norm: (weight.swapaxes(2, 3), norm)),
    "no norm": changed(lambda weight, norm: (weight, None)),
    "eps 1e-3": changed(lambda weight, norm: (weight, norm | {"running_var": norm["running_var"] + 9.9e-4})),
    "no mean": changed(lambda weight, norm: (weight, norm | {"running_mean": norm["bias"] * 0})),
    "no bias": changed(lambda weight, norm: (weight, norm | {"bias": norm["bias"] * 0})),
    "no gain": changed(lambda weight, norm: (weight, norm | {"weight": norm["bias"] * 0 + 1})),
}


@pytest.mark.parametrize("case", [CONVOLUTIONS[0], CONVOLUTIONS[3]], ids=["transformed", "plain"])
@pytest.mark.parametrize("wrong", WRONGLY_LAID_OUT)
def test_a_convolution_laid_out_wrongly_is_caught(case: tuple[int, ...], wrong: str) -> None:
    with pytest.raises(AssertionError, match="eps of the RMS"):
        convolve(case, "float64", WRONGLY_LAID_OUT[wrong])


class Mutants(BlasOps):
    """Each operation wrong in a way that a kernel gets it wrong."""

    def linear(self, x, weight, bias=None):  # type: ignore[no-untyped-def]
        return super().linear(x, weight)

    def layer_norm(self, x, weight, bias):  # type: ignore[no-untyped-def]
        return super().layer_norm(x - x.mean(), weight, bias) + 1e-3

    def quick_gelu(self, x):  # type: ignore[no-untyped-def]
        return x * (0.5 + 0.5 * np.tanh(0.85 * x))

    def relu(self, x):  # type: ignore[no-untyped-def]
        return np.fmax(x, 0.0)

    def attention(self, q, k, v, visible=None):  # type: ignore[no-untyped-def]
        return super().attention(q * q.shape[-1] ** 0.5, k, v, visible)

    def conv2d(self, x, weight, stride=1, padding=0):  # type: ignore[no-untyped-def]
        return super().conv2d(x, weight.swapaxes(2, 3), stride, padding)

    def batch_norm(self, x, *norm, **named):  # type: ignore[no-untyped-def]
        return x

    def avg_pool(self, x, size):  # type: ignore[no-untyped-def]
        return super().avg_pool(x, size) * size

    def embed(self, ids, weight):  # type: ignore[no-untyped-def]
        return np.ascontiguousarray(super().embed(ids, weight).T).reshape(*ids.shape, -1)


def test_a_wrong_operation_is_caught() -> None:
    wrong = {found.operation for found in errors(overlay(Mutants()), "float32") if not found.units <= BUDGET}
    assert wrong == set(own_operations(BlasOps))
