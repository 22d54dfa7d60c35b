"""Files made to do harm, files that are no images, threads and forks; and what EXIF says about up and down.

Hostile files are made here, small, since what they hold is refused by its number. Pillow's own refusals aren't tested.
"""

import io
import itertools
import os
import struct
import subprocess
import sys
import threading
import time
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile, ImageOps, features

from clipref import image_checks, image_locks, images
from clipref.errors import ImageError, InputError
from clipref.image_checks import Meter, check_before_decoding
from clipref.images import FORMATS
from clipref.preprocessing import open_image, preprocess

from .test_preprocessing import PNG, RGB, encoded, picture, png_header, recipe, refused, same

Image.init()


# The table of formats


def test_every_format_of_pillow_is_classed() -> None:
    """Fails when a release of Pillow registers one: read its plugin, then add it to FORMATS with a reason."""
    pillows = {name for name in Image.ID if Image.OPEN[name][0].__module__.startswith("PIL.")}
    assert pillows <= FORMATS.keys()
    assert all(len(kind.why) > 10 for kind in FORMATS.values())


def test_nothing_that_runs_a_program_or_opens_other_files_is_opened() -> None:
    for name in ("EPS", "WMF", "GRIB", "BUFR", "HDF5", "IPTC", "MPEG", "FPX", "MIC"):
        assert name not in images.opened_formats()
    assert {".eps", ".ps", ".wmf", ".h5", ".mpg", ".pdf", ".iim"}.isdisjoint(images.SUFFIXES)
    expected = {".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".tga", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".mpo"}
    assert expected <= images.SUFFIXES
    assert (".avif" in images.SUFFIXES) == ("AVIF" in Image.OPEN)
    with pytest.raises(AttributeError, match="SUFFIX"):
        _ = images.SUFFIX


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n"
DOS_EPS = b"\xc5\xd0\xd3\xc6" + struct.pack("<6IH", 30, len(EPS), 0, 0, 0, 0, 0xFFFF) + EPS


def iptc(content: bytes) -> bytes:
    fields = [(3, 60, b"\1\0"), (3, 20, b"\0\x10"), (3, 30, b"\0\x10"), (3, 120, b"\5"), (8, 10, content)]
    return b"".join(bytes([0x1C, *tag]) + struct.pack(">H", len(data)) + data for *tag, data in fields)


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: Any, **__: Any) -> None:
        raise AssertionError("a program was started")

    monkeypatch.setattr(subprocess, "Popen", run)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", "gs")


@pytest.mark.usefixtures("no_programs")
def test_ghostscript_is_never_run(tmp_path: Path) -> None:
    for data in (EPS, DOS_EPS, iptc(EPS), iptc(DOS_EPS)):
        with Image.open(io.BytesIO(data)) as lazy, pytest.raises(AssertionError, match="a program was started"):
            lazy.load()  # as it would be
        path = tmp_path / "image.png"
        path.write_bytes(data)
        for image in (path, data, io.BytesIO(data), Image.open(io.BytesIO(data))):
            with pytest.raises(ImageError, match=r"isn't opened|not an image in a format that is opened"):
                preprocess(image, 24)


def test_a_lazy_image_of_a_stub_is_refused_and_a_loaded_one_is_not() -> None:
    refused("WMF, which isn't opened", Image.open(io.BytesIO(wmf())))
    loaded = RGB.copy()
    loaded.format = "EPS"  # as one that the caller had loaded
    same(preprocess(loaded, 24), recipe(RGB, 24))


def wmf() -> bytes:
    head = b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hHIH", 0, 0, 100, 100, 72, 0, 0)
    return head + b"\x01\0\x09\0" + bytes(14)


@pytest.mark.parametrize("name", [name for name in FORMATS if name in Image.SAVE and FORMATS[name].opened])
def test_formats_that_pillow_writes_are_opened(name: str) -> None:
    if name == "AVIF" and "AVIF" not in Image.OPEN:
        pytest.skip("this Pillow has no AVIF")
    for mode in ("RGB", "L", "1", "P", "F"):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # Pillow is to lose IM
                data = encoded(picture(mode, 32, 32), name)
                expected = recipe(Image.open(io.BytesIO(data)), 24)
        except (OSError, ValueError, KeyError):
            continue
        same(preprocess(data, 24), expected)
        return
    pytest.fail(f"{name} was written in no mode")


