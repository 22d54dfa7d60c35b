"""Image files: which formats are opened, and how a file becomes a decoded PIL image without harm or surprise.

Pillow does the decoding, with its formats chosen in one table. It stays with what is in the file: nothing that starts a
program, reads another file, or hands the content to whichever format it claims to be inside. What a header promises is
checked before anything is decoded, and threads share the memory that decoding takes.

Whatever is wrong with a file becomes an ImageError, since Pillow's parsers raise what malformed bytes lead them to.
"""

from __future__ import annotations

import errno
import io
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from . import image_locks
from .arguments import brief
from .errors import ImageError
from .files import open_regular
from .image_checks import MAX_READ, Meter, check_before_decoding, check_tiff

if TYPE_CHECKING:
    from PIL.Image import Image

# RGBA takes a quarter of a gigabyte then. The largest photographs of most cameras and telephones have 61 million.
MAX_PIXELS = 2**26

# How many usual pixels one is worth that a decoder written in Python makes: those take a microsecond or more.
PYTHON_WEIGHT = 16

# Bytes of a pixel: decoded, and once more while it is decoded or turned.
BYTES_PER_PIXEL = 8


@dataclass(frozen=True)
class Format:
    """A format that Pillow, or a plugin of it, registers: whether it is opened, and why.

    `weight` is how many pixels of other formats one is worth, in memory while it is decoded.
    """

    opened: bool
    why: str
    weight: int = 1


_PIXELS = Format(True, "pixels, decoded by Pillow's own C code")
_PYTHON = Format(True, "pixels, some kinds of which Pillow decodes in Python: those may have fewer")
_UNKNOWN = Format(False, "nobody has said in clipref's table of formats what it does")
_STUB = Format(False, "Pillow hands it to a handler that other software registers, and can't decode it itself")

# Formats by Pillow's names, in the order in which Pillow tries them. A test fails when Pillow registers one that isn't
# here.
FORMATS: Mapping[str, Format] = {
    "BMP": _PYTHON,
    "DIB": _PYTHON,
    "GIF": _PIXELS,
    "JPEG": _PIXELS,
    "PPM": _PYTHON,
    "PNG": _PIXELS,
    "MPO": Format(True, "several JPEGs in one file, opened as the first"),
    "AVIF": Format(True, "one AV1 picture, decoded in memory by libavif, in planes and then in colours", 2),
    "HEIF": Format(True, "decoded in memory by libheif, where pi-heif or pillow-heif is registered"),
    "BLP": _PYTHON,
    "BUFR": _STUB,
    "CUR": _PYTHON,
    "PCX": _PIXELS,
    "DCX": _PIXELS,
    "DDS": _PYTHON,
    "EPS": Format(False, "a PostScript program, which Pillow gives to Ghostscript to run"),
    "FITS": _PYTHON,
    "FLI": _PIXELS,
    "FPX": Format(False, "a compound document of pictures in any format, which Pillow opens by way of olefile"),
    "FTEX": _PIXELS,
    "GBR": _PIXELS,
    "GRIB": _STUB,
    "HDF5": _STUB,
    "JPEG2000": Format(True, "decoded by OpenJPEG, in four bytes a channel", 4),
    "ICNS": Format(True, "icons, as pixels or as PNG or JPEG 2000, by Pillow's classes for these"),
    "ICO": Format(True, "icons, as BMP or PNG, by Pillow's classes for these"),
    "IM": _PIXELS,
    "IMT": _PIXELS,
    "IPTC": Format(False, "news text with a file in it, which Pillow opens in any format, EPS too"),
    "MCIDAS": _PIXELS,
    "MIC": Format(False, "a compound document, which Pillow opens by way of olefile"),
    "MPEG": Format(False, "a video, of which Pillow reads the header only"),
    "TIFF": _PIXELS,
    "MSP": _PYTHON,
    "PCD": _PIXELS,
    "PIXAR": _PIXELS,
    "PSD": Format(True, "the flattened picture of a Photoshop file; its layers aren't touched"),
    "QOI": _PYTHON,
    "SGI": _PYTHON,
    "SPIDER": _PIXELS,
    "SUN": _PIXELS,
    "TGA": _PIXELS,
    "WEBP": Format(True, "decoded by libwebp, which keeps two canvases for animations", 2),
    "WMF": Format(False, "drawing commands, which Pillow gives to the operating system to draw"),
    "XBM": _PIXELS,
    "XPM": _PYTHON,
    "XVTHUMB": _PIXELS,
}

SUFFIXES: frozenset[str]  # of the formats that are opened, such as ".png"; computed when first asked for


def __getattr__(name: str) -> Any:
    if name != "SUFFIXES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    opened = {*opened_formats(), "MPO"}
    return frozenset(suffix for suffix, kind in image_locks.pillow().registered_extensions().items() if kind in opened)


def opened_formats() -> tuple[str, ...]:
    """Names of the formats that this installation of Pillow opens and we let it."""
    registered = image_locks.pillow().OPEN
    return tuple(name for name, kind in FORMATS.items() if kind.opened and name in registered)


