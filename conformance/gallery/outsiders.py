"""The rows of the gallery, and those that were tried and can't be asked."""

from __future__ import annotations

from .table import Absent, Outsider
from .under_torch import UNDER_TORCH
from .without_torch import WITHOUT_TORCH

OUTSIDERS: tuple[Outsider, ...] = (*UNDER_TORCH, *WITHOUT_TORCH)

ABSENT: tuple[Absent, ...] = (
    Absent(
        "clip.cpp's bindings",
        "clip-cpp",
        "0.5.0",
        "they load GGUF files of their own conversion, and none is written here",
    ),
    Absent(
        "clippie by that name", "clippie", "0.0.2", "it searches products by TF-IDF; mossblaser-clippie is the CLIP"
    ),
)
