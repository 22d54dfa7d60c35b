"""The resize in C against Pillow's, bit for bit, and that it is what preprocessing takes."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from clipref import preprocessing
from clipref.errors import BackendError
from clipref.kernels import pixels
from clipref.kernels.pixels import resized_crop
from clipref.preprocessing import _resize_and_crop, preprocess

from .recipe import picture, recipe, same

try:
    pixels.library()
except BackendError as error:
    pytest.skip(f"the C isn't there: {error}", allow_module_level=True)

Box = tuple[int, int, int, int]


def by_pillow(image: Image.Image, width: int, height: int, box: Box) -> np.ndarray:
    return np.asarray(_resize_and_crop(image, width, height, box, "bicubic").convert("RGB"))


def noise(mode: str, width: int, height: int, seed: int, levels: int) -> Image.Image:
    """Few levels overshoot most, and are clipped."""
    generator = np.random.Generator(np.random.PCG64(seed))
    values = generator.integers(0, levels, (height, width, len(mode))) * 255 // (levels - 1)
    return Image.fromarray(values.astype(np.uint8))


@st.composite
def cases(draw: Any) -> tuple[str, int, int, int, int, Box]:
    sides = [draw(st.integers(1, 300)) for _ in range(2)]
    new = [draw(st.integers(1, 120)) for _ in range(2)]
    begin = [draw(st.integers(0, side - 1)) for side in new]
    end = [draw(st.integers(first + 1, side)) for first, side in zip(begin, new, strict=True)]
    return draw(st.sampled_from(["RGB", "RGBA"])), *sides, *new, (*begin, *end)


@settings(deadline=None, max_examples=150)
@given(cases(), st.integers(0, 9), st.sampled_from([2, 5, 256]))
def test_equals_pillow(case: tuple[str, int, int, int, int, Box], seed: int, levels: int) -> None:
    mode, width, height, new_width, new_height, box = case
    image = noise(mode, width, height, seed, levels)
    before = image.tobytes()
    found = resized_crop(image, new_width, new_height, box)
    assert image.tobytes() == before
    assert (found is not None) == (width != new_width and height != new_height)
    if found is not None:
        np.testing.assert_array_equal(found, by_pillow(image, new_width, new_height, box), strict=True)


@pytest.mark.parametrize("side", [224, 288, 336, 384, 448, 48, 63])
@pytest.mark.parametrize(("width", "height"), [(500, 400), (333, 500), (1281, 722), (40, 900), (100, 90)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_equals_pillow_at_the_sizes_of_models(mode: str, width: int, height: int, side: int) -> None:
    image = noise(mode, width, height, 0, 256)
    new = (int(side * width / min(width, height)), int(side * height / min(width, height)))
    left, top = ((length - side) // 2 for length in new)
    box = (left, top, left + side, top + side)
    found = resized_crop(image, *new, box)
    assert found is not None
    np.testing.assert_array_equal(found, by_pillow(image, *new, box), strict=True)


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "CMYK", "I", "F", "I;16", "YCbCr"])
def test_leaves_other_modes_to_pillow(mode: str) -> None:
    assert resized_crop(picture(mode, 50, 40), 28, 22, (3, 0, 25, 22)) is None


@pytest.mark.parametrize(
    ("width", "height", "new"),
    [(50, 40, (50, 22)), (50, 40, (28, 40)), (40_000, 40, (24, 24)), (40, 40_000, (24, 24))],
)
def test_leaves_extreme_shapes_to_pillow(width: int, height: int, new: tuple[int, int]) -> None:
    assert resized_crop(noise("RGB", width, height, 0, 2), *new, (0, 0, *new)) is None


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_preprocessing_takes_it_and_pillow_gives_the_same(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, served = picture(mode, 53, 40), []

    def watched(*args: Any) -> Any:
        served.append(resized_crop(*args))
        return served[-1]

    assert preprocessing.fast_resize() is resized_crop
    monkeypatch.setattr(preprocessing, "fast_resize", lambda: watched)
    same(preprocess(image, 24), recipe(image, 24))
    assert len(served) == 1 and served[0] is not None
    same(preprocess(image, 24, interpolation="bilinear"), preprocess(image, 24, interpolation="bilinear"))
    assert len(served) == 1
    monkeypatch.setattr(preprocessing, "fast_resize", lambda: None)
    same(preprocess(image, 24), recipe(image, 24))


def test_threads_share_it() -> None:
    images = [noise("RGB", 60 + i, 50, i, 256) for i in range(40)]
    expected = [recipe(image, 24) for image in images]
    found: list[list[np.ndarray]] = []
    threads = [threading.Thread(target=lambda: found.append([preprocess(x, 24) for x in images])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    for answers in found:
        for answer, right in zip(answers, expected, strict=True):
            same(answer, right)


def test_without_the_compiled_file_pillow_resizes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    preprocessing.fast_resize.cache_clear()
    pixels.library.cache_clear()
    try:
        monkeypatch.setattr(pixels, "__file__", str(tmp_path / "pixels.py"))
        with pytest.raises(BackendError, match=r"wasn't built, for want of a C compiler .* install gcc or clang"):
            pixels.library()
        assert preprocessing.fast_resize() is None
        (tmp_path / "_pixels.so").write_bytes(b"no library")
        with pytest.raises(BackendError, match="can't be loaded"):
            pixels.library()
        same(preprocess(picture("RGB", 53, 40), 24), recipe(picture("RGB", 53, 40), 24))
    finally:
        preprocessing.fast_resize.cache_clear()
        pixels.library.cache_clear()
