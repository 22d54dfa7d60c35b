"""Directions: no length is too small or too large, answers are finite, a search costs little more than a product."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import clipref
from clipref import AutoModel, InputError, WeightsError
from clipref.similarity import BLOCK_BYTES, cosines, have_direction, nearest, unit_vectors

from .conftest import pictures
from .tolerances import UNIT, UNIT_FLOAT16, assert_close


def vectors(n: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(seed)).standard_normal((n, width)).astype(np.float32)


@pytest.mark.parametrize("scale", [1e-44, 1e-30, 1e-20, 1.0, 1e20, 1e38])
def test_unit_vectors_of_any_length(scale: float) -> None:
    x = vectors(5, 23).clip(-3, 3)
    unit = unit_vectors(x * np.float32(scale))
    expected = x.astype(np.float64) / np.linalg.norm(x.astype(np.float64), axis=1, keepdims=True)
    assert unit.dtype == np.float32
    if scale > 1e-40:  # denormal floats have few digits
        assert_close(unit, expected.astype(np.float32), "operation")
    assert np.linalg.norm(unit, axis=1) == pytest.approx(1, abs=UNIT)


def test_scaling_changes_no_bit() -> None:
    x = vectors(50, 23)
    assert (unit_vectors(x) == x / np.linalg.norm(x, axis=-1, keepdims=True)).all()
    assert unit_vectors(x[3]).tolist() == unit_vectors(x)[3].tolist()


def test_what_has_no_direction() -> None:
    x = vectors(5, 23)
    x[1], x[2, 3], x[3, 4] = 0, np.nan, -np.inf
    assert have_direction(x).tolist() == [True, False, False, False, True]


def test_cosines_do_not_pass_one() -> None:
    x = unit_vectors(vectors(2000, 512))
    assert np.vecdot(x, x).max() > 1  # rounding does
    assert cosines(x, x).max() == 1 and cosines(x, -x).min() == -1
    passing = [q for q in x if np.vecdot(q, 3 * q) / np.sqrt(np.vecdot(3 * q, 3 * q)) > 1]
    assert passing and all(score <= 1 for q in passing[:20] for _, score in nearest(q, 3 * np.stack(passing), 9))


def plain(query: np.ndarray, rows: np.ndarray, top_k: int) -> list[int]:
    rows = rows.astype(np.float64)
    found = rows @ query.astype(np.float64) / np.linalg.norm(rows, axis=1)
    return [int(i) for i in np.argsort(-found, kind="stable")[:top_k]]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", ">f4", "i1", "i8"])
def test_nearest_in_several_blocks(dtype: str, tmp_path: Path) -> None:
    n = 3 * BLOCK_BYTES // (4 * 57) + 5
    rows = (vectors(n, 57) * 30).astype(dtype)
    query = unit_vectors(vectors(1, 57, seed=1)[0])
    expected = plain(query, rows, 40)
    assert [i for i, _ in nearest(query, rows, 40)] == expected
    assert [i for i, _ in nearest(query, np.asfortranarray(rows), 40)] == expected
    assert [i for i, _ in nearest(query, np.repeat(rows, 2, axis=0)[::2], 40)] == expected
    np.save(tmp_path / "rows.npy", rows)
    assert [i for i, _ in nearest(query, np.load(tmp_path / "rows.npy", mmap_mode="r"), 40)] == expected


def test_equal_rows_come_in_their_order_wherever_they_lie() -> None:
    rows = vectors(3 * BLOCK_BYTES // (4 * 57), 57)
    same = [0, 1, 2, 7, len(rows) // 2 + 1, len(rows) - 2, len(rows) - 1]
    rows[same] = rows[5]
    found = nearest(unit_vectors(rows[5]), rows, 6)
    assert [i for i, _ in found] == [0, 1, 2, 5, 7, len(rows) // 2 + 1]
    assert len({score for _, score in found}) == 1
    assert [i for i, _ in nearest(unit_vectors(rows[5]), np.stack([rows[5]] * 9), 9)] == list(range(9))
    assert nearest(unit_vectors(rows[5]), rows[:0], 3) == []


def test_nearest_rows_of_any_length() -> None:
    rows = vectors(40, 23).clip(-3, 3)
    query = unit_vectors(vectors(1, 23, seed=1)[0])
    expected = nearest(query, rows, 40)
    scales = np.float32(10.0) ** np.linspace(-37, 37, 40, dtype=np.float32)
    found = nearest(query, rows * scales[:, None], 40)
    assert [i for i, _ in found] == [i for i, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=UNIT)


def test_rows_without_direction_are_counted_over_all_blocks() -> None:
    rows = vectors(3 * BLOCK_BYTES // (4 * 57), 57)
    rows[-3], rows[-1, 5] = np.nan, np.inf
    with pytest.raises(InputError, match=rf"Row {len(rows) - 3} of the embeddings .*\(2 such rows of {len(rows)}\)"):
        nearest(unit_vectors(rows[0]), rows, 3)


class Counting(np.ndarray):
    """Rows that can be read in blocks only, and count how many were."""

    read = 0
    __array_ufunc__ = None  # type: ignore[assignment]

    def __getitem__(self, index: Any) -> Any:
        found = np.asarray(super().__getitem__(index))
        Counting.read += len(found)
        return found

    def __array_function__(self, function: Any, types: Any, args: Any, kwargs: Any) -> Any:
        assert function is np.result_type, f"{function.__name__} of all rows at once"
        return function(*(x.dtype if isinstance(x, Counting) else x for x in args))


@pytest.mark.slow
def test_a_search_costs_little_more_than_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads each row once, as a product does, makes no copy of them, and sorts only what may be found.

    Measured: 2 to 3 times a product's time; with all lengths anew, a normalised copy and a full sort, 40 times.
    """
    rows, query = np.tile(vectors(1000, 512), (20, 1)), unit_vectors(vectors(1, 512, seed=1)[0])
    nearest(query, rows, 10)
    sort, lengths = np.argsort, [0]

    def argsort(x: np.ndarray, **options: Any) -> Any:
        lengths.append(len(x))
        return sort(x, **options)

    monkeypatch.setattr(np, "argsort", argsort)
    monkeypatch.setattr(Counting, "read", 0)
    tracemalloc.start()
    try:
        found = nearest(query, rows.view(Counting), 10)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert Counting.read == len(rows) and sum(lengths) <= 10 + 20  # each row is there 20 times
    assert most < BLOCK_BYTES + 64 * len(rows) < rows.nbytes / 10, most
    assert [i for i, _ in found] == plain(query, rows, 10)


