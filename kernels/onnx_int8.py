"""The recorded towers in 8-bit integers under ONNX Runtime: about three times as fast as float32 for images, 1.6 to 2.7
times for texts, at less than three significant digits. Never chosen unless asked for.

Weights are signed, in 127 steps to either side of zero for each output channel. What they are multiplied with is
measured out anew in every call (linear layers), or by ranges that were seen beforehand (convolutions; ONNX Runtime has
no fast convolution otherwise). Products are added up exactly, in integers; LayerNorm, attention's scores and weights,
activations, the residual stream of transformers and the last projection stay in float32.

What is done about channels far above the rest is said in quantisation.py. Which channels those are, and how far a
ResNet's feature maps reach, is seen in a run of the float32 tower on a few images and texts: made ones, or those that
are given as `calibration`.

Refuses what float32 refuses. An item's embedding depends on what else is in the batch: within the error, if all are
images; one that reaches far beyond what images can takes its neighbours' steps away.
"""

from __future__ import annotations

from functools import cache
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.backends import Traits
from clipref.config import ClipConfig, PreprocessConfig
from clipref.engine import checked_pixels
from clipref.errors import InputError
from clipref.lazy import available_threads, no_fork, once
from clipref.transformer import Tap
from clipref.weights import Checkpoint, DType

from .batching import check_options, text_inputs
from .fold import fold_norms
from .onnx import OnnxEngine, OnnxRuntimeOps, Settings, available, run, session
from .quantisation import (
    IMAGES,
    TEXTS,
    Ranges,
    balance_channels,
    calibration_ids,
    calibration_pixels,
    quantise_weight,
)
from .recording import Graph, Record, Symbol, record_image, record_tree

__all__ = ["TRAITS", "available", "engine"]

TRAITS = Traits(
    {"int8": "cosine 0.99 with exact embeddings; images of RN50x16 0.98, of RN50x64 0.95"},
    dtypes=("float32",),
    speed=lambda precision, kind, features: 7.0,
)

Array: TypeAlias = NDArray[Any]

# How many images are looked at of a ResNet, unless given: how far its feature maps reach differs from image to image.
# Measured, twice as many raise no cosine.
RESNET_IMAGES = 8
_FULL_STEPS, _SAFE_STEPS = 127, 63


@cache
def weight_steps() -> int:
    """Steps of a weight to either side of zero for which sums of products are exact on this processor.

    Those of x86-64 without VNNI add pairs of products in 16 bits, which 255 * 127 * 2 would saturate
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html, "reduce_range").
    """

    def record(graph: Graph, tap: Tap) -> Symbol:
        x = graph.emit("Cast", [graph.input("x", "float32", (4, 64))], (4, 64), to=2)  # TensorProto.UINT8
        product = graph.emit("MatMulInteger", [x, np.full((64, 16), _FULL_STEPS, np.int8)], (4, 16))
        return graph.emit("Cast", [product], (4, 16), to=1)  # TensorProto.FLOAT

    made = session(record, "probe", Settings(threads=1))
    found = run(made, {"x": np.full((4, 64), 255.0, np.float32)})["embeddings"]
    return _FULL_STEPS if (found == 255 * _FULL_STEPS * 64).all() else _SAFE_STEPS


class Int8Ops(OnnxRuntimeOps):
    """Linear layers, the convolution of patches, and convolutions of what `quantise` has seen, in 8-bit integers."""

    def __init__(self, ranges: Ranges, steps: int) -> None:
        self.ranges, self.steps = ranges, steps
        self._grids: dict[str, tuple[Array, Array]] = {}  # step and zero of every quantised feature map, by symbol

    def quantise(self, name: str, x: Symbol) -> Symbol:
        """A tap that puts feature maps onto 256 steps over the range seen; whatever else there is passes through."""
        if len(x.shape) != 4 or name not in self.ranges:
            return x
        low, high = min(float(self.ranges[name][0].min()), 0.0), max(float(self.ranges[name][1].max()), 1e-6)
        step = np.float32((high - low) / 255)
        grid = np.asarray(step), np.asarray(np.rint(-low / step), np.uint8)
        y = x.graph.emit("QuantizeLinear", [x, *grid], x.shape)
        y = x.graph.emit("DequantizeLinear", [y, *grid], x.shape)
        self._grids[y.name] = grid
        return y

    def linear(self, x: Symbol, weight: Array, bias: Array | None = None) -> Symbol:
        whole, step = quantise_weight(weight, self.steps)
        inputs = [x, np.ascontiguousarray(whole.T), step, None, *([] if bias is None else [bias])]
        shape = (*x.shape[:-1], weight.shape[0])
        return x.graph.emit("DynamicQuantizeMatMul", inputs, shape, domain="com.microsoft")

    def conv2d(self, x: Symbol, weight: Any, stride: int = 1, padding: int = 0, bias: Any = None) -> Symbol:
        if x.name in self._grids:
            whole, step = quantise_weight(weight, self.steps)
            weight = self._real(x.graph, whole, step)
            if bias is not None:
                finest = step * self._grids[x.name][0]
                bias = self._real(x.graph, np.rint(bias / finest).astype(np.int32), finest)
        elif stride == weight.shape[2]:
            return self._patches(x, weight)
        return super().conv2d(x, weight, stride, padding, bias)

    def _real(self, graph: Graph, whole: Array, step: Array) -> Symbol:
        """What whole numbers stand for, by the step of each output; a convolution of such takes the whole ones."""
        return graph.emit("DequantizeLinear", [whole, step, np.zeros(len(step), whole.dtype)], whole.shape, axis=0)

    def _patches(self, x: Symbol, weight: Array) -> Symbol:
        """A convolution whose squares don't overlap, as a linear layer of each: [N, C, R, R] -> [N, O, G, G]."""
        n, colours, side, _ = x.shape
        outputs, _, size, _ = weight.shape
        assert isinstance(side, int) and isinstance(colours, int)
        grid = side // size
        if side % size:
            x = x[:, :, : grid * size, : grid * size]
        x = x.reshape(n, colours, grid, size, grid, size).swapaxes(1, 2).swapaxes(2, 4)  # [N, G, G, p, C, p]
        x = x.reshape(n, grid, grid, size * colours * size)
        y = self.linear(x, weight.swapaxes(1, 2).reshape(outputs, -1))  # [N, G, G, O]
        return y.swapaxes(2, 3).swapaxes(1, 2)

    def batch_norm(self, x: Symbol) -> Symbol:  # type: ignore[override]  # which is folded into what was before it
        return x


