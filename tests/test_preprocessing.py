"""Pixels against an independent statement of the original's recipe, bit for bit; bad images against clear errors.

The recipe below is torchvision's Resize, CenterCrop, ToTensor and Normalize as clip/clip.py of openai/CLIP combines
them, with Pillow called once. For tall images that are made smaller, Pillow 13.0 may differ from the Pillow that CLIP
was made with (https://github.com/python-pillow/Pillow/pull/9549); there, GOLDEN holds what Pillow 10.3.0 and 12.0.0
both gave for this recipe.
"""

import gc
import hashlib
import io
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence, TiffImagePlugin

from clipref import images
from clipref.errors import ClipError, ImageError, InputError
from clipref.preprocessing import open_image, preprocess

Array = np.ndarray
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BICUBIC = Image.Resampling.BICUBIC


def picture(mode: str, width: int, height: int) -> Image.Image:
    """The same on every machine: whole-number arithmetic, no generator. Sharp edges, the full range of values."""
    bands = dict.fromkeys(["L", "P"], 1) | dict.fromkeys(["RGB", "YCbCr", "LAB", "HSV"], 3)
    bands |= dict.fromkeys(["RGBA", "RGBa", "RGBX", "CMYK"], 4) | {"LA": 2}
    y, x, band = np.mgrid[:height, :width, : bands.get(mode, 1)].astype(np.int64)
    mixed = (x * x * 7 + y * y * 13 + x * y * 5 + x // 3 * 91 + y // 4 * 57 + band * 83) * 2654435761 >> 13
    byte = (mixed % 256).astype(np.uint8)
    if mode in bands:
        image = Image.frombytes(mode, (width, height), byte.tobytes())
        if mode == "P":
            image.putpalette((np.arange(768) * 37 % 256).astype(np.uint8).tobytes())
        return image
    if mode == "1":
        return Image.fromarray(byte[..., 0] > 100)
    numbers = {
        "I": (mixed[..., 0] % 700 - 200).astype(np.int32),
        "F": (mixed[..., 0] % 700 / 1.7 - 60).astype(np.float32),
        "I;16": (mixed[..., 0] % 400).astype(np.uint16),
    }
    return Image.fromarray(numbers[mode])


MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F"]


def resized_once(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, BICUBIC)


def crop_offset(margin: int) -> int:
    return int(round(margin / 2.0))  # noqa: RUF046 (as torchvision writes it)


def recipe(
    image: Image.Image,
    side: int,
    *,
    resize: Callable[[Image.Image, tuple[int, int]], Image.Image] = resized_once,
    offset: Callable[[int], int] = crop_offset,
    rgb_first: bool = False,
    flip: bool = False,
    mean: list[float] = MEAN,
    std: list[float] = STD,
) -> Array:
    """What the original does, one deviation at a time possible."""
    if rgb_first:
        image = image.convert("RGB")
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != side:
        size = (side, int(side * long / short)) if width <= height else (int(side * long / short), side)
        image = resize(image, size)
    left, top = offset(image.width - side), offset(image.height - side)
    image = image.crop((left, top, left + side, top + side)).convert("RGB")
    channels = []
    for channel, m, s in zip(image.split()[:: -1 if flip else 1], mean, std, strict=True):
        value = np.array(channel).astype(np.float32) / np.float32(255)
        channels.append((value - np.float32(m)) / np.float32(s))
    return np.array(channels)


def same(actual: Array, expected: Array) -> None:
    assert actual.flags.c_contiguous
    np.testing.assert_array_equal(actual, expected, strict=True)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("width", "height", "side"),
    [
        (50, 40, 24),
        (40, 53, 24),  # 31 high: an odd difference, 3.5 rounds to 4
        (53, 40, 24),
        (49, 40, 24),  # 29 wide: 2.5 rounds to 2
        (67, 67, 24),
        (24, 24, 24),
        (37, 24, 24),
        (24, 41, 24),
        (9, 7, 24),
        (5, 23, 24),
        (1, 1, 24),
        (1, 400, 5),
        (400, 1, 5),
        (3, 2, 1),
    ],
)
def test_follows_the_recipe_in_every_mode(mode: str, width: int, height: int, side: int) -> None:
    image = picture(mode, width, height)
    before = (image.mode, image.size, dict(image.info), image.tobytes())
    same(preprocess(image, side), recipe(image, side))
    assert (image.mode, image.size, dict(image.info), image.tobytes()) == before