@pytest.mark.slow
def test_a_search_over_half_a_million_rows_takes_no_memory() -> None:
    import resource

    rows, query = np.tile(vectors(5000, 512), (100, 1)), unit_vectors(vectors(1, 512, seed=1)[0])
    nearest(query, rows[:5000], 10)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    nearest(query, rows, 10)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kilobytes


def spoiled(source: Path, target: Path, **scales: float) -> Path:
    """A copy of a checkpoint with tensors multiplied; `logit_scale` is set."""
    import shutil

    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    for name, scale in scales.items():
        name = name.replace("__", ".")
        tensors[name] = np.float32(scale) if name == "logit_scale" else (tensors[name] * np.float32(scale))
    (target / "model.safetensors").unlink()
    save_file({name: np.array(x) for name, x in tensors.items()}, target / "model.safetensors")
    return target


def answers(model: clipref.CLIP, of: str) -> list[Callable[[], object]]:
    image, rows = pictures(1)[0], np.ones((2, model.config.embed_dim), np.float32)
    if of == "image":
        return [
            lambda: model.embed_image(image, normalize=True),
            lambda: model.compare(image, "a cat"),
            lambda: model.compare(image, rows[0]),
            lambda: model.compare_embeddings([image], ["a cat"]),
            lambda: model.classify(image, ["cat", "dog"]),
            lambda: model.search(image, rows, query_type="image"),
        ]
    return [
        lambda: model.embed_text("a cat", normalize=True),
        lambda: model.compare(rows[0], "a cat"),
        lambda: model.compare("a cat", "dog", subject_type="text"),
        lambda: model.label_embeddings(["cat", "dog"]),
        lambda: model.classifier(["cat", "dog"]),
        lambda: model.classify(image, ["cat", "dog"]),
        lambda: model.search("a cat", rows),
    ]


PROJECTIONS = {"image": "visual__proj", "text": "text_projection"}


