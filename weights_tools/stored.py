"""Tensors that are still in their files: what each is, and how to read it. Nothing is read before it is asked for."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipref.config import Shape
from clipref.errors import WeightsError
from clipref.weights import SafetensorsFile

Array = NDArray[Any]


@dataclass(frozen=True)
class Stored:
    """One tensor: its dtype as safetensors calls it ("F16", "BF16"), its shape, and a function that reads its bits.

    What `read` returns has the dtype of `clipref.weights.FLOATS`, so bfloat16 comes as uint16.
    """

    dtype: str
    shape: Shape
    read: Callable[[], Array]


def read_array(path: Path, dtype: np.dtype[Any], count: int, offset: int) -> Array:
    """`count` numbers from `offset` on, read, not mapped: a mapped file's pages would count as this process's memory.

    Raises WeightsError if the file ends before.
    """
    with open(path, "rb") as file:
        array: Array = np.fromfile(file, dtype, count, offset=offset)
    if len(array) != count:
        raise WeightsError(f"{path} ends before its tensors do; it was cut short or changed. Fetch it again.")
    return array


def safetensors_tensors(path: str | os.PathLike[str]) -> dict[str, Stored]:
    """The tensors of one safetensors file. Raises WeightsError if it is damaged."""
    file = SafetensorsFile(path)

    def entry(name: str) -> Stored:
        return Stored(file.dtypes[name], file.shapes[name], lambda: file.stored(name))

    return {name: entry(name) for name in file.shapes}
