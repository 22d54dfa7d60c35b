"""What is no image, or no sound one, against clear errors; nothing is left open and no warning leaks."""

import gc
import io
import threading
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, TiffImagePlugin

from clipref import images
from clipref.errors import ClipError, ImageError, InputError
from clipref.preprocessing import open_image, preprocess

from .recipe import PNG, RGB, Array, encoded, png_header, recipe, refused, same


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused(r"no-such\.png'?\"?: no such file", tmp_path / "no-such.png")
    refused("can't be opened", tmp_path)
    refused("can't be opened", "a\0b")


def test_files_that_are_no_images(tmp_path: Path) -> None:
    for data, message in [(b"", "zero bytes"), (b"not an image", "not an image"), (PNG[:200], "cut short|not a sound")]:
        path = tmp_path / "image.png"
        path.write_bytes(data)
        refused(rf"image\.png.*({message})", path)
        refused(message, data)
        refused(message, io.BytesIO(data))
    refused("Binary data", io.StringIO("text"))
    closed = io.BytesIO(PNG)
    closed.close()
    refused("can't be read", closed)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_truncated_file(format: str) -> None:
    data = encoded(RGB, format)
    open_image(data)
    for length in (1, 10, len(data) // 3, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(ImageError):
            open_image(data[:length])


def test_a_file_is_closed_whatever_happens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def spy(path: str) -> Any:
        opened.append(open(path, "rb"))  # noqa: SIM115 (the caller closes it)
        return opened[-1]

    monkeypatch.setattr(images, "open_regular", spy)
    animation = encoded(RGB, "GIF", save_all=True, append_images=[RGB.rotate(90)])
    for i, data in enumerate([PNG, animation, encoded(RGB, "TIFF"), PNG[:300], b"", b"no image"]):
        path = tmp_path / str(i)
        path.write_bytes(data)
        try:
            preprocess(path, 24)
        except ImageError:
            assert i >= 3
    assert len(opened) == 6
    assert all(file.closed for file in opened)
    gc.collect()


def test_the_pixel_limit_comes_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(self: Any) -> None:
        raise AssertionError("decoded")

    limit = "50 x 40, 2000 pixels; at most 1999 .*max_pixels"
    refused(limit, np.array(RGB), max_pixels=1999)
    refused(limit, RGB, max_pixels=1999)
    same(preprocess(PNG, 24, max_pixels=2000), recipe(RGB, 24))
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    refused(limit, PNG, max_pixels=1999)
    refused(limit, Image.open(io.BytesIO(PNG)), max_pixels=1999)


def test_an_image_over_the_pixel_limit() -> None:
    before = Image.MAX_IMAGE_PIXELS
    refused("10000 x 10000, 100000000 pixels; at most 90000000", png_header(10_000, 10_000), max_pixels=90_000_000)
    refused("8193 x 8192, 67117056 pixels; at most 67108864", png_header(8193, 8192))
    refused("400000000 pixels.*178956970.*max_pixels.*MAX_IMAGE_PIXELS", png_header(20_000, 20_000))
    refused("cut short", png_header(1_000, 1_000))
    assert before == Image.MAX_IMAGE_PIXELS


def test_an_image_too_thin() -> None:
    for shape in [(100_000, 1), (1, 100_000)]:
        with pytest.raises(ImageError, match="22400000.*Crop"):
            preprocess(np.zeros(shape, np.uint8))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((2, 9, 9, 3), np.uint8), "a batch.*embed_images"),
        (np.zeros((1, 2, 9, 9, 3), np.uint8), r"\[1, 2, 9, 9, 3\]; expected one image"),
        (np.zeros(9, np.uint8), "expected one image"),
        (np.uint8(9), "expected one image"),
        (np.zeros((9, 9, 3), np.float32), "float32.*expected uint8"),
        (np.zeros((9, 9), np.int64), "int64.*expected uint8"),
        (np.zeros((9, 9), bool), "bool.*expected uint8"),
        (np.zeros((9, 9), object), "object.*expected uint8"),
        (np.zeros((0, 9, 3), np.uint8), "no pixels"),
        (np.zeros((9, 0), np.uint8), "no pixels"),
        (np.zeros((9, 9, 2), np.uint8), "1, 3 or 4 channels"),
        (np.zeros((9, 8, 7), np.uint8), "1, 3 or 4 channels"),
    ],
)
def test_arrays_that_are_no_images(array: Any, message: str) -> None:
    refused(message, array)


