"""The recorded graphs of kernels/recording.py under OpenVINO, in float32 or bfloat16.

An extra: `pip install 'clipref[openvino]'`. bfloat16 halves what has to be multiplied and moved on processors that have
it (AVX512_BF16, AMX), at three significant digits; it is never chosen unless asked for. Refuses float64, and towers
over 2 GiB, which one ONNX file can't hold (none of the nine published models is).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.backends import Traits
from clipref.errors import BackendError
from clipref.lazy import available_threads, once
from clipref.weights import Checkpoint, DType

from .batching import check_options, images_at_a_time, in_parts, positions_at_a_time, texts_in_parts
from .recording import Record, complete, record_image, record_tree
from .runtime import openvino

Array: TypeAlias = NDArray[Any]
Precision: TypeAlias = Literal["float32", "bfloat16"]

_PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}


@once
def core() -> Any:
    """OpenVINO's `Core`, one for the whole process.

    The processor's plugin gives signals a stack of their own while a Core lives. When the first of two goes before the
    second, that stack is one which is no longer there, and the next signal ends the process (OpenVINO 2026.4).
    """
    return openvino().Core()


def _speed(precision: str, kind: str, features: frozenset[str]) -> float:
    if precision == "float32":
        # As `onnx` in batches, or a little faster; one image or a few texts take 15 to 35 % less time.
        return 2.7 if kind == "resnet" else 2.3
    return 8.0 if "amx_bf16" in features else 4.0 if "avx512_bf16" in features else 0.0


TRAITS = Traits(
    {"float32": "graded float32", "bfloat16": "within 12 units of bfloat16"},
    dtypes=("float32",),
    speed=_speed,
)


class OpenVinoEngine:
    """Two compiled models, each made when its tower is first used."""

    def __init__(self, checkpoint: Checkpoint, threads: int, precision: Precision) -> None:
        self._config = config = checkpoint.config
        self._images, self._positions = images_at_a_time(config.vision, threads), positions_at_a_time(threads)

        def compile_tower(record: Record, name: str) -> Any:
            settings = {
                "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
                "INFERENCE_NUM_THREADS": threads,
                "PERFORMANCE_HINT": "LATENCY",
            }
            try:
                compiled = core().compile_model(core().read_model(complete(record, name)), "CPU", settings)
            except RuntimeError as error:
                raise BackendError(f"OpenVINO can't run the tower {name!r}: {error}") from error
            checkpoint.file.release()
            return compiled

        self._visual = once(lambda: compile_tower(record_image(config, checkpoint.unread_visual("float32")), "visual"))
        self._text = once(lambda: compile_tower(record_tree(config, checkpoint.unread_text("float32")), "textual"))

    def encode_image(self, pixels: Array) -> Array:
        """Preprocessed pixels [N, 3, R, R] float32 -> embeddings [N, E] float32."""
        model = self._visual()
        return in_parts(lambda part: _run(model, {"pixels": part}), pixels, self._images)

    def encode_text(self, ids: Array) -> Array:
        """Token ids [N, T] -> embeddings [N, E] float32."""
        model = self._text()
        return texts_in_parts(lambda part: _run(model, part)[:, 0], ids, self._config.text, self._positions)

    def encode_tree(self, ids: Array, positions: Array, visible: Array, ends: Array) -> Array:
        """Trees of tokens, as text_transformer.encode_tree has them -> embeddings [N, S, E] float32."""
        return _run(self._text(), {"ids": ids, "positions": positions, "visible": visible, "ends": ends})


def _run(model: Any, inputs: Mapping[str, Array]) -> Array:
    # A request of its own for each call, so that threads can call at the same time.
    results = model.create_infer_request().infer({name: np.ascontiguousarray(x) for name, x in inputs.items()})
    return np.array(results["embeddings"])


def available() -> None:
    """Raise BackendError where OpenVINO is missing."""
    try:
        openvino()
    except ImportError as error:
        raise BackendError(f"It needs openvino ({error}): pip install 'clipref[openvino]'.") from error


def engine(
    checkpoint: Checkpoint, dtype: DType, *, threads: int | None = None, precision: Precision = "float32"
) -> OpenVinoEngine:
    """The engine of the backend `openvino`.

    `threads`: as many as the process may use, unless given. `precision`: "float32", or "bfloat16". Raises BackendError
    where the processor has no bfloat16, or float64 is asked for.
    """
    check_options("openvino", dtype, threads)
    if not isinstance(precision, str) or precision not in _PRECISIONS:
        raise BackendError(f"precision is {precision!r}; expected 'float32' or 'bfloat16'.")
    if precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise BackendError("This processor has no bfloat16; use precision='float32'.")
    return OpenVinoEngine(checkpoint, threads or available_threads(), precision)
