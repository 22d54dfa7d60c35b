"""Checkpoints on disk: what loads, and that nothing wrong does."""

import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import clipref
from clipref import weights
from clipref.errors import ClipError, ConfigError, ModelNotFound, WeightsError
from clipref.weights import Checkpoint, SafetensorsFile
from clipref.weights_tools import synthetic

from .conftest import MERGES, TINY, make_tiny, pixels

Tensors = dict[str, np.ndarray]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder that the test may spoil."""
    return make_tiny(tmp_path, "vit")


def edit(checkpoint: Path, **changes: Any) -> Path:
    """Change tensors of a checkpoint; a name may say `__` for a dot, and None removes."""
    tensors: Tensors = load_file(checkpoint / "model.safetensors")
    for key, value in changes.items():
        name = key.replace("__", ".")
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value
    save_file(tensors, checkpoint / "model.safetensors")
    return checkpoint


def test_folder_file_and_config(checkpoint: Path) -> None:
    assert Checkpoint(checkpoint).config == TINY["vit"]
    assert Checkpoint(checkpoint / "model.safetensors").config == TINY["vit"]
    beside = shutil.copy(checkpoint / "model.safetensors", checkpoint / "other.safetensors")
    assert Checkpoint(beside).config == TINY["vit"] and Checkpoint(beside).merges == checkpoint / "merges.txt"
    bare = shutil.copy(checkpoint / "model.safetensors", checkpoint.parent / "bare.safetensors")
    with pytest.raises(ConfigError, match=r"bare\.safetensors has no config\.json beside it"):
        Checkpoint(bare)
    assert Checkpoint(bare, TINY["vit"]).config == TINY["vit"]


@pytest.mark.parametrize("stored", ["float16", "bfloat16", "float32"])
def test_every_dtype_is_read_as_it_is_meant(checkpoint: Path, stored: str) -> None:
    values = np.array([1.0, -2.5, 65504.0, 2.0**-14], np.float32)
    header = {"x": {"dtype": {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}[stored], "shape": [2, 2]}}
    raw = (values.view(np.uint32) >> 16).astype("<u2") if stored == "bfloat16" else values.astype(stored)
    write_raw(checkpoint / "x.safetensors", header, raw.tobytes())
    read = SafetensorsFile(checkpoint / "x.safetensors").read("x", "float32")
    exact = np.array([[1.0, -2.5], [65280.0 if stored == "bfloat16" else 65504.0, 2.0**-14]])
    assert read.dtype == np.float32 and (read == exact).all()


def write_raw(path: Path, header: dict[str, Any], data: bytes) -> None:
    for entry in header.values():
        entry.setdefault("data_offsets", [0, len(data)])
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def test_float32_is_not_copied(checkpoint: Path) -> None:
    file = SafetensorsFile(checkpoint / "model.safetensors")
    name = next(name for name, dtype in file.dtypes.items() if dtype == "F32" and len(file.shapes[name]))
    assert not file.read(name, "float32").flags.writeable and file.read(name, "float64").dtype == np.float64


def test_a_relative_path_outlives_a_change_of_folder(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(checkpoint.parent)
    opened = Checkpoint(checkpoint.name)
    monkeypatch.chdir("/")
    assert opened.file.stored("visual.proj").shape == (36, 22)
    assert opened.merges is not None and opened.merges.is_file()


@pytest.mark.parametrize("how", ["replaced", "written to", "removed"])
def test_a_file_that_changed_is_not_read(checkpoint: Path, how: str) -> None:
    path = checkpoint / "model.safetensors"
    file = SafetensorsFile(path)
    if how == "replaced":
        edit(checkpoint)
    elif how == "written to":
        path.write_bytes(path.read_bytes() + b" ")
    else:
        path.unlink()
    with pytest.raises(WeightsError, match="can't be read any more" if how == "removed" else "has changed since"):
        file.stored("visual.proj")


def float32_checkpoint(folder: Path) -> Path:
    """A folder whose weights are used as they lie in the file, written some time ago."""
    path = synthetic.write(folder / "float32", TINY["vit"], 7, "plain", "float32")
    (path / "merges.txt").write_text(MERGES, encoding="utf-8")
    os.utime(path / "model.safetensors", (1e9, 1e9))
    return path


def overwrite(file: Path, how: str) -> None:
    content = file.read_bytes()
    flipped = content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]
    if how == "touched":
        file.touch()
    elif how == "a bit":
        with open(file, "r+b") as opened:
            opened.seek(-9, os.SEEK_END)
            opened.write(flipped[-9:-8])
    elif how in ("half", "nothing", "a byte less"):
        os.truncate(file, {"half": len(content) // 2, "nothing": 0, "a byte less": len(content) - 1}[how])
    else:
        file.write_bytes({"other weights": flipped, "longer": content + b" "}[how])


CHANGES = ("other weights", "a bit", "half", "nothing", "a byte less", "longer", "touched")
USES: dict[str, Callable[[clipref.CLIP], object]] = {
    "an image": lambda model: model.embed_image(np.zeros((9, 9, 3), np.uint8)),
    "pixels": lambda model: model.encode_image(pixels(1, model.config.vision.resolution)),
    "ids": lambda model: model.encode_text(np.array([[8, 520]])),
    "a text": lambda model: model.embed_text("a dog"),
    "a text that is remembered": lambda model: model.embed_text("a cat"),
    "a trace of an image": lambda model: model.trace(image=np.zeros((9, 9, 3), np.uint8)),
    "a trace of a text": lambda model: model.trace(text="a cat"),
}


@pytest.mark.fast_cases("[used-")
@pytest.mark.parametrize("backend", ["reference", "blas", "onnx"])
@pytest.mark.parametrize("first", ["used", "not used"])
def test_a_file_written_to_under_an_open_model_is_refused(backend: str, first: str, tmp_path: Path) -> None:
    """The towers' weights may be views of it: they would be others, or, of a shorter file, end the process."""
    for how in CHANGES if backend == "reference" else CHANGES[:3]:
        folder = float32_checkpoint(tmp_path / how)
        model = clipref.AutoModel.from_pretrained(folder, backend=backend)
        if first == "used":
            for use in USES.values():
                use(model)
        overwrite(folder / "model.safetensors", how)
        for what, use in USES.items():
            with pytest.raises(WeightsError, match=r"was written to after it was opened.*open the model again"):
                use(model)
                pytest.fail(f"{what}, {how}")
        if how in ("a bit", "touched"):
            assert clipref.AutoModel.from_pretrained(folder).embed_text("a cat").shape == (1, 22)


