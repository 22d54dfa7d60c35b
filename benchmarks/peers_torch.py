"""OpenAI's model code under torch, as an engine: eager or compiled, in float32 or bfloat16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from clipref.config import tensor_shapes
from clipref.weights import Checkpoint


class TorchEager:
    """OpenAI's CLIP under torch, in float32 on the CPU unless told, as its users run it.

    In 16 bits its norms stay in float32, as its `convert_weights` leaves them.
    """

    name = "torch eager"
    precision = "float32"
    needs: tuple[str, ...] = ("torch", "clip-anytorch")

    def __init__(self, checkpoint: Checkpoint, threads: int, device: str = "cpu", precision: str = "float32") -> None:
        import torch

        from clipref.conformance.engines.torch_models import openai_code

        torch.set_num_threads(threads)
        self.torch, self.device = torch, device
        state = {
            name: torch.from_numpy(np.array(checkpoint.file.read(name, "float32")))
            for name in tensor_shapes(checkpoint.config)
        }
        model = openai_code("model").build_model(state).eval()  # in float16 where convert_weights says so
        for parameter in model.parameters():
            if parameter.dtype == torch.float16:
                parameter.data = parameter.data.to(getattr(torch, precision))
        self.model = (model.float() if precision == "float32" else model).to(device)
        self.context_length = checkpoint.config.text.context_length
        self.image, self.text = self.model.encode_image, self.model.encode_text

    def running(self) -> AbstractContextManager[Any]:
        """What calls of the model are made in, besides inference mode."""
        return nullcontext()

    def padded(self, ids: Any) -> Any:
        """Ids [N, T] with zeros up to the context length."""
        padded = np.zeros((len(ids), self.context_length), np.int64)
        padded[:, : ids.shape[1]] = ids
        return padded

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        with self.torch.inference_mode(), self.running():
            return self.image(self.torch.from_numpy(pixels).to(self.device)).float().cpu().numpy()

    def encode_text(self, ids: Any) -> Any:
        """[N, T] -> [N, E]"""
        with self.torch.inference_mode(), self.running():
            return self.text(self.torch.from_numpy(self.padded(ids)).to(self.device)).float().cpu().numpy()


class TorchCompiled(TorchEager):
    """The same, compiled by torch.compile; each batch size is compiled by itself, before it is timed."""

    name = "torch.compile"
    options: dict[str, Any] | None = None

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        super().__init__(checkpoint, threads)
        self.torch._dynamo.config.cache_size_limit = 64
        self.image = self.torch.compile(self.model.encode_image, dynamic=False, options=self.options)
        self.text = self.torch.compile(self.model.encode_text, dynamic=False, options=self.options)


class _Autocast:
    """Weights in float32, products in bfloat16: what torch recommends for a model that was trained in float32."""

    torch: Any
    precision = "bfloat16"

    def running(self) -> AbstractContextManager[Any]:
        """torch's own choice of what is computed in bfloat16."""
        autocast: AbstractContextManager[Any] = self.torch.autocast("cpu", self.torch.bfloat16)
        return autocast


class TorchEagerBfloat16(_Autocast, TorchEager):
    """OpenAI's CLIP under torch's autocast."""

    name = "torch eager bfloat16"


class TorchCompiledBfloat16(_Autocast, TorchCompiled):
    """The same, compiled."""

    name = "torch.compile bfloat16"


class TorchTuned(TorchCompiledBfloat16):
    """The same with weights frozen, so that they are packed and rounded once, and products tuned by trying."""

    name = "torch.compile bfloat16 tuned"
    options: dict[str, Any] | None = {"freezing": True, "max_autotune": True}  # noqa: RUF012
