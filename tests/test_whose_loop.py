"""The closed loop: known ways to make vectors, in every precision, of 1, 4 and 16 pictures, is found or is equal."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref.config import PUBLISHED
from clipref.conformance.restated.preprocessing import picture
from clipref.conformance.whose.models import Model
from clipref.hub import EMBEDDED
from clipref.weights_tools import synthetic

from .whose_loop import COUNTS, PICTURES, STORAGES, Kept, loop, search, stored

ITEMS = [picture(*which) for which in PICTURES]
TEXTS = ["a red circle", "It's a blue square!", "two rings &amp;amp; 12 squares", "a a a a a a a a a a a a"]
# All of the smallest models, whose vectors cost least, and of the others a sample.
VARIANTS = {name: slice(None) if "shapes" in name else slice(0, None, 5) for name in EMBEDDED}


@pytest.mark.slow
def test_a_few_variants_of_an_embedded_model() -> None:
    models = [Kept("clipref/shapes-vit", "image")]
    counted = loop(models, models[0], ITEMS[:1], slice(0, None, 30))
    assert counted["named"] and counted["one of"]


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_variants_of_embedded_models(name: str) -> None:
    models = [Kept(each, "image") for each in EMBEDDED]
    check(loop(models, models[list(EMBEDDED).index(name)], ITEMS, VARIANTS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_variants_of_texts(name: str) -> None:
    models = [Kept(each, "text") for each in EMBEDDED]
    check(loop(models, models[list(EMBEDDED).index(name)], TEXTS, VARIANTS[name]))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clip/ViT-B-32", "clip/RN50"])
def test_variants_of_full_sizes(name: str, tmp_path: Path) -> None:
    path = synthetic.write(tmp_path / "model", PUBLISHED[name], 3, "trained")
    other = synthetic.write(tmp_path / "other", PUBLISHED[name], 4, "trained")
    model = Kept(str(path), "image")
    check(loop([model], model, ITEMS[:4], slice(0, None, 10)))
    others = [Kept(str(other), "image")]
    vectors = np.stack(
        [row for item in ITEMS if (row := model.embedding(model.variants[0], item, "float32")) is not None]
    )
    nobodys(vectors[:4], others, ITEMS[:4])


@pytest.mark.slow
@pytest.mark.parametrize("name", EMBEDDED)
def test_vectors_of_another_model_and_random_ones(name: str) -> None:
    model = Kept(name, "image")
    others: list[Model] = [Kept(each, "image") for each in EMBEDDED if each != name]
    vectors = np.stack(
        [row for item in ITEMS if (row := model.embedding(model.variants[0], item, "float32")) is not None]
    )
    nobodys(vectors, others, ITEMS)
    nobodys(np.random.default_rng(0).normal(size=vectors.shape), [model, *others], ITEMS)


def nobodys(vectors: np.ndarray, models: Any, items: Any) -> None:
    """Asserts that no model explains the vectors, in any precision, raw or of length 1."""
    for x in (vectors, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)):
        for count in (n for n in COUNTS if n <= len(items)):
            for storage in STORAGES:
                outcome = search(stored(x[:count], storage), models, items[:count])
                assert not outcome.left, (storage, count, [(t.model.name, t.variant.id) for t in outcome.left])


def check(counted: dict[str, int]) -> None:
    """Most variants can be computed, and some are named alone; `loop` has asserted the rest."""
    assert counted["named"] > 10 and counted["not computed"] <= 3, counted
    print(counted)
