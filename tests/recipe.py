"""An independent statement of the original's recipe for pixels, and pictures to try it on.

It is torchvision's Resize, CenterCrop, ToTensor and Normalize as clip/clip.py of openai/CLIP combines them, with Pillow
called once.
"""

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref.errors import ImageError
from clipref.preprocessing import preprocess

Array = np.ndarray
MEAN, STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BICUBIC = Image.Resampling.BICUBIC


def picture(mode: str, width: int, height: int) -> Image.Image:
    """The same on every machine: whole-number arithmetic, no generator. Sharp edges, the full range of values."""
    bands = dict.fromkeys(["L", "P"], 1) | dict.fromkeys(["RGB", "YCbCr", "LAB", "HSV"], 3)
    bands |= dict.fromkeys(["RGBA", "RGBa", "RGBX", "CMYK"], 4) | {"LA": 2}
    y, x, band = (axis.astype(np.int64) for axis in np.ogrid[:height, :width, : bands.get(mode, 1)])
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


RGB = picture("RGB", 50, 40)
PNG = encoded(RGB, "PNG")


# Bad input
def refused(message: str, image: Any, **options: Any) -> None:
    with pytest.raises(ImageError, match=message):
        preprocess(image, 24, **options)


def png_header(width: int, height: int) -> bytes:
    """A picture whose header promises more than there is."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)
