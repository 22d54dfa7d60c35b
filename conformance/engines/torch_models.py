"""Two implementations of CLIP that share no code with this project: OpenAI's and transformers', under torch.

A checkpoint of ours is converted as it is loaded. OpenAI's code is read from the clip-anytorch wheel by path, because
its package needs torchvision. In float16 and bfloat16 each is run as its users do: OpenAI's with the weights in that
type where `convert_weights` puts it, norms and embeddings in float32; transformers' with all of them in that type. In
float64 the cast to float32 around OpenAI's LayerNorm, there for float16's sake, is taken out.

Needs torch, and clip-anytorch (`pip install --no-deps clip-anytorch`) or transformers.
"""

from __future__ import annotations

import gc
import importlib.metadata
import importlib.util
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from clipref.config import ClipConfig
from clipref.weights import Checkpoint
from clipref.weights_tools.synthetic import dtype_of

from ..protocol import Array, Unsupported

DTYPES = {name: getattr(torch, name) for name in ("float32", "float64", "float16", "bfloat16")}


def openai_code(module_name: str) -> Any:
    """clip/model.py or another module of the clip-anytorch wheel, each time anew. Raises ImportError."""
    try:
        files = importlib.metadata.files("clip-anytorch") or []
    except importlib.metadata.PackageNotFoundError as problem:
        raise ImportError("OpenAI's code isn't installed: pip install --no-deps clip-anytorch") from problem
    path = next(file.locate() for file in files if str(file).endswith(f"clip/{module_name}.py"))
    spec = importlib.util.spec_from_file_location(f"openai_clip_{module_name}", str(path))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def openai_tokenizer() -> Any:
    """OpenAI's SimpleTokenizer."""
    return openai_code("simple_tokenizer").SimpleTokenizer()


def state(checkpoint: Checkpoint, dtype: Any) -> dict[str, Any]:
    """Every tensor of a checkpoint as torch has it, read by the safetensors library's own torch loader."""
    from safetensors.torch import load_file

    return {name: tensor.to(dtype) for name, tensor in load_file(checkpoint.file.path).items()}


class TorchModel:
    """A torch module that computes CLIP, and what its modules put out when it last did."""

    name: ClassVar[str]

    def __init__(self, config: ClipConfig, model: Any, dtype: Any) -> None:
        self.config, self.model, self.dtype = config, model.eval(), dtype
        self.taps: dict[str, Array] = {}
        for name, module in model.named_modules():
            if (tap := type(self).tap_name(name, config)) is not None:
                module.register_forward_hook(_hook(tap, self.taps, type(self).in_our_axes))

    @staticmethod
    def tap_name(module: str, config: ClipConfig) -> str | None:
        """The name of our tap that a module's output should equal."""
        raise NotImplementedError

    @staticmethod
    def in_our_axes(tap: str, x: Array) -> Array:
        """A module's output with our axes."""
        raise NotImplementedError

    def image_features(self, pixels: Any) -> Any:
        """The model's own method."""
        raise NotImplementedError

    def text_features(self, ids: Any) -> Any:
        """The model's own method."""
        raise NotImplementedError

    def encode_image(self, pixels: Array) -> Array:
        """[N, 3, R, R] -> [N, E]"""
        with torch.inference_mode():
            return _numpy(self.image_features(torch.from_numpy(pixels).to(self.dtype)))

    def encode_text(self, ids: Array) -> Array:
        """[N, T] -> [N, E]"""
        with torch.inference_mode():
            return _numpy(self.text_features(torch.from_numpy(ids.astype(np.int64))))

    def trace_image(self, pixels: Array) -> dict[str, Array]:
        """The activations that it has in common with ours."""
        self.taps.clear()
        self.encode_image(pixels)
        return dict(self.taps)

    def trace_text(self, ids: Array) -> dict[str, Array]:
        """The activations that it has in common with ours."""
        self.taps.clear()
        self.encode_text(ids)
        return dict(self.taps)

    def describe(self) -> dict[str, int]:
        """The sizes of the model."""
        config = self.config
        return {
            "embed_dim": config.embed_dim,
            "resolution": config.vision.resolution,
            "context_length": config.text.context_length,
            "vocab_size": config.text.vocab_size,
        }


def _numpy(x: Any) -> Array:
    """numpy knows float16, but whoever gets embeddings expects float32; float64 stays."""
    array: Array = (x if x.dtype == torch.float64 else x.float()).numpy()
    return array


