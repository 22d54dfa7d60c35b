"""Texts as trees: nothing lost, shared beginnings there once, and the embeddings those of each text by itself."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipref import AutoModel
from clipref.engine import NumpyEngine, ReferenceEngine
from clipref.text_transformer import single_texts
from clipref.trees import Tree, plant
from clipref.weights import Checkpoint

from .tolerances import assert_close

TEXTS = st.lists(st.lists(st.integers(0, 3), max_size=6).map(lambda ids: (7, *ids, 9)), min_size=1, max_size=30)


def unpacked(tree: Tree) -> dict[int, tuple[int, ...]]:
    """The texts of a tree: what each end may see."""
    return {
        text: tuple(int(i) for i in tree.ids[0][tree.visible[0, end]])
        for text, end in zip(tree.texts, tree.ends[0], strict=True)
    }


@settings(deadline=None)
@given(TEXTS, st.integers(1, 40))
def test_every_text_is_a_path(texts: list[tuple[int, ...]], max_tokens: int) -> None:
    found: dict[int, tuple[int, ...]] = {}
    for tree in plant(texts, max_tokens):
        assert tree.ids.shape[1] <= max_tokens or len(tree.texts) == 1
        assert not found.keys() & unpacked(tree).keys()
        found |= unpacked(tree)
        for node, seen in enumerate(tree.visible[0]):
            path = np.flatnonzero(seen)  # a token sees those before it in its text, and itself last
            assert path[-1] == node and tree.positions[0, path].tolist() == list(range(len(path)))
    assert found == dict(enumerate(texts))


@settings(deadline=None)
@given(TEXTS)
def test_a_beginning_is_there_once(texts: list[tuple[int, ...]]) -> None:
    (tree,) = plant(texts, 10_000)
    assert tree.ids.shape[1] == len({text[:i] for text in texts for i in range(1, len(text) + 1)})


def test_prompts_share_their_templates() -> None:
    texts = [(7, 1, 2, 3, label, 9) for label in range(20, 40)]
    (tree,) = plant(texts)
    assert tree.ids.shape[1] == 4 + 2 * 20 and tree.texts == list(range(20))


def some_texts(vocab_size: int, context_length: int) -> list[tuple[int, ...]]:
    generator = np.random.Generator(np.random.PCG64(0))
    start, end = vocab_size - 2, vocab_size - 1
    bodies = [generator.integers(0, 3, n).tolist() for n in generator.integers(0, context_length - 2, 40)]
    return [(start, *body, end) for body in bodies]


@pytest.mark.parametrize("backend", ["reference", "numpy", "onnx"])
def test_embeddings_are_those_of_each_text_alone(tiny: Path, backend: str) -> None:
    checkpoint = Checkpoint(tiny)
    config = checkpoint.config.text
    texts = some_texts(config.vocab_size, config.context_length)
    reference = ReferenceEngine(checkpoint, "float32")
    engine: Any = {"reference": reference, "numpy": NumpyEngine(checkpoint, "float32")}.get(backend)
    engine = engine or AutoModel.from_pretrained(tiny, backend=backend).engine
    for tree in plant(texts, 30):
        found = engine.encode_tree(tree.ids, tree.positions, tree.visible, tree.ends)[0]
        alone = np.concatenate([reference.encode_text(np.array([texts[i]])) for i in tree.texts])
        assert found.dtype == np.float32
        if backend == "reference":
            assert np.array_equal(found, alone)
        assert_close(found, alone, "onnx")


@pytest.mark.parametrize("what", ["positions", "visible", "ends"])
def test_a_wrong_tree_is_noticed(tiny_vit: Path, what: str) -> None:
    checkpoint = Checkpoint(tiny_vit)
    (tree,) = plant([(519, 5, 6, 520), (519, 5, 7, 520)])
    arrays = {key: getattr(tree, key) for key in ("ids", "positions", "visible", "ends")}
    engine = NumpyEngine(checkpoint, "float32")
    right = engine.encode_tree(**arrays)
    wrong = {
        "positions": np.arange(tree.ids.shape[1])[None],
        "visible": np.tri(tree.ids.shape[1], dtype=bool)[None],
        "ends": tree.ends - 1,
    }[what]
    with pytest.raises(AssertionError):
        assert_close(engine.encode_tree(**arrays | {what: wrong}), right, "onnx")


class Watched:
    """An engine without trees that remembers what it was asked."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.shapes: list[tuple[int, ...]] = []

    def encode_image(self, pixels: np.ndarray) -> np.ndarray:
        return self.engine.encode_image(pixels)  # type: ignore[no-any-return]

    def encode_text(self, ids: np.ndarray) -> np.ndarray:
        self.shapes.append(ids.shape)
        return self.engine.encode_text(ids)  # type: ignore[no-any-return]


