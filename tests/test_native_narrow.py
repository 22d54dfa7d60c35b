"""The native backend below float32: products against a restatement of their rounding, towers near exact ones, bits."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipref import AutoModel, backends, ops
from clipref.config import PUBLISHED
from clipref.engine import TowerEngine, checkpoint_params
from clipref.kernels.native import NativeOps
from clipref.kernels.native.packing import pack
from clipref.numerics import to_bfloat16
from clipref.weights_tools import synthetic

from . import cases
from .conftest import pixels
from .native import EPS, NARROW, assert_within, few, needs_library, normal, sizes, wide
from .tolerances import NATIVE_COSINE, NATIVE_COSINE_OF, cosines

pytestmark = needs_library
narrow = st.sampled_from(NARROW) if NARROW else st.nothing()


def restated_bfloat16(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows [M, I] times a weight [O, I] -> [M, O] in float64, and what float32 may be off by, in epsilons."""
    x, weight = (wide(to_bfloat16(y)) for y in (x, weight))
    return x @ weight.T, (x.shape[1] + 8) * (np.abs(x) @ np.abs(weight).T + 1)


def restated_int8(x: np.ndarray, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same in 8-bit integers. What is next to halfway between two steps may be rounded to either."""
    x, weight = wide(x), wide(weight)
    low, high = np.minimum(x.min(axis=1, keepdims=True), 0), np.maximum(x.max(axis=1, keepdims=True), 0)
    step = np.where(high > low, (high - low) / 255, 1)
    size = np.abs(weight).max(axis=1, keepdims=True) / 127
    whole = np.rint(weight / np.where(size > 0, size, 1))
    zero = np.rint(-low / step)
    rows = np.clip(np.rint(x / step + zero), 0, 255)
    unsure = np.abs(x / step + zero - rows) > 0.5 - 1e-4
    either = ((unsure | (np.abs(-low / step - zero) > 0.5 - 1e-4)) * step) @ (np.abs(whole) * size).T
    expected = ((rows - zero) @ whole.T) * (step * size.T)
    return expected, 8 * np.abs(expected) + either / EPS


RESTATED: dict[str, Callable[..., tuple[np.ndarray, np.ndarray]]] = {
    "bfloat16": restated_bfloat16,
    "int8": restated_int8,
}


@few
@given(narrow, st.integers(1, 2), sizes, st.integers(1, 150), sizes, st.booleans(), st.booleans(), st.booleans())
def test_products(
    made: tuple[str, str], threads: int, rows: int, inputs: int, outputs: int, biased: bool, added: bool, strided: bool
) -> None:
    precision, processor = made
    own = NativeOps(processor, threads, precision)
    x, weight = normal(1, rows, inputs), normal(2, outputs, inputs)
    x *= np.exp(normal(5, rows, 1))
    if strided:
        x = np.concatenate([x, x], axis=1)[:, :inputs]
    expected, bound = RESTATED[precision](x, weight)
    bias, residual = normal(3, outputs) if biased else None, normal(4, rows, outputs) if added else None
    y: Any = own.linear(x, weight, bias)
    for term in (bias, residual):
        if term is not None:
            expected, bound = expected + term, bound + np.abs(term)
    if residual is not None:
        y = residual + y
    activation = ("quick_gelu", "gelu", "relu")[(rows + outputs) % 3]
    found = own.fetch(getattr(own, activation)(y))
    assert_within(found, getattr(ops, activation)(expected), 2 * bound + 8 * np.abs(expected))
    assert_within(own.fetch(y), expected, bound + 4 * np.abs(expected))


def test_more_rows_than_have_room_at_a_time() -> None:
    x, weight, bias, residual = normal(1, 9001, 5), normal(2, 3, 5), normal(3, 3), normal(4, 9001, 3)
    for precision, processor in NARROW:
        own = NativeOps(processor, 1, precision)
        expected, bound = RESTATED[precision](x, weight)
        found = own.fetch(own.linear(x, weight, bias) + residual)
        assert_within(found, expected + bias + residual, bound + 4 * (np.abs(bias) + np.abs(residual)))


@few
@given(
    narrow, st.integers(1, 2), st.integers(1, 9), sizes, st.integers(3, 12), st.integers(3, 12),
    st.sampled_from([(1, 1, 0), (2, 2, 0), (3, 1, 1), (3, 2, 1)]),
)  # fmt: skip
def test_convolutions(
    made: tuple[str, str], threads: int, inputs: int, outputs: int, height: int, width: int, kind: tuple[int, int, int]
) -> None:
    precision, processor = made
    kernel, stride, padding = kind
    own = NativeOps(processor, threads, precision)
    x, weight = normal(1, 2, inputs, height, width), normal(2, outputs, inputs, kernel, kernel)
    found = own.fetch(own.conv2d(x, weight, stride, padding))
    # Each window as a row, its channels last.
    taken = np.eye(inputs * kernel**2, dtype=np.float32).reshape(-1, inputs, kernel, kernel)
    windows = np.moveaxis(ops.conv2d(x, taken, stride, padding), 1, 3)  # [N, R', R', C*k*k]
    expected, bound = RESTATED[precision](windows.reshape(-1, windows.shape[3]), weight.reshape(outputs, -1))
    shape = (*windows.shape[:3], outputs)
    assert_within(found, *(np.moveaxis(y.reshape(shape), 3, 1) for y in (expected, bound)))


def test_rounding_is_to_nearest_even_and_keeps_nan() -> None:
    """Numbers halfway between two bfloat16, on either side, beyond the largest, and NaN of every sign and form."""
    halfway = np.array([0x3F808000, 0x3F818000, 0xBF808001, 0x3F807FFF, 0x7F7F7FFF, 0x7F800000], np.uint32)
    nans = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFF80FFFF], np.uint32)
    one = np.ones((1, 1), np.float32)
    for precision, processor in NARROW:
        if precision == "bfloat16":
            own = NativeOps(processor, 1, precision)
            x = halfway.view(np.float32)[:, None]
            assert np.array_equal(own.fetch(own.linear(x, one)), to_bfloat16(x)), processor
            assert np.isnan(own.fetch(own.linear(nans.view(np.float32)[:, None], one))).all(), processor


@pytest.mark.parametrize(("precision", "processor"), NARROW)
def test_rows_of_a_weight(precision: str, processor: str) -> None:
    """As the last block takes them: from a panel's beginning, as a view, and from within."""
    weight = normal(1, 3 * 32, 37)
    packed = pack(weight, precision)
    for rows in (slice(None, 32), slice(32, None), slice(5, 70)):
        assert np.array_equal(packed[rows].panels, pack(weight[rows], precision).panels)
    assert np.shares_memory(packed[32:].panels, packed.panels)


def near(name: str | Path) -> Iterator[tuple[str, float, float]]:
    """Each precision, and its least cosine of a few images and of a few texts with exact ones."""
    exact = AutoModel.from_pretrained(name, backend="reference")
    batch = pixels(3, exact.config.vision.resolution)
    texts = ["a cat", "a photo of two small dogs on a red sofa", "a blue star"]
    images, words = exact.encode_image(batch), exact.embed_text(texts)
    del exact
    for precision in NATIVE_COSINE:
        found = AutoModel.from_pretrained(name, backend="native", precision=precision)
        assert found.precision == precision and found.fidelity
        image, text = cosines(found.encode_image(batch), images), cosines(found.embed_text(texts), words)
        yield precision, float(image.min()), float(text.min())


@pytest.mark.parametrize("name", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_embedded_models_are_near(name: str) -> None:
    for precision, *least in near(name):
        assert min(least) >= NATIVE_COSINE[precision], precision


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_full_sizes_are_near(name: str, tmp_path: Path) -> None:
    synthetic.write(tmp_path / "c", PUBLISHED[name], 7, "trained")
    for precision, image, text in near(tmp_path / "c"):
        print(f"{name} {precision}: least cosine of images {image:.6f}, of texts {text:.6f}")
        assert image >= NATIVE_COSINE_OF.get((precision, name), NATIVE_COSINE[precision])
        assert text >= NATIVE_COSINE[precision]


@pytest.mark.parametrize("precision", NATIVE_COSINE)
@pytest.mark.parametrize("name", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_an_item_has_the_same_bits_in_any_batch_and_on_any_threads(name: str, precision: str) -> None:
    models = [AutoModel.from_pretrained(name, backend="native", precision=precision, threads=n) for n in (1, 2, 3)]
    batch = pixels(5, models[0].config.vision.resolution)
    texts = ["a cat", "a photo of a red star left of a blue ring", "b", "a red square", "two"]
    images = np.concatenate([models[0].encode_image(x[None]) for x in batch])
    words = np.concatenate([models[0].embed_text(text) for text in texts])
    for model in models:
        for n in (1, 2, 5):
            assert np.array_equal(model.encode_image(batch[:n]), images[:n])
            assert np.array_equal(model.embed_text(texts[:n]), words[:n])


@pytest.mark.parametrize("precision", NATIVE_COSINE)
def test_nan_is_not_hidden(precision: str) -> None:
    for name in ("clipref/shapes-vit", "clipref/shapes-rn"):
        engine = AutoModel.from_pretrained(name, backend="native", precision=precision).engine
        assert isinstance(engine, TowerEngine)
        batch = pixels(2, engine.config.vision.resolution)
        batch[1, 2, 5, 7] = np.nan
        found = engine.encode_image(batch)
        assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


@pytest.mark.fast_cases("trained")
@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("kind", cases.TINY)
def test_tiny_towers_are_near_by_every_processor(kind: str, style: str, tmp_path: Path) -> None:
    checkpoint = cases.checkpoint(tmp_path, cases.TINY[kind], style)
    exact = AutoModel.from_pretrained(checkpoint.file.path, config=checkpoint.config)
    batch, ids = cases.tiny_inputs(checkpoint.config)
    image, text = exact.encode_image(batch), exact.encode_text(ids)
    for precision, processor in NARROW:
        own = backends.overlay(NativeOps(processor, 2, precision))
        engine = TowerEngine(checkpoint.config, checkpoint_params(checkpoint, "float32"), own)
        for found, expected in ((engine.encode_image(batch), image), (engine.encode_text(ids), text)):
            assert cosines(found, expected).min() >= NATIVE_COSINE[precision], (precision, processor)


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_no_other_backend_is_needed_for_a_precision(precision: str) -> None:
    """With nothing installed beside clipref, `auto` finds one for each."""
    model = AutoModel.from_pretrained("clipref/shapes-vit", precision=precision)
    assert model.precision == precision and model.embed_text("a red circle").shape == (1, 96)
