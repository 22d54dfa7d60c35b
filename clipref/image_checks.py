"""What an image file is checked for before Pillow decodes it: work and memory that its size in pixels doesn't tell.

A file of a few kilobytes can hold a thousand passes over a large picture, icons that are larger inside than outside, or
a list of a million parts. Pillow limits pixels and compressed texts; the rest is limited here, far above what real
pictures have. Everything raises ImageError that begins with what was found.

Truth: JPEG, ITU-T T.81, annex B (markers); TIFF 6.0, section 2 (directories); and what Pillow does with them.
"""

from __future__ import annotations

import re
import struct
from typing import IO, Any

from .errors import ImageError

# libtiff allows as many in a JPEG inside of a TIFF; of a picture with many pixels fewer, but more than anybody writes:
# cameras about ten, libjpeg-turbo eighteen for four channels.
MAX_SCANS, ALLOWED_SCANS = 100, 20
MAX_SCANNED_PIXELS = 2**30
MAX_MARKERS = 2**16
MAX_JPEG_METADATA = 2**24

# Numbers in a TIFF's directories, strips and tiles among them. Pillow makes an object of each.
MAX_TIFF_VALUES = 2**18
MAX_TAGS = 2**16
MAX_TILE_PIXELS = 2**24

# 67 million pixels in tiles of 128 x 128 have as many.
MAX_JPEG_2000_TILES = 2**12

# macOS has icons of 1024 x 1024, Windows of 256 x 256.
MAX_ICON_SIDE = 1024

# Calls of `read` while a header is read, or the pixels of an image that has few, and bytes in one call.
MAX_READS = 2**18
MAX_READ = 2**29


