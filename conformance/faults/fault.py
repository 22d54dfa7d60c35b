"""What a known fault is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from clipref.engine import NumpyEngine

Overrides: TypeAlias = dict[str, Callable[..., Any]]
# Changes an engine's weights or settings, and returns the operations that are other than the reference's.
Change: TypeAlias = Callable[[NumpyEngine], Overrides]
Place: TypeAlias = Literal["vit", "resnet", "text", "preprocess", "tokenize", "similarity"]


@dataclass(frozen=True)
class Fault:
    """One known fault: its name, the claim of SPEC.md that it breaks, what it is, and where it can be.

    In a tower it is a change to the engine; elsewhere, the steps that are taken otherwise.
    """

    id: str
    claim: str
    title: str  # "the crop offset floored", behind "the reference with"
    places: tuple[Place, ...]
    change: Change | Mapping[str, Any]
