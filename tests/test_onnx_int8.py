"""The onnx-int8 backend: operations within what their steps allow, exact transformations, what the models lose."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from clipref import CLIP, AutoModel, BackendError, InputError, ops
from clipref.config import ResNetConfig
from clipref.engine import NumpyEngine
from clipref.kernels import onnx_int8 as int8
from clipref.kernels.fold import fold_norms
from clipref.kernels.onnx import Settings, run, session
from clipref.kernels.quantisation import balance_channels, quantise_weight
from clipref.kernels.recording import Graph, Symbol
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic
from clipref.weights_tools.shapes import captions, evaluate, world

from . import cases
from .conftest import TINY, pixels
from .tolerances import INT8_COSINE, UNIT, UNIT_FLOAT64, cosines

EMBEDDED = ("clipref/shapes-vit", "clipref/shapes-rn")


def normal(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def computed(record: Any, **given: np.ndarray) -> np.ndarray:
    """What a graph of one operation gives for its inputs."""

    def whole(graph: Graph, tap: Any) -> Symbol:
        result = record({name: graph.input(name, "float32", x.shape) for name, x in given.items()})
        assert isinstance(result, Symbol)
        return result

    return run(session(whole, "operation", Settings(threads=1)), given)["embeddings"]


def linear_bound(x: np.ndarray, weight: np.ndarray) -> float:
    """Six standard deviations of what rounding both factors to their steps adds, at most half a step each."""
    step = (max(float(x.max()), 0) - min(float(x.min()), 0)) / 255
    weight_step = np.abs(weight).reshape(len(weight), -1).max() / int8.weight_steps()
    terms = weight[0].size
    noise = step**2 * float(np.square(weight).mean()) + weight_step**2 * float(np.square(x).mean())
    return 6 * float(np.sqrt(terms * noise / 12))


class Operations(int8.Int8Ops):
    """As an engine makes them, for a feature map called `x` whose range has been seen."""

    def __init__(self, x: np.ndarray | None = None) -> None:
        channels = None if x is None else np.stack([x.min(axis=(0, 2, 3)), x.max(axis=(0, 2, 3))])
        super().__init__({} if channels is None else {"x": channels}, int8.weight_steps())


X, WEIGHT, BIAS = normal(3, 5, 24), normal(7, 24, seed=6), normal(7, seed=7)
MAP, KERNEL, OFFSET = np.maximum(normal(2, 6, 9, 9), 0), normal(5, 6, 3, 3, seed=6), normal(5, seed=7)
PIXELS, PATCH = normal(2, 3, 22, 22), normal(8, 3, 5, 5, seed=6)


def check_linear(operations: int8.Int8Ops) -> None:
    found = computed(lambda given: operations.linear(given["x"], WEIGHT, BIAS), x=X)
    assert np.abs(found - ops.linear(X, WEIGHT, BIAS)).max() <= linear_bound(X, WEIGHT)


def check_conv2d(operations: int8.Int8Ops) -> None:
    for stride, padding in ((1, 1), (2, 1), (1, 0)):

        def record(given: Any, stride: int = stride, padding: int = padding) -> Symbol:
            x = operations.quantise("x", given["x"])
            y = operations.conv2d(x, KERNEL, stride, padding, OFFSET)
            assert any(node.op_type == "DequantizeLinear" for node in y.graph.nodes), "not in integers"
            return y

        exact = ops.conv2d(MAP, KERNEL, stride, padding) + OFFSET[:, None, None]
        assert np.abs(computed(record, x=MAP) - exact).max() <= linear_bound(MAP, KERNEL)


def check_patches(operations: int8.Int8Ops) -> None:
    found = computed(lambda given: operations.conv2d(given["x"], PATCH, stride=5), x=PIXELS)
    assert np.abs(found - ops.conv2d(PIXELS, PATCH, stride=5)).max() <= linear_bound(PIXELS, PATCH)


def test_operations_err_as_much_as_their_steps_allow() -> None:
    check_linear(Operations())
    check_conv2d(Operations(MAP))
    check_patches(Operations())


class WithoutBias(Operations):
    def linear(self, x, weight, bias=None):  # type: ignore[no-untyped-def]
        return super().linear(x, weight)

    def conv2d(self, x, weight, stride=1, padding=0, bias=None):  # type: ignore[no-untyped-def]
        return super().conv2d(x, weight, stride, padding)


class OneStepForAll(Operations):
    """The steps of the first output for every one."""

    def linear(self, x, weight, bias=None):  # type: ignore[no-untyped-def]
        return super().linear(x, weight * (np.abs(weight[:1]).max() / np.abs(weight).max(axis=1, keepdims=True)), bias)

    def conv2d(self, x, weight, stride=1, padding=0, bias=None):  # type: ignore[no-untyped-def]
        sizes = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
        return super().conv2d(x, weight * (sizes[0] / sizes), stride, padding, bias)


class Transposed(Operations):
    def linear(self, x, weight, bias=None):  # type: ignore[no-untyped-def]
        return super().linear(x, weight[:, ::-1], bias)

    def conv2d(self, x, weight, stride=1, padding=0, bias=None):  # type: ignore[no-untyped-def]
        return super().conv2d(x, np.ascontiguousarray(weight.swapaxes(2, 3)), stride, padding, bias)


class Narrow(Operations):
    """A range that clips half of what there is."""

    def quantise(self, name, x):  # type: ignore[no-untyped-def]
        self.ranges = {name: extremes * 0.5 for name, extremes in self.ranges.items()}
        return super().quantise(name, x)


@pytest.mark.parametrize("wrong", [WithoutBias, OneStepForAll, Transposed, Narrow])
def test_wrong_operations_are_caught(wrong: type[Operations]) -> None:
    with pytest.raises(AssertionError):
        check_conv2d(wrong(MAP))
    if wrong is not Narrow:
        with pytest.raises(AssertionError):
            check_linear(wrong())
    if wrong is Transposed:
        with pytest.raises(AssertionError):
            check_patches(wrong())


def test_sums_of_products_are_exact_here() -> None:
    assert int8.weight_steps() in (127, 63)
    full = np.full((1, 64), 255.0, np.float32)
    weight = np.full((3, 64), 2.0, np.float32)
    found = computed(lambda given: Operations().linear(given["x"], weight), x=full)
    np.testing.assert_allclose(found, 255 * 2 * 64, rtol=1e-6)


def test_a_weight_of_zeros_stays_zero() -> None:
    whole, step = quantise_weight(np.zeros((3, 4), np.float32), 127)
    assert not whole.any() and np.isfinite(step).all()


@pytest.mark.parametrize("name", ["rn-a", "rn-b"])
def test_folding_a_norm_is_exact(name: str, tmp_path: Path) -> None:
    checkpoint = cases.checkpoint(tmp_path, cases.TINY[name], "trained")
    exact, changed = (NumpyEngine(checkpoint, "float64") for _ in range(2))

    def conv2d(x, weight, stride=1, padding=0, bias=0.0):  # type: ignore[no-untyped-def]
        return ops.conv2d(x, weight, stride, padding) + np.reshape(bias, (-1, 1, 1))

    params = fold_norms(checkpoint.visual("float64"))
    assert not any(key.startswith("bn") and value for key, value in params.items())
    changed.visual = lambda: params
    changed.ops = SimpleNamespace(**{**vars(exact.ops), "conv2d": conv2d, "batch_norm": lambda x: x})
    batch = cases.pixels(checkpoint.config, 2).astype(np.float64)
    np.testing.assert_allclose(changed.encode_image(batch), exact.encode_image(batch), rtol=0, atol=UNIT_FLOAT64)


@pytest.mark.parametrize("style", synthetic.STYLES)
def test_moving_outliers_into_weights_is_exact_and_leaves_none(style: str, tmp_path: Path) -> None:
    checkpoint = cases.checkpoint(tmp_path, cases.TINY["vit-c"], style)
    exact, changed = (NumpyEngine(checkpoint, "float64") for _ in range(2))
    batch, ids = cases.tiny_inputs(checkpoint.config)

    def extremes(engine: NumpyEngine) -> dict[str, np.ndarray]:
        _, taps = cases.traced(engine, batch.astype(np.float64), ids)
        return {name: np.stack([y.min(axis=0), y.max(axis=0)]) for name, x in taps.items()
                for y in [x.reshape(-1, x.shape[-1])]}  # fmt: skip

    ranges = extremes(exact)
    visual = balance_channels(checkpoint.visual("float64"), ranges, "visual.transformer")
    text = balance_channels(checkpoint.text("float64"), ranges, "transformer")
    changed.visual, changed.text = lambda: visual, lambda: text
    np.testing.assert_allclose(changed.encode_image(batch), exact.encode_image(batch), rtol=0, atol=UNIT)
    np.testing.assert_allclose(changed.encode_text(ids), exact.encode_text(ids), rtol=0, atol=UNIT)

    def spread(found: dict[str, np.ndarray]) -> float:
        sizes = [np.abs(x).max(axis=0) for name, x in found.items() if name.endswith(("ln_1", "ln_2"))]
        return float(np.mean([size.max() / np.median(size) for size in sizes]))

    assert spread(extremes(changed)) < (0.5 if style == "trained" else 0.95) * spread(ranges)


@pytest.fixture(scope="module", params=EMBEDDED)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[CLIP, CLIP]]:
    """An embedded model in float32, and in 8 bits."""
    yield tuple(AutoModel.from_pretrained(request.param, backend=b) for b in ("onnx", "onnx-int8"))  # type: ignore[misc]


def agreement(pair: tuple[CLIP, CLIP], scenes: int) -> tuple[float, float, float]:
    """Mean cosine of images and of prompts with float32's, and the share of scenes given the same class of 72."""
    pictures = [world.scene(seed, held_out=True).draw() for seed in evaluate.HELD_OUT_SEEDS[:scenes]]
    prompts = [captions.class_prompt(*classes) for classes in world.CLASSES]
    images, texts = zip(
        *((m.embed_images(pictures, normalize=True), m.embed_text(prompts, normalize=True)) for m in pair), strict=True
    )
    exact, found = (np.argmax(i @ t.T, axis=1) for i, t in zip(images, texts, strict=True))
    return float(cosines(*images).mean()), float(cosines(*texts).mean()), float((exact == found).mean())


