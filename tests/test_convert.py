"""Checkpoints of every layout become ours, to the bit; what can't be known or doesn't fit is refused."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import AutoModel, ModelNotFound, WeightsError
from clipref.config import PUBLISHED, PreprocessConfig
from clipref.weights import Checkpoint
from clipref.weights_tools import sources, synthetic
from clipref.weights_tools.convert import convert
from clipref.weights_tools.layouts import assemblies
from clipref.weights_tools.sources import Doubt, Options, _activation, choose, open_source
from clipref.weights_tools.stored import Stored

from . import cases, layouts
from .conftest import pictures

TORCH = cases.GOLDEN / "torch"


@pytest.mark.parametrize("shards", [1, 3])
def test_transformers(trained_vit: Path, shards: int, tmp_path: Path) -> None:
    source = layouts.put(
        tmp_path / "theirs", layouts.as_transformers(trained_vit, Checkpoint(trained_vit).config, shards)
    )
    converted = convert(source, tmp_path / "ours")
    layouts.assert_same(converted, trained_vit)
    provenance = json.loads((converted / "provenance.json").read_text())
    assert provenance["source"]["kind"] == ("safetensors" if shards == 1 else "sharded safetensors")
    assert set(provenance["source"]["files"]) == {path.name for path in source.iterdir()}
    assert provenance["source"]["files"]["config.json"] == cases.digest(source / "config.json")


@pytest.mark.parametrize("prefix", ["", "text."])
def test_open_clip(trained_vit: Path, trained_resnet: Path, prefix: str, tmp_path: Path) -> None:
    for i, original in enumerate((trained_vit, trained_resnet)):
        source = layouts.put(tmp_path / f"{i}", layouts.as_open_clip(original, Checkpoint(original).config, prefix))
        layouts.assert_same(convert(source, tmp_path / f"{i} ours"), original)


def test_what_torch_saved(tmp_path: Path) -> None:
    trained_vit, rn = cases.MINI["vit"], cases.MINI["rn"]
    heads = Options(activation="quick_gelu", **cases.heads_of(trained_vit))
    found = [convert(TORCH / f"vit{ending}", tmp_path / f"vit{ending}", heads) for ending in (".pt", ".bin")]
    original = synthetic.write(tmp_path / "original", trained_vit, cases.SEED, "plain")
    for folder in found:
        layouts.assert_same(folder, original)
    heads = Options(activation="quick_gelu", **cases.heads_of(rn))
    layouts.assert_same(
        convert(TORCH / "rn.bin", tmp_path / "rn", heads),
        synthetic.write(tmp_path / "rn original", rn, cases.SEED, "plain"),
    )


def test_our_own_folder(trained_vit: Path, tmp_path: Path) -> None:
    once = convert(trained_vit, tmp_path / "once")
    layouts.assert_same(once, trained_vit)
    assert (convert(once, tmp_path / "twice") / "model.safetensors").read_bytes() == (
        once / "model.safetensors"
    ).read_bytes()


def test_what_is_converted_embeds_the_same(trained_vit: Path, tmp_path: Path) -> None:
    source = layouts.put(tmp_path / "theirs", layouts.as_transformers(trained_vit, Checkpoint(trained_vit).config))
    ours, converted = (
        AutoModel.from_pretrained(p, backend="reference") for p in (trained_vit, convert(source, tmp_path / "c"))
    )
    assert np.array_equal(ours.embed_images(pictures(2)), converted.embed_images(pictures(2)))
    ids = np.array([[8, 9, Checkpoint(trained_vit).config.text.vocab_size - 1]])
    assert np.array_equal(ours.encode_text(ids), converted.encode_text(ids))


# --- what can't be known ----------------------------------------------------------------------------------------------


def test_doubts_name_the_option_that_settles_them(trained_vit: Path, trained_resnet: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((trained_vit / "model.safetensors").read_bytes())
    with pytest.raises(
        Doubt, match=r"bare\.safetensors doesn't tell its activation, .*activation=\.\.\..*--activation"
    ):
        convert(bare, tmp_path / "out")
    with pytest.raises(Doubt, match="vision tower is 33 wide.*Or say --vision-heads and --text-heads"):
        convert(bare, tmp_path / "out", Options(activation="gelu"))
    with pytest.raises(Doubt, match="text tower is 30 wide.*Or say --vision-heads and --text-heads"):
        convert(bare, tmp_path / "out", Options(activation="gelu", vision_heads=3))
    assert not (tmp_path / "out").exists()
    converted = convert(bare, tmp_path / "out", Options(activation="gelu", vision_heads=3, text_heads=6))
    expected = dataclasses.replace(Checkpoint(trained_vit).config, preprocess=PreprocessConfig())
    assert Checkpoint(converted).config == expected
    assert Checkpoint(convert(bare, tmp_path / "2", Options(config=expected))).config == expected


@pytest.mark.parametrize(
    ("code", "activation"),
    [("torch.sigmoid(torch.mul(x, c))", "quick_gelu"), ("torch.gelu(x)", "gelu"), ("", None), ("gelu(sigmoid(", None)],
)
def test_activation_in_torchscript(code: str, activation: str | None) -> None:
    assert _activation(code) == activation and _activation(None) is None


def test_openais_files_are_known_by_their_digest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sources.OPENAI_FILES, "clip/RN50", cases.digest(TORCH / "vit.bin"))
    monkeypatch.setitem(PUBLISHED, "clip/RN50", cases.MINI["vit"])
    source = open_source(TORCH / "vit.bin")
    assert source.model == "clip/RN50" and source.config == cases.MINI["vit"]


# --- tensors that don't fit -------------------------------------------------------------------------------------------


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """transformers' folder with tensors replaced, or taken out where the value is None."""
    layouts.put(target, layouts.as_transformers(folder, Checkpoint(folder).config))
    tensors = load_file(target / "model.safetensors")
    for name, value in changes.items():
        tensors.pop(name.replace("__", "."), None)
        if value is not None:
            tensors[name.replace("__", ".")] = value
    save_file(tensors, target / "model.safetensors")
    return target


