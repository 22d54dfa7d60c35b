"""The question as one function: a store, the items that it is of, the models that may have made it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from clipref.arguments import check_count
from clipref.cli.texts import name_of
from clipref.cli.walk import images_in
from clipref.config import Activation
from clipref.errors import InputError
from clipref.preprocessing import open_image

from ..grading.rounding import EPSILON
from .models import Model, models_here
from .probes import deciding
from .search import Candidate, Item, Search, Verdict
from .vectors import grid_of, match, read_store

LIMIT = 16
# Precisions in which an engine may have computed: what is finer than float32 shows no more than it.
PRECISIONS = tuple(name for name in EPSILON if name in ("float32", "tf32", "float16", "bfloat16"))


@dataclass(frozen=True)
class Finding:
    """What made stored vectors, as far as these items can tell.

    `verdict` is "named" for one explanation, "one of" for several that these items can't tell apart, "none" for none.
    `candidates` are the explanations, that of the model as it is first. `runner_up` came nearest of what is refused,
    with its error and how many items it explained before `refused_at`. `items` is how many were looked at, `tried` how
    many explanations. `decides` says in words which item would tell the candidates apart. `too_few` says that products
    of vectors agree with a model, in too few digits to exclude chance.
    """

    verdict: Verdict
    candidates: tuple[Candidate, ...]
    runner_up: Candidate | None
    refused_at: str | None
    items: int
    tried: int
    decides: str | None = None
    too_few: bool = False
    activation: Activation | None = None  # that the models were opened with

    def to_dict(self) -> dict[str, Any]:
        """As JSON types: {"verdict", "candidates": [{"model", "variant", "storage", "normalised", "error"}]}."""
        return {"verdict": self.verdict, "candidates": [candidate.to_dict() for candidate in self.candidates]}


def whose(
    vectors: str | os.PathLike[str],
    *,
    images: str | os.PathLike[str] | None = None,
    texts: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
    limit: int = LIMIT,
    precision: str = "float32",
    activation: Activation | None = None,
) -> Finding:
    """Which model, variant and storage made the vectors [N, D] of a file or folder.

    `vectors`: a .npy, .parquet or .safetensors file, or a folder of clip-retrieval. Either `images`, the folder of the
    pictures, or `texts`, in the vectors' order, has to be given. `models` are names or paths of models on this machine,
    by default the embedded ones and the published ones that are here. `limit` items are embedded at first; further ones
    only if they can tell apart what is left. `precision` is what the engine computed in: "float32", "float16", ...
    `activation`, "quick_gelu" or "gelu", is that of the models, where their checkpoints don't tell.

    Raises InputError, ImageError, TextError, and ModelNotFound and others where a model can't be opened.
    """
    check_count("limit", limit)
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; expected one of {', '.join(PRECISIONS)}.")
    if (images is None) == (texts is None):
        raise InputError("expected the images or the texts that the vectors are of, one of both.")
    store = read_store(vectors)
    kind = "image" if texts is None else "text"
    if texts is not None:
        items = _texts(texts, len(store.vectors))
    else:
        assert images is not None
        items = _pictures(Path(images), store)
    opened = [Model(name, kind, activation) for name in (models_here() if models is None else models)]  # type: ignore[arg-type]
    if not opened:
        raise InputError("no models were given; expected at least one.")
    with_tower = [model for model in opened if model.has_tower]
    if not with_tower:
        raise InputError(f"none of the models has a tower for {kind}s; expected one that has.")
    grid = grid_of(store.vectors)
    outcome = Search(grid, with_tower, precision).run(items, int(limit))
    verdict: Verdict = "none" if not outcome.left else "named" if len(outcome.left) == 1 else "one of"
    return Finding(
        verdict,
        tuple(trial.candidate(grid) for trial in outcome.left),
        None if outcome.nearest is None else outcome.nearest.candidate(grid),
        outcome.refused_at,
        outcome.looked_at,
        outcome.tried,
        deciding(outcome.left, precision) if len(outcome.left) > 1 else None,
        outcome.digits_missing,
        activation,
    )


def _pictures(folder: Path, store: Any) -> list[Item]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; expected the one that the pictures are in.")
    found = images_in(folder)
    if not found.images:
        raise InputError(f"{folder} holds no pictures.")
    matched = match(store, found.images, folder)
    return [Item(name_of(path), row, partial(open_image, path)) for path, row in matched]


def _texts(texts: Sequence[str], rows: int) -> list[Item]:
    if isinstance(texts, str) or not all(isinstance(text, str) and text for text in texts):
        raise InputError("texts has something else than texts that aren't empty; expected a list of texts.")
    if len(texts) != rows:
        raise InputError(f"There are {rows} vectors and {len(texts)} texts; expected a text a vector, in their order.")
    return [Item(repr(text), row, partial(str, text)) for row, text in enumerate(texts)]
