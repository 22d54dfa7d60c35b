"""Drawn pictures and written texts on which variants differ: which one would decide, and what a stamp is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from clipref.numerics import rms

from ..restated.preprocessing import picture
from .fitting import slack
from .search import Trial

# Pictures, each with something that a step may treat in another way: a half in the crop's offset, EXIF, transparency,
# palettes, sides beyond a thumbnail's.
PICTURES: Mapping[str, tuple[str, int, int]] = {
    "an RGB picture of 640 x 427 pixels": ("RGB", 640, 427),
    "a large RGB picture, 1300 x 901 pixels": ("RGB", 1300, 901),
    "a picture upright, 301 x 517 pixels": ("RGB", 301, 517),
    "a photograph turned by EXIF, 427 x 302 pixels": ("RGB with EXIF", 427, 302),
    "a picture with transparency (RGBA), 395 x 300 pixels": ("RGBA", 395, 300),
    "a picture with a palette, 395 x 300 pixels": ("P", 395, 300),
    "a palette with transparent colours, 395 x 300 pixels": ("P with tRNS", 395, 300),
    "a grey picture with alpha (LA), 395 x 300 pixels": ("LA", 395, 300),
}
TEXTS = (
    "It's 1999, a photo of 2 cats & a dog!",
    "Café Ünïcode ﬁne &amp;amp; don't",
    "a text that names <|endoftext|> in its middle",
    "one two three four five six seven eight nine ten " * 9,
)


def deciding(left: Sequence[Trial], precision: str) -> str | None:
    """In words, the picture or text of ours that tells most of these trials apart; None if none does."""
    text = left[0].model.kind == "text"
    probes: Mapping[str, Any] = {f"the text {t!r}": t for t in TEXTS} if text else PICTURES
    best, apart = None, 1
    for name, probe in probes.items():
        groups = _groups(left, probe if text else picture(*probe), precision)
        if groups > apart:
            best, apart = name, groups
    if best is None:
        return None
    return f"{best}, which tells {apart} groups of the {len(left)} apart"


def _groups(left: Sequence[Trial], item: Any, precision: str) -> int:
    """How many groups of trials give embeddings of an item that storage as float32 tells apart."""
    centres: list[Any] = []
    for trial in left:
        row = trial.model.embedding(trial.variant, item, "float32")
        if row is None:
            continue
        row = trial.form.apply(row)
        off = 2 * slack(trial.unit, precision) * rms(row)
        if all(row.shape != other.shape or float(np.abs(row - other).max()) > off for other in centres):
            centres.append(row)
    for model in {id(trial.model): trial.model for trial in left}.values():
        model.forget()
    return len(centres)
