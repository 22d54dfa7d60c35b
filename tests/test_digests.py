"""One digest for a model's weights: the same in every layout, another for any other weights; recorded, and when not."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import WeightsError, digests
from clipref.digests import model_digest, recorded_digest, remembered_digest, tensor_digest
from clipref.weights import Checkpoint, SafetensorsFile
from clipref.weights_tools import synthetic
from clipref.weights_tools.convert import convert
from clipref.weights_tools.inspect import inspect
from clipref.weights_tools.sources import Options

from . import cases, layouts
from .conftest import TINY, make_tiny

TORCH = cases.GOLDEN / "torch"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return make_tiny(tmp_path, "vit")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Each time that a weights file is read for its digest."""
    seen: list[Path] = []
    read = SafetensorsFile.read_digest

    def counted(file: SafetensorsFile) -> str:
        seen.append(file.path)
        return read(file)

    monkeypatch.setattr(SafetensorsFile, "read_digest", counted)
    return seen


def put(folder: Path, files: layouts.Files) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)


def test_the_digest_is_what_is_written_down(vit: Path) -> None:
    """As the docstring has it, without this project."""
    tensors = load_file(vit / "model.safetensors")
    kinds = {"float16": "F16", "float32": "F32"}
    entries = sorted(
        [name, kinds[str(x.dtype)], list(x.shape), hashlib.sha256(x.tobytes()).hexdigest()]
        for name, x in tensors.items()
    )
    expected = hashlib.sha256(json.dumps(entries, separators=(",", ":")).encode()).hexdigest()
    assert Checkpoint(vit).digest == expected == inspect(vit)["digest"]


def test_every_layout_has_the_same(vit: Path, tmp_path: Path) -> None:
    config, digest = TINY["vit"], Checkpoint(vit).digest
    foreign = {
        "transformers": layouts.as_transformers(vit, config),
        "transformers, in shards": layouts.as_transformers(vit, config, 3),
        "open_clip": layouts.as_open_clip(vit, config),
        "open_clip, with a prefix": layouts.as_open_clip(vit, config, "text."),
    }
    for name, files in foreign.items():
        source = put(tmp_path / name, files)
        assert inspect(source)["digest"] == digest, name
        assert Checkpoint(convert(source, tmp_path / f"{name}, ours")).file.read_digest() == digest, name
    # In another order, with another header, and with buffers that take no part.
    tensors = dict(reversed(load_file(vit / "model.safetensors").items())) | {"attn_mask": np.zeros((3, 3), "f4")}
    save_file(tensors, vit / "model.safetensors", {"format": "pt"})
    assert Checkpoint(vit).digest == digest


def test_zips_of_torch_have_the_same(tmp_path: Path) -> None:
    config = cases.MINI["vit"]
    digest = Checkpoint(synthetic.write(tmp_path / "original", config, cases.SEED, "plain")).digest
    heads = Options(activation="quick_gelu", **cases.heads_of(config))
    for name in ("vit.pt", "vit.bin"):
        assert Checkpoint(convert(TORCH / name, tmp_path / name, heads)).digest == digest


def test_other_weights_have_another(vit: Path, tmp_path: Path) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)

    def digest(name: str = "a", dtype: str = "F32", value: np.ndarray = x) -> str:
        return model_digest({name: (dtype, value.shape, tensor_digest(value))})

    assert digest() == digest(value=np.asfortranarray(x))
    others = {digest("b"), digest(dtype="BF16"), digest(value=x.reshape(3, 2)), digest(value=-x), digest(value=x.T)}
    assert len({digest(), *others}) == 6
    original = Checkpoint(vit).digest
    for dtype in ("float32", "float64", "bfloat16"):
        assert Checkpoint(convert(vit, tmp_path / dtype, dtype=dtype)).digest != original
    tensors = load_file(vit / "model.safetensors")
    tensors["ln_final.weight"], tensors["ln_final.bias"] = tensors["ln_final.bias"], tensors["ln_final.weight"]
    save_file(tensors, vit / "model.safetensors")
    assert Checkpoint(vit).digest != original


def test_the_digest_is_recorded_at_conversion_and_the_weights_are_not_read_for_it(
    vit: Path, tmp_path: Path, reads: list[Path]
) -> None:
    converted = convert(vit, tmp_path / "converted")
    digest = Checkpoint(converted).digest
    assert json.loads((converted / "provenance.json").read_text())["digest"] == digest
    moved = Path(shutil.move(converted, tmp_path / "moved"))
    copied = Path(shutil.copytree(moved, tmp_path / "copied with its times"))
    assert Checkpoint(copied).digest == Checkpoint(moved / "model.safetensors").digest == digest
    assert not reads
    os.utime(copied / "model.safetensors", (1e9, 1e9))
    assert Checkpoint(copied).digest == digest == Checkpoint(vit).digest and len(reads) == 2