def test_other_things_that_are_no_images() -> None:
    class Stubborn:
        def __array__(self, *_: Any, **__: Any) -> Array:
            raise RuntimeError("on another device")

    refused("on another device", Stubborn())
    refused("no pixels", Image.new("RGB", (0, 5)))
    for thing in (None, 5, [PNG], [[1, 2], [3, 4]], {"image": PNG}):
        refused("expected a path, bytes", thing)
    gone = Image.open(io.BytesIO(PNG))
    gone.close()
    refused("the PIL image", gone)


def test_other_bad_arguments() -> None:
    with pytest.raises(InputError, match="'RGB'; expected 'bgr' or 'rgb'"):
        preprocess(RGB, input_color_format="RGB")
    for resolution in (0, -1, 2.0, "224", None):
        with pytest.raises(InputError, match="resolution"):
            preprocess(RGB, resolution)  # type: ignore[arg-type]


def damaged_tiff(tag: int) -> bytes:
    """Claims two numbers of channels, or a comment that leaves the file. Pillow warns, and reads it."""
    exif = TiffImagePlugin.ImageFileDirectory_v2()
    exif[0x8769] = {0x9286: b"a comment that is kept outside of its directory"}
    data = bytearray(encoded(RGB, "TIFF", tiffinfo=exif))
    at = {0x9286: data.find(b"\x86\x92\x01\x00"), 0x0115: data.find(b"\x15\x01\x03\x00")}[tag]
    data[at + 4 : at + 8] = (2 if tag == 0x0115 else 1_000_000).to_bytes(4, "little")
    return bytes(data)


@pytest.mark.parametrize(("tag", "while_decoding"), [(0x0115, False), (0x9286, True)])
def test_no_warning_of_pillow_leaks(tag: int, while_decoding: bool) -> None:
    data = damaged_tiff(tag)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        image = Image.open(io.BytesIO(data))
        assert bool(caught) != while_decoding
        image.load()
        assert caught
    same(preprocess(data, 24), recipe(RGB, 24))


def test_threads_leave_the_warning_filters_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first thread would restore the filters while the second is still inside, and the second restore its own."""
    before, pillows_open = list(warnings.filters), Image.open
    second_inside, first_done = threading.Event(), threading.Event()

    def slow_open(file: Any, formats: Any) -> Any:
        if threading.current_thread().name == "first":
            second.start()
            second_inside.wait(0.2)
        else:
            second_inside.set()
            first_done.wait(5)
        return pillows_open(file, formats=formats)

    def first_work() -> None:
        open_image(PNG)
        first_done.set()

    first = threading.Thread(target=first_work, name="first")
    second = threading.Thread(target=open_image, args=(PNG,), name="second")
    monkeypatch.setattr(Image, "open", slow_open)
    first.start()
    first.join()
    second.join()
    assert list(warnings.filters) == before


FILES = [encoded(RGB, name) for name in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO", "TGA", "PCX")]


def opens_or_refuses(data: bytes) -> None:
    try:
        open_image(data, max_pixels=1_000_000)
    except ClipError as error:
        assert type(error) is ImageError


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=200))
@example(b"\x89PNG\r\n\x1a\n")
@example(b"GIF89a")
def test_random_bytes(data: bytes) -> None:
    opens_or_refuses(data)


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(FILES), st.data())
def test_damaged_files(file: bytes, draw: st.DataObject) -> None:
    data = bytearray(file[: draw.draw(st.integers(0, len(file)))])
    changes = st.tuples(st.integers(0, min(len(data), 200)), st.integers(0, 255))
    for position, value in draw.draw(st.lists(changes, max_size=4)):
        if position < len(data):
            data[position] = value
    opens_or_refuses(bytes(data))
