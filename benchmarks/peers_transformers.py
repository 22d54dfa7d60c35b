"""transformers' CLIPModel, as an engine, and what is built upon it or reads its checkpoints."""

from __future__ import annotations

import gzip
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipref.tokenizer import Tokenizer
from clipref.vocabulary import DEFAULT_MERGES
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
        state = {name: torch.from_numpy(value) for name, value in transformers_state(checkpoint).items()}
        self.model.load_state_dict(state, strict=False)
        self.device, self.dtype = device, getattr(torch, precision)
        self.model.to(device, self.dtype)

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


class SentenceTransformers(Transformers):
    """sentence-transformers' CLIPModel, from preprocessed pixels and from ids, as its `encode` calls it."""

    name = "sentence-transformers"
    needs: tuple[str, ...] = ("torch", "transformers", "sentence-transformers")

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        super().__init__(checkpoint, threads)
        import sentence_transformers.models

        with tempfile.TemporaryDirectory() as folder:
            self.model.save_pretrained(folder)
            write_tokenizer(Path(folder))
            write_processor(Path(folder), checkpoint.config.vision.resolution)
            module = sentence_transformers.models.CLIPModel(folder)
        self.model = sentence_transformers.SentenceTransformer(modules=[module], device="cpu").eval()

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        return self._encode({"pixel_values": self.torch.from_numpy(pixels), "modality": "image"})

    def encode_text(self, ids: Any) -> Any:
        """[N, T] -> [N, E]; columns after the longest text are cut, as its tokenizer's padding does."""
        longest = ids[:, : int(ids.argmax(axis=1).max()) + 1]
        return self._encode({"input_ids": self.torch.from_numpy(longest), "modality": "text"})

    def _encode(self, features: dict[str, Any]) -> Any:
        with self.torch.inference_mode():
            return self.model(features)["sentence_embedding"].numpy()


class FasterClip:
    """The image tower of faster-clip, in Rust, from a checkpoint in transformers' layout; of ViT-B-32 alone.

    Weights are in 8 bits, products in float32. It takes files, so here it is handed bitmaps of the model's own size,
    whose decoding is part of its time; its texts go through another model than CLIP's.
    """

    name = "faster-clip"
    precision = "float32"
    needs: tuple[str, ...] = ("faster-clip",)

    def __init__(self, checkpoint: Checkpoint, threads: int) -> None:
        from faster_clip import ClipModel
        from safetensors.numpy import save_file

        self.files: dict[int, tuple[Any, list[bytes]]] = {}
        self.mean, self.std = (
            np.array(x, np.float32)[:, None, None]
            for x in (checkpoint.config.preprocess.mean, checkpoint.config.preprocess.std)
        )
        settings = {"FASTER_CLIP_CACHE", "RAYON_NUM_THREADS"}
        before = {name: os.environ.get(name) for name in settings}
        with tempfile.TemporaryDirectory() as cache:
            # Where it looks for what it would download.
            folder = Path(cache) / "sentence-transformers__clip-ViT-B-32" / "0_CLIPModel"
            folder.mkdir(parents=True)
            save_file(transformers_state(checkpoint), folder / "model.safetensors")
            os.environ |= {"FASTER_CLIP_CACHE": cache, "RAYON_NUM_THREADS": str(threads)}
            try:
                self.model = ClipModel()
                side = checkpoint.config.vision.resolution
                self.encode_image(np.zeros((1, 3, side, side), np.float32))  # which is when it reads them
            finally:
                for name, value in before.items():
                    os.environ.pop(name) if value is None else os.environ.update({name: value})

    def bitmaps(self, pixels: Any) -> list[bytes]:
        """Pixels [N, 3, R, R] as files, which are made once for an array."""
        if id(pixels) not in self.files:
            shades = np.rint((pixels * self.std + self.mean) * 255).clip(0, 255).astype(np.uint8)
            files = []
            for picture in shades.transpose(0, 2, 3, 1):
                file = io.BytesIO()
                Image.fromarray(picture).save(file, "BMP")
                files.append(file.getvalue())
            self.files[id(pixels)] = pixels, files  # the array stays, so that no other has its id
        return self.files[id(pixels)][1]

    def encode_image(self, pixels: Any) -> Any:
        """[N, 3, R, R] -> [N, E]"""
        return np.array(self.model.encode_image(self.bitmaps(pixels)), np.float32)


def write_tokenizer(folder: Path) -> None:
    """vocab.json and merges.txt, as transformers' tokenizers want them."""
    tokenizer = Tokenizer.default()
    (folder / "vocab.json").write_text(json.dumps(tokenizer._ids))
    merges = gzip.decompress(DEFAULT_MERGES.read_bytes()).decode("utf-8").split("\n")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges[1:]]), encoding="utf-8")


def write_processor(folder: Path, side: int) -> None:
    """preprocessor_config.json, as transformers' processors of images want it."""
    told = {"image_processor_type": "CLIPImageProcessor", "processor_class": "CLIPProcessor"}
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    (folder / "preprocessor_config.json").write_text(json.dumps(told | sizes))


def transformers_state(checkpoint: Checkpoint) -> dict[str, Any]:
    """The weights of a model of two transformers, under transformers' names, as numpy arrays in float32."""
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
    return {name: np.array(value, order="C") for name, value in state.items()}
