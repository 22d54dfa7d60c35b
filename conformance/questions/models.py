"""Models that engines are asked about: configurations and inputs, made from seeds, the same bits everywhere.

The tiny ones have pairwise different dimensions, so that no axis passes for another.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipref.config import PUBLISHED, ClipConfig, ResNetConfig, TextConfig, ViTConfig
from clipref.weights_tools import synthetic

Array = NDArray[Any]

SEED = 2021

# Pairwise different dimensions in each, the batches of tiny_inputs among them; test_towers.py asserts it.
TINY = {
    "vit-a": ClipConfig(22, ViTConfig(30, 6, 36, 2, 3, 144), TextConfig(19, 521, 20, 3, 10, 80)),
    "vit-b": ClipConfig(17, ViTConfig(28, 14, 48, 1, 6, 192), TextConfig(13, 530, 21, 1, 7, 84)),
    "vit-c": ClipConfig(14, ViTConfig(44, 11, 40, 3, 8, 160), TextConfig(15, 541, 27, 2, 9, 108)),
    "vit-mlp": ClipConfig(23, ViTConfig(48, 8, 45, 2, 5, 75), TextConfig(18, 523, 26, 2, 13, 51)),
    "vit-gelu": ClipConfig(25, ViTConfig(36, 9, 33, 2, 3, 77, "gelu"), TextConfig(14, 547, 30, 2, 6, 53, "gelu")),
    "rn-a": ClipConfig(22, ResNetConfig(64, (1, 2, 1, 1), 10, 8), TextConfig(19, 521, 20, 2, 10, 80)),
    "rn-b": ClipConfig(11, ResNetConfig(160, (2, 1, 1, 2), 4, 16), TextConfig(12, 530, 18, 1, 6, 72)),
    "rn-c": ClipConfig(15, ResNetConfig(32, (1, 1, 3, 1), 18, 6), TextConfig(16, 541, 24, 1, 8, 96)),
}
FULL = dict(PUBLISHED)
# A tiny model, but with the published models' vocabulary and context length, as engines have them built in.
WORDS = {"vit-words": ClipConfig(21, ViTConfig(32, 8, 24, 1, 4, 96), TextConfig(77, 49408, 16, 2, 2, 64))}


def pixels(config: ClipConfig, n: int) -> Array:
    """Pixels [n, 3, R, R] float32 in the range of preprocessed images, with structure from coarse to fine."""
    side = config.vision.resolution
    total = np.zeros((n, 3, side, side))
    for level, cells in enumerate((1, 2, 5, 11, side)):
        coarse = synthetic.uniform(f"pixels {SEED} {level}", n * 3 * cells * cells).reshape(n, 3, cells, cells)
        rows = np.arange(side) * cells // side
        total += (coarse * 4 - 2)[:, :, rows][:, :, :, rows] * (0.5, 0.5, 0.4, 0.2, 0.1)[level]
    return total.astype(np.float32)


def ids(config: ClipConfig, n: int) -> Array:
    """Token ids [n, T] int64: short, long to the brim, two end-of-text tokens, and in between; padded with 0.

    The long one has a 0 among its words, because that is a token too ("!" before another letter).
    """
    text = config.text
    end, length = text.vocab_size - 1, text.context_length
    words = synthetic.raw(f"ids {SEED}", n * length).reshape(n, length) % np.uint64(text.vocab_size - 2)
    rows: Array = words.astype(np.int64)
    rows[:, 0] = end - 1
    for row, stop in zip(rows, (2, length - 1, length // 2, length // 3), strict=False):
        row[stop:] = 0
        row[stop] = end
    rows[1:2, 3] = 0
    if n > 2:
        rows[2, length // 2 + 2] = end
    return rows


def tiny_inputs(config: ClipConfig) -> tuple[Array, Array]:
    """Pixels and ids of a tiny case; 7 images, because 2 to 6 are sides, heads or colours of one or another."""
    return pixels(config, 7), ids(config, 4)


def full_inputs(config: ClipConfig) -> tuple[Array, Array]:
    """Pixels and ids of a full-size case."""
    return pixels(config, 2), ids(config, 3)
