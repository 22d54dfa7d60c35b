"""Images that can't be read: the call ends, or goes on without them and says which; numbers count over the call."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref import CLIP, AutoModel, ClipError, ImageError, InputError, TextError

from .conftest import pictures


@pytest.fixture(scope="module")
def model(tiny_vit: Path) -> CLIP:
    return AutoModel.from_pretrained(tiny_vit, backend="reference")


@pytest.fixture
def images(tmp_path: Path) -> list[Any]:
    """Eleven images as paths, bytes and arrays, of which 0, 4, 5 and 10 can't be read."""
    found: list[Any] = list(pictures(11))
    for i in (1, 2, 4, 9):
        Image.fromarray(found[i]).save(tmp_path / f"{i}.png")
        found[i] = tmp_path / f"{i}.png"
    (tmp_path / "4.png").write_bytes(b"")
    found[0], found[5], found[10] = str(tmp_path / "gone.png"), b"GIF89a", np.zeros((7, 8, 9), np.uint8)
    found[2] = found[2].read_bytes()
    return found


BAD, GOOD = [0, 4, 5, 10], [1, 2, 3, 6, 7, 8, 9]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 32])
def test_on_error(model: CLIP, images: list[Any], batch_size: int) -> None:
    expected = model.embed_images([images[i] for i in GOOD])
    for normalize in (False, True):
        errors: list[ImageError] = []
        options: Any = {"batch_size": batch_size, "normalize": normalize}
        left = model.embed_images(iter(images), on_error="skip", errors=errors, **options)
        assert [error.index for error in errors] == BAD
        assert all(error.source is images[i] for error, i in zip(errors, BAD, strict=True))
        whole = model.embed_images(images, on_error="null", errors=errors, **options)
        assert len(errors) == 8 and whole.shape == (11, 22) and whole.dtype == left.dtype == np.float32
        assert np.isnan(whole[BAD]).all() and (whole[GOOD] == left).all()
        assert normalize or (left == expected).all()
        assert (model.embed_images(images, on_error="skip", **options) == left).all()
    with pytest.raises(ImageError, match="image 0: .*gone.png") as raised:
        model.embed_images(images, batch_size=batch_size)
    assert raised.value.index == 0 and raised.value.source == images[0]
    with pytest.raises(ImageError, match="image 3: ") as raised:
        model.embed_images([*images[6:9], images[5]], batch_size=batch_size, on_error="raise")
    assert raised.value.index == 3 and raised.value.source == b"GIF89a"


def test_none_can_be_read(model: CLIP) -> None:
    bad = [b"", b"GIF89a"]
    assert model.embed_images(bad, on_error="skip").shape == (0, 22)
    assert np.isnan(model.embed_images(bad, on_error="null")).all()
    assert model.embed_images(b"", on_error="null").shape == (1, 22)
    for on_error in ("skip", "null"):
        with pytest.raises(InputError, match="No images"):
            model.embed_images([], on_error=on_error)
        with pytest.raises(InputError, match="input_color_format"):  # not the fault of an image
            model.embed_images(pictures(1), on_error=on_error, input_color_format="bgra")


def test_wrong_arguments(model: CLIP) -> None:
    for wrong in (None, "ignore", 3, ["skip"]):
        with pytest.raises(InputError, match="on_error is .*; expected 'raise' or 'skip' or 'null'"):
            model.embed_images(pictures(1), on_error=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="errors is 3; expected a list"):
        model.embed_images(pictures(1), errors=3)  # type: ignore[arg-type]


def test_numbers_count_over_the_whole_call(model: CLIP) -> None:
    with pytest.raises(ImageError, match="image 40: ") as raised:
        model.embed_images([*pictures(1) * 40, b""], batch_size=7)
    assert raised.value.index == 40
    texts = ["a cat"] * 299 + ["a " * 30]
    for call in (model.embed_text, model.tokenize):
        with pytest.raises(TextError, match="text 299: ") as text:
            call(texts)
        assert text.value.index == 299 and text.value.source == texts[-1]
    with pytest.raises(TextError, match="text 299 is empty") as text:
        model.embed_text([*texts[:-1], ""])
    assert text.value.index == 299 and text.value.source == ""


def test_errors_of_items_are_copied_whole() -> None:
    error = ImageError("image 3: gone", index=3, source="a.png")
    for same in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert (str(same), same.index, same.source) == ("image 3: gone", 3, "a.png")
    assert ImageError("gone").index is None and isinstance(error, ClipError)


def test_the_bar_counts_what_is_embedded(model: CLIP, images: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    model.embed_images(images, progress=True, on_error="skip")
    assert "7/11" in capsys.readouterr().err
    model.embed_images(iter(images[1:4]), progress=True)
    assert "3image" in capsys.readouterr().err
