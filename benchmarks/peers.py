"""Other implementations of CLIP, as engines: what is installed takes part, what isn't doesn't.

OpenAI's model code is read from the clip-anytorch wheel (`pip install torch; pip install --no-deps clip-anytorch`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Any

import numpy as np

from clipref.config import tensor_shapes
from clipref.weights import Checkpoint


class TorchEager:
    """OpenAI's CLIP under torch, in float32, as its users run it: texts padded to the whole context."""

    name = "torch eager"

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        state = {
            name: torch.from_numpy(np.array(checkpoint.file.read(name, "float32")))
            for name in tensor_shapes(checkpoint.config)
        }
        model = openai_code("model").build_model(state)
        self.model = model.float().eval()
        self.context_length = checkpoint.config.text.context_length

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        with self.torch.inference_mode():
            return self.model.encode_image(self.torch.from_numpy(pixels)).numpy()

    def encode_text(self, ids: Any) -> Any:
        """[N, T] -> [N, E]"""
        padded = np.zeros((len(ids), self.context_length), np.int64)
        padded[:, : ids.shape[1]] = ids
        with self.torch.inference_mode():
            return self.model.encode_text(self.torch.from_numpy(padded)).numpy()


def openai_code(module_name: str) -> Any:
    """clip/model.py or another module of the clip-anytorch wheel, without its package, which would need torchvision."""
    files = importlib.metadata.files("clip-anytorch") or []
    path = next(file.locate() for file in files if str(file).endswith(f"clip/{module_name}.py"))
    spec = importlib.util.spec_from_file_location(f"openai_clip_{module_name}", str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def installed() -> list[type[TorchEager]]:
    """The peers that can run here."""
    try:
        importlib.metadata.version("torch")
        importlib.metadata.version("clip-anytorch")
    except importlib.metadata.PackageNotFoundError:
        return []
    return [TorchEager]
