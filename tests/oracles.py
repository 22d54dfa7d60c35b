"""Two implementations of CLIP that share no code with this one, as engines: OpenAI's and transformers', under torch.

Imported by tests marked `oracle` and by make_goldens.py, never by the default suite. OpenAI's code is read from the
clip-anytorch wheel by path. It casts to float32 around every LayerNorm, for float16's sake; that one cast is taken out
here, so that float64 goes all the way.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from benchmarks.peers import openai_code
from clipref.config import ClipConfig, ResNetConfig, ViTConfig
from clipref.weights import Checkpoint

Arrays = dict[str, np.ndarray]


def openai_tokenizer() -> Any:
    """OpenAI's SimpleTokenizer."""
    return openai_code("simple_tokenizer").SimpleTokenizer()


def state(checkpoint: Checkpoint, dtype: Any) -> dict[str, torch.Tensor]:
    """Every tensor of a checkpoint as torch has it, read by the safetensors library's own torch loader."""
    from safetensors.torch import load_file

    return {name: tensor.to(dtype) for name, tensor in load_file(checkpoint.file.path).items()}


class Oracle:
    """A torch module that computes CLIP, and what its modules put out."""

    name = ""

    def __init__(self, config: ClipConfig, model: Any, dtype: Any) -> None:
        self.config, self.model, self.dtype = config, model.eval(), dtype
        self.taps: Arrays = {}
        for name, module in model.named_modules():
            if (tap := self.tap_name(name)) is not None:
                module.register_forward_hook(self._hook(tap))

    def tap_name(self, module: str) -> str | None:
        """The name of our tap that a module's output should equal."""
        raise NotImplementedError

    def arranged(self, tap: str, x: np.ndarray) -> np.ndarray:
        """A module's output with our axes."""
        raise NotImplementedError

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError

    def _hook(self, tap: str) -> Any:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            x = output[0] if isinstance(output, tuple) else output
            self.taps[tap] = self.arranged(tap, x.detach().numpy())

        return hook

    def encode_image(self, pixels: np.ndarray) -> np.ndarray:
        """[N, 3, R, R] -> [N, E]"""
        with torch.inference_mode():
            return self.image_features(torch.from_numpy(pixels).to(self.dtype)).numpy()

    def encode_text(self, ids: np.ndarray) -> np.ndarray:
        """[N, T] -> [N, E]"""
        with torch.inference_mode():
            return self.text_features(torch.from_numpy(ids.astype(np.int64))).numpy()


class OpenAI(Oracle):
    """OpenAI's model code."""

    name = "OpenAI's clip/model.py (clip-anytorch)"

    def __init__(self, checkpoint: Checkpoint, dtype: Any) -> None:
        config, code = checkpoint.config, openai_code("model")
        code.LayerNorm.forward = torch.nn.LayerNorm.forward
        vision, text = config.vision, config.text
        resnet = isinstance(vision, ResNetConfig)
        model = code.CLIP(
            config.embed_dim, vision.resolution, vision.layers if resnet else 1, vision.width if resnet else 64,
            None if resnet else vision.resolution, text.context_length, text.vocab_size, text.width, text.heads,
            text.layers,
        )  # fmt: skip
        # The class derives the heads from the width, which only the published sizes follow.
        if isinstance(vision, ResNetConfig):
            model.visual.attnpool.num_heads = vision.heads
        else:
            model.visual = code.VisionTransformer(
                vision.resolution, vision.patch_size, vision.width, vision.layers, vision.heads, config.embed_dim
            )
        missing = model.load_state_dict(state(checkpoint, dtype), strict=False, assign=True)
        assert not missing.unexpected_keys
        assert all(key.endswith("num_batches_tracked") for key in missing.missing_keys), missing
        gc.collect()
        super().__init__(config, model, dtype)

    def tap_name(self, module: str) -> str | None:
        inner = ("ln_1", "ln_2", "mlp", "attn")
        last = module.rpartition(".")[2]
        if ".resblocks." in module:
            return module if last.isdigit() or last in inner else None
        if module.startswith("visual.layer"):
            return module if module.count(".") == 2 else None
        named = ("conv1", "ln_pre", "ln_post", "relu1", "relu2", "relu3", "avgpool")
        if isinstance(self.config.vision, ResNetConfig):
            named = ("relu1", "relu2", "relu3", "avgpool")
        return module if module in (*(f"visual.{n}" for n in named), "token_embedding", "ln_final") else None

    def arranged(self, tap: str, x: np.ndarray) -> np.ndarray:
        if ".resblocks." in tap:
            return x.transpose(1, 0, 2)  # theirs is [L, N, W]
        if tap == "visual.conv1":
            return x.reshape(*x.shape[:2], -1).transpose(0, 2, 1)
        return x

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(pixels)

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(ids)


class Transformers(Oracle):
    """transformers' CLIPModel, which has any number of heads, any MLP width and both activations; no ResNets."""

    name = "transformers' CLIPModel"

    def __init__(self, checkpoint: Checkpoint, dtype: Any) -> None:
        from transformers import CLIPConfig, CLIPModel

        config = checkpoint.config
        vision, text = config.vision, config.text
        assert isinstance(vision, ViTConfig)

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

        settings = CLIPConfig(
            text_config={
                **common(text),
                "vocab_size": text.vocab_size,
                "max_position_embeddings": text.context_length,
                "eos_token_id": text.vocab_size - 1,
                "bos_token_id": text.vocab_size - 2,
                "pad_token_id": 0,
            },
            vision_config={**common(vision), "image_size": vision.resolution, "patch_size": vision.patch_size},
            projection_dim=config.embed_dim,
            attn_implementation="sdpa",  # "eager" takes the softmax in float32 whatever the dtype
        )
        model = CLIPModel(settings)
        missing = model.load_state_dict(self.renamed(state(checkpoint, dtype)), strict=False, assign=True)
        assert not missing.unexpected_keys, missing.unexpected_keys
        assert all("position_ids" in key for key in missing.missing_keys), missing.missing_keys
        super().__init__(config, model, dtype)

    @staticmethod
    def renamed(ours: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
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

    def tap_name(self, module: str) -> str | None:
        name = module.replace("vision_model.encoder.layers", "visual.transformer.resblocks")
        name = name.replace("text_model.encoder.layers", "transformer.resblocks")
        return name if "resblocks" in name and name.rpartition(".")[2].isdigit() else None

    def arranged(self, tap: str, x: np.ndarray) -> np.ndarray:
        return x

    def image_features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self._tensor(self.model.get_image_features(pixel_values=pixels))

    def text_features(self, ids: torch.Tensor) -> torch.Tensor:
        return self._tensor(self.model.get_text_features(input_ids=ids))

    @staticmethod
    def _tensor(output: Any) -> torch.Tensor:
        return output if isinstance(output, torch.Tensor) else output.pooler_output