@pytest.mark.parametrize(("width", "height"), [(1, 4000), (4000, 1)])
def test_follows_the_recipe_at_extreme_shapes(width: int, height: int) -> None:
    same(preprocess(picture("L", width, height)), recipe(picture("L", width, height), 224))
    same(preprocess(picture("RGB", width, height), 32), recipe(picture("RGB", width, height), 32))


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(["L", "RGB", "RGBA", "P"]), st.integers(1, 90), st.floats(0.6, 6), st.integers(1, 60))
def test_follows_the_recipe_at_any_size(mode: str, height: int, ratio: float, side: int) -> None:
    image = picture(mode, max(1, int(height * ratio)), height)
    same(preprocess(image, side), recipe(image, side))


# mode, width, height, resolution: sha256 of the uint8 pixels [R, R, 3] of `recipe`, before they are normalised.
GOLDEN = {
    ("RGB", 500, 400, 224): "d2b49580298b3e2e",
    ("RGB", 100, 230, 32): "8fddf00207eebebc",
    ("RGB", 301, 900, 224): "58dc8831c965560a",
    ("L", 61, 433, 48): "b81530eaa3e5cecc",
    ("RGBA", 90, 333, 40): "ae4df9c494557df7",
    ("LA", 120, 400, 64): "9c5064b755f903e3",
    ("CMYK", 97, 311, 40): "2a2d9df96fbb74b7",
    ("RGB", 33, 97, 64): "2949c52c6afd69a6",
}


@pytest.mark.parametrize("case", GOLDEN, ids=str)
def test_gives_what_earlier_versions_of_pillow_gave(case: tuple[str, int, int, int]) -> None:
    mode, width, height, side = case
    levels = preprocess(picture(mode, width, height), side, mean=(0, 0, 0), std=(1, 1, 1)) * 255
    pixels = np.rint(levels).astype(np.uint8).transpose(1, 2, 0)
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == GOLDEN[case]


