"""Folders as they are: what can't be read, what lies, what vanishes. One clear line each, and nothing is lost."""

import errno
import os
import struct
import zlib
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from clipref import CLIP, AutoModel, files
from clipref.cli import main
from clipref.cli.readable import LEFT_OUT
from clipref.search import Index, StoreError, reading, vectors
from clipref.weights_tools.shapes import world

VIT = "clipref/shapes-vit"


@pytest.fixture(scope="module")
def model() -> CLIP:
    return AutoModel.from_pretrained(VIT, backend="blas")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").mkdir()
    for i in range(3):
        world.scene(i).draw(64).save(tmp_path / "in" / f"{i}.png")
    return tmp_path / "in"


def refuse(monkeypatch: pytest.MonkeyPatch, errors: dict[str, OSError]) -> None:
    """Let files be refused, by name, as they are to users who may not read them; root may."""
    before = files.open_regular

    def opened(path: Any) -> Any:
        if os.path.basename(path) in errors:
            raise errors[os.path.basename(path)]
        return before(path)

    monkeypatch.setattr(reading, "open_regular", opened)


def test_a_file_that_may_not_be_read_is_tried_each_time(
    folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index(folder, model) as index:
        with monkeypatch.context() as patched:
            refuse(patched, {"1.png": PermissionError(errno.EACCES, "Permission denied")})
            summary = index.update()
        assert summary.embedded == 2 and summary.failed == [("1.png", "can't be read: Permission denied")]
        assert index.errors() == summary.failed
        assert index.update().embedded == 1 and index.errors() == []


def test_a_folder_that_may_not_be_searched_keeps_its_pictures(
    folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "deep").mkdir()
    world.scene(7).draw(64).save(folder / "deep" / "7.png")
    denied = PermissionError(errno.EACCES, "Permission denied")
    before_scan, before_stat = os.scandir, os.lstat

    def scandir(path: Any) -> Any:
        if os.path.basename(path) == "deep":
            raise denied
        return before_scan(path)

    def lstat(path: Any, **options: Any) -> Any:
        if b"deep/" in os.fsencode(path):
            raise denied
        return before_stat(path, **options)

    with Index(folder, model) as index:
        index.update()
        with monkeypatch.context() as patched:
            patched.setattr(os, "scandir", scandir)
            patched.setattr(os, "lstat", lstat)
            summary = index.update()
        assert not summary.is_whole and "deep" in summary.found.failures[0] and len(index) == 4


def test_a_file_that_vanishes_is_nothing(folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    refuse(monkeypatch, {"1.png": FileNotFoundError(errno.ENOENT, "No such file or directory")})
    with Index(folder, model) as index:
        summary = index.update()
        assert (summary.embedded, summary.failed, summary.is_whole) == (2, [], True)


def test_a_file_that_is_written_to_while_it_is_read_is_looked_at_again(
    folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.fstat
    looks: list[int] = []

    def fstat(descriptor: int) -> Any:
        if os.readlink(f"/proc/self/fd/{descriptor}").startswith(str(folder)):
            looks.append(descriptor)
            os.utime(descriptor, ns=(1, len(looks)))
        return before(descriptor)

    for path in folder.iterdir():
        os.utime(path, (1e9, 1e9))
    with Index(folder, model) as index:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fstat", fstat)
            assert index.update().embedded == 3
        assert all(row.mtime_ns is None for row in index.store.rows_by_path().values())
        assert index.update().known == 3


def test_a_full_disk_is_one_line_and_loses_nothing(
    folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Index(folder, model) as index:
        index.update()
    world.scene(9).draw(64).save(folder / "9.png")

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(vectors, "write", full)
        assert main(["index", str(folder), "--backend", "blas"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "No space left on device (make room, and run it again)" in error
    with Index(folder, model) as index:
        assert len(index) == 3 and index.update().embedded == 1


def test_a_name_that_is_not_utf8_comes_back_as_it_is(folder: Path, model: CLIP) -> None:
    name = b"\xff\xfe odd \n.png"
    os.rename(os.fsencode(folder / "1.png"), os.fsencode(folder) + b"/" + name)
    with Index(folder, model) as index:
        assert index.update().embedded == 3
        assert name in map(os.fsencode, index.paths)
        assert index.search("red", paths=[os.fsdecode(name)])[0].path == os.fsdecode(name)
    assert main(["search", str(folder), "red", "--backend", "blas"]) == 0


def promising(width: int, height: int) -> bytes:
    """A PNG whose header promises pixels that it doesn't have."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_a_header_of_two_hundred_million_pixels_is_not_believed(folder: Path, model: CLIP) -> None:
    (folder / "huge.png").write_bytes(promising(20_000, 10_000))
    with Index(folder, model) as index:
        summary = index.update()
        assert summary.embedded == 3 and [path for path, _ in summary.failed] == ["huge.png"]
        assert "200000000 pixels" in summary.failed[0][1]


def test_each_bad_file_is_one_line_of_the_command(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What may not be read, what lies, what is damaged, with a line's end in its name; links and what vanished none."""
    (folder / "huge.png").write_bytes(promising(20_000, 10_000))
    with open(os.fsencode(folder) + b"/\xff odd\n.png", "wb") as file:
        file.write(b"\x89PNG\r\n\x1a\n and no more")
    (folder / "self").symlink_to(folder)
    denied = PermissionError(errno.EACCES, "Permission denied")
    with monkeypatch.context() as patched:
        refuse(patched, {"1.png": denied, "2.png": FileNotFoundError(errno.ENOENT, "No such file or directory")})
        assert main(["index", str(folder), "--model", VIT, "--backend", "blas"]) == LEFT_OUT
    lines = capsys.readouterr().err.splitlines()
    warned = [line.partition("'")[2].partition("'")[0] for line in lines[:-1]]
    assert sorted(warned) == ["1.png", "\\udcff odd\\n.png", "huge.png"]
    assert "1 embedded; 3 can't be read (--errors lists them); left out: 1 folders searched already" in lines[-1]
    with Index(folder) as index:
        assert index.paths == ["0.png"] and len(index.errors()) == 3


@pytest.mark.skipif(find_spec("pi_heif") is not None, reason="its reader is installed")
def test_heic_without_its_reader_says_what_to_install(folder: Path, model: CLIP) -> None:
    (folder / "a.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    with Index(folder, model) as index:
        told = index.update().sentence()
    assert "1 with other suffixes (1 .heic); for HEIC: pip install 'clipref[heic]'" in told


def test_links_round_in_circles_are_searched_once(folder: Path, model: CLIP) -> None:
    (folder / "self").symlink_to(folder)
    (folder / "loop").symlink_to(folder / "loop")
    with Index(folder, model) as index:
        summary = index.update()
        assert summary.embedded == 3 and len(index) == 3
        assert summary.found.left_out == {"folders searched already": 1, "links that lead nowhere": 1}


def test_a_place_that_may_not_be_written_says_what_to_do(
    folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(StoreError, match="No index can be made in .*: --index PATH"):
        Index(folder, model, store=folder / "0.png")
    with pytest.raises(StoreError, match="No index can be made in .*: --index PATH"):
        Index(folder, model, store="/proc/none")