@pytest.mark.parametrize("of", ["image", "text"])
@pytest.mark.parametrize("scale", [1e20, 1e-25])
def test_a_projection_of_any_scale_gives_the_same_directions(
    tiny_vit: Path, tmp_path: Path, of: str, scale: float
) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="reference")
    other = AutoModel.from_pretrained(spoiled(tiny_vit, tmp_path / "x", **{PROJECTIONS[of]: scale}), backend="blas")
    for ours, theirs in zip(answers(model, of), answers(other, of), strict=True):
        x, y = ours(), theirs()
        if isinstance(x, np.ndarray):
            assert np.abs(x - y).max() < 1e-5
        elif isinstance(x, list) and isinstance(x[0], float):
            assert y == pytest.approx(x, abs=1e-5)
        elif isinstance(x, list):
            assert [first for first, _ in x] == [first for first, _ in y]  # type: ignore[attr-defined]


@pytest.mark.parametrize("of", ["image", "text"])
def test_a_projection_that_leads_nowhere_is_refused(tiny_vit: Path, tmp_path: Path, of: str) -> None:
    none = AutoModel.from_pretrained(spoiled(tiny_vit, tmp_path / "none", **{PROJECTIONS[of]: 0}), backend="reference")
    assert not (none.embed_image(pictures(1)[0]) if of == "image" else none.embed_text("a cat")).any()
    for call in answers(none, of):
        with pytest.raises(WeightsError, match=f"{of} 0: its embedding is zero"):
            call()
    config, path = (
        none.config,
        spoiled(tiny_vit, tmp_path / "huge", **{PROJECTIONS[of]: 1e30, "ln_final__weight": 1e30}),
    )
    huge = AutoModel.from_pretrained(path, backend="reference")
    raw: list[Callable[[], object]] = [
        lambda: huge.embed_text(["a cat"]),
        lambda: huge.encode_text(np.ones((1, 3), int)),
    ]
    for call in (answers(huge, "text") + raw) if of == "text" else ():
        with (
            pytest.raises(WeightsError, match=r"(text|item) 0: its embedding is not finite"),
            np.errstate(all="ignore"),
        ):
            call()
    assert AutoModel.from_pretrained(path, dtype="float64").embed_text("a cat").shape == (1, config.embed_dim)


@pytest.mark.parametrize("logarithm", [1000.0, 100.0, -1000.0, np.float32(89)])
def test_a_logit_scale_beyond_float32_is_refused(tiny_vit: Path, tmp_path: Path, logarithm: float) -> None:
    path = spoiled(tiny_vit, tmp_path / "x", logit_scale=logarithm)
    with pytest.raises(WeightsError, match="logit_scale is .*the logarithm"):
        AutoModel.from_pretrained(path)


@pytest.mark.parametrize("logarithm", [88.0, 20.0, -20.0, -87.0])
def test_probabilities_are_finite_at_any_logit_scale(tiny_vit: Path, tmp_path: Path, logarithm: float) -> None:
    model = AutoModel.from_pretrained(spoiled(tiny_vit, tmp_path / "x", logit_scale=logarithm), backend="reference")
    probabilities = [p for _, p in model.classify(pictures(1)[0], ["cat", "dog", "red"])]
    assert sum(probabilities) == pytest.approx(1) and np.isfinite(probabilities).all()


def test_embeddings_given_instead_of_items(tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="reference")
    texts, images = ["a cat", "dog", "red"], pictures(2)
    x, y = model.embed_images(images), model.embed_text(texts)
    matrix = model.compare_embeddings(images, texts)
    assert matrix.shape == (2, 3) and matrix.dtype == np.float32
    assert matrix.tolist() == [model.compare(image, texts) for image in images]
    assert (model.compare_embeddings(x, y) == matrix).all()
    assert (model.compare_embeddings(texts, images, "text", "image") == matrix.T).all()
    assert (model.compare_embeddings(x=images[0], y="dog", x_type="image", y_type="text") == matrix[:1, 1:2]).all()
    assert np.abs(model.compare_embeddings(x.astype(np.float64) * 1e200, y) - matrix).max() < UNIT
    assert np.abs(model.compare_embeddings(x.astype(np.float16), y) - matrix).max() < UNIT_FLOAT16
    assert model.compare(x[0], texts) == matrix[0].tolist() and model.compare(x, y) == matrix.tolist()
    assert model.search(y[1], y, top_k=1) == model.search("dog", y, top_k=1) == [pytest.approx((1, 1))]
    x[1] = np.inf
    with pytest.raises(InputError, match="Row 1 of the embeddings given"):
        model.compare_embeddings(x, y)
    with pytest.raises(InputError, match="x_type is 'sound'"):
        model.compare_embeddings(x, y, x_type="sound")  # type: ignore[arg-type]
