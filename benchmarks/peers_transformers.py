"""transformers' CLIPModel, as an engine, and what is built upon it or reads its checkpoints."""

from __future__ import annotations

from typing import Any

import numpy as np

from clipref.weights import Checkpoint


class Transformers:
    """transformers' CLIPModel, in float32 on the CPU unless told, with its default attention."""

    name = "transformers"
    precision = "float32"
    needs: tuple[str, ...] = ("torch", "transformers")

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


class TransformersBfloat16(Transformers):
    """The same with all its weights and activations in bfloat16, as `dtype=torch.bfloat16` has it."""

    name = "transformers bfloat16"
    precision = "bfloat16"

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        super().__init__(checkpoint, threads, precision=self.precision)
