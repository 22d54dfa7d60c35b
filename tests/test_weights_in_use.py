"""A weights file whose size and time are as they were under an open model, and whose inode's time isn't."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clipref import AutoModel, WeightsError
from clipref.digests import PROVENANCE_NAME
from clipref.weights_tools.convert import convert

from .conftest import pictures


def rewrite(file: Path) -> None:
    """Change one bit in place and set the time back, as nobody can set back the inode's."""
    before = file.stat()
    with open(file, "r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        last = opened.read(1)[0]
        opened.seek(-1, os.SEEK_END)
        opened.write(bytes([last ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def set_time_only(file: Path) -> None:
    before = file.stat()
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def remove(file: Path) -> None:
    file.unlink()


def rename(file: Path) -> None:
    file.rename(file.with_name("other.safetensors"))


def link(file: Path) -> None:
    os.link(file, file.with_name("other.safetensors"))


def chmod(file: Path) -> None:
    file.chmod(0o600)


@pytest.fixture(params=["recorded", "computed", "not known"])
def digest(request: pytest.FixtureRequest) -> str:
    """How the digest of before is known."""
    return str(request.param)


@pytest.fixture
def folder(tiny_vit: Path, tmp_path: Path, digest: str) -> Path:
    """A checkpoint that was written a while ago."""
    made = tmp_path / "model"
    if digest == "recorded":
        convert(tiny_vit, made)
        assert (made / PROVENANCE_NAME).is_file()
    else:
        shutil.copytree(tiny_vit, made, ignore=shutil.ignore_patterns(PROVENANCE_NAME))
    return made


def use_twice(folder: Path, digest: str, change: Callable[[Path], None]) -> None:
    model = AutoModel.from_pretrained(folder, backend="blas", activation="quick_gelu")
    first = model.embed_image(pictures(1)[0])
    if digest == "computed":
        assert model.digest
    time.sleep(0.02)  # several ticks of the file system's clock
    change(folder / "model.safetensors")
    assert (model.embed_image(pictures(1)[0]) == first).all()
    assert (model.embed_image(pictures(1)[0]) == first).all()


def test_a_rewritten_file_is_refused_though_its_time_was_set_back(folder: Path, digest: str) -> None:
    with pytest.raises(WeightsError, match=r"was written to after it was opened.*open the model again"):
        use_twice(folder, digest, rewrite)


@pytest.mark.parametrize("change", [remove, rename, link, chmod])
def test_the_same_weights_go_on(folder: Path, digest: str, change: Callable[[Path], None]) -> None:
    use_twice(folder, digest, change)


def test_what_cannot_be_told_from_a_rewrite_is_refused(folder: Path, digest: str) -> None:
    if digest != "not known":
        use_twice(folder, digest, set_time_only)
        return
    with pytest.raises(WeightsError, match="was written to"):
        use_twice(folder, digest, set_time_only)
