"""What backends in 8-bit integers share: weights in whole steps, and channels that stand out made like the rest.

Trained CLIPs have a few channels far above the rest, which would leave few steps to all others. Where such a channel
comes out of a LayerNorm, half of its size (on a logarithmic scale) is moved into the weights behind, which is exact in
real arithmetic. Which channels those are is seen in a run of the float32 tower on a few images and texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.config import TextConfig

Array: TypeAlias = NDArray[Any]
Ranges: TypeAlias = Mapping[str, Array]  # by the name of a tap: the least and the greatest of each channel, [2, C]

# How many are looked at: the channels that stand out are the same in any image or text.
IMAGES, TEXTS = 2, 4


def quantise_weight(weight: Array, steps: int) -> tuple[Array, Array]:
    """A weight [O, ...] -> whole numbers [O, ...] int8, and the size of a step for each output [O] float32."""
    size = np.abs(weight).reshape(len(weight), -1).max(axis=1) / steps
    size = np.where(size > 0, size, 1.0).astype(np.float32)
    whole = np.rint(weight / size.reshape(-1, *[1] * (weight.ndim - 1)))
    return whole.astype(np.int8), size


def balance_channels(params: Mapping[str, Any], ranges: Ranges, name: str) -> dict[str, Any]:
    """A transformer's parameters with the same result in real arithmetic, in which no LayerNorm has a channel far above
    the rest: a channel's factor is the root of its size over that of the weights that it meets.
    """
    blocks = []
    for i, block in enumerate(params["transformer"]["resblocks"]):
        attn, mlp, c_fc = dict(block["attn"]), block["mlp"], dict(block["mlp"]["c_fc"])  # each weight read once
        first = _factors(ranges[f"{name}.resblocks.{i}.ln_1"], attn["in_proj_weight"])
        second = _factors(ranges[f"{name}.resblocks.{i}.ln_2"], c_fc["weight"])
        blocks.append(
            {
                "ln_1": {key: value / first for key, value in block["ln_1"].items()},
                "attn": {**attn, "in_proj_weight": attn["in_proj_weight"] * first},
                "ln_2": {key: value / second for key, value in block["ln_2"].items()},
                "mlp": {**mlp, "c_fc": {**c_fc, "weight": c_fc["weight"] * second}},
            }
        )
    return {**params, "transformer": {"resblocks": blocks}}


def _factors(extremes: Array, weight: Array) -> Array:
    """By how much each channel [C] is too large, of a LayerNorm's least and greatest [2, C] and a weight [O, C]."""
    size = np.abs(extremes).max(axis=0)
    met = (np.abs(weight) / np.maximum(np.abs(weight).max(axis=1, keepdims=True), 1e-30)).max(axis=0)
    factors = np.sqrt(np.maximum(size, 1e-6) / np.maximum(met, 1e-6))
    return np.asarray(factors / np.exp(np.log(factors).mean()), np.float32)


def calibration_pixels(side: int, n: int) -> Array:
    """Images [n, 3, side, side] for calibration: squares of random colours, a few large ones to many small ones."""
    generator = np.random.Generator(np.random.PCG64(7))
    total = np.zeros((n, 3, side, side))
    for cells, contrast in ((1, 1.5), (2, 1.5), (5, 1.2), (11, 0.6), (side, 0.3)):
        index = np.arange(side) * cells // side
        total += generator.uniform(-contrast, contrast, (n, 3, cells, cells))[:, :, index][:, :, :, index]
    return np.clip(total, -1.8, 2.1).astype(np.float32)


def calibration_ids(config: TextConfig, n: int) -> Array:
    """Token ids [n, T] for calibration: random words, from a few to as many as there is room for."""
    generator = np.random.Generator(np.random.PCG64(7))
    end = config.end_of_text or config.vocab_size - 1  # any word will do where texts have no end
    ids = generator.integers(0, end - 1, (n, config.context_length))
    ids[:, 0] = end - 1
    for row, stop in zip(ids, np.linspace(2, config.context_length - 1, n).astype(int), strict=True):
        row[stop:] = 0
        row[stop] = end
    return ids