@contextmanager
def decoded_path(path: str | os.PathLike[str], max_pixels: int, upright: bool) -> Iterator[Image]:
    """The first picture of a file, decoded, and room for it in memory meanwhile."""
    try:
        name = os.fsdecode(path)
    except Exception as error:  # raised by whoever wrote the object's __fspath__
        raise ImageError(f"The {type(path).__name__} gives no path: {error}.") from error
    try:
        file = open_regular(name)
    except (OSError, ValueError) as error:
        raise ImageError(f"{brief(name)}: {_reason_not_opened(name, error)}") from error
    with file, decoded_file(file, brief(name), max_pixels, upright) as image:
        yield image


def size_of(file: IO[bytes], name: str = "the bytes given", max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """Width and height of the picture in a binary file that nobody else reads, as its header promises them.

    Nothing is decoded. Raises ImageError where `decoded_file` would before it decodes.
    """
    image, _ = _identify(file, name, max_pixels)
    check_size(image.size, name, max_pixels // _weight(image, name))
    return image.size


@contextmanager
def decoded_file(file: IO[bytes], name: str, max_pixels: int, upright: bool) -> Iterator[Image]:
    """The first picture of a binary file that nobody else reads, decoded, and room for it in memory meanwhile."""
    image, meter = _identify(file, name, max_pixels)
    # A decoder in Python reads a pixel, or a part of one, at a time; a PNG comes in pieces of some kilobytes.
    pixels = image.width * image.height
    meter.allow_decoding(4 * pixels if _in_python(image) else pixels // 64)
    with decoded_image(image, name, max_pixels, upright) as picture:
        yield picture


def _identify(file: IO[bytes], name: str, max_pixels: int) -> tuple[Image, Meter]:
    """The first picture of a binary file, not decoded yet, and what counts what is read of the file."""
    image_module = image_locks.pillow()
    try:
        check_before_decoding(file)
        meter = Meter(file)
        with image_locks.pillow_silenced():
            image = image_module.open(meter, formats=opened_formats())
    except ImageError as error:
        raise ImageError(f"{name}: {error}") from error
    except image_module.DecompressionBombError as error:
        raise ImageError(
            f"{name}: {error} At most {max_pixels} pixels are read; for more, raise max_pixels= (of a "
            "command: --max-pixels) and PIL.Image.MAX_IMAGE_PIXELS, which is Pillow's own limit."
        ) from error
    except image_module.UnidentifiedImageError as error:
        raise ImageError(f"{name}: {_description(file)}.") from error
    except Exception as error:  # Pillow's parsers raise whatever malformed bytes lead them to
        raise ImageError(
            f"{name}: not a sound image file ({type(error).__name__}: {error}); try to save it anew."
        ) from error
    return image, meter


@contextmanager
def decoded_image(image: Image, name: str, max_pixels: int, upright: bool) -> Iterator[Image]:
    """A PIL image with its pixels, which may have been in its file until now, and room for them in memory meanwhile."""
    with ExitStack() as stack:
        # Two threads would read each other's part of the file. The turn ends when the pixels are in memory.
        with image_locks.turn(image), image_locks.pillow_silenced():
            weight = _weight(image, name)
            check_size(image.size, name, max_pixels // weight)
            pixels = image.width * image.height
            stack.enter_context(image_locks.decoding_room(BYTES_PER_PIXEL * pixels * min(weight, 4)))
            try:
                file = getattr(image, "fp", None) if _is_lazy(image) else None
                if file and not isinstance(file, Meter):  # the caller opened it
                    check_before_decoding(file)
                image.load()
                if upright:
                    image = _upright(image)
            except ImageError as error:
                raise ImageError(f"{name}: {error}") from error
            except Exception as error:  # as above
                raise ImageError(
                    f"{name}: damaged or cut short ({type(error).__name__}: {error}); get the file again."
                ) from error
        yield image


def read_stream(stream: Any) -> io.BytesIO:
    """All bytes of an object with `read`, from its start if it can go there. Raises ImageError."""
    whole = io.BytesIO()
    with image_locks.turn(stream):
        with suppress(Exception):  # a stream without a way back is read from where it is
            stream.seek(0)
        try:
            for part in _parts(stream):
                if whole.write(part) and whole.tell() > MAX_READ:
                    break
        except Exception as error:  # raised by whoever wrote the file object
            raise ImageError(f"the file object can't be read: {error}; expected one opened in binary mode.") from error
    if whole.tell() > MAX_READ:
        raise ImageError(f"the file object has over {MAX_READ} bytes; expected one image.")
    return whole


def _parts(stream: Any) -> Iterator[bytes | bytearray | memoryview]:
    try:
        part = stream.read(2**20)
    except TypeError:  # some uploads give the whole only
        yield _checked_part(stream.read())
        return
    while _checked_part(part):
        yield part
        part = stream.read(2**20)


def _checked_part(part: Any) -> bytes | bytearray | memoryview:
    if isinstance(part, bytes | bytearray | memoryview):
        return part
    if hasattr(part, "__await__"):
        with suppress(AttributeError):
            part.close()
        raise TypeError("its read is asynchronous, so await it and pass the bytes")
    raise TypeError(f"its read gives {type(part).__name__}. Binary data is needed")


def check_size(size: tuple[int, ...], name: str, max_pixels: int) -> None:
    """Raise ImageError for an image of no pixels, or of too many."""
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(f"{name}: {width} x {height}, no pixels; expected at least one.")
    if width * height > max_pixels:
        raise ImageError(
            f"{name}: {width} x {height}, {width * height} pixels; at most {max_pixels} are read of this format. Make "
            "it smaller, or raise max_pixels= (of a command: --max-pixels)."
        )


def _is_lazy(image: Image) -> bool:
    """Whether the pixels are still in the file."""
    from PIL.ImageFile import StubImageFile

    return isinstance(image, StubImageFile) or bool(getattr(image, "tile", ())) or getattr(image, "_im", 1) is None


def _weight(image: Image, name: str) -> int:
    """How many pixels of other formats one of these is worth. Raises ImageError for what isn't to be decoded."""
    if not _is_lazy(image):
        return 1
    kind = FORMATS.get(image.format or "", _PIXELS)
    if not kind.opened:
        raise ImageError(f"{name} is {image.format}, which isn't opened: {kind.why}. Save it as PNG or JPEG.")
    return PYTHON_WEIGHT if _in_python(image) else kind.weight


def _in_python(image: Image) -> bool:
    """Whether a decoder of the pixels is written in Python."""
    decoders = image_locks.pillow().DECODERS
    return any(tile[0] in decoders for tile in getattr(image, "tile", ()))


def _upright(image: Image) -> Image:
    """The image as its EXIF or XMP says that it is to be seen. Pillow itself turns TIFF files, and then forgets it.

    Metadata that is damaged says nothing.
    """
    from PIL.Image import Transpose

    exif = image.info.get("exif")
    try:
        if isinstance(exif, bytes):
            check_tiff(io.BytesIO(exif.removeprefix(b"Exif\0\0")))
        orientation = image.getexif().get(0x0112)
    except Exception:  # Pillow raises what malformed bytes lead it to
        return image
    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _reason_not_opened(path: str, error: Exception) -> str:
    """Why a path can't be opened, and what to do."""
    address = re.match(r"(data:|[A-Za-z][A-Za-z0-9+.-]+://)", path)
    if address:
        return f"an address ({address[1]}…), no path; read it yourself and pass the bytes."
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        return "too long for a path; of an image in base64 pass base64.b64decode(…)."
    if isinstance(error, FileNotFoundError):
        return "no such file; expected the path of an image, or the image itself."
    if os.path.isdir(path):
        return "can't be opened: it is a folder; expected an image's path. For several give a list to embed_images."
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return f"can't be opened: {reason}; expected the path of an image file, or its bytes."


# How files begin that are taken for images, what they are, and what to do.
_BEGINNINGS = (
    (rb"version https://git-lfs", "a Git LFS pointer, which stands for the image; fetch it with git lfs pull"),
    (rb"\s*<(!doctype html|html|head|body)", "a web page; download the image itself"),
    (rb"\s*<(\?xml|svg)", "XML, such as an SVG drawing; save it as PNG"),
    (rb"%PDF", "a PDF document; save its page as PNG"),
    (rb"PK\x03\x04", "a zip archive; take the image out of it"),
    (rb"\x1f\x8b", "compressed by gzip; unpack it first"),
    (rb"....ftyp(hei|hev|mif1)", "a HEIF photograph; install pi-heif and call pi_heif.register_heif_opener()"),
    (rb"....ftypavi[fs]", "an AVIF picture, which Pillow reads from version 11.3 on"),
    (rb"....ftyp", "a video; take a frame out of it"),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "a JPEG XL picture, which Pillow doesn't read; save it as PNG or JPEG"),
)


def _description(file: IO[bytes]) -> str:
    """What a file is that can't be opened as an image, and what to do."""
    file.seek(0)
    start = file.read(1024)
    if not start:
        return "zero bytes; expected an image file, such as PNG or JPEG"
    for pattern, what in _BEGINNINGS:
        if re.match(pattern, start, re.DOTALL | re.IGNORECASE):
            return f"not an image but {what}"
    for name, (_, accept) in image_locks.pillow().OPEN.items():
        if not FORMATS.get(name, _UNKNOWN).opened and accept and accept(start[:16]) is True:
            return f"{name}, which isn't opened: {FORMATS.get(name, _UNKNOWN).why}. Save it as PNG or JPEG"
    if start.isascii() and start.decode("ascii").isprintable():
        return f"not an image but text, {start[:40].decode('ascii')!r}; expected an image file, such as PNG or JPEG"
    return "not an image in a format that is opened; expected an image file, such as PNG or JPEG"