K = "vision_model__encoder__layers__0__self_attn__k_proj__weight"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {K: None},
            "'vision_model.encoder.layers.0.self_attn.q_proj.weight', and its k_proj and v_proj, are not three",
        ),
        ({K: np.zeros((33, 33), "f4")}, "are not three tensors of one dtype and shape"),
        ({K: np.zeros((32, 33), "f2")}, "are not three tensors of one dtype and shape"),
        ({"visual_projection__weight": None}, "missing 'visual.proj' (33, 25)"),
        (
            {"visual_projection__weight": np.zeros((33, 25), "f2")},
            "'visual.proj' has shape (25, 33), expected (33, 25)",
        ),
        ({"extra": np.zeros(3, "f4")}, "unexpected 'extra' (3,)"),
        ({"logit_scale": np.zeros(2, "f4")}, "'logit_scale' has shape (2,), expected ()"),
        ({"logit_scale": np.zeros((), "i4")}, "'logit_scale' has dtype I32"),
    ],
)
def test_tensors_that_do_not_fit(changes: dict[str, Any], message: str, trained_vit: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        convert(edited(trained_vit, tmp_path / "theirs", **changes), tmp_path / "out")
    assert message in str(caught.value) and "model.safetensors" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_weights_that_are_not_finite_are_not_converted(
    value: float, dtype: str | None, trained_vit: Path, tmp_path: Path
) -> None:
    spoiled = np.full((33, 25), 0.5, "f2")
    spoiled[3, 4] = value
    theirs = edited(trained_vit, tmp_path / "theirs", visual_projection__weight=np.ascontiguousarray(spoiled.T))
    with pytest.raises(
        WeightsError, match=r"model\.safetensors.*tensor 'visual\.proj' has 1 values that are not finite"
    ):
        convert(theirs, tmp_path / "out", dtype=dtype)
    with pytest.raises(WeightsError, match="not finite"):
        AutoModel.from_pretrained(theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_logit_scale_of_one_element_is_a_scalar(trained_vit: Path, tmp_path: Path) -> None:
    one = edited(trained_vit, tmp_path / "theirs", logit_scale=np.array([np.float32(4.25)]))
    assert Checkpoint(convert(one, tmp_path / "out")).file.read("logit_scale", "float32") == np.float32(4.25)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["visual.trunk.a"], "one of timm's"),
        (["a", "b"], r"\('a', 'b', \.\.\.\) have names of no layout"),
        ([], r"\(none, \.\.\.\)"),
    ],
)
def test_names_of_no_layout(names: list[str], message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        assemblies({name: Stored("F32", (1,), lambda: np.zeros(1, "f4")) for name in names})


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "has no weight_map"),
        ({"weight_map": {"a": 3}}, "has no weight_map"),
        (
            {"weight_map": {"a": "../x.safetensors"}},
            "names the shard '../x.safetensors', which is no file of tensors beside it",
        ),
        (
            {"weight_map": {"a": "gone.safetensors"}},
            "names the shard 'gone.safetensors', which is no file of tensors beside it",
        ),
    ],
)
def test_a_bad_index(table: Any, message: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(table))
    with pytest.raises(WeightsError) as caught:
        open_source(tmp_path)
    assert message in str(caught.value)


def test_which_files_are_chosen() -> None:
    safe = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    others = ["flax_model.msgpack", "pytorch_model.bin", "README.md", "open_clip_pytorch_model.bin", "tf_model.h5"]
    assert choose([*safe, *others, "config.json", "merges.txt"]) == [
        safe[2],
        safe[0],
        safe[1],
        "config.json",
        "merges.txt",
    ]
    assert choose(others) == ["open_clip_pytorch_model.bin"]
    with pytest.raises(ModelNotFound, match="No weights among 1 files"):
        choose(["flax_model.msgpack"])
