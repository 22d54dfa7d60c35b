"""`clipref diff`: each kind of change, made here by other code, is named; one model in every layout has one digest."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import InputError
from clipref.cli import main
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic
from clipref.weights_tools.convert import convert
from clipref.weights_tools.diff import diff
from clipref.weights_tools.diff.changes import change_of
from clipref.weights_tools.inspect import inspect

from . import cases, layouts

CODES = {"float16": "F16", "float32": "F32", "float64": "F64", "uint16": "BF16"}  # bfloat16 as its bits


def matrix(rows: int = 96, columns: int = 80, seed: int = 0) -> np.ndarray:
    """float32 numbers as weights are, with some larger columns."""
    draw = np.random.default_rng(seed)
    return (draw.normal(size=(rows, columns)) * 0.02 * (1 + 5 * (draw.random(columns) > 0.9))).astype(np.float32)


def quantised(x: np.ndarray, bits: int, axis: int | None, symmetric: bool) -> np.ndarray:
    """To whole steps and back, as a quantiser does it in float32."""
    over = None if axis is None else tuple(i for i in range(x.ndim) if i != axis)
    if symmetric:
        step = np.abs(x).max(axis=over, keepdims=True) / np.float32(2 ** (bits - 1) - 1)
        return np.asarray(np.rint(x / step) * step, np.float32)
    low, high = x.min(axis=over, keepdims=True), x.max(axis=over, keepdims=True)
    step = (high - low) / np.float32(2**bits - 1)
    return np.asarray(np.rint((x - low) / step) * step + low, np.float32)


def through(x: np.ndarray, dtype: Any) -> np.ndarray:
    """Cast to a dtype and back."""
    return x.astype(dtype).astype(x.dtype)


def bfloat16_bits(x: np.ndarray) -> np.ndarray:
    """float32 rounded to the nearest bfloat16, halves to even: the upper 16 bits."""
    whole = x.view(np.uint32)
    return np.asarray((whole + 0x7FFF + (whole >> 16 & 1)) >> 16, np.uint16)


def low_rank(x: np.ndarray, rank: int, size: float = 1e-2) -> np.ndarray:
    """With a product of two thin matrices added, as LoRA does."""
    draw = np.random.default_rng(rank)
    rows, columns = len(x), x[0].size
    added = draw.normal(size=(rows, rank)) @ draw.normal(size=(rank, columns)) * size / math.sqrt(rank)
    return (x + added.reshape(x.shape)).astype(x.dtype)


KINDS: list[tuple[str, Callable[[np.ndarray], np.ndarray]]] = [
    ("identical", lambda x: x.copy()),
    ("cast to float16", lambda x: x.astype(np.float16)),
    ("cast to bfloat16", bfloat16_bits),
    ("cast to float64", lambda x: x.astype(np.float64)),
    ("cast to float16 and back to float32", lambda x: through(x, np.float16)),
    ("cast to bfloat16 and back to float32", lambda x: (bfloat16_bits(x).astype(np.uint32) << 16).view(np.float32)),
    ("quantised to int8, by tensor", lambda x: quantised(x, 8, None, True)),
    ("quantised to int8, by row", lambda x: quantised(x, 8, 0, True)),
    ("quantised to int8, by column", lambda x: quantised(x, 8, 1, True)),
    ("quantised to int4, by row", lambda x: quantised(x, 4, 0, True)),
    ("quantised to int8 with a zero point, by tensor", lambda x: quantised(x, 8, None, False)),
    ("quantised to int8 with a zero point, by row", lambda x: quantised(x, 8, 0, False)),
    ("low-rank change (rank 1)", lambda x: low_rank(x, 1)),
    ("low-rank change (rank 4)", lambda x: low_rank(x, 4)),
    ("low-rank change (rank 16)", lambda x: low_rank(x, 16)),
    ("low-rank change (rank 3)", lambda x: low_rank(x, 3, 1e-5)),
    ("rows permuted", lambda x: x[np.random.default_rng(1).permutation(len(x))]),
    ("columns permuted", lambda x: x[:, np.random.default_rng(1).permutation(x.shape[1])]),
    ("permuted", lambda x: np.ascontiguousarray(x.reshape(-1)[::-1].reshape(x.shape))),
    ("retrained", lambda x: x + matrix(len(x), x.shape[1], 7) * np.float32(0.01)),
    ("retrained", lambda x: low_rank(x, 40)),
]


def bits(x: np.ndarray) -> tuple[np.ndarray, str]:
    """A tensor as it is read of a file, and its dtype's code."""
    return x, CODES[str(x.dtype)]


@pytest.mark.parametrize(("kind", "make"), KINDS, ids=[f"{i}-{kind}" for i, (kind, _) in enumerate(KINDS)])
def test_every_kind_of_change_is_named(kind: str, make: Callable[[np.ndarray], np.ndarray]) -> None:
    before = matrix()
    found = change_of(*bits(before), *bits(make(before)))
    assert found == kind or (kind == "retrained" and found.startswith("retrained ("))


