"""Pixels against an independent statement of the original's recipe, bit for bit.

For tall images that are made smaller, Pillow 13.0 may differ from the Pillow that CLIP was made with
(https://github.com/python-pillow/Pillow/pull/9549); there, GOLDEN holds what Pillow 10.3.0 and 12.0.0 both gave for
the recipe.
"""

import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageSequence

from clipref.errors import ImageError, InputError
from clipref.preprocessing import open_image, preprocess

from .recipe import BICUBIC, MODES, PNG, RGB, Array, encoded, picture, recipe, same


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


@pytest.mark.parametrize(("width", "height"), [pytest.param(1, 4000, marks=pytest.mark.slow), (4000, 1)])
def test_follows_the_recipe_at_extreme_shapes(width: int, height: int) -> None:
    short = picture("L", min(width, 600), min(height, 600))  # of 224 x 134,400 pixels, between the two passes
    same(preprocess(short), recipe(short, 224))
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