@pytest.mark.slow
def test_embedded_models_lose_little(pair: tuple[CLIP, CLIP]) -> None:
    image, text, same = agreement(pair, scenes=300)
    assert image >= 0.999 and text >= 0.999 and same >= 0.99


@pytest.mark.slow
def test_embedded_models_lose_little_on_all_scenes(pair: tuple[CLIP, CLIP]) -> None:
    image, text, same = agreement(pair, scenes=600)
    print(f"mean cosine of images {image:.5f}, of texts {text:.5f}; same class {same:.2%}")
    assert image >= 0.999 and text >= 0.999 and same >= 0.99


@pytest.mark.fast_cases("trained")
@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("kind", TINY)
def test_tiny_towers_are_near(kind: str, style: str, tmp_path: Path) -> None:
    synthetic.write(tmp_path / "c", TINY[kind], seed=3, style=style)  # type: ignore[arg-type]
    fast, exact = (AutoModel.from_pretrained(tmp_path / "c", backend=b) for b in ("onnx-int8", "reference"))
    batch, ids = cases.tiny_inputs(TINY[kind])
    image, text = fast.encode_image(batch), fast.encode_text(ids)
    assert image.dtype == text.dtype == np.float32
    assert cosines(image, exact.encode_image(batch)).min() >= INT8_COSINE
    assert cosines(text, exact.encode_text(ids)).min() >= INT8_COSINE