DAMAGE: dict[str, Callable[[Path], object]] = {
    "at once": lambda folder: None,
    "a name": lambda folder: (folder / "model.safetensors").rename(folder / "other.safetensors"),
    "no provenance": lambda folder: (folder / "provenance.json").unlink(),
    "a list": lambda folder: (folder / "provenance.json").write_text("[]"),
    "no JSON": lambda folder: (folder / "provenance.json").write_bytes(b"\xff"),
    "nested": lambda folder: (folder / "provenance.json").write_text("[" * 100_000),
    "no digest": lambda folder: edit(folder, digest=None),
    "a digest that is none": lambda folder: edit(folder, digest="0" * 63),
    "a number": lambda folder: edit(folder, digest=3),
    "another size": lambda folder: edit(folder, weights={"size": 1, "mtime_ns": 1}),
    "no time": lambda folder: edit(folder, weights=None),
    "a pipe": lambda folder: a_pipe(folder / "provenance.json"),
}


def a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def edit(folder: Path, **changes: object) -> None:
    record = json.loads((folder / "provenance.json").read_text())
    (folder / "provenance.json").write_text(json.dumps(record | changes))


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_recorded_of_another_file_counts_for_nothing(damage: str, vit: Path, tmp_path: Path) -> None:
    """Even if the file was written to in the same moment, and has the same size."""
    converted = convert(vit, tmp_path / "converted")
    if damage == "at once":
        flip(converted / "model.safetensors")
    before = Checkpoint(vit)
    DAMAGE[damage](converted)
    weights = next(converted.glob("*.safetensors"))
    found = Checkpoint(weights, before.config).digest
    assert found == SafetensorsFile(weights).read_digest()
    assert (found == before.digest) == (damage != "at once")


def test_a_large_file_is_read_once(
    vit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reads: list[Path]
) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    weights = vit / "model.safetensors"
    digest = Checkpoint(vit).digest
    assert len(reads) == 1 and not (tmp_path / "home").exists()  # a small one isn't worth it
    monkeypatch.setattr(digests, "SMALL", 1000)
    assert Checkpoint(vit).digest == digest and not (tmp_path / "home").exists()  # it was written just now
    os.utime(weights, (1e9, 1e9))
    assert [Checkpoint(vit).digest for _ in range(3)] == [digest] * 3 and len(reads) == 3
    content = weights.read_bytes()
    flip(weights)
    os.utime(weights, (1e9, 1e9))
    other = Checkpoint(vit).digest
    assert other != digest and len(reads) == 4  # though it has the same size and time
    weights.write_bytes(content)
    os.utime(weights, (2e9, 2e9))  # by a clock that is ahead
    assert Checkpoint(vit).digest == Checkpoint(vit).digest == digest and len(reads) == 6
    os.utime(weights, (1e9, 1e9))
    file = Checkpoint(vit).file
    assert file.digest == digest and remembered_digest(file.status) == digest
    for path in (tmp_path / "home" / "digests").iterdir():
        path.write_text("nonsense")
    digests._known.clear()  # as in another process
    assert remembered_digest(file.status) is None and Checkpoint(vit).digest == digest
    monkeypatch.setenv("CLIPREF_HOME", "/proc/nowhere")
    digests._known.clear()
    before = len(reads)
    # Where nothing can be kept, this process knows it nevertheless.
    assert [Checkpoint(vit).digest for _ in range(3)] == [digest] * 3 and len(reads) == before + 1


def test_a_file_that_changes_meanwhile_has_no_digest(vit: Path) -> None:
    file = Checkpoint(vit).file
    os.utime(vit / "model.safetensors", (1e9, 1e9))
    with pytest.raises(WeightsError, match="has changed since it was opened"):
        file.read_digest()


def test_a_record_is_of_size_and_time(vit: Path) -> None:
    status = os.stat(vit / "model.safetensors")
    record = digests.digest_record(vit / "model.safetensors", "0" * 64)
    assert recorded_digest(record, status) is None
    status = os.stat(vit / "model.safetensors")
    assert recorded_digest(record, status) == "0" * 64 and status.st_mtime_ns % 2_000_000_000 == 0
