"""What a known fault is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from .tower import Tower

# A change makes another tower of one, and leaves the one as it is.
Change: TypeAlias = Callable[[Tower], Tower]
Place: TypeAlias = Literal["vit", "resnet", "text", "preprocess", "tokenize", "similarity"]
# Places, by the verb, where faults can be that answers from an image's file or a text have on show.
WHOLE: Mapping[str, tuple[Place, ...]] = {
    "embed_image": ("vit", "resnet", "preprocess"),
    "embed_text": ("text", "tokenize"),
    "compare": ("vit", "resnet", "preprocess", "text", "tokenize", "similarity"),
}


@dataclass(frozen=True)
class Fault:
    """One known fault: its name, the claim of SPEC.md that it breaks, what it is, and where it can be.

    In a tower it is a change of the tower; elsewhere, the steps that are taken otherwise.
    """

    id: str
    claim: str
    title: str  # "the crop offset floored", behind "the reference with"
    places: tuple[Place, ...]
    change: Change | Mapping[str, Any]
    as_rounding: bool = False  # whether what rounds is off to the same side as this
