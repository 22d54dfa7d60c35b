"""The pictures that are asked about, as PNG files: whole-number arithmetic and Python's standard library, no generator.

The bytes are the same on every machine, whatever library compresses there, because nothing is compressed (it would save
a third). So questions that were exported or packed are known by their digests. The format is that of
https://www.w3.org/TR/png-3/.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from functools import cache

import numpy as np

from .protocol import Array

# Kinds of picture by mode, as Pillow calls them: bits a sample, and PNG's colour type.
_KINDS = {"1": (1, 0), "L": (8, 0), "I;16": (16, 0), "RGB": (8, 2), "P": (8, 3), "LA": (8, 4), "RGBA": (8, 6)}
_BANDS = {"L": 1, "P": 1, "LA": 2, "RGB": 3, "RGBA": 4}
_KEY = (17, 130, 240)  # the colour that is transparent
# A TIFF header and one entry: Orientation (0x0112), one SHORT, 6, which is "turn by a quarter to stand upright".
_TURNED = struct.pack("<2sHI H HHIHH I", b"II", 42, 8, 1, 0x0112, 3, 1, 6, 0, 0)
_STORED = 0xFFFF  # bytes of a block of DEFLATE that isn't compressed, at most


@cache
def png(mode: str, width: int, height: int) -> Array:
    """The bytes of a picture's file, as uint8, read-only: sharp edges, the full range of values.

    "RGB with EXIF" has to be turned by a quarter to stand upright; in modes "with tRNS" half of it is transparent.
    """
    mode, _, extra = mode.partition(" with ")
    mixed = _mixture(width, height, _BANDS.get(mode, 1))
    chunks = []
    if mode == "P":
        chunks.append((b"PLTE", (np.arange(768) * 37 % 256).astype(np.uint8).tobytes()))
    if mode == "1":
        rows = np.packbits(mixed[..., 0] % 256 > 100, axis=1)
    elif mode == "I;16":
        rows = (mixed[..., 0] % 400).astype(">u2")
    else:
        rows = (mixed % 256).astype(np.uint8)
    if extra == "EXIF":
        chunks.append((b"eXIf", _TURNED))
    elif extra == "tRNS" and mode == "P":
        chunks.append((b"tRNS", bytes(i % 2 * 255 for i in range(256))))
    elif extra == "tRNS":
        rows[mixed[..., 0] % 256 < 128] = _KEY
        chunks.append((b"tRNS", struct.pack(">3H", *_KEY)))
    header = struct.pack(">2I5B", width, height, *_KINDS[mode], 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in rows)  # each with its filter, which is none
    data = _file([(b"IHDR", header), *chunks, (b"IDAT", _stored_stream(lines))])
    return np.frombuffer(data, np.uint8)


def compressed_png(levels: Array) -> bytes:
    """The file of levels [H, W, 3] uint8, as small as the library makes it here."""
    height, width, _ = levels.shape
    header = struct.pack(">2I5B", width, height, *_KINDS["RGB"], 0, 0, 0)
    lines = b"".join(b"\0" + row.tobytes() for row in levels)
    return _file([(b"IHDR", header), (b"IDAT", zlib.compress(lines))])


def _mixture(width: int, height: int, bands: int) -> Array:
    """Whole numbers [H, W, bands] without a pattern that a filter would not see."""
    y, x, band = (axis.astype(np.int64) for axis in np.ogrid[:height, :width, :bands])
    mixed: Array = (x * x * 7 + y * y * 13 + x * y * 5 + x // 3 * 91 + y // 4 * 57 + band * 83) * 2654435761 >> 13
    return mixed


def _file(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, data in [*chunks, (b"IEND", b"")]:
        parts += [struct.pack(">I", len(data)), kind, data, struct.pack(">I", zlib.crc32(kind + data))]
    return b"".join(parts)


def _stored_stream(data: bytes) -> bytes:
    """A stream of zlib's (RFC 1950) whose blocks are stored as they are (RFC 1951, 3.2.4)."""
    return b"\x78\x01" + b"".join(_blocks(data)) + struct.pack(">I", zlib.adler32(data))


def _blocks(data: bytes) -> Iterator[bytes]:
    for start in range(0, len(data), _STORED):
        block = data[start : start + _STORED]
        last = start + _STORED >= len(data)
        yield struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block