def test_a_file_written_to_in_the_middle_of_a_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = float32_checkpoint(tmp_path)
    model = clipref.AutoModel.from_pretrained(folder, backend="reference")

    def images(count: int) -> Iterator[np.ndarray]:
        for i in range(count):
            if i == 3:
                overwrite(folder / "model.safetensors", "other weights")
            yield np.zeros((9, 9, 3), np.uint8)

    with pytest.raises(WeightsError, match="was written to"):
        model.embed_images(images(5), batch_size=1)
    model = clipref.AutoModel.from_pretrained(folder, backend="reference")
    encode = model.engine.encode_text
    os.utime(folder / "model.safetensors", (1e9, 1e9))
    model = clipref.AutoModel.from_pretrained(folder, backend="reference")

    def meanwhile(ids: np.ndarray) -> np.ndarray:
        overwrite(folder / "model.safetensors", "other weights")
        return encode(ids)

    monkeypatch.setattr(model.engine, "encode_text", meanwhile)
    with pytest.raises(WeightsError, match="was written to"):
        model.encode_text(np.array([[8, 520]]))


@pytest.mark.parametrize("backend", ["reference", "blas", "onnx"])
@pytest.mark.parametrize("how", ["replaced", "removed", "renamed"])
def test_what_is_renamed_is_the_same_to_those_who_have_it_open(backend: str, how: str, tmp_path: Path) -> None:
    folder = float32_checkpoint(tmp_path)
    model = clipref.AutoModel.from_pretrained(folder, backend=backend)
    file, uses = folder / "model.safetensors", [np.array([[8, 520]]), np.array([[9, 7, 520]])]
    before = [model.encode_text(ids) for ids in uses]
    if how == "replaced":
        shutil.copy(file, folder / "other")
        overwrite(folder / "other", "other weights")
        os.replace(folder / "other", file)
    elif how == "removed":
        shutil.rmtree(folder)
    else:
        file.rename(folder / "other")
    assert all(np.array_equal(model.encode_text(ids), x) for ids, x in zip(uses, before, strict=True))


