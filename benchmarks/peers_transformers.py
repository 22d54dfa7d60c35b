"""transformers' CLIPModel, as an engine, and what is built upon it or reads its checkpoints."""

from __future__ import annotations

import io
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from clipref.weights import Checkpoint
from clipref.weights_tools.convert import convert


class Transformers:
    """transformers' CLIPModel, in float32 on the CPU unless told, with its default attention."""

    name = "transformers"
    precision = "float32"
    needs: tuple[str, ...] = ("torch", "transformers")

    def __init__(self, checkpoint: Checkpoint, threads: int, device: str = "cpu", precision: str = "float32") -> None:
        import torch
        from transformers import CLIPModel

        torch.set_num_threads(threads)
        self.torch, self.device, self.dtype = torch, device, getattr(torch, precision)
        with tempfile.TemporaryDirectory() as name:
            self.model = CLIPModel.from_pretrained(converted(checkpoint, Path(name) / "model"), dtype=self.dtype)
        self.model.eval().to(device)

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
        import sentence_transformers.models
        import torch

        torch.set_num_threads(threads)
        self.torch = torch
        with tempfile.TemporaryDirectory() as name:
            module = sentence_transformers.models.CLIPModel(str(converted(checkpoint, Path(name) / "model")))
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
            folder.parent.mkdir()
            converted(checkpoint, folder)
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


def converted(checkpoint: Checkpoint, folder: Path) -> Path:
    """The checkpoint as transformers opens it, in float32, with tokenizer and processor, in a folder yet to be made."""
    return convert(checkpoint.file.path.parent, folder, to="transformers", dtype="float32")
