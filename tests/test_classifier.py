"""Classifiers: labels embedded once, the same answers as classify, and the last sets of labels remembered."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import CLIP, AutoModel, InputError, TextError, classifier
from clipref.memory import Memory

from .conftest import pictures

LABELS = ["cat", "dog", "red", "red dog"]
TEMPLATES = ("a {}", "the {} b")


@pytest.fixture(scope="module")
def model(tiny_vit: Path) -> CLIP:
    return AutoModel.from_pretrained(tiny_vit, backend="reference")


class Counted:
    """An engine that counts the texts and images it is asked for."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.texts, self.images = engine, 0, 0

    def encode_image(self, pixels: np.ndarray) -> np.ndarray:
        self.images += len(pixels)
        return self.engine.encode_image(pixels)  # type: ignore[no-any-return]

    def encode_text(self, ids: np.ndarray) -> np.ndarray:
        self.texts += len(ids)
        return self.engine.encode_text(ids)  # type: ignore[no-any-return]


def test_a_classifier_answers_as_classify(model: CLIP) -> None:
    classifier, images = model.classifier(LABELS, TEMPLATES), pictures(3)
    assert classifier.labels == tuple(LABELS) and classifier.templates == TEMPLATES
    assert (classifier.embeddings == model.label_embeddings(LABELS, TEMPLATES)).all()
    assert classifier.embeddings.shape == (4, 22) and not classifier.embeddings.flags.writeable
    assert classifier.classify(images) == model.classify(images, LABELS, TEMPLATES)
    assert classifier.classify(images[0], top_k=2) == model.classify(images[0], LABELS, TEMPLATES, top_k=2)
    rgb = classifier.classify(images[0], input_color_format="rgb")
    assert rgb == classifier.classify(images[0][..., ::-1]) != classifier.classify(images[0])
    assert model.classifier(iter(LABELS), "a {}").classify(images[0]) == model.classify(images[0], LABELS, ["a {}"])
    assert "4 labels, 2 templates, CLIP(ViT" in repr(classifier)
    with pytest.raises(InputError, match="top_k is 0"):
        classifier.classify(images[0], top_k=0)


def test_labels_are_embedded_once(tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="reference")
    counted = model.engine = Counted(model.engine)
    model.text_memory.limit = 2  # far fewer than the prompts
    image, classifier = pictures(1)[0], model.classifier(LABELS, TEMPLATES)
    assert counted.texts == 8
    (
        classifier.classify(image),
        model.classify(image, LABELS, TEMPLATES),
        model.classify(image, tuple(LABELS), TEMPLATES),
    )
    model.label_embeddings(np.array(LABELS), list(TEMPLATES))[:] = 0  # the caller's own
    assert counted.texts == 8 and classifier.embeddings.all()
    model.classify(image, LABELS[:3], TEMPLATES), model.classify(image, LABELS, TEMPLATES[:1])
    computed = counted.texts
    assert computed > 8
    model.classify(image, LABELS[:3], TEMPLATES), model.classify(image, LABELS, TEMPLATES[:1])
    assert counted.texts == computed
    for i in range(7):
        model.classify(image, [*LABELS, str(i)])
        model.classify(image, LABELS, TEMPLATES)  # used again and again, so it stays
    computed = counted.texts
    model.classify(image, LABELS, TEMPLATES)
    assert counted.texts == computed
    model.classify(image, LABELS[:3], TEMPLATES)
    assert counted.texts > computed


def test_the_second_picture_costs_what_its_embedding_costs(tiny_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No text is put together, tokenized or embedded again, and the picture goes through its tower once.

    Measured by `python benchmarks/tasks.py classify`: 1.01 times the time of `embed_image` with ViT-B-32.
    """
    model, image = AutoModel.from_pretrained(tiny_vit, backend="reference"), pictures(1)[0]
    counted = model.engine = Counted(model.engine)
    labels = [f"{a} {b}" for a in "abcdefghij" for b in "klmnopqrst"]
    templates = [f"{c} {{}}" for c in "abcde"]
    first = model.classify(image, labels, templates)
    assert (counted.texts, counted.images) == (500, 1)

    def again(*given: object, **options: object) -> None:
        raise AssertionError("a text is made again")

    for step in ("prompts_of", "rows_of", "embed_rows", "label_directions", "unit_vectors"):
        monkeypatch.setattr(classifier, step, again)
    assert model.classify(image, labels, templates) == first
    assert model.classify(image, iter(labels), tuple(templates)) == first
    assert (counted.texts, counted.images) == (500, 3)


def test_errors_name_the_label(model: CLIP) -> None:
    with pytest.raises(TextError, match=r"label 1 \('b b b .*in template 'a {}'") as raised:
        model.classifier(["cat", "b " * 30], ["{}", "a {}"][1:])
    assert raised.value.index == 1 and raised.value.source == "b " * 30
    with pytest.raises(TextError, match=r"label 2 \(''\) in template '{}': text 5 is empty"):
        model.classify(pictures(1)[0], ["cat", "dog", ""], ["a {}", "{}"])
    with pytest.raises(InputError, match="labels are not all texts .*text 1: expected a text, got int"):
        model.classifier(["cat", 3])  # type: ignore[list-item]


def test_what_was_asked_for_last_is_remembered() -> None:
    memory: Memory[str, int] = Memory(2)
    memory.put("a", 1)
    memory.put("b", 2)
    assert memory.get("a") == 1 and memory.get("c") is None
    memory.put("c", 3)
    assert (memory.get("a"), memory.get("b"), memory.get("c"), len(memory)) == (1, None, 3, 2)
    memory.put("a", 4)
    memory.put("d", 5)
    assert (memory.get("a"), memory.get("c"), memory.get("d")) == (4, None, 5)
    memory.clear()
    assert len(memory) == 0


def test_many_labels_are_not_in_memory_twice(tiny_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModel.from_pretrained(tiny_vit)
    monkeypatch.setattr("clipref.clip.REMEMBERED_LABELS", 2)
    few, many = (model.label_embeddings(labels) for labels in (["cat", "dog"], ["cat", "dog", "cow"]))
    assert len(model._label_sets) == 1 and np.array_equal(many[:2], few) and many.flags.writeable
    kept = model.classifier(["cat", "dog", "cow"]).embeddings  # for `classify`, which else would embed them each time
    assert len(model._label_sets) == 2 and np.array_equal(kept, many)
    again = model.label_embeddings(["cat", "dog", "cow"])
    again[:] = 0
    assert np.array_equal(kept, many)
