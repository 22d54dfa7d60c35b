"""What callers give: every kind of list is taken or refused with words, and nobody is left to guess what was meant."""

import io
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipref
from clipref import CLIP, AutoModel, BackendError, ClipError, ImageError, InputError, ModelNotFound, TextError
from clipref.arguments import brief
from clipref.config import PreprocessConfig

from .conftest import pictures

TEXTS = ["a cat", "the red dog, and a cat", "dog"]


@pytest.fixture(scope="module")
def model(tiny_vit: Path) -> CLIP:
    return AutoModel.from_pretrained(tiny_vit, backend="reference")


class Series:
    """As pandas has it: values by their place, items by their name."""

    ndim = 1

    def __init__(self, values: list[Any], kind: str = "O") -> None:
        self.values, self.dtype = values, SimpleNamespace(kind=kind)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, key: str) -> Any:
        return {"first": self.values[0]}[key]

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        return np.array(self.values, dtype)


class Column:
    """A sequence without the name of one, as data sets have."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __iter__(self) -> Iterator[Any]:
        return iter(self.values)

    def __getitem__(self, i: int) -> Any:
        return self.values[i]


class Table:
    """Iterates over its columns' names, and is no Mapping: as tables, HTTP headers and HDF5 groups do."""

    def __init__(self, columns: dict[str, Any]) -> None:
        self.columns = columns

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]


class Frame(Table):
    ndim = 2


class Label(str, Enum):
    CAT = "a cat"
    DOG = "dog"


class Raising:
    """Raises wherever it is touched."""

    def __init__(self, where: str) -> None:
        self.where = where

    def _touched(self, where: str) -> None:
        if where == self.where:
            raise ValueError(f"not in {where}")

    def __iter__(self) -> Iterator[Any]:
        self._touched("iter")
        yield "a cat"
        self._touched("next")

    def __len__(self) -> int:
        self._touched("len")
        return 1

    def __repr__(self) -> str:
        self._touched("repr")
        return "Raising()"

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        raise RuntimeError("not in array")


def test_texts_of_every_kind(model: CLIP) -> None:
    expected = model.embed_text(TEXTS)
    several: list[Any] = [
        tuple(TEXTS), iter(TEXTS), np.array(TEXTS), np.array(TEXTS, object), Series(TEXTS), Column(TEXTS),
        dict.fromkeys(TEXTS).keys(), dict(enumerate(TEXTS)).values(), [np.str_(text) for text in TEXTS],
        io.StringIO("\n".join(TEXTS)),
    ]  # fmt: skip
    for texts in several:
        assert (model.embed_text(texts) == expected).all()
    for text in (np.str_(TEXTS[0]), np.array(TEXTS)[0], Label.CAT):
        assert (model.embed_text(text) == expected[:1]).all()
        assert model.compare(pictures(1)[0], text) == model.compare(pictures(1)[0], TEXTS[0])
        assert (clipref.tokenize(text) == clipref.tokenize(TEXTS[0])).all()
    assert model.classify(pictures(1)[0], [Label.CAT, Label.DOG]) == model.classify(pictures(1)[0], ["a cat", "dog"])


@pytest.mark.parametrize("table", [Table, Frame, dict, lambda x: Raising("iter"), lambda x: Raising("next")])
def test_what_iterates_over_something_else_than_its_texts(model: CLIP, table: Callable[[Any], Any]) -> None:
    given = table({"caption": TEXTS, "split": ["train"] * 3})
    calls: list[Callable[[], Any]] = [
        lambda: model.embed_text(given),
        lambda: model.tokenize(given),
        lambda: clipref.tokenize(given),
        lambda: model.compare(given, "a cat", subject_type="text"),
        lambda: model.classify(pictures(1)[0], given),
        lambda: model.label_embeddings(["a cat"], given),
        lambda: model.search(given, model.embed_text(TEXTS)),
    ]
    for call in calls:
        with pytest.raises(InputError, match="(texts|labels|templates) (are|come from)"):
            call()