class Meter:
    """A binary file that counts what is read of it, and ends it when it is too much.

    Pillow walks through headers in Python, some reads for every part, and reads some parts again and again.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._size = file.seek(0, 2)
        file.seek(0)
        self._calls = MAX_READS
        self._bytes: float = 4 * self._size + 2**20

    def allow_decoding(self, calls: int) -> None:
        """Allow the calls that reading pixels takes, from here on."""
        self._calls, self._bytes = MAX_READS + calls, float("inf")

    def read(self, size: int = -1) -> bytes:
        """Read as any file does. Raises ImageError."""
        if size is None or size < 0 or size > MAX_READ:
            left = max(self._size - self._file.tell(), 0)
            size = left if size is None or size < 0 else min(size, left)
            if size > MAX_READ:
                raise ImageError(f"{size} bytes are to be read at once, of at most {MAX_READ}; make the file smaller.")
        return self._count(self._file.read(size))

    def readline(self, size: int = -1) -> bytes:
        """Read a line as any file does. Raises ImageError."""
        return self._count(self._file.readline(size if 0 <= size < MAX_READ else MAX_READ))

    def _count(self, data: bytes) -> bytes:
        self._calls -= 1
        self._bytes -= len(data)
        if self._calls < 0 or self._bytes < 0:
            raise ImageError("it is made of more parts than an image has; save it anew.")
        return data

    def seek(self, offset: int, whence: int = 0) -> int:
        """Go to a place, as in any file."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """The place in the file."""
        return self._file.tell()

    def close(self) -> None:
        """Nothing: who opened the file closes it."""


def check_before_decoding(file: IO[bytes]) -> None:
    """Refuse a file with ImageError for what its format lets it hide; leave the file where it was."""
    before = file.tell()
    file.seek(0)
    start = file.read(4)
    if start[:3] == b"\xff\xd8\xff":
        _check_jpeg(file)
    elif start in (b"II*\0", b"MM\0*", b"MM*\0", b"II\0*", b"MM\0+", b"II+\0"):
        file.seek(0)
        check_tiff(file)
    elif start in (b"\xff\x4f\xff\x51", b"\0\0\0\x0c"):
        _check_jpeg_2000(file)
    elif start in (b"\0\0\1\0", b"icns"):
        _check_icons(file)
    elif start == b"BLP1" and file.read(4) == bytes(4):
        raise ImageError("a BLP texture with a JPEG inside, which isn't opened; save it as PNG or JPEG.")
    file.seek(before)


def _check_jpeg(file: IO[bytes]) -> None:
    """Markers and metadata before the first scan, and how many scans there are."""
    file.seek(0)
    data = file.read(MAX_READ)
    at, markers, metadata, components, progressive, scans = 2, 0, 0, 0, False, MAX_SCANS
    while found := _MARKER.search(data, at):
        at, code = found.end(), found[1][0]
        if code in _ALONE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if code == 0xDA:
            # One scan with all components is all that a sequential JPEG has.
            if (progressive or data[at + 2 : at + 3] != bytes([components])) and _has_more_scans(data, at, scans):
                raise ImageError(f"a JPEG of over {scans} scans, each a pass over all pixels; save it anew.")
            return
        if 0xC0 <= code < 0xD0 and code not in (0xC4, 0xC8, 0xCC):  # the frame
            progressive = code % 4 == 2
            height, width, components = struct.unpack(">HHB", data[at + 3 : at + 8].ljust(5, b"\0"))
            scans = min(MAX_SCANS, max(ALLOWED_SCANS, MAX_SCANNED_PIXELS // max(height * width, 1)))
        at += length
        markers += 1
        metadata += length if code >= 0xE0 else 0
        if markers > MAX_MARKERS or metadata > MAX_JPEG_METADATA:
            raise ImageError("a JPEG with more metadata than an image has; save it anew without.")


# A byte of 255 within a scan is followed by 0 or by a restart marker, if it is no marker.
_MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")
_ALONE = (0x01, 0xD8)  # markers that no segment follows


def _has_more_scans(data: bytes, at: int, most: int) -> bool:
    """Whether there are more scans, from the one whose marker ends at `at`."""
    if data.count(b"\xff\xda", at) < most:  # whatever they are
        return False
    scans, code = 1, 0xDA
    while scans <= most and code != 0xD9:
        at += 0 if code in _ALONE else int.from_bytes(data[at : at + 2], "big")
        found = _MARKER.search(data, at)
        if not found:
            break
        at, code = found.end(), found[1][0]
        scans += code == 0xDA
    return scans > most


# Bytes in each number of a kind that Pillow makes objects of; the other kinds are bytes and texts.
_NUMBER_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}
_DIRECTORIES = (0x8769, 0x8825, 0xA005)  # EXIF, GPS, interoperability
_TILE_WIDTH, _TILE_LENGTH = 322, 323


def check_tiff(file: IO[bytes]) -> None:
    """Refuse a TIFF, or EXIF, for what its first directory holds and those of EXIF that hang on it."""
    file.seek(0)
    start = file.read(4)
    # Pillow takes a big-endian BigTIFF for a small one, or doesn't.
    for big in (True, False) if start == b"MM\0+" else (43 in start[2:],):
        _check_directories(file, "<" if start[:2] == b"II" else ">", big)


def _check_directories(file: IO[bytes], order: str, big: bool) -> None:
    end = file.seek(0, 2)
    entry = struct.Struct(order + ("HHQ8s" if big else "HHI4s"))
    values = 0
    tile = {_TILE_WIDTH: 1, _TILE_LENGTH: 1}

    def number(data: bytes) -> int:
        return int.from_bytes(data, "little" if order == "<" else "big")

    file.seek(8 if big else 4)
    pending, seen = [number(file.read(8 if big else 4))], set[int]()
    while pending:
        offset = pending.pop()
        if offset in seen or offset > end:
            continue
        seen.add(offset)
        file.seek(offset)
        entries = number(file.read(8 if big else 2))
        if entries > MAX_TAGS:
            raise ImageError("a TIFF with more tags than an image has; save it anew.")
        data = file.read(entries * entry.size)
        for tag, kind, count, value in entry.iter_unpack(data[: len(data) // entry.size * entry.size]):
            size = _NUMBER_BYTES.get(kind, 0)
            values += count if 0 < count * size <= end else 0
            first = number(value[:size])
            if tag in _DIRECTORIES and size:
                pending.append(first)
            elif tag in tile:
                tile[tag] = first
    if values > MAX_TIFF_VALUES or tile[_TILE_WIDTH] * tile[_TILE_LENGTH] > MAX_TILE_PIXELS:
        raise ImageError("a TIFF of more, or larger, parts than an image has; save it anew.")


def _check_jpeg_2000(file: IO[bytes]) -> None:
    """Count tiles, for each of which OpenJPEG sets some kilobytes aside."""
    file.seek(0)
    for found in re.finditer(rb"\xff\x4f\xff\x51.{4}(.{32})", file.read(MAX_READ), re.DOTALL):
        width, height, _, _, tile_width, tile_length, left, top = struct.unpack(">8I", found[1])
        across, down = (width - left) // max(tile_width, 1) + 1, (height - top) // max(tile_length, 1) + 1
        if across * down > MAX_JPEG_2000_TILES:
            raise ImageError(
                f"a JPEG 2000 of {across * down} tiles; at most {MAX_JPEG_2000_TILES} are read. Save it anew."
            )


def _check_icons(file: IO[bytes]) -> None:
    """Sizes of the PNG and JPEG 2000 files inside, which needn't be those that the icon's own header promises."""
    file.seek(0)
    header = re.compile(rb"(?:IHDR|ihdr|\xff\x4f\xff\x51.{4})(?=(.{4})(.{4}))", re.DOTALL)
    for found in header.finditer(file.read(MAX_READ)):
        sides: Any = [int.from_bytes(side, "big") for side in found.groups()]
        if max(sides) > MAX_ICON_SIDE:
            raise ImageError(f"an icon of {sides[0]} x {sides[1]}; at most {MAX_ICON_SIDE} x {MAX_ICON_SIDE} are read.")
