"""What the tests of `clipref whose` share: pictures, stores in each precision, and a search that keeps embeddings."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipref.conformance.restated.preprocessing import picture
from clipref.conformance.whose.fitting import slack
from clipref.conformance.whose.models import Model
from clipref.conformance.whose.search import Item, Outcome, Search
from clipref.conformance.whose.variants import Variant
from clipref.conformance.whose.vectors import grid_of
from clipref.numerics import rms, to_bfloat16

# Sides with a half in the crop's offset and without, larger than a thumbnail's, and modes of every kind.
PICTURES: tuple[tuple[str, int, int], ...] = (
    ("RGB", 97, 61), ("RGBA", 75, 131), ("RGB with EXIF", 301, 202), ("L", 88, 53), ("RGB", 640, 427), ("RGB", 61, 99),
    ("P with tRNS", 90, 71), ("RGB", 1100, 611), ("LA", 120, 97), ("RGB", 301, 517), ("RGB", 224, 224), ("P", 130, 88),
    ("RGB with tRNS", 131, 88), ("RGB", 91, 55), ("RGB", 333, 222), ("RGB", 55, 77),
)  # fmt: skip
STORAGES = ("float32", "float16", "bfloat16", "int8")
COUNTS = (1, 4, 16)


def draw(folder: Path, which: Sequence[tuple[str, int, int]]) -> Path:
    """A folder with the pictures as PNG."""
    folder.mkdir(exist_ok=True)
    for i, (mode, width, height) in enumerate(which):
        image = picture(mode, width, height)
        kept = {key: image.info[key] for key in ("exif", "transparency") if key in image.info}
        image.save(folder / f"{i:02}.png", **kept)
    return folder


def as_int8(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whole numbers [N, D] and a step a vector [N]."""
    steps = np.abs(x).max(axis=1) / 127
    return np.rint(x / steps[:, None]).astype(np.int8), steps


def stored(x: np.ndarray, storage: str) -> np.ndarray:
    """Vectors in a precision, as float32 or whole numbers."""
    made: dict[str, Any] = {
        "float32": lambda: x.astype(np.float32),
        "float16": lambda: x.astype(np.float32).astype(np.float16),
        "bfloat16": lambda: to_bfloat16(x.astype(np.float32)),
        "int8": lambda: as_int8(x)[0],
    }
    made_now: np.ndarray = made[storage]()
    return made_now


class Kept(Model):
    """A model that keeps all embeddings, so that a loop over variants takes as long as one of them."""

    def forget(self) -> None:
        """Keep them."""


def constant(item: Any) -> Callable[[], Any]:
    """What opens an item that is open."""
    return lambda: item


def search(x: np.ndarray, models: Sequence[Model], items: Sequence[Any]) -> Outcome:
    """What explains vectors of these items."""
    listed = [Item(str(i), i, constant(item)) for i, item in enumerate(items)]
    return Search(grid_of(x), models, "float32").run(listed, len(items))


def vectors_of(model: Model, variant: Variant, items: Sequence[Any]) -> np.ndarray | None:
    """What a variant gives in float32; None where it gives nothing."""
    rows = [model.embedding(variant, item, "float32") for item in items]
    return None if any(row is None for row in rows) else np.stack([row for row in rows if row is not None])


def are_equal(model: Model, one: Variant, other: Variant, items: Sequence[Any], storage: str) -> bool:
    """Whether two variants give vectors so alike that a store in a precision may have come from both."""
    for item in items:
        a, b = (model.embedding(variant, item, "float64") for variant in (one, other))
        if a is None or b is None or a.shape != b.shape:
            return False
        if storage == "int8":  # up to a factor, and half a step to either side
            step = np.abs(a).max() / 127
            off = np.full(a.shape, 1.0 * step)
            b = b * (a @ b / (b @ b))
        else:
            digits = {"float32": 24, "float16": 11, "bfloat16": 8}[storage]
            off = np.maximum(np.abs(a), np.abs(b)) * 2.0 ** (1 - digits) + 2.0**-24 * (storage == "float16")
        unit = max(model.unit(variant, item) for variant in (one, other))
        if (np.abs(a - b) > 1.01 * off + 2 * slack(unit) * rms(a)).any():
            return False
    return True


def loop(models: Sequence[Model], model: Model, items: Sequence[Any], only: slice = slice(None)) -> dict[str, int]:
    """Every variant of a model, in every precision and count, searched in all models; what happened, counted.

    Asserts that the variant is among what is left, and that all else that is left is equal on these items.
    """
    counted = {"named": 0, "one of": 0, "not computed": 0}
    for variant in model.variants[only]:
        exact = vectors_of(model, variant, items)
        if exact is None:
            counted["not computed"] += 1
            continue
        for count in (n for n in COUNTS if n <= len(items)):
            for storage in STORAGES:
                outcome = search(stored(exact[:count], storage), models, items[:count])
                told = [(trial.model.name, trial.variant.id) for trial in outcome.left]
                where = f"{model.name}, {variant.id}, {storage}, {count}: {told}"
                assert (model.name, variant.id) in told, where
                for trial in outcome.left:
                    assert trial.model is model and not trial.form.unit, where
                    assert are_equal(model, variant, trial.variant, items[:count], storage), (where, trial.variant.id)
                counted["named" if len(outcome.left) == 1 else "one of"] += 1
    return counted
