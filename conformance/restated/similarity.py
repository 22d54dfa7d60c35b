"""Cosines and logits of embeddings, each step of which can be done otherwise.

From OpenAI's clip/model.py, `CLIP.forward`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from clipref import ops

from ..protocol import Array


@dataclass(frozen=True)
class Steps:
    """The steps; the defaults are OpenAI's."""

    image_normalised: bool = True
    text_normalised: bool = True
    epsilon: float = 0.0  # added to lengths
    scale: Literal["exp", "logarithm", "none", "divided", "at most 100"] = "exp"
    transposed: bool = False
    softmax: bool = False


def compare(
    image: Array,
    text: Array,
    logit_scale: Array,
    steps: Steps = Steps(),
    rounded: Callable[[Array], Array] = lambda x: x,
    order: Array | slice = slice(None),
) -> dict[str, Array]:
    """Cosines and logits [N, M] of images [N, E] and texts [M, E]; `rounded` what is kept, summed over E in an `order`.

    Dtypes are those of what is given.
    """
    sides = []
    for x, wanted in ((image, steps.image_normalised), (text, steps.text_normalised)):
        x = x[:, order]
        length = np.sqrt((x * x).sum(axis=1, keepdims=True)) + steps.epsilon
        sides.append(rounded(x / length if wanted else x))
    cosines = rounded(sides[0] @ sides[1].T)
    scale = np.exp(logit_scale)
    factors = {
        "exp": scale, "logarithm": logit_scale, "none": scale * 0 + 1, "divided": 1 / scale,
        "at most 100": np.minimum(scale, 100),
    }  # fmt: skip
    factor = factors[steps.scale]
    logits = rounded(factor * cosines)
    if steps.softmax:
        logits = ops.softmax(logits)
    return {"cosines": cosines.T if steps.transposed else cosines, "logits": logits.T if steps.transposed else logits}
