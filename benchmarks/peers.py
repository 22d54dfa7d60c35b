"""Other implementations of CLIP, as engines: what is installed takes part, what isn't doesn't.

- torch eager, and torch.compile: OpenAI's model code, read from the clip-anytorch wheel
  (`pip install torch; pip install --no-deps clip-anytorch`), texts padded to the whole context;
- onnxruntime alone: the same code exported by torch, as most who serve CLIP with ONNX Runtime have it;
- transformers: its CLIPModel (ViTs only), texts padded to the longest of the batch.
"""

from __future__ import annotations

import importlib.metadata
import io
import warnings
from typing import Any

import numpy as np

from clipref.config import tensor_shapes
from clipref.kernels.runtime import onnxruntime
from clipref.weights import Checkpoint


class TorchEager:
    """OpenAI's CLIP under torch, in float32 on the CPU unless told, as its users run it.

    In 16 bits its norms stay in float32, as its `convert_weights` leaves them.
    """

    name = "torch eager"
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

    def padded(self, ids: Any) -> Any:
        """Ids [N, T] with zeros up to the context length."""
        padded = np.zeros((len(ids), self.context_length), np.int64)
        padded[:, : ids.shape[1]] = ids
        return padded

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        with self.torch.inference_mode():
            return self.image(self.torch.from_numpy(pixels).to(self.device)).float().cpu().numpy()

    def encode_text(self, ids: Any) -> Any:
        """[N, T] -> [N, E]"""
        with self.torch.inference_mode():
            return self.text(self.torch.from_numpy(self.padded(ids)).to(self.device)).float().cpu().numpy()


class TorchCompiled(TorchEager):
    """The same, compiled by torch.compile; each batch size is compiled by itself, before it is timed."""

    name = "torch.compile"

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        super().__init__(checkpoint, threads)
        self.torch._dynamo.config.cache_size_limit = 64
        self.image = self.torch.compile(self.model.encode_image, dynamic=False)
        self.text = self.torch.compile(self.model.encode_text, dynamic=False)


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
            module = self.torch.nn.Module()
            module.inner = self.model
            module.forward = getattr(self.model, method)
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


class Transformers:
    """transformers' CLIPModel, in float32 on the CPU unless told, with its default attention."""

    name = "transformers"
    needs = ("torch", "transformers")

    def __init__(self, checkpoint: Checkpoint, threads: int, device: str = "cpu", precision: str = "float32") -> None:
        import torch
        from transformers import CLIPConfig, CLIPModel

        torch.set_num_threads(threads)
        self.torch = torch
        config = checkpoint.config
        vision: Any = config.vision
        text = config.text
        towers = [
            {
                "hidden_size": part.width,
                "intermediate_size": part.mlp_width,
                "num_hidden_layers": part.layers,
                "num_attention_heads": part.heads,
                "hidden_act": part.activation,
                "projection_dim": config.embed_dim,
            }
            for part in (vision, text)
        ]
        towers[0] |= {"image_size": vision.resolution, "patch_size": vision.patch_size}
        towers[1] |= {"vocab_size": text.vocab_size, "max_position_embeddings": text.context_length}
        towers[1]["eos_token_id"] = text.vocab_size - 1
        settings = CLIPConfig(vision_config=towers[0], text_config=towers[1], projection_dim=config.embed_dim)
        self.model = CLIPModel(settings).eval()
        self.model.load_state_dict(self._state(checkpoint), strict=False)
        self.device, self.dtype = device, getattr(torch, precision)
        self.model.to(device, self.dtype)

    def _state(self, checkpoint: Checkpoint) -> dict[str, Any]:
        """The weights under transformers' names: our parts of its modules, asked for by the shapes of its own."""
        read = checkpoint.file.read
        named = {
            "vision_model.embeddings.class_embedding": "visual.class_embedding",
            "vision_model.embeddings.position_embedding.weight": "visual.positional_embedding",
            "vision_model.embeddings.patch_embedding.weight": "visual.conv1.weight",
            "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
            "text_model.embeddings.position_embedding.weight": "positional_embedding",
            "logit_scale": "logit_scale",
        }
        for theirs, ours in (
            ("vision_model.pre_layrnorm", "visual.ln_pre"),
            ("vision_model.post_layernorm", "visual.ln_post"),
            ("text_model.final_layer_norm", "ln_final"),
        ):
            named |= {f"{theirs}.{part}": f"{ours}.{part}" for part in ("weight", "bias")}
        state = {theirs: read(ours, "float32") for theirs, ours in named.items()}
        state["visual_projection.weight"] = read("visual.proj", "float32").T
        state["text_projection.weight"] = read("text_projection", "float32").T
        parts = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "self_attn.out_proj": "attn.out_proj"}
        parts |= {"mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
        for tower, prefix in (("vision_model", "visual.transformer"), ("text_model", "transformer")):
            config: Any = checkpoint.config.vision if tower == "vision_model" else checkpoint.config.text
            for i in range(config.layers):
                layer, block = f"{tower}.encoder.layers.{i}", f"{prefix}.resblocks.{i}"
                for part in ("weight", "bias"):
                    for theirs, ours in parts.items():
                        state[f"{layer}.{theirs}.{part}"] = read(f"{block}.{ours}.{part}", "float32")
                    stacked = np.split(read(f"{block}.attn.in_proj_{part}", "float32"), 3)
                    for letter, rows in zip("qkv", stacked, strict=True):
                        state[f"{layer}.self_attn.{letter}_proj.{part}"] = rows
        return {name: self.torch.from_numpy(np.array(value)) for name, value in state.items()}

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        with self.torch.inference_mode():
            placed = self.torch.from_numpy(pixels).to(self.device, self.dtype)
            return _tensor(self.model.get_image_features(pixel_values=placed)).float().cpu().numpy()

    def encode_text(self, ids: Any) -> Any:
        """[N, T] -> [N, E]; columns after the longest text are cut, as its tokenizer's padding does."""
        longest = ids[:, : int(ids.argmax(axis=1).max()) + 1]
        with self.torch.inference_mode():
            placed = self.torch.from_numpy(longest).to(self.device)
            return _tensor(self.model.get_text_features(input_ids=placed)).float().cpu().numpy()


def _tensor(output: Any) -> Any:
    """Newer versions give the features inside of an output object."""
    return getattr(output, "pooler_output", output)


PEERS: tuple[type[Any], ...] = (TorchEager, TorchCompiled, OnnxRuntimeAlone, Transformers)


def installed(checkpoint: Checkpoint) -> list[Any]:
    """The peers that can run here and have this architecture."""
    resnet = checkpoint.config.vision.kind == "resnet"
    return [peer for peer in PEERS if all(map(_has, peer.needs)) and not (resnet and peer is Transformers)]


def _has(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