# Files made to do harm


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
    needed = {256: (4, 1, 16), 257: (4, 1, 16), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    needed |= {278: (4, 1, 16), 273: (4, 1, 500), 279: (4, 1, 256)} | {tag: tuple(rest) for tag, *rest in entries}
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


def test_threads_share_the_memory_to_decode_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of four at a time would be too many; one that needs more than there is has it all to itself."""
    monkeypatch.setattr(image_locks, "_room", image_locks.Room(2 * 8 * 2000))
    inside, most, lock = 0, 0, threading.Lock()
    pillows_load = ImageFile.ImageFile.load

    def load(image: Any) -> Any:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        with lock:
            inside -= 1
        return pillows_load(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    bmp, large = encoded(RGB, "BMP"), encoded(picture("RGB", 90, 90), "BMP")
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(open_image, [bmp] * 6))
        assert most == 2
        inside = most = 0
        list(pool.map(open_image, [large] * 3))
        assert most == 1


# Ways to hand over an image, and what is none


class Upload:
    """An object with `read`, as uploads are: no way back, nothing else that files have."""

    def __init__(self, data: bytes, at_most: int = 2**30) -> None:
        self._file, self._at_most = io.BytesIO(data), at_most

    def read(self, size: int = -1) -> bytes:
        return self._file.read(self._at_most if size < 0 else min(size, self._at_most))


class WholeUpload(Upload):
    def read(self) -> bytes:  # type: ignore[override]
        return self._file.read()


def test_objects_that_only_read(tmp_path: Path) -> None:
    import gzip
    import mmap

    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    tif = encoded(RGB, "TIFF", compression="tiff_lzw")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("image.png", PNG)
    with gzip.open(tmp_path / "image.tif.gz", "wb") as packed:
        packed.write(tif)
    expected = recipe(RGB, 24)
    for upload in (Upload(PNG), Upload(PNG, 7), WholeUpload(PNG)):
        same(preprocess(upload, 24), expected)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        mapped.seek(5)
        same(preprocess(mapped, 24), expected)
        same(preprocess(mapped, 24), expected)
    with path.open("rb", buffering=0) as file:
        same(preprocess(file, 24), expected)
    with zipfile.ZipFile(tmp_path / "images.zip") as archive, archive.open("image.png") as member:
        same(preprocess(member, 24), expected)
    with gzip.open(tmp_path / "image.tif.gz") as unpacked:  # whose fileno is that of the packed file
        same(preprocess(unpacked, 24), expected)
    reader, writer = os.pipe()
    with open(writer, "wb") as sink:
        sink.write(PNG)
    with open(reader, "rb") as source:
        same(preprocess(source, 24), expected)


def test_objects_that_read_something_else(monkeypatch: pytest.MonkeyPatch) -> None:
    class Asynchronous:
        async def read(self, size: int = -1) -> bytes:
            return PNG

    class Other:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def read(self, size: int = -1) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    refused("asynchronous, so await it", Asynchronous())
    for answer in ("text", None, 5, [PNG], RecursionError("deep"), MemoryError("much"), KeyError("key")):
        refused("the file object can't be read", Other(answer))
    refused("zero bytes", Other(b""))
    monkeypatch.setattr(images, "MAX_READ", 10_000)
    refused("over 10000 bytes", Other(bytes(5000)))  # without end


def test_paths_that_are_none(tmp_path: Path) -> None:
    refused("an address .https://.*read it yourself and pass the bytes", "https://example.com/cat.png")
    refused("an address .s3://", "s3://bucket/cat.png")
    refused("an address .data:", "data:image/png;base64," + "A" * 10_000)
    refused(r"too long for a path; of an image in base64 pass base64\.b64decode", "iVBORw0KGgo" * 1000)
    refused("it is a folder.*embed_images", tmp_path)
    refused("it is a folder", "/dev")
    with pytest.raises(ImageError) as caught:
        open_image("x" * 10**6)
    assert len(str(caught.value)) < 500

    class Path_:
        def __init__(self, answer: Any) -> None:
            self.answer = answer

        def __fspath__(self) -> Any:
            if isinstance(self.answer, Exception):
                raise self.answer
            return self.answer

    for answer in (5, None, RuntimeError("gone")):
        refused("gives no path", Path_(answer))
    path = tmp_path / "image.png"
    path.write_bytes(PNG)
    for name in (np.str_(path), Path_(os.fsencode(path)), Path_(str(path))):
        same(preprocess(name, 24), recipe(RGB, 24))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_files_that_would_block_or_never_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    refused("a named pipe", tmp_path / "pipe.png")
    refused("a device", "/dev/zero")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"\n <HTML>", "a web page"),
        (b'<?xml version="1.0"?><svg/>', "SVG"),
        (b"%PDF-1.7", "a PDF document"),
        (b"PK\3\4" + bytes(40), "a zip archive"),
        (b"\x1f\x8b\x08" + bytes(40), "gzip"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIF.*pi-heif"),
        (b"\0\0\0\x18ftypisom" + bytes(40), "a video"),
        (b"\0\0\1\xb3" + bytes(40), "MPEG, which isn't opened: a video"),
        (b"GRIB\0\0\0\1" + bytes(40), "GRIB, which isn't opened"),
        (b"a cat on a mat", "text, 'a cat on a mat'"),
        (b"\x93NUMPY" + bytes(40), "not an image in a format that is opened"),
    ],
)
def test_what_is_no_image_is_told(data: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(data)
    refused(message, data)
    refused(rf"image\.png.*{message}", tmp_path / "image.png")


def test_other_things_that_are_no_images() -> None:
    refused(r"None, which cv2\.imread gives", None)
    refused("an? (list|dict|object|int); expected a path", object())
    refused("can't be viewed|batch|object|expected one image", np.array([[1, 2], None], object))
    refused("bool.*pass x", np.zeros((9, 9), bool))
    refused("float64.*if it is 0..1", np.full((9, 9), np.nan))
    refused("int64.*if it is 0..255", np.zeros((9, 9), np.int64))
    for dtype in ("complex64", "datetime64[s]", "S3", "U3", "uint8,uint8"):
        refused("expected uint8", np.zeros((9, 9), dtype))
    refused("at most 80 ", np.broadcast_to(np.uint8(1), (9, 9)), max_pixels=80)


class Tensor:
    """As torch's: no array before it is detached, and on the processor."""

    __module__ = "torch"

    def __init__(self, pixels: Any, detached: bool = False, here: bool = False) -> None:
        self.pixels, self.detached, self.here = pixels, detached, here

    def detach(self) -> "Tensor":
        return Tensor(self.pixels, True, self.here)

    def cpu(self) -> "Tensor":
        return Tensor(self.pixels, self.detached, True)

    def __array__(self, *_: Any, **__: Any) -> Any:
        if not self.detached or not self.here:
            raise RuntimeError("Can't call numpy() on this Tensor")
        return self.pixels


def test_tensors_with_a_history_or_elsewhere() -> None:
    pixels = np.array(RGB).transpose(2, 0, 1)
    same(preprocess(Tensor(pixels), 24), recipe(RGB, 24))
    refused("float32", Tensor(pixels.astype(np.float32)))


def test_absurd_arguments() -> None:
    huge = 10**5000
    for resolution in (True, 4097, huge, float("nan"), "x", [3], np.array([3, 4])):
        with pytest.raises(InputError, match="resolution"):
            preprocess(RGB, resolution)
    for options in (
        {"mean": "abc"},
        {"mean": (1, huge, 1)},
        {"mean": (float("inf"), 0, 0)},
        {"mean": ((1, 2), 3)},
        {"std": (1e300, 1, 1)},
        {"std": (1e-40, 1, 1)},
        {"std": None},
        {"interpolation": ["bicubic"]},
        {"resize_mode": np.array(["squash", "squash"])},
        {"max_pixels": 0},
        {"max_pixels": 1.5},
        {"max_pixels": True},
        {"max_pixels": None},
        {"upright": "yes"},
        {"upright": None},
        {"input_color_format": ["rgb"]},
        {"input_color_format": np.array(["rgb", "bgr"])},
    ):
        with pytest.raises(InputError, match=next(iter(options))):
            preprocess(RGB, 24, **options)  # type: ignore[arg-type]


# EXIF

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
    data = encoded(Image.fromarray(CORNERS), "PNG")
    return data[:33] + chunk(b"eXIf", exif) + data[33:]


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


# Threads and forks


class SlowFile(io.BytesIO):
    """Lets other threads in between two reads, as a file on a disk does."""

    def read(self, size: int | None = -1) -> bytes:
        at = self.tell()
        time.sleep(0.0002)
        self.seek(at)
        return super().read(size)


@pytest.mark.parametrize("lazy", [True, False], ids=["a PIL image", "a file object"])
def test_threads_may_give_the_same_object(lazy: bool) -> None:
    formats = [("PNG", {}), ("TIFF", {}), ("GIF", {}), ("BMP", {})]
    for (format, options), _ in itertools.product(formats, range(5)):
        file = SlowFile(encoded(RGB, format, **options))
        thing = Image.open(file) if lazy else file
        with Image.open(io.BytesIO(file.getvalue())) as alone:
            expected = recipe(alone, 24)
        with ThreadPoolExecutor(8) as pool:
            for pixels in pool.map(lambda thing: preprocess(thing, 24), [thing] * 8):
                same(pixels, expected)
    assert not image_locks._turns


class Stuck(io.BytesIO):
    """A file that doesn't come while `release` isn't set."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.inside, self.release = threading.Event(), threading.Event()

    def read(self, size: int | None = -1) -> bytes:
        self.inside.set()
        assert self.release.wait(30)
        return super().read(size)


@pytest.fixture(params=["upload", "lazy image"])
def stuck(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A file that is being read for another thread, or a PIL image of it."""
    file = Stuck(encoded(RGB, "TIFF"))
    thing: Any = file
    if request.param == "lazy image":
        file.release.set()
        thing = Image.open(file)
        file.release.clear()
        file.inside.clear()
    thread = threading.Thread(target=preprocess, args=(thing, 24))
    thread.start()
    assert file.inside.wait(10)
    yield thing
    file.release.set()
    thread.join()


def test_a_slow_upload_blocks_nobody(stuck: Any) -> None:
    start = time.perf_counter()
    for image in (PNG, io.BytesIO(PNG), encoded(RGB, "TIFF"), RGB, Image.open(io.BytesIO(PNG))):
        preprocess(image, 24)
    assert time.perf_counter() - start < 5


def in_a_child(function: Callable[[], Any]) -> int:
    """The exit status of a forked process: 0 if `function` returned, 1 if it raised; -9 if it hung and was killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads
        child = os.fork()
    if not child:
        try:
            function()
            os._exit(0)
        except BaseException:
            os._exit(1)
    for _ in range(1000):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(child, 9)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_child_works_while_a_thread_of_its_parent_is_stuck(stuck: Any) -> None:
    before = list(warnings.filters)

    def embed() -> None:
        same(preprocess(PNG, 24), recipe(RGB, 24))
        same(preprocess(encoded(RGB, "TIFF"), 24), recipe(RGB, 24))
        assert not image_locks._turns and image_locks._silent == 0
        assert image_locks._FILTER not in warnings.filters

    assert in_a_child(embed) == 0
    assert list(warnings.filters) == before


FIRST_USE = """
import io, os, sys, threading, time
from clipref.preprocessing import preprocess
data = open(sys.argv[1], "rb").read()
thread = threading.Thread(target=preprocess, args=(data, 24))
thread.start()
time.sleep(float(sys.argv[2]))
child = os.fork()
if not child:
    preprocess(data, 24)
    os._exit(0)
for _ in range(1000):
    done, status = os.waitpid(child, os.WNOHANG)
    if done:
        break
    time.sleep(0.01)
else:
    os.kill(child, 9)
    sys.exit("the child hangs")
thread.join()
sys.exit(os.waitstatus_to_exitcode(status))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.parametrize("delay", ["0.0", "0.01", "0.03"])
def test_a_fork_in_the_middle_of_the_first_use(delay: str, tmp_path: Path) -> None:
    (tmp_path / "image.png").write_bytes(PNG)
    command = [sys.executable, "-W", "ignore", "-c", FIRST_USE, str(tmp_path / "image.png"), delay]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def test_only_pillows_warnings_are_silenced_and_only_meanwhile() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        before = list(warnings.filters)
        with image_locks.pillow_silenced(), image_locks.pillow_silenced():
            warnings.warn("the user's own", UserWarning, stacklevel=1)
            warnings.warn_explicit("of Pillow", UserWarning, "TiffImagePlugin.py", 1, "PIL.TiffImagePlugin")
        assert list(warnings.filters) == before
        warnings.warn_explicit("of Pillow, later", UserWarning, "TiffImagePlugin.py", 1, "PIL.TiffImagePlugin")
    assert [str(warning.message) for warning in caught] == ["the user's own", "of Pillow, later"]
