"""How many items go through a recorded graph together, and which options all backends of recorded graphs have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.architecture import ImageConfig
from clipref.config import TextConfig
from clipref.engine import check_threads
from clipref.errors import BackendError
from clipref.weights import DType

Array: TypeAlias = NDArray[Any]

# Positions of a thread's items at a time: enough for the weights to be worth fetching, few enough for the cache.
POSITIONS = 512
# Images at a time that all threads share, of a ResNet: more are no faster, and each takes memory.
RESNET_ITEMS = 8


def images_at_a_time(vision: ImageConfig, threads: int) -> int:
    """How many images go through a tower together, so that a batch of any size needs the memory of a few."""
    return threads * max(1, POSITIONS // (vision.grid**2 + 1)) if vision.family == "vit" else RESNET_ITEMS


def positions_at_a_time(threads: int) -> int:
    """How many positions of texts go through the tower together."""
    return POSITIONS * threads


def in_parts(encode: Callable[[Array], Array], items: Array, at_a_time: int | None) -> Array:
    """Items [N, ...] -> embeddings [N, E], at most so many at a time, or all of them."""
    step = at_a_time or len(items)
    return np.concatenate([encode(items[i : i + step]) for i in range(0, len(items), step)])


def texts_in_parts(
    encode: Callable[[dict[str, Array]], Array], ids: Array, config: TextConfig, positions: int | None
) -> Array:
    """Token ids [N, T] -> embeddings [N, E], texts of at most so many positions at a time, or all of them.

    `encode` takes what `text_inputs` gives.
    """
    ids = config.single_texts(ids)[0]
    at_a_time = positions and max(1, positions // ids.shape[1])
    return in_parts(lambda part: encode(text_inputs(part, config)), ids, at_a_time)


def text_inputs(ids: Array, config: TextConfig) -> dict[str, Array]:
    """Texts as trees of one each, the inputs of `record_tree`."""
    ids, positions, visible, ends = config.single_texts(ids.astype(np.int64))
    return {"ids": ids, "positions": positions, "visible": visible, "ends": ends}


def check_options(backend: str, dtype: DType, threads: int | None, **switches: bool) -> None:
    """Raise BackendError for a dtype, a number of threads or a switch that no backend of recorded graphs can have."""
    if dtype != "float32":
        raise BackendError(f"Backend {backend!r} takes and gives float32, not {dtype}; use backend='reference'.")
    check_threads(threads)
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise BackendError(f"{name} is {value!r}; expected True or False.")
