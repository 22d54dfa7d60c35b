"""A ResNet's BatchNorms as part of its convolutions: exact in real arithmetic, a pass less over every feature map."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np


def fold_norms(params: Any) -> Any:
    """A tower's parameters in which convolutions have a weight and a bias, and nothing is left of their norms."""
    if isinstance(params, list):
        if "running_var" in params[-1]:  # a shortcut's convolution and norm
            return fold(*params)
        return [fold_norms(item) for item in params]
    if not isinstance(params, Mapping) or "bn1" not in params:  # neither a ResNet nor one of its blocks
        return params
    made = {name: fold_norms(item) for name, item in params.items()}
    for name in made:
        norm = name.replace("conv", "bn")
        if re.fullmatch(r"conv\d", name):
            made[name], made[norm] = fold(params[name], params[norm])
    return made


def fold(conv: Mapping[str, Any], norm: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A convolution and the norm after it -> a convolution with a bias, and no norm."""
    before = conv["weight"]
    gain = norm["weight"] / np.sqrt(norm["running_var"].astype(np.float64) + 1e-5)
    weight = before * gain[:, None, None, None]
    bias = norm["bias"] - norm["running_mean"] * gain
    return [{"weight": weight.astype(before.dtype), "bias": bias.astype(before.dtype)}, {}]