def _hook(tap: str, taps: dict[str, Array], in_our_axes: Callable[[str, Array], Array]) -> Any:
    """Without a reference to the model, which would then be freed by the collector of cycles only."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        x = output[0] if isinstance(output, tuple) else output
        taps[tap] = in_our_axes(tap, _numpy(x.detach()))

    return hook


class OpenAI(TorchModel):
    """OpenAI's model code."""

    name = "OpenAI's clip/model.py (clip-anytorch)"

    def __init__(self, checkpoint: Checkpoint, dtype: Any) -> None:
        config, code = checkpoint.config, openai_code("model")
        vision: Any = config.vision
        text = config.text
        _refuse_unknown(config)
        resnet = vision.kind == "resnet"
        model = code.CLIP(
            config.embed_dim, vision.resolution, vision.layers if resnet else 1, vision.width if resnet else 64,
            None if resnet else vision.resolution, text.context_length, text.vocab_size, text.width, text.heads,
            text.layers,
        )  # fmt: skip
        # The class derives the heads from the width, which only the published sizes follow.
        if resnet:
            model.visual.attnpool.num_heads = vision.heads
        else:
            model.visual = code.VisionTransformer(
                vision.resolution, vision.patch_size, vision.width, vision.layers, vision.heads, config.embed_dim
            )
        tensors = state(checkpoint, dtype)
        if dtype in (torch.float16, torch.bfloat16):
            for name, tensor in state(checkpoint, torch.float32).items():
                if dtype_of(name, "mixed") == np.float32:
                    tensors[name] = tensor
        else:
            code.LayerNorm.forward = torch.nn.LayerNorm.forward
        missing = model.load_state_dict(tensors, strict=False, assign=True)
        assert not missing.unexpected_keys
        assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys), missing
        if dtype == torch.bfloat16:  # a constant that the class makes in float32
            for block in model.transformer.resblocks:
                block.attn_mask = block.attn_mask.to(dtype)
        gc.collect()
        super().__init__(config, model, dtype)

    @staticmethod
    def tap_name(module: str, config: ClipConfig) -> str | None:
        inner = ("ln_1", "ln_2", "mlp", "attn")
        last = module.rpartition(".")[2]
        if ".resblocks." in module:
            return module if last.isdigit() or last in inner else None
        if module.startswith("visual.layer"):
            return module if module.count(".") == 2 else None
        resnet = config.vision.family == "resnet"
        named = ("relu1", "relu2", "relu3", "avgpool") if resnet else ("conv1", "ln_pre", "ln_post")
        return module if module in (*(f"visual.{n}" for n in named), "token_embedding", "ln_final") else None

    @staticmethod
    def in_our_axes(tap: str, x: Array) -> Array:
        ours: Array = x
        if ".resblocks." in tap:
            ours = x.transpose(1, 0, 2)  # theirs is [L, N, W]
        if tap == "visual.conv1":
            ours = x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)
        return ours

    def image_features(self, pixels: Any) -> Any:
        return self.model.encode_image(pixels)

    def text_features(self, ids: Any) -> Any:
        return self.model.encode_text(ids)


def _refuse_unknown(config: ClipConfig) -> None:
    if config.vision.kind not in ("vit", "resnet") or config.text.kind != "causal":
        raise Unsupported(f"OpenAI's code has no towers of the kind {config.vision.kind!r} and {config.text.kind!r}")
    parts: list[Any] = [config.text, *([config.vision] if config.vision.kind == "vit" else [])]
    if any(part.mlp_width != 4 * part.width or part.activation != "quick_gelu" for part in parts):
        raise Unsupported("OpenAI's code has MLPs of four times the width, and QuickGELU, only")


