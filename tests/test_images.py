"""The table of formats; ways to hand over an image, and what is none."""

import io
import os
import struct
import subprocess
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref import images
from clipref.errors import ImageError, InputError
from clipref.images import FORMATS
from clipref.preprocessing import open_image, preprocess

from .recipe import PNG, RGB, encoded, picture, recipe, refused, same

Image.init()


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


@pytest.mark.slow_cases("ICNS")
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
    with path.open("rb", buffering=0) as unbuffered:
        same(preprocess(unbuffered, 24), expected)
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

    for answer in (5, None, RuntimeError("gone"), OSError("gone"), ValueError("gone")):
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
            preprocess(RGB, resolution)  # type: ignore[arg-type]
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
            preprocess(RGB, 24, **options)
