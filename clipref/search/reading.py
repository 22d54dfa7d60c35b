"""A picture's file, read once: its sha256, its pixels, and what it tells of itself, all of the same bytes."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
import re
import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from numpy.typing import NDArray

from .. import image_locks
from ..errors import ImageError
from ..files import open_regular
from ..image_checks import MAX_READ, Meter, check_before_decoding, check_tiff
from ..images import opened_formats
from ..loading import preprocessor
from .records import Entry, Facts

if TYPE_CHECKING:
    from ..clip import CLIP

Array: TypeAlias = NDArray[Any]

# https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf, tables 3 to 9: tags of the IFD, and of EXIF's own.
ORIENTATION, DATE_TIME, EXIF_IFD, DATE_TIME_ORIGINAL = 0x0112, 0x0132, 0x8769, 0x9003
_DATE = re.compile(r"(\d{4})[:-](\d\d)[:-](\d\d)[ T](\d\d):(\d\d):(\d\d)")


class Looked(NamedTuple):
    """What became of a file: an entry of the store, and pixels [3, R, R] where they have to be embedded."""

    entry: Entry
    pixels: Array | None


def pixels_function(model: CLIP, upright: bool) -> Callable[[Any], Array]:
    """What makes pixels [3, R, R] of an image for this model, turned upright or not."""
    preprocess = dataclasses.replace(model.config.preprocess, upright=upright)
    return preprocessor(dataclasses.replace(model.config, preprocess=preprocess), None, model.max_pixels)


def look(
    path: str | os.PathLike[str], name: bytes, pixels_of: Callable[[bytes], Array], contents: Collection[bytes]
) -> Looked | None:
    """Read a file; None if it has vanished. `name` is its path in the store, `contents` the sha256 that have a vector.

    What is wrong with the file becomes the entry's error. A file that could not be read, or was written to meanwhile,
    has no time, so that it is looked at again.
    """
    tried_at = time.time_ns()
    try:
        with open_regular(path) as file:
            before = os.fstat(file.fileno())
            data = file.read(MAX_READ + 1)
            after = os.fstat(file.fileno())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        return Looked(Entry(name, 0, None, tried_at, error=f"can't be read: {reason}"), None)
    still = (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns)
    entry = Entry(name, after.st_size, after.st_mtime_ns if still else None, tried_at)
    return look_at(data, entry, pixels_of, contents)


def look_at(data: bytes, entry: Entry, pixels_of: Callable[[bytes], Array], contents: Collection[bytes] = ()) -> Looked:
    """Give the entry of a file its content, or what is wrong with it; and the pixels where they are to be embedded."""
    if len(data) > MAX_READ:
        entry.error = f"it has over {MAX_READ} bytes; expected one picture"
        return Looked(entry, None)
    sha256 = hashlib.sha256(data).digest()
    if sha256 in contents:
        entry.sha256 = sha256
        return Looked(entry, None)
    try:
        pixels = pixels_of(data)
    except ImageError as error:
        entry.error = str(error).removeprefix("the bytes given: ")
        return Looked(entry, None)
    entry.sha256, entry.facts = sha256, facts_of(data)
    return Looked(entry, pixels)


def facts_of(data: bytes) -> Facts:
    """What the header of a picture tells, of bytes that were decoded before, so that all checks were passed.

    Metadata that is damaged tells nothing.
    """
    try:
        file = io.BytesIO(data)
        check_before_decoding(file)
        with image_locks.pillow_silenced():
            image: Any = image_locks.pillow().open(Meter(file), formats=opened_formats())
            width, height = image.size
    except Exception:  # Pillow's parsers raise whatever malformed bytes lead them to
        return Facts()
    try:
        with image_locks.pillow_silenced():
            exif = image.info.get("exif")
            if isinstance(exif, bytes):
                check_tiff(io.BytesIO(exif.removeprefix(b"Exif\0\0")))
            tags = image.getexif()
            orientation = tags.get(ORIENTATION)
            taken = tags.get_ifd(EXIF_IFD).get(DATE_TIME_ORIGINAL) or tags.get(DATE_TIME)
    except Exception:  # as above
        return Facts(width, height)
    valid = isinstance(orientation, int) and 1 <= orientation <= 8
    return Facts(width, height, orientation if valid else None, date_of(taken))


def date_of(text: Any) -> str | None:
    """EXIF's date, "2024:05:01 12:30:00", as "2024-05-01 12:30:00"; None for what is none, such as zeros."""
    found = _DATE.match(text) if isinstance(text, str) else None
    if not found or not (1 <= int(found[2]) <= 12 and 1 <= int(found[3]) <= 31):
        return None
    return "{}-{}-{} {}:{}:{}".format(*found.groups())
