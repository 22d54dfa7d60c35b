"""Files made to do harm: each is refused for what its format let it hide, and sound files of the kind aren't.

They are made here, small, since what they hold is refused by its number. Pillow's own refusals aren't tested.
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, features

from clipref import image_checks
from clipref.errors import ImageError
from clipref.image_checks import Meter, check_before_decoding
from clipref.preprocessing import open_image, preprocess

from .recipe import PNG, RGB, encoded, picture, png_header, refused, same


def jpeg(scans: int, width: int = 16, height: int = 16, progressive: bool = True, padding: bytes = b"") -> bytes:
    """The first scan again and again."""
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG", progressive=progressive))
    frame = data.find(b"\xff\xc2" if progressive else b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    scan = data.find(b"\xff\xda")
    header = bytes(data[scan : scan + 2 + int.from_bytes(data[scan + 2 : scan + 4], "big")])
    return bytes(data[:scan]) + (header + padding) * scans + b"\xff\xd9"


def test_scans_of_a_jpeg_are_bounded() -> None:
    open_image(jpeg(90))
    for image in (jpeg(101), jpeg(5000, 8000, 8000), jpeg(200, padding=b"\xff"), Image.open(io.BytesIO(jpeg(101)))):
        refused("JPEG of over .* scans", image)
    refused("over 20 scans", jpeg(21, 8000, 8000))
    refused("over 100 scans", jpeg(5000, 8, 8))


def test_what_looks_like_scans_is_not_counted() -> None:
    """In metadata, after the end, or in a picture that has one scan whatever follows."""
    plain, progressive = (encoded(RGB, "JPEG", progressive=kind) for kind in (False, True))
    many = b"\xff\xda" * 300
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(many)) + many
    for data in (plain, progressive):
        for image in (data + many, data[:2] + comment + data[2:]):
            check_before_decoding(io.BytesIO(image))
    several = encoded(RGB, "MPO", save_all=True, append_images=[RGB] * 3, progressive=True)
    check_before_decoding(io.BytesIO(several))


def segments(marker: int, body: bytes, count: int) -> bytes:
    data = encoded(RGB, "JPEG")
    return data[:2] + (bytes([0xFF, marker]) + struct.pack(">H", 2 + len(body)) + body) * count + data[2:]


def chunk(name: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png_with(extra: bytes, last: bool = False) -> bytes:
    at = len(PNG) - 12 if last else 33
    return PNG[:at] + extra + PNG[at:]


def gif_with_a_comment(blocks: int) -> bytes:
    data = encoded(picture("L", 16, 16), "GIF")
    at = 13 + 3 * 2 ** ((data[10] & 7) + 1)
    return data[:at] + b"!\xfe" + (b"\xff" + b"a" * 255) * blocks + b"\0" + data[at:]


def test_a_flood_of_small_parts_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_checks, "MAX_READS", 3000)
    monkeypatch.setattr(image_checks, "MAX_MARKERS", 1000)
    boxes = encoded(RGB, "JPEG2000")
    for data in (
        png_with(chunk(b"tIME") * 2000),
        png_with(chunk(b"tIME") * 2000, last=True),
        png_with(chunk(b"IDAT") * 2000),
        gif_with_a_comment(2000),
        segments(0xFE, b"", 2000),
        boxes[:12] + struct.pack(">I4s", 8, b"free") * 4000 + boxes[12:],
        b"icns" + struct.pack(">I", 8 + 8 * 4000) + struct.pack(">4sI", b"TOC ", 8) * 4000,
    ):
        refused("more parts than an image has|more metadata than", data)
    for data in (PNG, gif_with_a_comment(5), segments(0xFE, b"", 20)):
        open_image(data)


def test_metadata_of_a_jpeg_is_bounded() -> None:
    exif = b"Exif\0\0" + bytes(65000)
    open_image(segments(0xE1, exif, 10))
    refused("more metadata than an image has", segments(0xE1, exif, 300))


def test_a_meter_bounds_what_is_read() -> None:
    meter = Meter(io.BytesIO(bytes(1000)))
    assert meter.read(10) == bytes(10) and meter.tell() == 10 and meter.readline() == bytes(990)
    with pytest.raises(ImageError, match="more parts"):
        for _ in range(2000):  # again and again
            meter.seek(0)
            meter.read()


def tiff(*entries: tuple[int, int, int, int], data: bytes = b"", order: str = "<", big: bool = False) -> bytes:
    """Grey, 16 x 16, of these entries (tag, type, count, value) beside the needed ones; `data` begins at 1000."""
    needed: dict[int, tuple[int, int, int]] = {
        256: (4, 1, 16),
        257: (4, 1, 16),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        277: (3, 1, 1),
    }
    needed |= {278: (4, 1, 16), 273: (4, 1, 500), 279: (4, 1, 256)} | {
        tag: (kind, count, value) for tag, kind, count, value in entries
    }
    directory = b""
    for tag, (kind, count, value) in sorted(needed.items()):
        width = {3: 2}.get(kind, 8 if big else 4) if count == 1 else (8 if big else 4)
        packed = value.to_bytes(width, "little" if order == "<" else "big").ljust(8 if big else 4, b"\0")
        directory += struct.pack(order + ("HHQ" if big else "HHI"), tag, kind, count) + packed
    mark = b"II" if order == "<" else b"MM"
    head = mark + (struct.pack(order + "HHHQ", 43, 8, 0, 16) if big else struct.pack(order + "HI", 42, 8))
    whole = head + struct.pack(order + ("Q" if big else "H"), len(needed)) + directory + bytes(8)
    return whole.ljust(500, b"\0").ljust(1000, b"\x55") + data


@pytest.mark.parametrize(("order", "big"), [("<", False), (">", False), ("<", True)])
def test_numbers_in_a_tiff_are_bounded(order: str, big: bool) -> None:
    open_image(tiff(order=order, big=big))
    many = 300_000
    strips = tiff((273, 4, many, 1000), (279, 4, many, 1000), data=bytes(4 * many), order=order, big=big)
    orientations = tiff((274, 3, many, 1000), data=bytes(2 * many), order=order, big=big)
    inner = struct.pack(order + ("QHHQQ" if big else "HHHII"), 1, 0x9204, 5, many, 1030)
    exif = tiff((0x8769, 4, 1, 1000), data=inner.ljust(30, b"\0") + bytes(8 * many), order=order, big=big)
    tile = tiff((322, 4, 1, 30_000), (323, 4, 1, 30_000), (324, 4, 1, 500), (325, 4, 1, 9), order=order, big=big)
    for data in (strips, orientations, exif, tile):
        refused("more, or larger, parts than an image has", data)
        lazy = Image.open(io.BytesIO(data)) if data is tile else None
        if lazy:
            refused("more, or larger, parts", lazy)


def test_damage_in_a_tiff_that_pillow_reads_over_is_read_over() -> None:
    plain = preprocess(tiff(), 8)
    for damage in ((0x9286, 3, 10_000_000, 1000), (0x8769, 4, 1, 10**9), (0x8769, 4, 1, 8), (40000, 99, 9, 9)):
        same(preprocess(tiff(damage), 8), plain)
    refused("more tags than", b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, 10**6))


def ico(content: bytes) -> bytes:
    return struct.pack("<3HBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(content), 22) + content


def icns(content: bytes) -> bytes:
    return b"icns" + struct.pack(">I", 16 + len(content)) + b"ic07" + struct.pack(">I", 8 + len(content)) + content


def test_an_icon_is_no_larger_inside_than_icons_are() -> None:
    small = encoded(picture("RGBA", 128, 128), "PNG")
    for wrap in (ico, icns):
        open_image(wrap(small))
        refused("an icon of 13000 x 13000; at most 1024", wrap(png_header(13_000, 13_000)))
        twice = png_header(16, 16)[:33] + png_header(13_000, 13_000)[8:]
        refused("an icon of 13000 x 13000", wrap(twice))
    if features.check("jpg_2000"):
        for data in (encoded(Image.new("L", (1, 1025)), "JPEG2000", no_jp2=no) for no in (True, False)):
            refused("an icon of 1 x 1025|1025 x 1", icns(data))


def test_a_jpeg_in_a_blp_is_refused() -> None:
    content = encoded(picture("RGB", 16, 16), "JPEG")
    header = b"BLP1" + struct.pack("<iIIIii", 0, 0, 16, 16, 5, 0)
    at = len(header) + 132
    data = header + struct.pack("<16I", at, *[0] * 15) + struct.pack("<16I", len(content), *[0] * 15) + bytes(4)
    refused("JPEG inside", data + content)


@pytest.mark.skipif(not features.check("jpg_2000"), reason="this Pillow has no JPEG 2000")
def test_tiles_of_a_jpeg_2000_are_bounded() -> None:
    data = bytearray(encoded(Image.new("L", (200, 200)), "JPEG2000", no_jp2=True))
    struct.pack_into(">II", data, 24, 1, 1)
    refused("40401 tiles", bytes(data))


def test_formats_that_take_more_are_allowed_fewer_pixels() -> None:
    plain = b"P2 40 50 255\n" + b"1 " * 2000
    open_image(plain, max_pixels=32_000)
    refused("2000 pixels; at most 1999 are read of this format", plain, max_pixels=31_999)
    open_image(encoded(RGB, "PPM"), max_pixels=2000)  # in binary, decoded in C
    webp = encoded(RGB, "WEBP")
    open_image(webp, max_pixels=4000)
    refused("at most 1999", webp, max_pixels=3999)


def test_memory_of_a_resize_is_bounded() -> None:
    for shape in [(3000, 1, 3), (1, 3000, 3)]:
        with pytest.raises(ImageError, match="more than 268435456 bytes. Crop"):
            preprocess(np.zeros(shape, np.uint8), 224)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("resize_mode", ["shortest", "squash"])
def test_alpha_is_multiplied_some_rows_at_a_time(mode: str, resize_mode: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for size, side in [((50, 41), 24), ((41, 50), 70), ((30, 24), 24), ((24, 93), 24)]:
        image = picture(mode, *size)
        whole = preprocess(image, side, resize_mode=resize_mode)
        with monkeypatch.context() as patch:
            patch.setattr("clipref.preprocessing.BLOCK_PIXELS", 7 * size[0])
            same(preprocess(image, side, resize_mode=resize_mode), whole)
