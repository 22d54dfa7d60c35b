"""OpenAI's model code exported from torch, as engines: under ONNX Runtime, and under OpenVINO in three precisions."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import Any

import numpy as np
from measuring import inputs
from peers_torch import TorchEager

from clipref.errors import BackendError
from clipref.kernels.openvino import core
from clipref.kernels.runtime import import_without_telemetry, onnxruntime, openvino
from clipref.weights import Checkpoint

CALIBRATION = 32  # images, and texts, that NNCF sees


class OnnxRuntimeAlone(TorchEager):
    """OpenAI's code exported by torch.onnx, under ONNX Runtime with its own defaults, but for the threads."""

    name = "onnxruntime"
    needs = ("torch", "clip-anytorch", "onnxruntime")

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        ort = onnxruntime()
        super().__init__(checkpoint, threads)
        side = checkpoint.config.vision.resolution
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads

        def session(method: str, example: Any) -> Any:
            module = as_module(self.torch, self.model, method)
            file = io.BytesIO()
            with warnings.catch_warnings(), self.torch.inference_mode():
                warnings.simplefilter("ignore")
                axes = {"input": {0: "batch"}, "output": {0: "batch"}}
                names: dict[str, Any] = {"input_names": ["input"], "output_names": ["output"], "dynamic_axes": axes}
                self.torch.onnx.export(module, (example,), file, opset_version=18, dynamo=False, **names)
            return ort.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])

        self.visual = session("encode_image", self.torch.zeros(2, 3, side, side))
        self.textual = session("encode_text", self.torch.ones(2, self.context_length, dtype=self.torch.int64))
        del self.model, self.image, self.text

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        return self.visual.run(None, {"input": pixels})[0]

    def encode_text(self, ids: Any) -> Any:
        """[N, T] -> [N, E]"""
        return self.textual.run(None, {"input": self.padded(ids)})[0]


def as_module(torch: Any, model: Any, method: str) -> Any:
    """A module whose forward pass is a method of the model."""
    module = torch.nn.Module()
    module.inner = model
    module.forward = getattr(model, method)
    return module


class OpenVinoExported(TorchEager):
    """OpenAI's code converted from torch by OpenVINO, with its own defaults, but for the threads."""

    name = "openvino exported"
    needs: tuple[str, ...] = ("torch", "clip-anytorch", "openvino")
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32"}  # noqa: RUF012

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        self.ov = openvino()
        if self.precision == "bfloat16" and "BF16" not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
            raise BackendError("OpenVINO has no bfloat16 on this processor.")
        super().__init__(checkpoint, threads)
        settings = {**self.settings, "INFERENCE_NUM_THREADS": threads}

        def compiled(method: str, examples: Any) -> Any:
            with warnings.catch_warnings(), self.torch.no_grad():
                warnings.simplefilter("ignore")
                model = self.ov.convert_model(
                    as_module(self.torch, self.model, method), example_input=self.torch.from_numpy(examples[:2])
                )
            return core().compile_model(self.quantised(model, examples), "CPU", settings).create_infer_request()

        pixels, ids = inputs(checkpoint, CALIBRATION)
        self.visual, self.textual = compiled("encode_image", pixels), compiled("encode_text", ids)
        del self.model, self.image, self.text

    def quantised(self, model: Any, examples: Any) -> Any:
        """The model as it is compiled."""
        return model

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        return np.array(self.visual.infer([pixels])[0])

    def encode_text(self, ids: Any) -> Any:
        """[N, T] -> [N, E]"""
        return np.array(self.textual.infer([self.padded(ids)])[0])


class OpenVinoExportedBfloat16(OpenVinoExported):
    """The same in bfloat16."""

    name = "openvino exported bfloat16"
    precision = "bfloat16"
    settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "bf16"}  # noqa: RUF012


class OpenVinoInt8(OpenVinoExported):
    """The same in int8 by NNCF's defaults, which sees pixels and ids of `measuring.inputs`.

    What it leaves is in OpenVINO's own choice of a precision, bfloat16 where the processor has it.
    """

    name = "openvino exported int8"
    precision = "int8"
    settings: dict[str, Any] = {}  # noqa: RUF012
    needs = ("torch", "clip-anytorch", "openvino", "nncf")

    def quantised(self, model: Any, examples: Any) -> Any:
        """The model in int8."""
        nncf = import_without_telemetry("nncf")
        nncf.set_log_level(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):  # bars of progress
            return nncf.quantize(model, nncf.Dataset([example[None] for example in examples]))