def observe_ranges(record: Record, given: list[dict[str, Array]], settings: Settings) -> Ranges:
    """What the taps of a float32 tower show of some inputs: the least and the greatest of each channel, [2, C]."""

    def watching(graph: Graph, tap: Tap) -> Symbol:
        def extremes(name: str, x: Symbol) -> Symbol:
            channel = 1 if len(x.shape) == 4 else len(x.shape) - 1
            axes = np.array([axis for axis in range(len(x.shape)) if axis != channel], np.int64)
            both = [
                x.graph.emit(f"Reduce{which}", [x, axes], (x.shape[channel],), keepdims=0) for which in ("Min", "Max")
            ]
            rows = [x.graph.emit("Unsqueeze", [y, np.array([0], np.int64)], (1, *y.shape)) for y in both]
            tap(name, x.graph.emit("Concat", rows, (2, x.shape[channel]), axis=0))
            return x

        return record(graph, extremes)

    made = session(watching, "observed", settings, taps=True)
    found: dict[str, Array] = {}
    for inputs in given:
        for name, x in run(made, inputs).items():
            if name != "embeddings":
                low, high = (
                    x if name not in found else (np.minimum(x[0], found[name][0]), np.maximum(x[1], found[name][1]))
                )
                found[name] = np.stack([low, high])
    return found


def record_int8_image(config: ClipConfig, params: Any, ranges: Ranges) -> Record:
    """Records the image tower in 8-bit integers, for what has been `observe_ranges` of it."""
    ops = Int8Ops(ranges, weight_steps())
    balanced = "transformer" in params
    changed = balance_channels(params, ranges, "visual.transformer") if balanced else fold_norms(params)
    record = record_image(config, changed, ops)
    return lambda graph, tap: record(graph, lambda name, x: ops.quantise(name, tap(name, x)))


def record_int8_text(config: ClipConfig, params: Any, ranges: Ranges) -> Record:
    """Records the text tower for trees of tokens in 8-bit integers, for what has been `observe_ranges` of it."""
    return record_tree(config, balance_channels(params, ranges, "transformer"), Int8Ops(ranges, weight_steps()))


def _check_range(pixels: Array, settings: PreprocessConfig) -> None:
    """Raise InputError for pixels that no image has, say of 0 to 255, whose ranges would leave images few steps."""
    mean, std = np.asarray(settings.mean), np.asarray(settings.std)
    black, white = float((-mean / std).min()), float(((1 - mean) / std).max())
    if pixels.min() < 2 * min(black, -1.0) or pixels.max() > 2 * max(white, 1.0):
        raise InputError(
            f"calibration pixels reach from {pixels.min():.3g} to {pixels.max():.3g}; those of preprocessed images are "
            f"within {black:.3g} and {white:.3g}: np.stack([clipref.preprocess(image, {pixels.shape[2]}) for image in "
            f"images])."
        )


def engine(
    checkpoint: Checkpoint,
    dtype: DType,
    *,
    threads: int | None = None,
    spinning: bool = False,
    arena: bool = True,
    calibration: Array | None = None,
) -> OnnxEngine:
    """The engine of the backend `onnx-int8`.

    `threads`, `spinning`, `arena`: as of the backend `onnx`. `calibration`: preprocessed pixels [N, 3, R, R] of images
    like those that will be embedded, instead of made ones; it matters to ResNets. Raises BackendError as `onnx` does,
    and InputError if `calibration` is something else.
    """
    with no_fork:
        import numpy.random  # noqa: F401  (which calibration asks for, and numpy imports only then)

    check_options("onnx-int8", dtype, threads, spinning=spinning, arena=arena)
    settings = Settings(threads or available_threads(), spinning=spinning, arena=arena)
    config = checkpoint.config
    if calibration is not None:
        calibration = checked_pixels(calibration, config.vision.resolution, "float32", "calibration pixels")
        _check_range(calibration, config.preprocess)

    def image_params() -> Any:
        return checkpoint.unread_visual("float32")

    def text_params() -> Any:
        return checkpoint.unread_text("float32")

    @once
    def image_ranges() -> Ranges:
        resnet, side = config.vision.family == "resnet", config.vision.resolution
        pixels = calibration_pixels(side, RESNET_IMAGES if resnet else IMAGES) if calibration is None else calibration
        given = [{"pixels": pixels[i : i + 1]} for i in range(len(pixels))]
        return observe_ranges(record_image(config, image_params(), OnnxRuntimeOps()), given, settings)

    @once
    def text_ranges() -> Ranges:
        ids = calibration_ids(config.text, TEXTS)
        given = [text_inputs(ids[i : i + 1], config.text) for i in range(len(ids))]
        return observe_ranges(record_tree(config, text_params(), OnnxRuntimeOps()), given, settings)

    return OnnxEngine(
        checkpoint,
        lambda: record_int8_image(config, image_params(), image_ranges()),
        lambda: record_int8_text(config, text_params(), text_ranges()),
        settings,
    )
