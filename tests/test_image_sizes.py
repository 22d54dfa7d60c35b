"""Sizes by an image's header: told without decoding, refused where decoding would be."""

import io
import struct
import zlib

import pytest
from PIL import Image, ImageFile

from clipref import ImageError
from clipref.images import MAX_PIXELS, size_of


def png(width: int, height: int) -> bytes:
    """The beginning of a PNG that promises this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header)) + bytes(
        [0, 0, 0, 0]
    ) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP", "GIF", "TIFF"])
def test_the_size_is_told_without_decoding(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = io.BytesIO()
    Image.new("RGB", (37, 21)).save(file, kind)

    def decode(self: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(ImageFile.ImageFile, "load", decode)
    assert size_of(file) == (37, 21)


def test_what_would_not_be_decoded_has_no_size() -> None:
    assert size_of(io.BytesIO(png(8000, 8000))) == (8000, 8000)
    for data, says in (
        (png(9000, 9000), f"81000000 pixels; at most {MAX_PIXELS}"),
        (png(0, 5), "."),
        (b"", "zero bytes"),
        (b"text", "not an image but text"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "EPS"),
    ):
        with pytest.raises(ImageError, match=says):
            size_of(io.BytesIO(data))
    with pytest.raises(ImageError, match="at most 100"):
        size_of(io.BytesIO(png(20, 20)), max_pixels=100)
