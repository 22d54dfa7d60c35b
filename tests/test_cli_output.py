"""What `--out` writes: found impossible before the work, whole or not there, and names that belong to their array."""

import errno
import itertools
import json
import os
import threading
import time
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, files
from clipref.cli import embed, main, output
from clipref.errors import InputError


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is opened: what is found is found before the work."""

    def opened(args: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(embed, "open_model", opened)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("e.csv", "ends in .npy or .safetensors"),
        ("", "ends in .npy or .safetensors"),
        (".npy", "ends in .npy or .safetensors"),
        ("/dev/full", "ends in .npy or .safetensors"),
        ("no/e.npy", "there is no folder"),
        ("file/e.npy", "there is no folder"),
        ("folder.npy", "something else than a file"),
        ("folder.safetensors", "something else than a file"),
        ("pipe.npy", "something else than a file"),
        ("taken.npy", "something else than a file"),
        ("/proc/e.npy", "can't be written"),
        ("x" * 300 + ".npy", "File name too long"),
        ("\0.npy", "can't be written"),
    ],
)
def test_a_place_that_can_t_be_written_to_is_found_before_the_work(
    out: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("folder.npy", "folder.safetensors", "taken.names.json"):
        Path(folder).mkdir()
    Path("file").touch()
    os.mkfifo("pipe.npy")
    before = sorted(tmp_path.iterdir())
    assert run("embed", "--text", "a", "--out", out) == 1
    assert message in (err := capsys.readouterr().err) and err.startswith("clipref: error: --out ")
    assert err.count("\n") == 1 and sorted(tmp_path.iterdir()) == before


def test_room_is_looked_for_before_the_work(
    tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage(1000, 950, 50))
    monkeypatch.setattr(embed, "embed_in_batches", None)  # which would do the work
    assert run("embed", "--text", "a cat", "--out", tmp_path / "e.npy", "--model", tiny_vit) == 1
    assert "bytes, and 50 are free" in capsys.readouterr().err and not list(tmp_path.iterdir())
    monkeypatch.setattr(output, "MAX_SAFETENSORS_HEADER", 100)  # bytes
    with pytest.raises(InputError, match="has no room for over"):
        output.check_room(tmp_path / "e.safetensors", 1, 1, ["x" * 100])


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_a_disk_that_fills_up(
    suffix: str, tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object, **kwargs: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(embed, "check_room", lambda *args: None)
    monkeypatch.setattr(output, "json_text", full)
    out = tmp_path / f"e.{suffix}"
    out.write_bytes(b"the old one")
    assert run("embed", "--text", "a cat", "--out", out, "--model", tiny_vit) == 1
    assert f"--out {out} can't be written: No space left on device" in capsys.readouterr().err
    assert out.read_bytes() == b"the old one" and list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("killed_at", range(4))
def test_no_pair_of_array_and_names_is_torn(
    killed_at: int, tiny_vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far a run came that replaces a pair, what is there is the old pair, the new pair, or no pair."""
    out, names_path = tmp_path / "e.npy", tmp_path / "e.names.json"
    model = AutoModel.from_pretrained(tiny_vit)
    pairs = {name: model.embed_text(name) for name in ("red", "cat")}
    assert run("embed", "--text", "red", "--out", out, "--model", tiny_vit) == 0
    steps, replace = itertools.count(), os.replace

    def until_killed(step: Any) -> Any:
        def stepped(path: Path, *args: object, **kwargs: object) -> object:
            if (step is replace or path == names_path) and next(steps) >= killed_at:
                raise KeyboardInterrupt
            return step(path, *args, **kwargs)

        return stepped

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", until_killed(replace))
        patched.setattr(Path, "unlink", until_killed(Path.unlink))
        assert run("embed", "--text", "cat", "--out", out, "--model", tiny_vit) == (0 if killed_at == 3 else 130)
    assert next(steps) == min(killed_at + 1, 3)
    assert killed_at not in (0, 3) or names_path.exists()
    if names_path.exists():
        (name,) = json.loads(names_path.read_text(encoding="utf-8"))
        assert np.array_equal(np.load(out), pairs[name]) and name == ("cat" if killed_at == 3 else "red")


def test_two_runs_exchange_their_pairs_one_after_the_other(tmp_path: Path) -> None:
    inside: list[None] = []
    most: list[int] = []

    def exchange() -> None:
        with files.lock_folder(tmp_path):
            inside.append(None)
            time.sleep(0.005)
            most.append(len(inside))
            inside.pop()

    threads = [threading.Thread(target=exchange) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 8


def test_the_npy_file_is_numpy_s(tmp_path: Path) -> None:
    embeddings = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.save(tmp_path / "numpy.npy", embeddings)
    with output.embeddings_file(tmp_path / "ours.npy") as write:
        write(embeddings, ["a", "b", "c"])
    assert (tmp_path / "ours.npy").read_bytes() == (tmp_path / "numpy.npy").read_bytes()
