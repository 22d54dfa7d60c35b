"""What a transformer's channels reach, seen in a run in float32, so that none that stands out stays so."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.architecture import TowerConfig
from clipref.config import TextConfig
from clipref.towers import encoder
from clipref.transformer import Ops

from ..quantisation import IMAGES, TEXTS, Ranges, balance_channels, calibration_ids, calibration_pixels

Array: TypeAlias = NDArray[Any]


def balanced(ops: Ops, params: Any, config: TowerConfig) -> Any:
    """A tower's parameters, those of a transformer with no channel of a LayerNorm far above the rest."""
    if "transformer" not in params:
        return params
    name = "transformer" if isinstance(config, TextConfig) else "visual.transformer"
    return balance_channels(params, observed_ranges(ops, params, config), name)


def observed_ranges(ops: Ops, params: Any, config: Any) -> Ranges:
    """The least and the greatest of each channel of a tower's LayerNorms, [2, C], on made images or texts."""
    found: dict[str, Array] = {}

    def tap(name: str, x: Array) -> Array:
        if name.endswith((".ln_1", ".ln_2")):
            found[name] = np.stack([x.min(axis=(0, 1)), x.max(axis=(0, 1))])
        return x

    inputs: tuple[Array, ...]
    if isinstance(config, TextConfig):
        inputs = config.single_texts(calibration_ids(config, TEXTS))
    else:
        inputs = (calibration_pixels(config.resolution, IMAGES),)
    encoder(config)(ops, *inputs, config, tap, **params)
    return found