def test_calibration_images_set_the_ranges_of_a_resnet(tmp_path: Path) -> None:
    synthetic.write(tmp_path / "c", TINY["resnet"], seed=3, style="plain")
    side = TINY["resnet"].vision.resolution
    assert isinstance(TINY["resnet"].vision, ResNetConfig)
    batch = pixels(3, side)
    exact = AutoModel.from_pretrained(tmp_path / "c", backend="reference").encode_image(batch)
    found = {}
    for name, calibration in (("like them", pixels(4, side, seed=1)), ("dark", batch * 0 - 1.7)):
        model = AutoModel.from_pretrained(tmp_path / "c", backend="onnx-int8", calibration=calibration)
        found[name] = float(cosines(model.encode_image(batch), exact).min())
    assert found["like them"] > found["dark"]


def test_options(tiny: Path) -> None:
    side = Checkpoint(tiny).config.vision.resolution
    fine = np.zeros((1, 3, side, side))
    for wrong, message in (
        (fine[..., 1:], "have shape"),
        (fine[:0], "have shape"),
        (fine * np.nan, "item 0 has values that are not finite"),
        (fine.astype(np.uint8), "have dtype uint8"),
        ([[1.0], [1.0, 2.0]], "can't be viewed as an array"),
        (fine + 255, "reach from 255 to 255; those of preprocessed images are within -1.79 and 2.15"),
    ):
        with pytest.raises(InputError, match=f"calibration pixels.*{message}"):
            AutoModel.from_pretrained(tiny, backend="onnx-int8", calibration=wrong)
    with pytest.raises(BackendError, match="arena is 1"):
        AutoModel.from_pretrained(tiny, backend="onnx-int8", arena=1)
    with pytest.raises(BackendError, match="float64"):
        AutoModel.from_pretrained(tiny, backend="onnx-int8", dtype="float64")
    with pytest.raises(BackendError, match="threads is 0"):
        AutoModel.from_pretrained(tiny, backend="onnx-int8", threads=0)