def test_engines_without_trees_get_texts_by_length(tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="reference")
    texts = ["a cat", "dog", "the red dog, and a cat", "red", "dog"] * 40
    expected = model.embed_text(texts)
    model = AutoModel.from_pretrained(tiny_vit, backend="reference")
    watched = model.engine = Watched(model.engine)
    assert np.array_equal(model.embed_text(texts), expected)
    assert watched.shapes == [(4, max(shape[1] for shape in watched.shapes))]  # each of the four once
    many = [f"{'red ' * (i % 5)}{'cat ' * (i // 5 % 5)}{'dog ' * (i // 25)}dog" for i in range(100)]
    model.embed_text(many)
    lengths = [shape[1] for shape in watched.shapes[1:]]
    assert len(lengths) == 2 and lengths[0] < lengths[1] == len(model.tokenize([many[-1]])[0].nonzero()[0])


def test_texts_are_remembered(tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="reference")
    watched = model.engine = Watched(model.engine)
    first = model.embed_text(["a cat", "dog"])
    assert np.array_equal(model.embed_text(["dog", "a cat", "dog"]), first[[1, 0, 1]]) and len(watched.shapes) == 1
    first[:] = 0  # what a caller does to its array is the caller's
    assert model.embed_text("dog").any()
    model.text_memory.limit = 3
    model.embed_text(["red", "red dog", "red cat"])
    model.embed_text("red")
    assert len(watched.shapes) == 2
    model.embed_text("a cat")
    assert len(watched.shapes) == 3
    model.embed_text("red")  # used last but one, so it stays, where the first that came would be gone
    assert len(watched.shapes) == 3
    model.embed_text("red dog")
    assert len(watched.shapes) == 4


def test_threads_share_what_is_remembered(tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="reference")
    texts = [f"{'red ' * i}dog" for i in range(12)]
    expected = model.embed_text(texts)
    fresh = AutoModel.from_pretrained(tiny_vit, backend="reference")
    found: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: found.append(fresh.embed_text(texts))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6 and all(np.array_equal(x, expected) for x in found)


def test_a_text_ends_at_the_first_of_its_largest_id_and_columns_behind_all_ends_are_cut() -> None:
    ids = np.array([[8, 3, 9, 0, 0, 0], [8, 9, 9, 4, 9, 0], [8, 1, 2, 3, 9, 0]])
    cut, positions, visible, ends = single_texts(ids)
    assert cut.tolist() == ids[:, :5].tolist() and ends.tolist() == [[2], [1], [4]]
    assert positions.tolist() == [[0, 1, 2, 3, 4]] * 3
    assert visible.tolist() == np.tri(5, dtype=bool)[None].repeat(3, axis=0).tolist()
    cut, _, visible, ends = single_texts(np.array([[8, 3, 9, 7, 0, 0]]))
    assert cut.tolist() == [[8, 3, 9]] and ends.tolist() == [[2]]
    assert visible.tolist() == [[[1, 0, 0], [1, 1, 0], [1, 1, 1]]]