def test_text_alone_never_reads_the_image_tower(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SMALL", 0)
    poisoned = np.full((36,), np.nan, np.float32)
    model = clipref.AutoModel.from_pretrained(edit(checkpoint, visual__class_embedding=poisoned), backend="reference")
    assert model.embed_text("a cat").shape == (1, 22)
    with pytest.raises(WeightsError, match=r"'visual\.class_embedding' has 36 values that are not finite"):
        model.embed_image(np.zeros((9, 9, 3), np.uint8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("name", ["visual.ln_pre.bias", "ln_final.weight", "token_embedding.weight", "visual.proj"])
def test_weights_that_are_not_finite_do_not_open(checkpoint: Path, name: str, value: float) -> None:
    tensor = load_file(checkpoint / "model.safetensors")[name].copy()
    tensor.flat[-1] = value
    with pytest.raises(WeightsError, match=f"tensor '{name}' has 1 values that are not finite"):
        clipref.AutoModel.from_pretrained(edit(checkpoint, **{name: tensor}))


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 605157884\n", "is a Git LFS pointer"),
        (b"\xef\xbb\xbf\n<!DOCTYPE html>\n<html>", "it is a web page"),
        (b"<html><head>", "it is a web page"),
        (b"<?xml version='1.0'?><Error>", "it is a web page"),
        (b"Entry not found", r"it is text \('Entry not found'\)"),
        (b'{"error": "Repository not found"}', "it is text"),
        (b"", "it is empty"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "x.pt"])
def test_what_comes_in_the_place_of_weights_is_told(content: bytes, what: str, name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, *([] if name == "x.pt" else [tmp_path])):
        with pytest.raises(WeightsError, match=what):
            clipref.AutoModel.from_pretrained(path)
    with pytest.raises(WeightsError, match=what):
        SafetensorsFile(tmp_path / name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"visual__proj": None}, r"missing 'visual\.proj' \(36, 22\)"),
        ({"visual__proj": None, "visual__projj": np.zeros((36, 22), "f4")}, r"missing 'visual\.proj'.*'visual\.projj'"),
        ({"extra": np.zeros(3, "f4")}, r"unexpected 'extra' \(3,\)"),
        ({"visual__proj": np.zeros((22, 36), "f4")}, r"'visual\.proj' has shape \(22, 36\), expected \(36, 22\)"),
        ({"visual__proj": np.zeros((36, 22), "i4")}, r"'visual\.proj' has dtype I32, expected one of F64"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_fit(checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        Checkpoint(edit(checkpoint, **changes))


def test_float64_is_read_as_what_is_asked_for(checkpoint: Path) -> None:
    projection = np.linspace(-1, 1, 36 * 22).reshape(36, 22)
    opened = Checkpoint(edit(checkpoint, visual__proj=projection))
    for dtype in ("float32", "float64"):
        read = opened.file.read("visual.proj", dtype)
        assert read.dtype == dtype and np.array_equal(read, projection.astype(dtype))
    with pytest.raises(WeightsError, match=r"'visual\.proj' has 792 values that are not finite"):
        Checkpoint(edit(checkpoint, visual__proj=projection * 0 + 1e300)).visual("float32")


def test_buffers_that_do_not_matter_are_ignored(checkpoint: Path) -> None:
    Checkpoint(edit(checkpoint, input_resolution=np.array(224), attn_mask=np.zeros((3, 3), "f4")))


def test_many_problems_are_summed_up(checkpoint: Path) -> None:
    config = TINY["resnet"]
    with pytest.raises(WeightsError, match="and [0-9]+ more"):
        Checkpoint(checkpoint, config)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_logit_scale(checkpoint: Path, value: float) -> None:
    with pytest.raises(WeightsError, match="'logit_scale' has 1 values"):
        clipref.AutoModel.from_pretrained(edit(checkpoint, logit_scale=np.array(value, np.float32)))


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"no model\.safetensors"):
        Checkpoint(tmp_path)
    with pytest.raises(ModelNotFound, match="does not exist"):
        Checkpoint(tmp_path / "nowhere")


@pytest.mark.parametrize("content", ["", "[1]", "{", "[" * 100_000, '{"embed_dim": 5}', '{"embed_dim": NaN}', "\x00"])
def test_damaged_config(checkpoint: Path, content: str) -> None:
    (checkpoint / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=r"config\.json"):
        Checkpoint(checkpoint)


def test_config_that_is_not_text(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_bytes(b"\xff\xfe{}")
    with pytest.raises(ConfigError, match=r"config\.json"):
        Checkpoint(checkpoint)


LIES = {
    "shape larger than the data": {"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}},
    "offsets past the end": {"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}},
    "offsets reversed": {"x": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}},
    "negative offset": {"x": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
    "overlap": {
        "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
        "y": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
    },
    "hole": {"x": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}},
    "unknown dtype": {"x": {"dtype": "F31", "shape": [2], "data_offsets": [0, 8]}},
    "negative shape": {"x": {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}},
    "huge shape": {"x": {"dtype": "F32", "shape": [2**62, 4], "data_offsets": [0, 8]}},
    "no dtype": {"x": {"shape": [2], "data_offsets": [0, 8]}},
}  # fmt: skip


@pytest.mark.parametrize("lie", LIES)
def test_header_that_lies(tmp_path: Path, lie: str) -> None:
    write_raw(tmp_path / "x.safetensors", json.loads(json.dumps(LIES[lie])), bytes(8))
    with pytest.raises(WeightsError, match="not a sound safetensors file"):
        SafetensorsFile(tmp_path / "x.safetensors")


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 100, 5000, -1])
def test_truncated_file(checkpoint: Path, size: int) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(WeightsError, match="not a sound safetensors file"):
        Checkpoint(checkpoint)


def test_file_of_another_kind(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").write_bytes(b"\x80\x02}q\x00." * 99)
    with pytest.raises(WeightsError):
        Checkpoint(checkpoint)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_damage_anywhere_is_an_error_of_ours_or_harmless(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    original = _original(tmp_path_factory)
    spoiled = bytearray(original)
    header = 8 + struct.unpack("<Q", original[:8])[0]
    for _ in range(data.draw(st.integers(1, 4))):
        spoiled[data.draw(st.integers(0, header + 50))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "spoiled.safetensors"
    path.write_bytes(spoiled)
    try:
        loaded = Checkpoint(path, TINY["vit"])
        loaded.visual("float32"), loaded.text("float32")
    except ClipError:
        return
    assert loaded.config == TINY["vit"]


_cache: list[bytes] = []


def _original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    if not _cache:
        _cache.append((make_tiny(tmp_path_factory.mktemp("fuzz"), "vit") / "model.safetensors").read_bytes())
    return _cache[0]
