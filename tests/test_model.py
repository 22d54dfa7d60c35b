"""The user's object: shapes, types, the rules of compare and classify, and that a batch changes nothing."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipref
from clipref import AutoModel, BackendError, ConfigError, ImageError, InputError, ModelNotFound, TextError
from clipref.ops import softmax

from .conftest import TINY, pictures, pixels
from .tolerances import PROBABILITY, UNIT, UNIT_FLOAT16, assert_close

TEXTS = ["a cat", "the red dog, and a cat", "dog", "a b c d e"]


@pytest.fixture(scope="module")
def model(tiny: Path) -> clipref.CLIP:
    return AutoModel.from_pretrained(tiny, backend="reference")


def test_embeddings_have_shape_and_dtype(model: clipref.CLIP) -> None:
    assert model.embed_image(pictures(1)[0]).shape == (1, 22)
    assert model.embed_image(pictures(3)).shape == model.embed_images(iter(pictures(3))).shape == (3, 22)
    assert model.embed_text("a cat").shape == (1, 22)
    assert model.embed_text(TEXTS).shape == (4, 22)
    for embeddings in (model.embed_images(pictures(2)), model.embed_text(iter(TEXTS))):
        assert embeddings.dtype == np.float32


def test_float64_all_the_way(tiny: Path, model: clipref.CLIP) -> None:
    exact = AutoModel.from_pretrained(tiny, dtype="float64")
    assert exact.backend == "reference"
    for ours, theirs in (
        (exact.embed_images(pictures(2)), model.embed_images(pictures(2))),
        (exact.embed_text(TEXTS), model.embed_text(TEXTS)),
    ):
        assert ours.dtype == np.float64 and (ours != theirs).any()
        assert_close(theirs, ours.astype(np.float32), "reference float32")
    assert {a.dtype for name, a in exact.trace(pictures(1)[0], "a cat").items() if name != "ids"} == {np.dtype("f8")}


def test_float32_all_the_way(model: clipref.CLIP) -> None:
    trace = model.trace(pictures(1)[0], "a cat")
    assert {a.dtype for name, a in trace.items() if name != "ids"} == {np.dtype("f4")}


def test_an_item_has_the_same_bits_in_any_batch(model: clipref.CLIP) -> None:
    images, together = pictures(5), model.embed_images(pictures(5), batch_size=3)
    assert (together == np.concatenate([model.embed_image(image) for image in images])).all()
    assert (together[::-1] == model.embed_images(images[::-1])).all()
    together = model.embed_text(TEXTS)
    assert (together == np.concatenate([model.embed_text(text) for text in TEXTS])).all()
    assert (together == model.embed_text(TEXTS)).all()


def test_inputs_are_not_modified(model: clipref.CLIP) -> None:
    image, batch = pictures(1)[0], pixels(2, model.config.vision.resolution)
    ids = model.tokenize(TEXTS)
    for array in (image, batch, ids):
        array.flags.writeable = False
    before = batch.copy(), ids.copy()
    model.embed_image(image), model.encode_image(batch), model.encode_text(ids)
    assert (batch == before[0]).all() and (ids == before[1]).all()


def test_normalize(model: clipref.CLIP) -> None:
    for raw, unit in (
        (model.embed_text(TEXTS), model.embed_text(TEXTS, normalize=True)),
        (model.embed_images(pictures(2)), model.embed_images(pictures(2), normalize=True)),
    ):
        assert_close(unit, raw / np.sqrt((raw * raw).sum(1, keepdims=True)), "operation")


def test_colour_order(model: clipref.CLIP) -> None:
    image = pictures(1)[0]
    rgb = model.embed_image(image, input_color_format="rgb")
    assert (rgb == model.embed_image(image[:, :, ::-1])).all() and (rgb != model.embed_image(image)).any()


def test_embed_images_takes_arrays_and_single_images(model: clipref.CLIP, tmp_path: Path) -> None:
    batch = np.stack([pictures(1)[0], pictures(1, seed=1)[0]])
    assert (model.embed_images(batch) == model.embed_images(list(batch))).all()
    from PIL import Image

    path = tmp_path / "x.png"
    Image.fromarray(batch[0]).save(path)
    alone = model.embed_image(batch[0], input_color_format="rgb")
    for image in (path, str(path), path.read_bytes(), Image.open(path)):
        assert (model.embed_images(image) == alone).all()  # type: ignore[arg-type]
    assert (model.embed_images(batch[0], input_color_format="rgb") == alone).all()


def test_files_are_decoded_beside_the_engine_and_given_back_in_order(
    model: clipref.CLIP, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(tmp_path / f"{i}.png") for i in range(9)]
    for path, picture in zip(paths, pictures(9), strict=True):
        Image.fromarray(picture).save(path)
    expected = np.concatenate([model.embed_image(path) for path in paths])
    preprocess, threads = clipref.preprocess, set[str]()

    def slow_at_first(image: object, *args: object, **options: object) -> np.ndarray:
        threads.add(threading.current_thread().name)
        time.sleep(0.05 if image == paths[0] else 0)
        return preprocess(image, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("clipref.loading.preprocess", slow_at_first)
    assert (model.embed_images(iter(paths), batch_size=2, workers=3) == expected).all()
    assert len(threads) > 1 and all(name.startswith("clipref") for name in threads)
    assert not any(thread.name.startswith("clipref") for thread in threading.enumerate())
    with pytest.raises(ImageError, match="image 4: .*gone.png': no such file"):
        model.embed_images([*paths[:4], "gone.png", *paths[4:]], batch_size=2)
    assert not any(thread.name.startswith("clipref") for thread in threading.enumerate())
    with pytest.raises(InputError, match="workers is 0; expected a whole number"):
        model.embed_images(paths, workers=0)


def test_a_buffer_may_be_used_again_for_the_next_image(model: clipref.CLIP) -> None:
    frames = np.stack([np.full((20, 30, 3), value, np.uint8) for value in (0, 90, 255)])

    def video() -> Iterator[np.ndarray]:
        buffer = np.empty_like(frames[0])
        for frame in frames:
            buffer[:] = frame
            yield buffer

    assert (model.embed_images(video()) == model.embed_images(list(frames))).all()


def test_memory_is_bounded_by_the_batch(model: clipref.CLIP) -> None:
    taken = []

    def images() -> Iterator[np.ndarray]:
        for i, image in enumerate(pictures(7)):
            taken.append((i, seen[0]))
            yield image

    seen = [0]
    encode = model.engine.encode_image

    def counted(batch: np.ndarray) -> np.ndarray:
        seen[0] += len(batch)
        return encode(batch)

    model.engine.encode_image = counted  # type: ignore[method-assign, assignment]
    try:
        assert len(model.embed_images(images(), batch_size=2)) == 7
    finally:
        del model.engine.encode_image
    assert max(i - done for i, done in taken) <= 4  # two batches


def test_progress(model: clipref.CLIP, capsys: pytest.CaptureFixture[str]) -> None:
    model.embed_images(pictures(2), progress=True)
    assert "2/2" in capsys.readouterr().err


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def test_compare(model: clipref.CLIP) -> None:
    image, other = pictures(2)
    expected = [cosine(model.embed_image(image), model.embed_text(text)) for text in TEXTS]
    row = model.compare(image, TEXTS)
    assert isinstance(row, list) and row == pytest.approx(expected, abs=UNIT)
    assert model.compare(subject=image, prompt=TEXTS[0]) == pytest.approx(expected[:1], abs=UNIT)
    assert model.compare(image, dict(zip("wxyz", TEXTS, strict=True))) == dict(zip("wxyz", row, strict=True))
    assert model.compare([image, other], TEXTS) == [row, model.compare(other, TEXTS)]
    assert model.compare(TEXTS[1], image, "text", "image") == pytest.approx(expected[1:2], abs=UNIT)
    assert model.compare(TEXTS[0], TEXTS[0], "text", "text") == pytest.approx([1.0], abs=UNIT)
    assert model.compare(image, {"same": image}, prompt_type="image") == pytest.approx({"same": 1.0}, abs=UNIT)


def test_compare_takes_any_iterable(model: clipref.CLIP) -> None:
    images = pictures(2)
    by_text, by_image = model.compare(TEXTS, TEXTS[0], "text"), model.compare(images, TEXTS)
    for several in (iter(TEXTS), tuple(TEXTS), np.array(TEXTS)):
        assert model.compare(several, TEXTS[0], "text") == by_text
    assert model.compare(iter(images), TEXTS) == by_image
    same = np.stack([images[0], images[0]])  # [2, H, W, C]
    assert model.compare(same, TEXTS) == [by_image[0], by_image[0]]
    labels = ["cat", "dog"]
    assert model.classify(iter(images), labels) == model.classify(images, labels)
    for several in (iter(labels), np.array(labels)):
        assert model.classify(images[0], several) == model.classify(images[0], labels)


def test_texts_by_their_other_name(model: clipref.CLIP) -> None:
    assert (model.embed_text(texts=TEXTS) == model.embed_text(TEXTS)).all()
    with pytest.raises(InputError, match="given once"):
        model.embed_text("a cat", texts="a cat")


def test_arguments_of_another_kind(model: clipref.CLIP) -> None:
    image, corpus = pictures(1)[0], model.embed_text(TEXTS)
    calls: list[tuple[str, Callable[[Any], Any], list[Any]]] = [
        ("texts are", model.embed_text, [None, 3, {"a": "b"}, {"a", "b"}, np.array("a cat")]),
        ("texts are", lambda x: model.compare(image, x), [None, 3, {"a"}]),
        ("texts are", lambda x: model.compare(x, "a", "text"), [None, {"a": "b"}]),
        ("images are a", model.embed_images, [{"a": image}, {"a.png"}]),
        ("batch_size is", lambda x: model.embed_images([image], batch_size=x), [None, "2", 2.0, True, 0]),
        ("workers is", lambda x: model.embed_images([image], workers=x), ["2", 2.0, True, 0]),
        ("top_k is", lambda x: model.classify(image, TEXTS, top_k=x), [None, "2", 2.0, True, 0]),
        ("top_k is", lambda x: model.search("a", corpus, top_k=x), [None, "2", 2.0, True, 0]),
        ("labels are", lambda x: model.classify(image, x), [None, 3, {"a": "b"}, {"a", "b"}, [1, 2], [None], iter([])]),
        ("templates are", lambda x: model.classify(image, TEXTS, x), [None, 3, [3], {"a {}"}]),
    ]
    for message, call, values in calls:
        for value in values:
            with pytest.raises(InputError, match=message + ".*; expected a"):
                call(value)


def test_compare_refuses(model: clipref.CLIP) -> None:
    image = pictures(1)[0]
    with pytest.raises(InputError, match="prompt_type is 'sound'"):
        model.compare(image, "a", prompt_type="sound")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="subject_type is 'video'"):
        model.compare(image, "a", subject_type="video")  # type: ignore[arg-type]
    nothing: tuple[Any, ...] = ([], {})
    for empty in nothing:
        with pytest.raises(InputError):
            model.compare(image, empty)
    with pytest.raises(InputError):
        model.compare([], "a cat")


def test_classify(model: clipref.CLIP) -> None:
    images, labels, templates = pictures(2), ["cat", "dog", "red"], ("a {}", "the {} b")
    rows = model.classify(images, labels, templates)
    means = []
    for label in labels:
        unit = [model.embed_text(t.format(label))[0] for t in templates]
        means.append(sum(u / np.linalg.norm(u) for u in unit))
    logits = np.array([[model.logit_scale * cosine(model.embed_image(i), m) for m in means] for i in images])
    for row, expected in zip(rows, softmax(logits), strict=True):
        assert [label for label, _ in row] == [labels[i] for i in np.argsort(-expected)]
        assert [p for _, p in row] == pytest.approx(sorted(expected, reverse=True), abs=PROBABILITY)
        assert sum(p for _, p in row) == pytest.approx(1)
    assert model.classify(images[0], labels, templates, top_k=2) == rows[0][:2]
    assert model.classify(images[0], ["cat"]) == [("cat", 1.0)]


def test_logit_scale_is_the_checkpoints(tiny: Path, model: clipref.CLIP) -> None:
    from safetensors.numpy import load_file

    assert model.logit_scale == pytest.approx(np.exp(load_file(tiny / "model.safetensors")["logit_scale"]), rel=1e-6)


def test_classify_refuses(model: clipref.CLIP) -> None:
    image = pictures(1)[0]
    for labels in (list[str](), "cat"):
        with pytest.raises(InputError, match="labels"):
            model.classify(image, labels)
    with pytest.raises(InputError, match="templates"):
        model.classify(image, ["cat"], templates=["a photo"])
    with pytest.raises(InputError, match="top_k"):
        model.classify(image, ["cat"], top_k=0)


def test_labels_may_hold_braces(model: clipref.CLIP) -> None:
    assert model.label_embeddings(["{0}"], ["a {}"]).shape == (1, 22)


def test_search(model: clipref.CLIP) -> None:
    corpus = model.embed_text(TEXTS)
    best = model.search(TEXTS[2], corpus, top_k=3)
    assert best[0] == pytest.approx((2, 1.0), abs=UNIT) and len(best) == 3
    assert [s for _, s in best] == sorted((s for _, s in best), reverse=True)
    for wrong in (corpus[0], corpus[:, 1:], corpus.astype(str)):
        with pytest.raises(InputError, match="expected \\[N, 22\\]"):
            model.search("a", wrong)
    with pytest.raises(InputError, match="The query is 2 items"):
        model.search(TEXTS[:2], corpus)


def test_search_of_what_float16_can_hold_but_not_square(model: clipref.CLIP) -> None:
    corpus = model.embed_text(TEXTS, normalize=True)
    large = (corpus * 5000).astype(np.float16)
    assert model.search(TEXTS[2], large)[0] == pytest.approx((2, 1.0), abs=UNIT_FLOAT16)
    for value in (0.0, np.nan, np.inf):
        spoiled = corpus.copy()
        spoiled[1] *= value
        with pytest.raises(InputError, match="Row 1 of the embeddings"):
            model.search("a", spoiled)


def test_trace_names_every_activation(model: clipref.CLIP, tiny: Path) -> None:
    trace = model.trace(image=pictures(1)[0], text="a cat")
    assert {name for name in trace if "resblocks" not in name and "layer" not in name} >= {"pixels", "visual", "ids"}
    text = [name for name in trace if not name.startswith(("visual", "pixels"))]
    assert text[:3] == ["ids", "token_embedding", "positional_embedding"]
    assert text[-2:] == ["ln_final", "text_projection"]
    assert (trace["visual"] == model.embed_image(pictures(1)[0])).all()
    assert (trace["text_projection"] == model.embed_text("a cat")).all()
    assert trace["transformer.resblocks.0"].shape == (1, np.argmax(trace["ids"]) + 1, 20)
    with pytest.raises(InputError, match="Nothing to trace"):
        model.trace()


@pytest.mark.parametrize("backend", ["reference", "onnx"])
def test_threads_get_the_same_bits(tiny: Path, backend: str) -> None:
    model = AutoModel.from_pretrained(tiny, backend=backend)
    expected = AutoModel.from_pretrained(tiny, backend=backend).embed_images(pictures(3)).tobytes()
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(model.embed_images(pictures(3)).tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 8


def test_nothing_given(model: clipref.CLIP) -> None:
    for call in (model.embed_images, model.embed_image, model.embed_text, model.tokenize):
        with pytest.raises(InputError):
            call([])


@pytest.mark.parametrize("text", ["", "   ", "\n\t", ["a", ""]])
def test_empty_text(model: clipref.CLIP, text: str | list[str]) -> None:
    with pytest.raises(TextError, match=r"text [01] is empty"):
        model.embed_text(text)
    assert model.encode_text(model.tokenize("")).shape == (1, 22)


def test_long_text(model: clipref.CLIP) -> None:
    with pytest.raises(TextError, match=r"19"):
        model.embed_text("a b c d e f g h i j k l m n o p q r s t u v")
    assert model.embed_text("a b c d e f g h i j k l m n o p q r s t u v", truncate=True).shape == (1, 22)


def test_text_of_ten_megabytes(model: clipref.CLIP) -> None:
    with pytest.raises(TextError, match="10,?000,?000"):
        model.embed_text("a" * 10_000_000)


def test_bad_images_say_which(model: clipref.CLIP, tmp_path: Path) -> None:
    good = pictures(1)[0]
    (tmp_path / "zero.png").write_bytes(b"")
    for bad in (tmp_path / "zero.png", tmp_path / "none.png", np.zeros((1, 2, 3, 4, 5), np.uint8), b"GIF89a", None):
        with pytest.raises(ImageError, match="image 1: "):
            model.embed_images([good, bad])


def test_bad_arguments(model: clipref.CLIP) -> None:
    side = model.config.vision.resolution
    for shape in ((side, side, 3), (1, side, side, 3), (0, 3, side, side), (1, 3, side + 1, side)):
        with pytest.raises(InputError, match="expected \\[N, 3"):
            model.encode_image(np.zeros(shape, np.float32))
    with pytest.raises(InputError, match="uint8"):
        model.encode_image(np.zeros((1, 3, side, side), np.uint8))
    spoiled = pixels(3, side)
    for value in (np.nan, np.inf, -np.inf, 1e300):
        given = spoiled.astype(np.float64)
        given[1, 2, 3, 4] = value
        with pytest.raises(InputError, match="pixels: item 1 has values that are not finite in float32"):
            model.encode_image(given)
    with pytest.raises(InputError, match="pixels can't be viewed as an array"):
        model.encode_image([[1.0], [1.0, 2.0]])  # type: ignore[arg-type]
    for ids in ([1, 2], [[1.0]], np.zeros((2, 20), int), np.zeros((0, 5), int), np.zeros((2, 0), int)):
        with pytest.raises(InputError, match="expected integers"):
            model.encode_text(np.asarray(ids))
    for outside in ([[1, 521]], [[-1, 520]]):
        with pytest.raises(InputError, match="0 to 520"):
            model.encode_text(np.asarray(outside))
    with pytest.raises(InputError, match="batch_size"):
        model.embed_images(pictures(1), batch_size=0)


def test_from_pretrained_refuses(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="ViT-B-32"):
        AutoModel.from_pretrained("clip/ViT-B32")
    with pytest.raises(BackendError, match="there are: auto, .*onnx.*reference"):
        AutoModel.from_pretrained(tiny, backend="fastest")
    with pytest.raises(BackendError, match="no option 'threads'"):
        AutoModel.from_pretrained(tiny, backend="reference", threads=2)
    with pytest.raises(BackendError, match="float32, not float64"):
        AutoModel.from_pretrained(tiny, backend="onnx", dtype="float64")
    with pytest.raises(InputError, match="dtype is 'float16'"):
        AutoModel.from_pretrained(tiny, dtype="float16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError):
        AutoModel.from_pretrained(tiny, config=TINY["vit"].__class__.from_dict({}))


def test_merges_of_another_model(tiny: Path, tmp_path: Path) -> None:
    import shutil

    copy = Path(shutil.copytree(tiny, tmp_path / "copy"))
    (copy / "merges.txt").unlink()
    with pytest.raises(InputError, match="49408 tokens, but the model has 521"):
        AutoModel.from_pretrained(copy).embed_text("a cat")
