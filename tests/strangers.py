"""A CLIP as a stranger might write it, in plain numpy, which mistakes can be made of: strange_mistakes.py has twenty.

Nothing but the checkpoint's reader, the convolution and the table of merges is clipref's.
"""

from __future__ import annotations

import html
import io
import math
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import ftfy
import numpy as np
import regex
from PIL import Image

from clipref import ops
from clipref.config import OPENAI_MEAN, OPENAI_STD
from clipref.vocabulary import DEFAULT_MERGES, SPECIALS, WORDS, byte_symbols, read_vocabulary
from clipref.weights import Checkpoint

Array: TypeAlias = Any
_erf = np.frompyfunc(math.erf, 1, 1)


class Stranger:
    """All verbs but operations, as methods; `folder` is a checkpoint's, None where the verb needs none."""

    def __init__(self, folder: Path | None) -> None:
        self.taps: dict[str, Array] = {}
        if folder is not None:
            checkpoint = Checkpoint(folder)
            self.config: Any = checkpoint.config
            self.visual, self.text = checkpoint.visual("float32"), checkpoint.text("float32")

    # --- towers -------------------------------------------------------------------------------------------------------

    def tap(self, name: str, x: Array) -> Array:
        self.taps[name] = x
        return x

    def norm(self, x: Array, weight: Array, bias: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias

    def activate(self, x: Array, kind: str) -> Array:
        if kind == "quick_gelu":
            return x / (1 + np.exp(-1.702 * x))
        return x * (self.erf(x / math.sqrt(2)) + 1) / 2

    def erf(self, x: Array) -> Array:
        return np.asarray(_erf(x), x.dtype)

    def queries(self, x: Array, weight: Array, bias: Array, heads: int) -> Array:
        return (x @ weight.T + bias) * np.float32((weight.shape[0] // heads) ** -0.5)

    def softmax(self, scores: Array) -> Array:
        e = np.exp(scores - scores.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    def mask(self, scores: Array, length: int) -> Array:
        """Scores [N, H, L, L] of a text."""
        return np.where(np.tri(length, dtype=bool), scores, -np.inf)

    def attend(self, q: Array, x: Array, qkv: Any, heads: int, causal: bool) -> Array:
        """Queries [N, Q, W], scaled, to x [N, L, W]; `qkv`: weight and bias of keys, then of values."""
        n, length, _ = x.shape
        k, v = (x @ weight.T + bias for weight, bias in qkv)
        q, k, v = (y.reshape(n, y.shape[1], heads, -1).transpose(0, 2, 1, 3) for y in (q, k, v))
        scores = q @ k.swapaxes(-1, -2)
        y = self.softmax(self.mask(scores, length) if causal else scores) @ v
        return y.transpose(0, 2, 1, 3).reshape(n, -1, q.shape[1] * q.shape[3])

    def block(self, x: Array, name: str, config: Any, p: Any, causal: bool) -> Array:
        attn, width = p["attn"], x.shape[-1]
        y = self.tap(f"{name}.ln_1", self.norm(x, **p["ln_1"]))
        parts = [(attn["in_proj_weight"][i : i + width], attn["in_proj_bias"][i : i + width]) for i in range(0, 3 * width, width)]  # fmt: skip # noqa: E501
        y = self.attend(self.queries(y, *parts[0], config.heads), y, parts[1:], config.heads, causal)
        x = x + self.tap(f"{name}.attn", y @ attn["out_proj"]["weight"].T + attn["out_proj"]["bias"])
        y = self.tap(f"{name}.ln_2", self.norm(x, **p["ln_2"]))
        return self.tap(name, self.add_mlp(x, y, name, config, **p["mlp"]))

    def add_mlp(self, x: Array, y: Array, name: str, config: Any, c_fc: Any, c_proj: Any) -> Array:
        y = self.activate(y @ c_fc["weight"].T + c_fc["bias"], config.activation)
        return x + self.tap(f"{name}.mlp", y @ c_proj["weight"].T + c_proj["bias"])

    def encode_image(self, pixels: Array) -> Array:
        return self.vit(pixels) if self.config.vision.kind == "vit" else self.resnet(pixels)

    def vit(self, pixels: Array) -> Array:
        p, config = self.visual, self.config.vision
        x = ops.conv2d(pixels, p["conv1"]["weight"], stride=config.patch_size)
        x = self.tap("visual.conv1", x.reshape(*x.shape[:2], -1).swapaxes(1, 2))
        x = self.tap("visual.ln_pre", self.norm(self.place(x), **p["ln_pre"]))
        for i, block in enumerate(p["transformer"]["resblocks"]):
            x = self.block(x, f"visual.transformer.resblocks.{i}", config, block, False)
        return self.tap("visual", self.tap("visual.ln_post", self.norm(self.pool(x), **p["ln_post"])) @ p["proj"])

    def place(self, x: Array) -> Array:
        """Patches [N, G*G, W] with the class token before them, and their positions added."""
        token = np.broadcast_to(self.visual["class_embedding"], (len(x), 1, x.shape[-1]))
        return np.concatenate([token, x], 1) + self.visual["positional_embedding"]

    def pool(self, x: Array) -> Array:
        return x[:, 0]

    def batch_norm(self, x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
        scale = weight / np.sqrt(running_var + np.float32(1e-5))
        return x * scale[:, None, None] + (bias - running_mean * scale)[:, None, None]

    def first_conv(self, x: Array, weight: Array) -> Array:
        return ops.conv2d(x, weight, stride=2, padding=1)

    def resnet(self, pixels: Array) -> Array:
        p = self.visual

        def conv(x: Array, at: Any, i: str) -> Array:
            weight = at[f"conv{i}"]["weight"]
            return self.batch_norm(ops.conv2d(x, weight, padding=weight.shape[-1] // 2), **at[f"bn{i}"])

        x = self.tap("visual.relu1", np.maximum(self.batch_norm(self.first_conv(pixels, **p["conv1"]), **p["bn1"]), 0))
        for i in "23":
            x = self.tap(f"visual.relu{i}", np.maximum(conv(x, p, i), 0))
        x = self.tap("visual.avgpool", ops.avg_pool(x, 2))
        for stage in range(1, 5):
            for j, block in enumerate(p[f"layer{stage}"]):
                name, size = f"visual.layer{stage}.{j}", 2 if stage > 1 and j == 0 else 1
                y = self.tap(f"{name}.relu1", np.maximum(conv(x, block, "1"), 0))
                y = self.tap(f"{name}.relu2", np.maximum(conv(y, block, "2"), 0))
                y = y if size == 1 else self.tap(f"{name}.avgpool", ops.avg_pool(y, 2))
                y = self.tap(f"{name}.bn3", conv(y, block, "3"))
                if "downsample" in block:
                    weights, norm = block["downsample"]
                    x = x if size == 1 else self.tap(f"{name}.downsample.-1", ops.avg_pool(x, 2))
                    x = self.tap(f"{name}.downsample", self.batch_norm(ops.conv2d(x, **weights), **norm))
                x = self.tap(name, np.maximum(y + x, 0))
        x = x.reshape(*x.shape[:2], -1).swapaxes(1, 2)
        return self.tap("visual", self.attention_pool(x, self.config.vision.heads, **p["attnpool"]))

    def attention_pool(self, x: Array, heads: int, positional_embedding: Array, c_proj: Any, **p: Any) -> Array:
        x = np.concatenate([x.mean(1, keepdims=True), x], 1) + positional_embedding
        q = self.queries(x[:, :1], p["q_proj"]["weight"], p["q_proj"]["bias"], heads)
        y = self.attend(q, x, [(p[k]["weight"], p[k]["bias"]) for k in ("k_proj", "v_proj")], heads, False)
        return y[:, 0] @ c_proj["weight"].T + c_proj["bias"]

    def encode_text(self, ids: Array) -> Array:
        p = self.text
        x = self.tap("token_embedding", p["token_embedding"]["weight"][ids])
        x = x + p["positional_embedding"][self.positions(ids)]
        for i, block in enumerate(p["transformer"]["resblocks"]):
            x = self.block(x, f"transformer.resblocks.{i}", self.config.text, block, True)
        x = self.norm(x[np.arange(len(ids)), self.ends(ids)], **p["ln_final"])
        return self.tap("text_projection", self.tap("ln_final", x) @ p["text_projection"])

    def positions(self, ids: Array) -> Array:
        return np.broadcast_to(np.arange(ids.shape[1]), ids.shape)

    def ends(self, ids: Array) -> Array:
        return ids.argmax(1)

    def trace_image(self, pixels: Array) -> Mapping[str, Array]:
        self.taps = {}
        self.encode_image(pixels)
        return self.taps

    def trace_text(self, ids: Array) -> Mapping[str, Array]:
        self.taps = {}
        self.encode_text(ids)
        return self.taps

    # --- tokens -------------------------------------------------------------------------------------------------------

    def tokenize(self, texts: list[str], context_length: int, truncate: bool) -> Array:
        start, end, _ = vocabulary()
        rows = np.zeros((len(texts), context_length), np.int64)
        for row, text in zip(rows, texts, strict=True):
            ids = [i for word in self.words(text) for i in self.word_ids(word)]
            if len(ids) > context_length - 2 and not truncate:
                raise ValueError(f"a text of {len(ids)} tokens")
            self.fill(row, [start, *ids[: context_length - 2], end])
        return rows

    def fill(self, row: Array, ids: list[int]) -> None:
        row[: len(ids)] = ids

    def words(self, text: str) -> list[str]:
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        return list(regex.findall(SPECIALS + WORDS, self.lower(regex.sub(r"\s+", " ", text)), regex.IGNORECASE))

    def lower(self, text: str) -> str:
        return text.lower()

    def utf8(self, word: str) -> bytes:
        return word.encode()

    def word_ids(self, word: str) -> list[int]:
        _, _, ids = vocabulary()
        if word in ("<|startoftext|>", "<|endoftext|>"):
            return [ids[word]]
        letters = [byte_symbols()[byte] for byte in self.utf8(word)]
        return [ids[symbol] for symbol in self.merge([*letters[:-1], letters[-1] + "</w>"])]

    def merge(self, symbols: list[str]) -> list[str]:
        ranks = _ranks()
        while pairs := [pair for pair in pairwise(symbols) if pair in ranks]:
            first = min(pairs, key=ranks.__getitem__)
            merged, i = [], 0
            while i < len(symbols):
                step = 2 if tuple(symbols[i : i + 2]) == first else 1
                merged.append("".join(symbols[i : i + step]))
                i += step
            symbols = merged
        return symbols

    # --- pixels -------------------------------------------------------------------------------------------------------

    def preprocess(self, image: bytes, resolution: int) -> Array:
        opened = Image.open(io.BytesIO(image))
        opened.load()
        opened.info.clear()
        size = [int(resolution * side / min(opened.size)) for side in opened.size]
        resized = opened if opened.size == tuple(size) else self.resize(opened, *size)
        left, top = (round((side - resolution) / 2) for side in size)
        crop = resized.crop((left, top, left + resolution, top + resolution)).convert("RGB")
        return self.normalise(np.asarray(crop).transpose(2, 0, 1).astype(np.float32) / 255)

    def resize(self, image: Image.Image, width: int, height: int) -> Image.Image:
        """Across first, then down; colours are multiplied by alpha once for both."""
        inside = {"RGBA": "RGBa", "LA": "La"}.get(image.mode, image.mode)
        across = image.convert(inside).resize((width, image.height), Image.Resampling.BICUBIC)
        return across.resize((width, height), Image.Resampling.BICUBIC).convert(image.mode)

    def normalise(self, rgb: Array) -> Array:
        mean, std = (np.array(x, np.float32)[:, None, None] for x in (OPENAI_MEAN, OPENAI_STD))
        return (rgb - mean) / std

    # --- files and texts to embeddings --------------------------------------------------------------------------------

    def embed_image(self, image: bytes) -> Array:
        return self.encode_image(self.preprocess(image, self.config.vision.resolution)[None])

    def embed_text(self, texts: list[str]) -> Array:
        return self.encode_text(self.tokenize(texts, self.config.text.context_length, False))

    def compare(self, image: bytes, texts: list[str]) -> Array:
        x, y = (z / np.linalg.norm(z, axis=1, keepdims=True) for z in (self.embed_image(image), self.embed_text(texts)))
        return (x @ y.T)[0]


@cache
def vocabulary() -> tuple[int, int, dict[str, int]]:
    """The ids of start and end, and of every symbol."""
    symbols = read_vocabulary(DEFAULT_MERGES).symbols
    return len(symbols) - 2, len(symbols) - 1, {symbol: i for i, symbol in enumerate(symbols)}


@cache
def _ranks() -> dict[tuple[str, ...], int]:
    return {tuple(pair): i for i, pair in enumerate(read_vocabulary(DEFAULT_MERGES).merges)}
