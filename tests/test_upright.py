"""What EXIF says about up and down: followed where it is wanted, and nothing else changes."""

import io
import struct
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipref.preprocessing import open_image, preprocess

from .recipe import RGB, encoded, recipe, same

CORNERS = np.arange(7 * 5 * 3, dtype=np.uint8).reshape(5, 7, 3) * 2  # 7 wide, 5 high, all different
TURNED: dict[int, Callable[[Any], Any]] = {  # by the definition of EXIF: where the first row and the first column are
    1: lambda x: x,  # top, left
    2: lambda x: x[:, ::-1],  # top, right
    3: lambda x: x[::-1, ::-1],  # bottom, right
    4: lambda x: x[::-1],  # bottom, left
    5: lambda x: x.transpose(1, 0, 2),  # left, top
    6: lambda x: np.rot90(x, -1),  # right, top
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),  # right, bottom
    8: lambda x: np.rot90(x, 1),  # left, bottom
}


def with_orientation(value: int, format: str = "PNG", **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = value
    return encoded(Image.fromarray(CORNERS), format, exif=exif, **options)


@pytest.mark.parametrize("orientation", TURNED)
def test_upright(orientation: int, tmp_path: Path) -> None:
    expected = np.ascontiguousarray(TURNED[orientation](CORNERS))
    for format, options in (("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("TIFF", {"compression": "lzw"})):
        options = {"compression": "tiff_lzw"} if options.get("compression") else options
        data = with_orientation(orientation, format, **options)
        path = tmp_path / "image"
        path.write_bytes(data)
        loaded = Image.open(io.BytesIO(data))
        loaded.load()
        for image in (data, path, io.BytesIO(data), Image.open(io.BytesIO(data)), loaded):
            opened = open_image(image, upright=True)
            np.testing.assert_array_equal(np.asarray(opened.convert("RGB")), expected)
            same(preprocess(image, 4, upright=True), recipe(Image.fromarray(expected), 4))
        with Image.open(io.BytesIO(data)) as image:
            np.testing.assert_array_equal(np.asarray(ImageOps.exif_transpose(image).convert("RGB")), expected)
        seen = expected if format == "TIFF" else CORNERS  # Pillow turns TIFF files by itself
        same(preprocess(data, 4), recipe(Image.fromarray(seen), 4))


@pytest.mark.parametrize("format", ["JPEG", "MPO", "AVIF"])
def test_upright_in_formats_with_loss(format: str) -> None:
    if format == "AVIF" and "AVIF" not in Image.OPEN:
        pytest.skip("this Pillow has no AVIF")
    for orientation in TURNED:
        more = {"save_all": True, "append_images": [RGB]} if format == "MPO" else {}
        data = with_orientation(orientation, format, quality=95, **more)
        with Image.open(io.BytesIO(data)) as image:
            expected = ImageOps.exif_transpose(image)
        same(preprocess(data, 4, upright=True), recipe(expected, 4))
        levels = np.asarray(open_image(data, upright=True)).astype(int)
        assert levels.shape == TURNED[orientation](CORNERS).shape
        assert levels[0, 0].sum() < levels[-1, -1].sum() or orientation in (2, 3, 4, 6, 7, 8)


def test_upright_by_xmp() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    data = encoded(Image.fromarray(CORNERS), "JPEG", xmp=xmp)
    with Image.open(io.BytesIO(data)) as image:
        same(preprocess(data, 4, upright=True), recipe(ImageOps.exif_transpose(image), 4))


def exif_png(exif: bytes) -> bytes:
    return encoded(Image.fromarray(CORNERS), "PNG", exif=exif)


def test_orientations_that_say_nothing_are_ignored() -> None:
    entry = struct.Struct("<HHHII")
    broken = [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"no exif", b"Exif\0\0" * 3, bytes(300)]
    broken += [
        b"II*\0\x08\0\0\0" + entry.pack(1, 0x0112, kind, 1, value) for kind, value in ((3, 0), (3, 9), (4, 2**31))
    ]
    broken += [b"II*\0\x08\0\0\0" + entry.pack(1, 0x0112, kind, 9, 8) for kind in (2, 5, 7, 12)]
    broken += [b"II*\0\x08\0\0\0" + entry.pack(1, 0x0112, 3, 300_000, 22) + b"\6\0" * 300_000]
    for exif in broken:
        same(preprocess(exif_png(exif), 4, upright=True), recipe(Image.fromarray(CORNERS), 4))
    same(preprocess(CORNERS, 4, upright=True, input_color_format="rgb"), recipe(Image.fromarray(CORNERS), 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for exif in broken:
            open_image(Image.open(io.BytesIO(exif_png(exif))), upright=True)


def test_upright_leaves_the_image_given_alone() -> None:
    image = Image.open(io.BytesIO(with_orientation(6)))
    for _ in range(2):
        same(preprocess(image, 4, upright=True), recipe(Image.fromarray(np.rot90(CORNERS, -1).copy()), 4))
    same(preprocess(image, 4), recipe(Image.fromarray(CORNERS), 4))
    assert image.size == (7, 5)