def test_images_of_every_kind(model: CLIP, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path, picture in zip(paths, pictures(2), strict=True):
        Image.fromarray(picture).save(path)
    names = [str(path) for path in paths]
    expected = model.embed_images(paths)
    objects = np.empty(2, object)
    objects[:] = [Image.open(path) for path in paths]
    several: list[Any] = [
        np.array(names), np.array(names, object), np.array(paths, object), Series(names), Series(paths),
        Series(names, "T"), Column(names), objects, dict(enumerate(paths)).values(),
    ]  # fmt: skip
    for images in several:
        assert (model.embed_images(images) == expected).all()
        assert model.compare(images, "a cat") == model.compare(names, "a cat")
        assert model.classify(images, ["a cat", "dog"]) == model.classify(names, ["a cat", "dog"])
    for image in (np.str_(names[0]), np.array(names)[0]):
        assert (model.embed_images(image) == expected[:1]).all() and (model.embed_image(image) == expected[:1]).all()
        assert model.compare(image, "a cat") == model.compare(names[0], "a cat")
    for numbers in (np.zeros(9, np.uint8), Series([1.0, 2.0], "f")):
        with pytest.raises(ImageError, match="image 0"):
            model.embed_images(numbers)
    for table in (Table(dict.fromkeys(names)), {names[0]: 1}, {names[0]}, Raising("iter"), Raising("next")):
        with pytest.raises(ClipError):
            model.embed_images(table)


def test_what_was_meant(model: CLIP) -> None:
    image, rows = pictures(1)[0], model.embed_text(TEXTS)
    said: list[tuple[Callable[[], Any], type[ClipError], str]] = [
        (lambda: model.compare("a cat", "a dog"), ImageError, 'pass subject_type="text"'),
        (lambda: model.compare(["a cat", "a dog"], "a dog"), ImageError, 'pass subject_type="text"'),
        (lambda: model.compare(image, "a cat", prompt_type="image"), ImageError, 'pass prompt_type="text"'),
        (lambda: model.compare(image, image), InputError, 'pass prompt_type="image"'),
        (lambda: model.compare(image, [image]), TextError, 'pass prompt_type="image"'),
        (lambda: model.compare(image, b"GIF89a"), TextError, 'pass prompt_type="image"'),
        (lambda: model.compare_embeddings("a cat", "a cat"), ImageError, 'pass x_type="text"'),
        (lambda: model.compare_embeddings(image, image), InputError, 'pass y_type="image"'),
        (lambda: model.search(image, rows), InputError, 'pass query_type="image"'),
        (lambda: model.search(Image.fromarray(image), rows), InputError, 'pass query_type="image"'),
        (lambda: model.search(Path("x.png"), rows), InputError, 'pass query_type="image"'),
        (lambda: model.search("a cat", rows, query_type="image"), ImageError, 'pass query_type="text"'),
        (lambda: model.search(rows[0, :5], rows), TextError, "an embedding has 22 floats"),
        (lambda: model.embed_text(b"a cat"), TextError, "is bytes; .*Decode it"),  # type: ignore[arg-type]
        (lambda: model.embed_text(bytearray(b"a cat")), TextError, "is bytearray; .*Decode it"),  # type: ignore[arg-type]
        (lambda: model.embed_text(["a cat", b"dog"]), TextError, "text 1: .*got bytes.*Decode it"),  # type: ignore[list-item]
        (lambda: model.tokenize(b"a cat"), TextError, "Decode it"),  # type: ignore[arg-type]
        (lambda: clipref.tokenize(b"a cat"), TextError, "Decode it"),  # type: ignore[arg-type]
        (lambda: model.classify(image, b"a cat"), InputError, "labels are b'a cat'"),  # type: ignore[arg-type]
        (lambda: AutoModel("clip/ViT-B-32"), InputError, r"AutoModel.from_pretrained\('clip/ViT-B-32'\)"),
        (lambda: AutoModel(), InputError, "from_pretrained"),
        (lambda: CLIP("clip/ViT-B-32"), InputError, "from_pretrained"),  # type: ignore[arg-type]
    ]
    for call, kind, words in said:
        with pytest.raises(ClipError, match=words) as raised:
            call()
        assert type(raised.value) is kind
    with pytest.raises(TextError) as text:
        model.embed_text(["a cat", 3])  # type: ignore[list-item]
    assert (text.value.index, text.value.source) == (1, 3)


def test_habits_of_inference_models(tiny_vit: Path) -> None:
    advice: list[tuple[dict[str, Any], str]] = [
        (
            {"backend": "onnx", "device": "cuda"},
            r"no option 'device'.*providers=\['CUDAExecutionProvider'\].*Leave it out",
        ),
        ({"api_key": "secret"}, "no key is needed.*HF_TOKEN"),
        ({"onnx_execution_providers": ["CPUExecutionProvider"]}, r"it is providers=\[...\] here"),
        ({"max_batch_size": 8}, "batch_size= here, of embed_images"),
        ({"batch_size": 8}, "embed_images"),
        ({"quantization": "int8"}, "it is precision= here"),
        ({"weights_provider": "roboflow"}, "hf:owner/name"),
        ({"backend": "hugging-face"}, "No backend 'hugging-face'; there are: auto, .*backend='auto'"),
        ({"backend": "trt"}, "TensorrtExecutionProvider"),
        ({"backend": ["trt", "torch-script"]}, r"No backend 'trt'.*No backend 'torch-script'"),
        ({"backend": None}, "backend is None; expected a name, or a list of names; there are: auto"),
    ]
    for options, words in advice:
        with pytest.raises(BackendError, match=words) as raised:
            AutoModel.from_pretrained(tiny_vit, **options)
        assert "secret" not in str(raised.value)
    assert AutoModel.from_pretrained(tiny_vit, backend=["trt", "blas", "onnx"]).backend == "blas"
    assert AutoModel.from_pretrained(model_id_or_path=tiny_vit).config == AutoModel.from_pretrained(tiny_vit).config
    with pytest.raises(InputError, match="expected one id"):
        AutoModel.from_pretrained(tiny_vit, model_id_or_path=tiny_vit)


def test_names_that_are_none() -> None:
    class Gone:
        def __fspath__(self) -> str:
            raise RuntimeError("gone")

    names: list[Any] = [None, "", b"x", "\0", "~nobody/x", "a" * 5000, 3, [], ["clip/ViT-B-32"], np.zeros(3), Gone()]
    for name in names:
        with pytest.raises((ModelNotFound, InputError)):
            AutoModel.from_pretrained(name)
        with pytest.raises((ModelNotFound, InputError)):
            AutoModel.from_pretrained(model_id_or_path=name)


def test_arguments_of_from_pretrained(tiny_vit: Path) -> None:
    wrong: list[tuple[str, list[Any]]] = [
        ("dtype", [None, 3, "float16", np.zeros(2), ["float32"]]),
        ("activation", ["relu", 3, ["gelu"]]),
        ("config", [{}, "config.json"]),
        ("max_pixels", ["x", 0, -1, 1.5, True]),
        ("upright", [np.zeros(2)]),
    ]
    for name, values in wrong:
        for value in values:
            with pytest.raises(InputError, match=f"{name} is"):
                AutoModel.from_pretrained(tiny_vit, **{name: value})
    assert AutoModel.from_pretrained(tiny_vit, dtype=np.dtype("float64")).dtype == "float64"  # type: ignore[arg-type]


def test_the_largest_image_that_is_read(tiny_vit: Path) -> None:
    model, image = AutoModel.from_pretrained(tiny_vit, backend="reference", max_pixels=1000), pictures(1)[0]
    for call in (
        lambda: model.embed_image(image), lambda: model.compare(image, "a cat"), lambda: model.trace(image),
        lambda: model.classify(image, ["cat"]), lambda: model.search(image, np.ones((2, 22)), query_type="image"),
    ):  # fmt: skip
        with pytest.raises(ImageError, match="at most 1000 are read"):
            call()
    assert model.embed_images([image], max_pixels=1500).shape == model.embed_image(image, max_pixels=1500).shape
    with pytest.raises(InputError, match="max_pixels is 0"):
        model.embed_images([image], max_pixels=0)


def test_upright_is_part_of_the_configuration(tiny_vit: Path) -> None:
    if not hasattr(PreprocessConfig, "upright"):
        pytest.skip("preprocess has no upright=")
    image = Image.fromarray(pictures(1)[0])
    image.getexif()[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "png", exif=image.getexif())
    plain, upright = (AutoModel.from_pretrained(tiny_vit, backend="reference", upright=x) for x in (False, True))
    assert upright.config.preprocess != plain.config.preprocess == AutoModel.from_pretrained(tiny_vit).config.preprocess
    assert (upright.embed_image(file.getvalue()) != plain.embed_image(file.getvalue())).any()
    assert (upright.embed_image(image.rotate(270, expand=True)) == upright.embed_image(file.getvalue())).all()


def test_any_value_can_be_shown() -> None:
    for value in (10**5000, -(10**5000), "x" * 10**6, [0] * 10**5, np.zeros((999, 999)), Raising("repr")):
        assert len(brief(value)) < 300 and "\n" not in brief(value)
    assert brief(Raising("repr")) == "a Raising"
