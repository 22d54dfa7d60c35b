"""Many labels at a time, within bounded memory and with the same vectors; classifiers saved, and refused elsewhere."""

import json
import shutil
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import CLIP, AutoModel, InputError, TextError, classifier
from clipref.classifier import FORMAT, Classifier
from clipref.similarity import finite_embeddings, unit_vectors
from clipref.texts import PackedRows, embed_rows, rows_of

from .conftest import pictures

LABELS = [f"{a} {b}" for a in ("cat", "dog", "red", "a") for b in ("b", "cat", "the red", "dog dog", "cat")]
TEMPLATES = ("a {}", "the {} b", "{}")


@pytest.fixture(scope="module")
def model(tiny_vit: Path) -> CLIP:
    return AutoModel.from_pretrained(tiny_vit, backend="reference")


def test_labels_are_the_same_some_at_a_time(model: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model.classifier(LABELS, TEMPLATES).embeddings
    model._label_sets.clear()
    model.text_memory.clear()
    read: list[int] = []
    embedded: list[int] = []

    def watched(function: Any, seen: list[int], place: int) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            seen.append(len(args[place]))
            return function(*args, **options)

        return call

    monkeypatch.setattr(classifier, "rows_of", watched(rows_of, read, 0))
    monkeypatch.setattr(classifier, "embed_rows", watched(embed_rows, embedded, 1))
    monkeypatch.setattr(classifier, "TEXTS_AT_A_TIME", 17)
    found = model.classifier(LABELS, TEMPLATES).embeddings
    assert np.array_equal(found, whole)  # the reference gives a text the same bits in any company
    assert read == embedded == [15] * 4  # each text is made to ids once
    model._label_sets.clear()


def test_of_many_labels_the_first_that_is_wrong_is_named_before_any_is_embedded(
    model: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifier, "TEXTS_AT_A_TIME", 4)
    monkeypatch.setattr(classifier, "embed_rows", lambda *a, **k: pytest.fail("embedded"))
    long = "b " * 30
    with pytest.raises(TextError, match=r"label 3 \('b b b .*in template 'a {}': text \d+: .* tokens") as raised:
        model.classifier(["cat", "dog", "red", long, "", "a"], ["{}", "a {}"][1:])
    assert raised.value.index == 3 and raised.value.source == long
    with pytest.raises(TextError, match=r"label 4 \(''\) in template '{}': text \d+ is empty"):
        model.classifier(["cat", "dog", "red", "z", "", "a"], ["{}", "a {}"])


@pytest.mark.parametrize(("vocab_size", "bytes_an_id"), [(2**16, 2), (2**16 + 1, 4)])
def test_packed_rows_are_as_they_were(vocab_size: int, bytes_an_id: int) -> None:
    rows, packed = [(0, vocab_size - 1), (), (5, 7, 9)], PackedRows(vocab_size)
    packed.add(rows[:1])
    packed.add(rows[1:])
    assert [packed[i] for i in range(3)] == rows and packed._ids.itemsize == bytes_an_id


def test_many_embeddings_become_unit_vectors_in_little_room() -> None:
    x = np.random.Generator(np.random.PCG64(0)).standard_normal((20_000, 128), dtype=np.float32)
    expected = unit_vectors(x)
    tracemalloc.start()
    found = finite_embeddings(x, "text", range(len(x)), normalize=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.array_equal(found, expected)
    assert peak < x.nbytes + 10 * 2**20


def test_a_saved_classifier_answers_the_same(model: CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, path = model.classifier(LABELS[:4], TEMPLATES), tmp_path / "labels.safetensors"
    made.save(path)
    monkeypatch.setattr(classifier, "embed_rows", lambda *a, **k: pytest.fail("embedded again"))
    read = Classifier.load(path, model)
    assert (read.labels, read.templates) == (made.labels, made.templates)
    assert np.array_equal(read.embeddings, made.embeddings) and not read.embeddings.flags.writeable
    assert read.classify(pictures(2)) == made.classify(pictures(2))
    made.save(str(path))  # over itself
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def rewritten(path: Path, change: dict[str, str], rows: Any = None) -> None:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        metadata = {**(file.metadata() or {}), **change}
    save_file({"embeddings": load_file(path)["embeddings"] if rows is None else rows}, path, metadata)


@pytest.mark.parametrize(
    ("key", "value"),
    [("weights", "0" * 64), ("vocabulary", "1" * 64), ("precision", "int8"), ("dtype", "float64")],
)
def test_a_classifier_of_another_model_is_refused(model: CLIP, key: str, value: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.safetensors"
    model.classifier(LABELS[:4]).save(path)
    rewritten(path, {key: value})
    with pytest.raises(InputError, match=f"was saved with {key} '{value}'; the model's is .* anew"):
        Classifier.load(path, model)


def test_it_is_refused_by_other_weights_and_another_dtype(model: CLIP, tmp_path: Path) -> None:
    path = tmp_path / "labels.safetensors"
    model.classifier(LABELS[:4]).save(path)
    with pytest.raises(InputError, match="was saved with weights"):
        Classifier.load(path, AutoModel.from_pretrained("clipref/shapes-vit", backend="reference"))
    with pytest.raises(InputError, match="was saved with precision 'float32'; the model's is 'float64'"):
        Classifier.load(path, AutoModel.from_pretrained(model.source, backend="reference", dtype="float64"))


def test_it_is_refused_by_another_vocabulary(model: CLIP, tiny_vit: Path, tmp_path: Path) -> None:
    path, other = tmp_path / "labels.safetensors", tmp_path / "other"
    model.classifier(LABELS[:4]).save(path)
    shutil.copytree(tiny_vit, other)
    merges = other / "merges.txt"
    lines = merges.read_text().splitlines()
    merges.write_text("\n".join([*lines[:2], lines[3], lines[2], *lines[4:]]) + "\n")
    with pytest.raises(InputError, match="was saved with vocabulary"):
        Classifier.load(path, AutoModel.from_pretrained(other, backend="reference"))


@pytest.mark.parametrize(
    ("change", "rows", "message"),
    [
        ({"labels": "nonsense"}, None, "its labels can't be read"),
        ({"labels": json.dumps([1, 2])}, None, "its labels can't be read"),
        ({"labels": json.dumps(["cat"])}, None, r"of shape \[4, 22\]; expected unit vectors \[1, 22\]"),
        ({"templates": json.dumps(["no place"])}, None, "its labels can't be read"),
        ({}, np.full((4, 22), np.nan, np.float32), "expected unit vectors"),
        ({}, np.zeros((4, 22), np.float32), "expected unit vectors"),
        ({}, np.zeros((4, 22), np.float16), "embeddings are float16"),
        ({}, np.float32(1), "expected unit vectors"),
        ({"format": "another"}, None, "it is no classifier"),
    ],
)
def test_a_damaged_file_is_refused(
    model: CLIP, change: dict[str, str], rows: Any, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "labels.safetensors"
    model.classifier(LABELS[:4]).save(path)
    rewritten(path, change, None if rows is None else np.asarray(rows))
    with pytest.raises(InputError, match=message):
        Classifier.load(path, model)


def test_what_is_no_classifier_is_refused(model: CLIP, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no tensors")
    save_file({"x": np.zeros(3)}, tmp_path / "tensors", {"format": FORMAT})
    for name in ("text", "tensors", "missing", "."):
        with pytest.raises(InputError, match="can't be read as a classifier"):
            Classifier.load(tmp_path / name, model)
    for path in (tmp_path, tmp_path / "no folder" / "x.safetensors"):
        with pytest.raises(InputError, match="can't be written"):
            model.classifier(LABELS[:4]).save(path)