class Transformers(TorchModel):
    """transformers' CLIPModel, which has any number of heads, any MLP width and both activations; no ResNets."""

    name = "transformers' CLIPModel"

    def __init__(self, checkpoint: Checkpoint, dtype: Any) -> None:
        from transformers import CLIPConfig, CLIPModel

        config = checkpoint.config
        vision: Any = config.vision
        text = config.text
        if (vision.kind, text.kind) != ("vit", "causal"):
            raise Unsupported(f"transformers' CLIPModel has no {vision.title} of the kind {vision.kind!r}")

        def common(part: Any) -> dict[str, Any]:
            return {
                "hidden_size": part.width,
                "intermediate_size": part.mlp_width,
                "num_hidden_layers": part.layers,
                "num_attention_heads": part.heads,
                "hidden_act": part.activation,
                "projection_dim": config.embed_dim,
                "layer_norm_eps": 1e-5,
            }

        settings: dict[str, Any] = {
            "text_config": {
                **common(text),
                "vocab_size": text.vocab_size,
                "max_position_embeddings": text.context_length,
                "eos_token_id": text.vocab_size - 1,
                "bos_token_id": text.vocab_size - 2,
                "pad_token_id": 0,
            },
            "vision_config": {**common(vision), "image_size": vision.resolution, "patch_size": vision.patch_size},
            "projection_dim": config.embed_dim,
            "attn_implementation": "sdpa",  # "eager" takes the softmax in float32 whatever the dtype
        }
        model = CLIPModel(CLIPConfig(**settings))
        missing = model.load_state_dict(self.transformers_names(state(checkpoint, dtype)), strict=False, assign=True)
        assert not missing.unexpected_keys, missing.unexpected_keys
        assert all("position_ids" in key for key in missing.missing_keys), missing.missing_keys
        super().__init__(config, model, dtype)

    @staticmethod
    def transformers_names(ours: Mapping[str, Any]) -> dict[str, Any]:
        """OpenAI's names and layouts as transformers has them."""
        replacements = [
            ("visual.class_embedding", "vision_model.embeddings.class_embedding"),
            ("visual.positional_embedding", "vision_model.embeddings.position_embedding.weight"),
            ("visual.conv1", "vision_model.embeddings.patch_embedding"),
            ("visual.ln_pre", "vision_model.pre_layrnorm"),
            ("visual.ln_post", "vision_model.post_layernorm"),
            ("visual.transformer.resblocks", "vision_model.encoder.layers"),
            ("transformer.resblocks", "text_model.encoder.layers"),
            ("token_embedding", "text_model.embeddings.token_embedding"),
            ("ln_final", "text_model.final_layer_norm"),
            (".ln_1", ".layer_norm1"),
            (".ln_2", ".layer_norm2"),
            (".mlp.c_fc", ".mlp.fc1"),
            (".mlp.c_proj", ".mlp.fc2"),
            (".attn.out_proj", ".self_attn.out_proj"),
        ]
        theirs = {}
        for name, tensor in ours.items():
            if name == "visual.proj":
                theirs["visual_projection.weight"] = tensor.T.contiguous()
                continue
            if name == "text_projection":
                theirs["text_projection.weight"] = tensor.T.contiguous()
                continue
            if name == "positional_embedding":
                theirs["text_model.embeddings.position_embedding.weight"] = tensor
                continue
            for old, new in replacements:
                name = name.replace(old, new)
            if ".attn.in_proj_" in name:
                block, _, kind = name.partition(".attn.in_proj_")
                for part, rows in zip("qkv", tensor.chunk(3), strict=True):
                    theirs[f"{block}.self_attn.{part}_proj.{kind}"] = rows.contiguous()
            else:
                theirs[name] = tensor
        return theirs

    @staticmethod
    def tap_name(module: str, config: ClipConfig) -> str | None:
        name = module.replace("vision_model.encoder.layers", "visual.transformer.resblocks")
        name = name.replace("text_model.encoder.layers", "transformer.resblocks")
        return name if "resblocks" in name and name.rpartition(".")[2].isdigit() else None

    @staticmethod
    def in_our_axes(tap: str, x: Array) -> Array:
        return x

    def image_features(self, pixels: Any) -> Any:
        return _tensor(self.model.get_image_features(pixel_values=pixels))

    def text_features(self, ids: Any) -> Any:
        return _tensor(self.model.get_text_features(input_ids=ids))


def _tensor(output: Any) -> Any:
    """Newer versions give the features inside of an output object."""
    return getattr(output, "pooler_output", output)


class OpenAITokenizer:
    """What needs no checkpoint of OpenAI's: the tokenizer. The preprocessing is torchvision's, and left out."""

    def __init__(self) -> None:
        self._tokenizer = openai_tokenizer()

    def tokenize(self, texts: list[str], context_length: int, truncate: bool) -> Array:
        """`tokenize` of clip/clip.py, whose module needs torchvision, around the original tokenizer."""
        start, end = (self._tokenizer.encoder[f"<|{word}oftext|>"] for word in ("start", "end"))
        rows = np.zeros((len(texts), context_length), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [start, *self._tokenizer.encode(text), end]
            if len(ids) > context_length:
                if not truncate:
                    raise RuntimeError(f"Input {text} is too long for context length {context_length}")
                ids = [*ids[: context_length - 1], end]
            row[: len(ids)] = ids
        return rows


class TransformersProcessor:
    """What needs no checkpoint of transformers': the image processor, with Pillow."""

    def preprocess(self, image: bytes, resolution: int) -> Array:
        """pixel_values of one image."""
        import transformers
        from PIL import Image

        # Pillow's processor has this name from 5 on, where the other is torchvision's if that is installed.
        kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
        processor = kind(size={"shortest_edge": resolution}, crop_size={"height": resolution, "width": resolution})
        pixels: Array = processor(Image.open(io.BytesIO(image)), return_tensors="np")["pixel_values"][0]
        return pixels


def openai(folder: Path | None, dtype: str) -> Any:
    """The engine for a checkpoint's folder, or for what needs none."""
    return OpenAITokenizer() if folder is None else OpenAI(Checkpoint(folder), DTYPES[dtype])


def transformers(folder: Path | None, dtype: str) -> Any:
    """The engine for a checkpoint's folder, or for what needs none."""
    return TransformersProcessor() if folder is None else Transformers(Checkpoint(folder), DTYPES[dtype])