def test_the_other_way_round_and_in_half_precision() -> None:
    half = matrix().astype(np.float16)
    assert change_of(*bits(half), *bits(half.astype(np.float32))) == "cast to float32"
    exact = matrix()
    back = exact.astype(np.float16).astype(np.float32)
    assert change_of(*bits(back), *bits(exact)) == "the first is this cast to float16"
    assert change_of(*bits(half), *bits(low_rank(half, 2, 1e-1))) == "low-rank change (rank 2)"
    noisy = half + np.random.default_rng(0).normal(size=half.shape).astype(np.float16) * np.float16(1e-3)
    assert change_of(*bits(half), *bits(noisy)).startswith("retrained (")


def test_steps_of_other_numbers_are_no_quantisation_of_these() -> None:
    for axis in (None, 0):
        found = change_of(*bits(matrix()), *bits(quantised(matrix(seed=5), 8, axis, True)))
        assert found.startswith("retrained ("), found


def test_what_is_too_small_to_tell_is_retrained() -> None:
    scale = np.array(4.6, np.float32)
    assert change_of(*bits(scale), *bits(scale + np.float32(0.1))).startswith("retrained (")
    zero = np.zeros(5, np.float32)
    assert change_of(*bits(zero), *bits(zero + 1)) == "retrained"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint in float16 and float32."""
    return synthetic.write(tmp_path_factory.mktemp("diff") / "model", cases.TINY["vit-a"], 3, "trained")


def altered(folder: Path, out: Path, change: Callable[[dict[str, np.ndarray]], None]) -> Path:
    """A copy with changed tensors."""
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    out.mkdir()
    (out / "config.json").write_bytes((folder / "config.json").read_bytes())
    save_file(tensors, out / "model.safetensors")
    return out


def test_two_checkpoints(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = "visual.transformer.resblocks.0.mlp.c_fc.weight"
    other = altered(folder, tmp_path / "other", lambda t: t.update({name: t[name] * np.float16(1.5)}))
    found = diff(folder, other, limit=8, backend="reference")
    assert not found.same and not found.same_rounded and not found.settings
    changed = {tensor.name: tensor.change for tensor in found.tensors if tensor.change != "identical"}
    assert list(changed) == [name] and changed[name].startswith("retrained (50 %")
    assert found.embeddings is not None
    assert found.embeddings["images"]["cosine"]["smallest"] < 0.9999
    assert found.embeddings["texts"]["cosine"]["smallest"] == pytest.approx(1, abs=1e-12)
    assert found.embeddings["texts"]["neighbours"] == {"of": 7, "overlap": 1.0}
    assert main(["diff", str(folder), str(other), "--tensors-only", "--json"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed.keys() == {"same", "tensors", "embeddings"} and printed["embeddings"] is None
    assert printed["tensors"][0].keys() == {"name", "change"}
    assert main(["diff", str(folder), str(folder), "--tensors-only"]) == 0
    assert "the same weights, bit for bit" in capsys.readouterr().out


def test_a_copy_in_float32_is_recognised(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wide = convert(folder, tmp_path / "wide", dtype="float32")
    found = diff(folder, wide, embeddings=False)
    assert not found.same and found.same_rounded
    assert {tensor.change for tensor in found.tensors} == {"identical", "cast to float32"}
    assert main(["diff", str(folder), str(wide), "--tensors-only"]) == 1
    assert "the same weights once both are rounded to float16" in capsys.readouterr().out
    lossy = convert(folder, tmp_path / "lossy", dtype="bfloat16")
    assert not diff(folder, lossy, embeddings=False).same_rounded


def test_another_shape_and_missing_tensors(folder: Path, tmp_path: Path) -> None:
    other = synthetic.write(tmp_path / "other", cases.TINY["rn-a"], 3, "trained")
    found = diff(folder, other, limit=3, backend="reference")
    kinds = {tensor.change.partition(":")[0] for tensor in found.tensors}
    assert {"only in the first", "only in the second"} <= kinds and found.settings
    assert found.embeddings is not None and found.embeddings["images"]["items"] == 3


def test_one_digest_in_every_layout(trained_vit: Path, tmp_path: Path) -> None:
    config = Checkpoint(trained_vit).config
    made = {
        "open_clip": layouts.as_open_clip(trained_vit, config),
        "transformers": layouts.as_transformers(trained_vit, config),
        "sharded": layouts.as_transformers(trained_vit, config, shards=3),
    }
    for name, files in made.items():
        found = diff(trained_vit, layouts.put(tmp_path / name, files), embeddings=False)
        assert found.same and found.rounded[0] == found.rounded[1], name
        assert inspect(tmp_path / name)["rounded digest"] == found.rounded[0], name


def test_what_cant_be_asked(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="limit is 2; expected at least 3"):
        diff(folder, folder, limit=2)
    with pytest.raises(InputError, match="is not a folder; expected one of pictures"):
        diff(folder, folder, images=tmp_path / "none")
    with pytest.raises(InputError, match="holds 0 pictures; expected at least 3"):
        diff(folder, folder, images=tmp_path)
