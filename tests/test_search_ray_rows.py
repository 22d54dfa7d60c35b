"""What an actor makes of a tar, without Ray: a row of counts, or of the reason why there are none."""

from pathlib import Path

import pytest

from clipref import AutoModel
from clipref.errors import InputError
from clipref.search import shards
from clipref.search.on_ray import MakePart
from clipref.search.shards import Part

from .test_search_formats import png, tar_of


def test_a_tar_that_fails_is_a_row_with_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tar_of(tmp_path / "0.tar", {"0.png": png(0), "1.png": b"no picture"})
    model = AutoModel.from_pretrained("clipref/shapes-vit", backend="blas")
    make = MakePart(model, str(tmp_path), str(tmp_path / ".clipref"), True, 32)
    assert Part(**make({"tar": "0.tar"})) == Part("0.tar", 1, 1, 0, True, None)
    gone = Part(**make({"tar": "gone.tar"}))
    assert gone[:5] == ("gone.tar", 0, 0, 0, False) and "FileNotFoundError" in str(gone.error)

    def full(path: Path) -> None:
        raise InputError(f"{path} can't be written")

    monkeypatch.setattr(shards, "write_whole", full)
    tar_of(tmp_path / "1.tar", {"0.png": png(0)})
    assert "can't be written" in str(make({"tar": "1.tar"})["error"])
