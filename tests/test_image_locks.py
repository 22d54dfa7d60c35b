"""Images from several threads at once, and in a process that was forked beside busy threads."""

import io
import itertools
import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageFile

from clipref import image_locks
from clipref.preprocessing import open_image, preprocess

from .recipe import PNG, RGB, encoded, picture, recipe, same


class SlowFile(io.BytesIO):
    """Lets other threads in between two reads, as a file on a disk does."""

    def read(self, size: int | None = -1) -> bytes:
        at = self.tell()
        time.sleep(0.0002)
        self.seek(at)
        return super().read(size)


@pytest.mark.parametrize("lazy", [True, False], ids=["a PIL image", "a file object"])
def test_threads_may_give_the_same_object(lazy: bool) -> None:
    formats: list[tuple[str, dict[str, Any]]] = [("PNG", {}), ("TIFF", {}), ("GIF", {}), ("BMP", {})]
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
@pytest.mark.parametrize("delay", ["0.01", *(pytest.param(d, marks=pytest.mark.slow) for d in ("0.0", "0.03"))])
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