def without_antialias(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    across, down = image.width / size[0], image.height / size[1]
    return image.transform(size, Image.Transform.AFFINE, (across, 0, 0, 0, down, 0), BICUBIC)


def in_floats(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    bands = [np.asarray(band.convert("F").resize(size, BICUBIC)) for band in image.split()]
    return Image.merge(image.mode, [Image.fromarray(np.clip(np.rint(b), 0, 255).astype(np.uint8)) for b in bands])


MUTANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "the crop's offset rounded down": ("RGB", {"offset": lambda margin: margin // 2}),
    "the crop's offset with halves rounded up": ("RGB", {"offset": lambda margin: (margin + 1) // 2}),
    "RGB before the resize, palette": ("P", {"rgb_first": True}),
    "RGB before the resize, alpha": ("RGBA", {"rgb_first": True}),
    "bilinear": ("RGB", {"resize": lambda image, size: image.resize(size, Image.Resampling.BILINEAR)}),
    "Lanczos": ("RGB", {"resize": lambda image, size: image.resize(size, Image.Resampling.LANCZOS)}),
    "no antialias": ("RGB", {"resize": without_antialias}),
    "floats between the passes": ("RGB", {"resize": in_floats}),
    "the vertical pass first": (
        "RGB",
        {"resize": lambda image, size: image.resize((image.width, size[1]), BICUBIC).resize(size, BICUBIC)},
    ),
    "squashed, not cropped": ("RGB", {"resize": lambda image, size: image.resize((min(size),) * 2, BICUBIC)}),
    "BGR": ("RGB", {"flip": True}),
    "ImageNet's mean": ("RGB", {"mean": [0.485, 0.456, 0.406]}),
    "ImageNet's std": ("RGB", {"std": [0.229, 0.224, 0.225]}),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_mutant_of_the_recipe_differs(mutant: str) -> None:
    mode, deviation = MUTANTS[mutant]
    different = 0
    for width, height in [(53, 40), (49, 40)]:  # 3.5 and 2.5 pixels to crop
        image = picture(mode, width, height)
        same(preprocess(image, 24), recipe(image, 24))
        different += not np.array_equal(recipe(image, 24, **deviation), preprocess(image, 24))
    assert different


def test_mean_and_std_are_used_and_checked() -> None:
    image = picture("RGB", 9, 7)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    same(preprocess(image, 5, mean=mean, std=std), recipe(image, 5, mean=mean, std=std))
    for bad in ({"mean": 0.5}, {"std": (1, 1)}, {"std": (1, 0, 1)}, {"std": (1, float("nan"), 1)}):
        with pytest.raises(InputError, match="three numbers"):
            preprocess(image, 5, **bad)


@pytest.mark.parametrize(("width", "height"), [(61, 40), (40, 61), (24, 24), (11, 17)])
def test_other_resizes(width: int, height: int) -> None:
    image = picture("RGB", width, height)

    def bilinear(image: Image.Image, size: tuple[int, int]) -> Image.Image:
        return image.resize(size, Image.Resampling.BILINEAR)

    def squashed(kernel: Image.Resampling) -> Array:
        across = image.resize((24, height), kernel)  # first: Pillow 13 would take the greater shrink first
        return recipe(across.resize((24, 24), kernel), 24)

    same(preprocess(image, 24, interpolation="bilinear"), recipe(image, 24, resize=bilinear))
    same(preprocess(image, 24, resize_mode="squash"), squashed(BICUBIC))
    both = preprocess(image, 24, resize_mode="squash", interpolation="bilinear")
    same(both, squashed(Image.Resampling.BILINEAR))
    for option in ({"interpolation": "nearest"}, {"resize_mode": "longest"}):
        with pytest.raises(InputError, match="expected 'bicubic' or 'bilinear', and 'shortest' or 'squash'"):
            preprocess(image, 24, **option)  # type: ignore[arg-type]


RGB = picture("RGB", 50, 40)
PNG = encoded(RGB, "PNG")


def test_every_way_to_hand_over_an_image(tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    expected = recipe(RGB, 24)
    with path.open("rb") as file:
        file.read(5)
        same(preprocess(file, 24), expected)
        assert not file.closed
    for image in (path, str(path), PNG, bytearray(PNG), memoryview(PNG), io.BytesIO(PNG), RGB):
        same(preprocess(image, 24), expected)

    rgb, rgba = np.array(RGB), np.array(picture("RGBA", 50, 40))
    alpha = recipe(picture("RGBA", 50, 40), 24)
    for colours in (rgb, np.asfortranarray(rgb), rgb[::-1][::-1], rgb.transpose(2, 0, 1)):
        same(preprocess(colours, 24, input_color_format="rgb"), expected)
    for colours in (rgb[..., ::-1], rgb[..., ::-1].transpose(2, 0, 1)):
        same(preprocess(colours, 24), expected)
    same(preprocess(rgba, 24, input_color_format="rgb"), alpha)
    same(preprocess(rgba[..., [2, 1, 0, 3]], 24), alpha)
    same(preprocess(rgba[..., [2, 1, 0, 3]].transpose(2, 0, 1), 24), alpha)
    grey, expected = np.array(picture("L", 50, 40)), recipe(picture("L", 50, 40), 24)
    for array in (grey, grey[..., None], grey[None]):
        for color_format in ("bgr", "rgb"):
            same(preprocess(array, 24, input_color_format=color_format), expected)


class Viewed:
    """Something that numpy can view, as torch's tensors are."""

    def __init__(self, pixels: Array) -> None:
        self.pixels = pixels

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        return self.pixels


class Described:
    def __init__(self, pixels: Array) -> None:
        self.pixels, self.__array_interface__ = pixels, pixels.__array_interface__


@pytest.mark.parametrize("kind", [Viewed, Described])
def test_what_numpy_can_view(kind: Any) -> None:
    same(preprocess(kind(np.array(RGB)), 24, input_color_format="rgb"), recipe(RGB, 24))


class Tensor(Viewed):
    __module__ = "torch"


def test_a_tensor_is_rgb_and_channels_first() -> None:
    pixels = np.array(RGB)
    same(preprocess(Tensor(pixels.transpose(2, 0, 1)), 24), recipe(RGB, 24))
    same(preprocess(Tensor(pixels[..., ::-1].transpose(2, 0, 1)), 24, input_color_format="bgr"), recipe(RGB, 24))
    either = np.array(picture("RGB", 50, 40))[:3].transpose(2, 0, 1)  # [3, 3, W]
    same(preprocess(Tensor(either), 2), recipe(Image.fromarray(either.transpose(1, 2, 0).copy()), 2))


def test_channels_last_when_it_could_be_either() -> None:
    pixels = np.array(picture("RGB", 50, 40))[:3, :, :]
    same(preprocess(pixels, 2, input_color_format="rgb"), recipe(Image.fromarray(pixels), 2))


def test_arrays_are_not_changed_nor_kept() -> None:
    pixels = np.array(RGB)
    before = pixels.copy()
    pixels.flags.writeable = False
    preprocess(pixels, 24)
    preprocess(pixels, 40, input_color_format="rgb")
    np.testing.assert_array_equal(pixels, before)


def test_orientation_is_ignored() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    same(preprocess(encoded(RGB, "PNG", exif=exif), 24), recipe(RGB, 24))


def test_the_first_frame_of_an_animation() -> None:
    frames = [picture("L", 30 + i, 30 + i).crop((i, i, i + 30, i + 30)) for i in range(3)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert sum(1 for _ in ImageSequence.Iterator(Image.open(io.BytesIO(data)))) == 3
    with Image.open(io.BytesIO(encoded(frames[0], "GIF"))) as alone:
        same(preprocess(data, 24), recipe(alone, 24))


@pytest.mark.parametrize("transparency", [7, bytes(range(200))])
def test_a_palette_with_transparency(transparency: int | bytes) -> None:
    plain = picture("P", 50, 40)
    data = encoded(plain, "PNG", transparency=transparency)
    image = open_image(data)
    assert image.mode == "P"
    same(preprocess(data, 24), recipe(plain, 24))
    assert image.info["transparency"] == transparency


@pytest.mark.parametrize("mode", ["L", "RGB", "I;16"])
def test_a_transparent_colour(mode: str) -> None:
    transparency = (1, 2, 3) if mode == "RGB" else 5
    image = picture(mode, 50, 40)
    same(preprocess(encoded(image, "PNG", transparency=transparency), 24), recipe(image, 24))


@pytest.mark.parametrize("mode", ["PA", "La"])
def test_modes_that_pillow_cannot_resize(mode: str) -> None:
    image = picture("P", 50, 40).convert("PA") if mode == "PA" else picture("LA", 50, 40).convert("La")
    with pytest.raises(ImageError, match=f"mode {mode} .*Convert"):
        preprocess(image, 24)


def test_sixteen_bits_are_clipped_as_in_the_original() -> None:
    image = Image.fromarray(np.array([[0, 1, 254], [255, 256, 65535], [100, 300, 9]], np.uint16))
    levels = preprocess(image, 3, mean=(0, 0, 0), std=(1, 1, 1))[0] * 255
    assert np.rint(levels).tolist() == [[0, 1, 254], [255, 255, 255], [100, 255, 9]]


# Bad input


def refused(message: str, image: Any, **options: Any) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(image, 24, **options)


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


def png_header(width: int, height: int) -> bytes:
    """A picture whose header promises more than there is."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


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
