"""Checkpoints of every layout become ours, to the bit; what can't be known is asked for; what is wrong is refused."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file, save_file

from clipref import AutoModel, ConfigError, InputError, ModelNotFound, WeightsError, hub
from clipref.cli import main
from clipref.config import PUBLISHED, ClipConfig, PreprocessConfig, TextConfig, ViTConfig, tensor_shapes
from clipref.weights import Checkpoint
from clipref.weights_tools import convert as module
from clipref.weights_tools import sources, synthetic
from clipref.weights_tools import verify as verifying
from clipref.weights_tools.configs import from_open_clip, from_transformers
from clipref.weights_tools.convert import cast, convert
from clipref.weights_tools.inspect import _deviations, inspect
from clipref.weights_tools.layouts import recipes
from clipref.weights_tools.published import PUBLISHED_VALUES, Published, _embedding, _grey_embedding, _grey_pooled
from clipref.weights_tools.sources import Doubt, Options, _activation, choose, open_source
from clipref.weights_tools.stored import Stored
from clipref.weights_tools.verify import verify

from . import cases, layouts
from .conftest import MERGES, TINY, pictures

TORCH = cases.GOLDEN / "torch"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT with what tells layouts apart: float16 and float32 mixed, exact GELU, its own preprocessing."""
    pixels = PreprocessConfig((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "squash")
    config = dataclasses.replace(cases.TINY["vit-gelu"], preprocess=pixels)
    return synthetic.write(tmp_path_factory.mktemp("vit") / "checkpoint", config, 5, "trained")


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("rn") / "checkpoint", cases.TINY["rn-b"], 5, "trained")


def put(folder: Path, files: layouts.Files) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def same(one: Path, other: Path) -> None:
    """Two folders of one checkpoint: the same tensors to the bit, the same configuration."""
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    assert a.keys() == b.keys()
    for name in a:
        assert (a[name].dtype, a[name].shape) == (b[name].dtype, b[name].shape), name
        assert a[name].tobytes() == b[name].tobytes(), name
    assert Checkpoint(one).config == Checkpoint(other).config


@pytest.mark.parametrize("shards", [1, 3])
def test_transformers(vit: Path, shards: int, tmp_path: Path) -> None:
    source = put(tmp_path / "theirs", layouts.as_transformers(vit, Checkpoint(vit).config, shards))
    converted = convert(source, tmp_path / "ours")
    same(converted, vit)
    provenance = json.loads((converted / "provenance.json").read_text())
    assert provenance["source"]["kind"] == ("safetensors" if shards == 1 else "sharded safetensors")
    assert set(provenance["source"]["files"]) == {path.name for path in source.iterdir()}
    assert provenance["source"]["files"]["config.json"] == cases.digest(source / "config.json")


@pytest.mark.parametrize("prefix", ["", "text."])
def test_open_clip(vit: Path, resnet: Path, prefix: str, tmp_path: Path) -> None:
    for i, original in enumerate((vit, resnet)):
        source = put(tmp_path / f"{i}", layouts.as_open_clip(original, Checkpoint(original).config, prefix))
        same(convert(source, tmp_path / f"{i} ours"), original)


def test_what_torch_saved(tmp_path: Path) -> None:
    vit, rn = cases.MINI["vit"], cases.MINI["rn"]
    heads = Options(activation="quick_gelu", vision_heads=vit.vision.heads, text_heads=vit.text.heads)
    found = [convert(TORCH / f"vit{ending}", tmp_path / f"vit{ending}", heads) for ending in (".pt", ".bin")]
    original = synthetic.write(tmp_path / "original", vit, cases.SEED, "plain")
    for folder in found:
        same(folder, original)
    heads = Options(activation="quick_gelu", vision_heads=rn.vision.heads, text_heads=rn.text.heads)
    same(
        convert(TORCH / "rn.bin", tmp_path / "rn", heads),
        synthetic.write(tmp_path / "rn original", rn, cases.SEED, "plain"),
    )


def test_our_own_folder(vit: Path, tmp_path: Path) -> None:
    once = convert(vit, tmp_path / "once")
    same(once, vit)
    assert (convert(once, tmp_path / "twice") / "model.safetensors").read_bytes() == (
        once / "model.safetensors"
    ).read_bytes()


def test_what_is_converted_embeds_the_same(vit: Path, tmp_path: Path) -> None:
    source = put(tmp_path / "theirs", layouts.as_transformers(vit, Checkpoint(vit).config))
    ours, converted = (
        AutoModel.from_pretrained(p, backend="reference") for p in (vit, convert(source, tmp_path / "c"))
    )
    assert np.array_equal(ours.embed_images(pictures(2)), converted.embed_images(pictures(2)))
    ids = np.array([[8, 9, Checkpoint(vit).config.text.vocab_size - 1]])
    assert np.array_equal(ours.encode_text(ids), converted.encode_text(ids))


# --- what can't be known ----------------------------------------------------------------------------------------------


def test_doubts_name_the_option_that_settles_them(vit: Path, resnet: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.safetensors"
    bare.write_bytes((vit / "model.safetensors").read_bytes())
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
    expected = dataclasses.replace(Checkpoint(vit).config, preprocess=PreprocessConfig())
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
    monkeypatch.setitem(PUBLISHED, "clip/RN50", cases.MINI["vit"])  # type: ignore[misc]
    source = open_source(TORCH / "vit.bin")
    assert source.model == "clip/RN50" and source.config == cases.MINI["vit"]


# --- configurations of others -----------------------------------------------------------------------------------------


def test_transformers_defaults_are_vit_b_32() -> None:
    assert from_transformers({"model_type": "clip"}, None) == PUBLISHED["clip/ViT-B-32"]
    # As in openai/clip-vit-base-patch32, where the end-of-text id is 2 and sizes are plain numbers.
    old = {"model_type": "clip", "text_config": {"eos_token_id": 2}, "text_config_dict": None}
    assert from_transformers(old, {"size": 224, "crop_size": 224, "resample": 3}) == PUBLISHED["clip/ViT-B-32"]
    twice = {
        "model_type": "clip",
        "text_config": {"hidden_act": "gelu"},
        "text_config_dict": {"hidden_act": "quick_gelu"},
    }
    assert from_transformers(twice, None).text.activation == "quick_gelu"


def open_clip(vision: dict[str, Any], text: dict[str, Any], **model: Any) -> ClipConfig:
    return from_open_clip({"model_cfg": {"embed_dim": 512, "vision_cfg": vision, "text_cfg": text, **model}})


def test_open_clips_shapes() -> None:
    # src/open_clip/model_configs: ViT-g-14.json, ViT-bigG-14.json, RN50.json with quick_gelu, ViT-B-32-quickgelu.json.
    g = open_clip(
        {"image_size": 224, "layers": 40, "width": 1408, "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 14},
        {"context_length": 77, "vocab_size": 49408, "width": 1024, "heads": 16, "layers": 24},
    )
    assert g.vision == ViTConfig(224, 14, 1408, 40, 16, 6144, "gelu")
    assert g.text == TextConfig(77, 49408, 1024, 24, 16, 4096, "gelu")
    big = open_clip({"layers": 48, "width": 1664, "head_width": 104, "mlp_ratio": 4.9231, "patch_size": 14}, {})
    assert big.vision == ViTConfig(224, 14, 1664, 48, 16, 8192, "gelu")
    text = {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12}
    rn = {"image_size": 224, "layers": [3, 4, 6, 3], "width": 64, "patch_size": None}
    assert open_clip(rn, text, quick_gelu=True, embed_dim=1024) == PUBLISHED["clip/RN50"]
    vit = {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32, "patch_dropout": 0.5, "pool_type": "tok"}
    assert open_clip(vit, text, quick_gelu=True, custom_text=True) == PUBLISHED["clip/ViT-B-32"]
    assert open_clip(vit, text) == cases.with_activation(PUBLISHED["clip/ViT-B-32"], "gelu")


def test_the_same_models_in_transformers_layout() -> None:
    """As in config.json of laion/CLIP-ViT-g-14-laion2B-s12B-b42K, apple/DFN5B-CLIP-ViT-H-14-378 and MetaCLIP's B-16."""
    text = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "num_hidden_layers": 24}
    wide = {"hidden_size": 1408, "intermediate_size": 6144, "num_attention_heads": 16, "num_hidden_layers": 40}
    g = from_transformers(
        {
            "model_type": "clip",
            "projection_dim": 1024,
            "text_config": text | {"hidden_act": "gelu"},
            "vision_config": wide | {"patch_size": 14, "hidden_act": "gelu"},
        },
        {"do_center_crop": True, "crop_size": {"height": 224, "width": 224}, "size": {"shortest_edge": 224}},
    )
    vision = {"layers": 40, "width": 1408, "head_width": 88, "mlp_ratio": 4.3637, "patch_size": 14}
    assert g == open_clip(vision, {"width": 1024, "heads": 16, "layers": 24}, embed_dim=1024)
    high = {"hidden_size": 1280, "intermediate_size": 5120, "num_attention_heads": 16, "num_hidden_layers": 32}
    h = from_transformers(
        {
            "model_type": "clip",
            "projection_dim": 1024,
            "text_config": text | {"eos_token_id": 49407},
            "vision_config": high | {"patch_size": 14, "image_size": 378},
        },
        {"do_center_crop": False, "size": {"height": 378, "width": 378}, "resample": 3},
    )
    vision = {"image_size": 378, "layers": 32, "width": 1280, "head_width": 80, "patch_size": 14}
    model = {"embed_dim": 1024, "quick_gelu": True, "vision_cfg": vision}
    model |= {"text_cfg": {"width": 1024, "heads": 16, "layers": 24}}
    assert h == from_open_clip({"model_cfg": model, "preprocess_cfg": {"resize_mode": "squash", "size": [378, 378]}})
    metaclip = {"model_type": "clip", "vision_config": {"patch_size": 16}, "text_config": {"eos_token_id": 2}}
    assert from_transformers(metaclip, None) == PUBLISHED["clip/ViT-B-16"]


def test_preprocessing_of_others(vit: Path, tmp_path: Path) -> None:
    config = from_open_clip({"model_cfg": {"embed_dim": 4}, "preprocess_cfg": {"mean": 0.5, "interpolation": "random"}})
    assert config.preprocess == PreprocessConfig(mean=(0.5, 0.5, 0.5))
    # As transformers 5 writes it.
    files = layouts.as_transformers(vit, Checkpoint(vit).config)
    nested = {"image_processor": json.loads(files.pop("preprocessor_config.json")), "processor_class": "CLIPProcessor"}
    files["processor_config.json"] = json.dumps(nested).encode()
    converted = convert(put(tmp_path / "theirs", files), tmp_path / "ours")
    same(converted, vit)
    assert "processor_config.json" in json.loads((converted / "provenance.json").read_text())["source"]["files"]
    assert choose(files) == ["model.safetensors", "config.json", "processor_config.json"]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model_cfg": {"embed_dim": 4, "vision_cfg": {"pool_type": "avg"}}}, "vision_cfg.pool_type is 'avg'"),
        ({"model_cfg": {"embed_dim": 4, "vision_cfg": {"no_ln_pre": True}}}, "vision_cfg.no_ln_pre is True"),
        ({"model_cfg": {"embed_dim": 4, "vision_cfg": {"timm_model_name": "x"}}}, "vision_cfg.timm_model_name is 'x'"),
        ({"model_cfg": {"embed_dim": 4, "text_cfg": {"hf_model_name": "x"}}}, "text_cfg.hf_model_name is 'x'"),
        ({"model_cfg": {"embed_dim": 4, "text_cfg": {"no_causal_mask": True}}}, "text_cfg.no_causal_mask is True"),
        ({"model_cfg": {"embed_dim": 4, "text_cfg": {"tokenizer_kwargs": {"a": 1}}}}, "text_cfg.tokenizer_kwargs"),
        ({"model_cfg": {"embed_dim": 4, "multimodal_cfg": {"width": 3}}}, "model_cfg.multimodal_cfg is"),
        ({"model_cfg": {"embed_dim": 4, "init_logit_bias": -10}}, "model_cfg.init_logit_bias is -10"),
        ({"model_cfg": {"embed_dim": "four"}}, "embed_dim is 'four'"),
        ({"model_cfg": {"embed_dim": 4, "vision_cfg": [1]}}, "where it should have an object"),
        ({"model_cfg": {"embed_dim": 4, "vision_cfg": {"width": "wide"}}}, "of the wrong kind"),
        ({"model_cfg": {"embed_dim": 4, "vision_cfg": {"head_width": 0}}}, "of the wrong kind"),
        ({"model_cfg": {"embed_dim": 4}, "preprocess_cfg": {"resize_mode": "longest"}}, "resize_mode is 'longest'"),
        (
            {"model_cfg": {"embed_dim": 4}, "preprocess_cfg": {"size": 336}},
            "preprocess_cfg.size is 336, image_size 224",
        ),
        ({"preprocess_cfg": {}}, "has no model_cfg"),
    ],
)
def test_open_clips_models_that_are_no_clip(config: Any, message: str, vit: Path, tmp_path: Path) -> None:
    files = layouts.as_open_clip(vit, Checkpoint(vit).config) | {"open_clip_config.json": json.dumps(config).encode()}
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")) as caught:
        convert(put(tmp_path / "theirs", files), tmp_path / "out")
    assert str(tmp_path / "theirs") in str(caught.value) and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.json", {"model_type": "siglip"}, "model_type is 'siglip'; expected 'clip'"),
        ("config.json", {"model_type": "clip", "text_config": {"eos_token_id": 7}}, "end-of-text id is 7 of 49408"),
        ("config.json", {"model_type": "clip", "vision_config": {"layer_norm_eps": 1e-6}}, "layer_norm_eps is 1e-06"),
        (
            "config.json",
            {"model_type": "clip", "vision_config": {"image_size": 36, "hidden_act": "relu"}},
            "activation is 'relu'",
        ),
        ("config.json", {"model_type": "clip", "vision_config": 3}, "should have an object"),
        ("preprocessor_config.json", {"size": 256}, "size {'shortest_edge': 256}"),
        ("preprocessor_config.json", {"resample": 1}, "resample is 1"),
        ("preprocessor_config.json", {"image_std": [0, 1, 1]}, "std"),
        ("preprocessor_config.json", [1], "not a JSON object"),
        ("preprocessor_config.json", {"do_normalize": False}, "do_normalize is False; CLIP resizes, divides by 255"),
        ("preprocessor_config.json", {"rescale_factor": 1 / 127.5}, "rescale_factor is 0.00784"),
        ("preprocessor_config.json", {"do_center_crop": False}, "do_center_crop is False; CLIP crops, or resizes"),
    ],
)
def test_transformers_models_that_are_no_clip(file: str, content: Any, message: str, vit: Path, tmp_path: Path) -> None:
    files = layouts.as_transformers(vit, Checkpoint(vit).config) | {file: json.dumps(content).encode()}
    with pytest.raises(ConfigError) as caught:
        convert(put(tmp_path / "theirs", files), tmp_path / "out")
    assert message in str(caught.value) and str(tmp_path / "theirs") in str(caught.value)


# --- tensors that don't fit -------------------------------------------------------------------------------------------


def edited(folder: Path, target: Path, **changes: Any) -> Path:
    """transformers' folder with tensors replaced, or taken out where the value is None."""
    put(target, layouts.as_transformers(folder, Checkpoint(folder).config))
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
def test_tensors_that_do_not_fit(changes: dict[str, Any], message: str, vit: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        convert(edited(vit, tmp_path / "theirs", **changes), tmp_path / "out")
    assert message in str(caught.value) and "model.safetensors" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("dtype", [None, "float32", "bfloat16"])
def test_weights_that_are_not_finite_are_not_converted(
    value: float, dtype: str | None, vit: Path, tmp_path: Path
) -> None:
    spoiled = np.full((33, 25), 0.5, "f2")
    spoiled[3, 4] = value
    theirs = edited(vit, tmp_path / "theirs", visual_projection__weight=np.ascontiguousarray(spoiled.T))
    with pytest.raises(
        WeightsError, match=r"model\.safetensors.*tensor 'visual\.proj' has 1 values that are not finite"
    ):
        convert(theirs, tmp_path / "out", dtype=dtype)
    with pytest.raises(WeightsError, match="not finite"):
        AutoModel.from_pretrained(theirs)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


def test_a_logit_scale_of_one_element_is_a_scalar(vit: Path, tmp_path: Path) -> None:
    one = edited(vit, tmp_path / "theirs", logit_scale=np.array([np.float32(4.25)]))
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
        recipes({name: Stored("F32", (1,), lambda: np.zeros(1, "f4")) for name in names})


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


# --- writing ----------------------------------------------------------------------------------------------------------


def test_merges(vit: Path, tmp_path: Path) -> None:
    source = put(tmp_path / "theirs", layouts.as_transformers(vit, Checkpoint(vit).config))
    (source / "merges.txt").write_text(MERGES)
    with pytest.raises(WeightsError, match="gives 521 tokens, but the model has 547. Is it another model's"):
        convert(source, tmp_path / "out")
    tiny = synthetic.write(tmp_path / "tiny", TINY["vit"])
    (tiny / "merges.txt").write_text(MERGES)
    assert (convert(tiny, tmp_path / "out") / "merges.txt").read_text() == MERGES
    config = dataclasses.replace(TINY["vit"], text=dataclasses.replace(TINY["vit"].text, vocab_size=49408))
    converted = convert(synthetic.write(tmp_path / "full", config), tmp_path / "full ours")
    assert AutoModel.from_pretrained(converted).embed_text("a photo of a cat").shape == (1, 22)
    assert (converted / "merges.txt").is_file()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
def test_casting(dtype: str, vit: Path, tmp_path: Path) -> None:
    converted = convert(vit, tmp_path / "out", dtype=dtype)
    assert set(Checkpoint(converted).file.dtypes.values()) == {module.DTYPES[dtype]}
    spacing = {"float32": 2**-24, "float16": 2**-11, "bfloat16": 2**-8, "float64": 0.0}[dtype]
    for name, shape in tensor_shapes(Checkpoint(vit).config).items():
        before, after = (Checkpoint(path).file.read(name, "float64") for path in (vit, converted))
        assert after.shape == shape and (np.abs(after - before) <= spacing * np.abs(before) + 2**-24).all(), name
    assert json.loads((converted / "provenance.json").read_text())["cast to"] == dtype


def test_bfloat16_is_rounded_to_even() -> None:
    # 1 + 2**-8 lies between two values of bfloat16, and so does 1 + 3 * 2**-8; just above it, up.
    value = np.array([1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, -1 - 2**-8], np.float32)
    rounded = (cast(value, "F32", "BF16").astype(np.uint32) << 16).view(np.float32)
    assert rounded.tolist() == [1, 1, 1 + 2**-6, 1 + 2**-7, -1]
    assert np.array_equal(cast(cast(value, "F32", "BF16"), "BF16", "F32"), rounded)


@pytest.mark.parametrize(("value", "wanted"), [(70000.0, "F16"), (3.4e38, "BF16"), (1e300, "F32")])
def test_what_overflows_is_refused(value: float, wanted: str) -> None:
    given = "F64" if value > 1e39 else "F32"
    with pytest.raises(WeightsError, match=f"a tensor has values too large for {wanted}"):
        cast(np.array([value], "f8" if given == "F64" else "f4"), given, wanted)


def test_a_folder_that_exists_is_left_alone(vit: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already; remove it, or choose another path"):
        convert(vit, tmp_path / "out")
    with pytest.raises(InputError, match="dtype is 'int8'; expected one of"):
        convert(vit, tmp_path / "other", dtype="int8")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


# A conversion that waits in the middle of writing.
CODE = """
import signal, sys, time
from clipref.cli import main
from clipref.weights_tools import convert
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may have it ignored
slow, digest = [], convert.tensor_digest
def waits(value):
    slow.append(value)
    if len(slow) == 20:
        print("ready", flush=True)
        time.sleep(60)
    return digest(value)
convert.tensor_digest = waits
sys.exit(main(["convert", *sys.argv[1:]]))
"""


def conversion_that_waits(source: Path, destination: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", CODE, str(source), str(destination)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing(how: signal.Signals, tmp_path: Path, vit: Path) -> None:
    process = conversion_that_waits(vit, tmp_path / "deep" / "out")
    assert len(list((tmp_path / "deep").iterdir())) == 1  # half of it is there
    process.send_signal(how)
    process.communicate(timeout=20)
    assert process.returncode == 130 and list((tmp_path / "deep").iterdir()) == []


def test_what_killed_runs_leave_is_removed_by_the_next_one(tmp_path: Path, vit: Path) -> None:
    killed = [conversion_that_waits(vit, tmp_path / "out" / name) for name in ("one", "two")]
    at_work = conversion_that_waits(vit, tmp_path / "out" / "three")
    for process in killed:
        process.kill()
        process.communicate()
    assert len(list((tmp_path / "out").iterdir())) == 3
    same(convert(vit, tmp_path / "out" / "four"), vit)
    assert len(list((tmp_path / "out").iterdir())) == 2  # the new one, and that of the run at work
    at_work.kill()
    at_work.communicate()
    same(convert(vit, tmp_path / "out" / "one"), vit)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"one", "four"}


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o002])
def test_permissions_are_what_the_umask_leaves(umask: int, tmp_path: Path, vit: Path) -> None:
    before = os.umask(umask)
    try:
        folder = convert(vit, tmp_path / "out" / "converted")
    finally:
        os.umask(before)
    for path in (folder, folder.parent):
        assert path.stat().st_mode & 0o777 == 0o777 & ~umask
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o666 & ~umask}


@pytest.mark.slow
def test_the_largest_model_needs_little_memory(tmp_path: Path) -> None:
    """RN50x64 is 1.35 GB in float16; its largest tensor 202 MB. Measured: 256 MB, of which 37 before it begins."""
    synthetic.write(tmp_path / "source", PUBLISHED["clip/RN50x64"])
    code = """
import sys
from clipref.weights_tools.convert import convert
convert(sys.argv[1], sys.argv[2])
print(open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""
    command = [sys.executable, "-c", code, str(tmp_path / "source"), str(tmp_path / "out")]
    kilobytes = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert kilobytes < 600_000


def test_command(vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(vit), str(tmp_path / "out"), "--dtype", "float16"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert main(["convert", str(vit), str(tmp_path / "out")]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["convert", str(tmp_path / "gone"), str(tmp_path / "o")]) == 1
    assert "gone' is neither a model id nor a path that exists" in capsys.readouterr().err
    assert main(["convert", str(vit), str(tmp_path / "o"), "--text-heads", "0"]) == 1
    assert "--text-heads is 0; expected at least 1" in capsys.readouterr().err


# --- inspect and verify -----------------------------------------------------------------------------------------------


def test_inspect(vit: Path, resnet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = inspect(vit)
    assert facts["config"] == Checkpoint(vit).config.to_dict() and not facts["problems"] and not facts["doubts"]
    tensors = load_file(vit / "model.safetensors")
    assert facts["bytes"] == sum(x.nbytes for x in tensors.values()) and facts["tensors"] == len(tensors)
    assert facts["parameters"]["image"] == sum(x.size for name, x in tensors.items() if name.startswith("visual"))
    assert facts["statistics"]["logit scale"] == pytest.approx(float(np.exp(tensors["logit_scale"])))
    # The synthetic style "trained" has residual channels 20 to 60 times the others.
    ratios = facts["statistics"]["largest channel over median channel"]
    assert max(ratios.values()) > 15 and max(inspect(resnet)["statistics"]["LayerNorm gains, smallest and largest"])
    assert (
        facts["nearest published"] == "clip/ViT-B-32"
        and "vision.activation is gelu, not quick_gelu" in facts["deviations"]
    )
    assert main(["inspect", str(resnet)]) == 0
    assert "ModifiedResNet, resolution 160" in capsys.readouterr().out
    assert main(["inspect", "clipref/shapes-vit", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "safetensors"


def test_digests_do_not_depend_on_the_layout(vit: Path, tmp_path: Path) -> None:
    other = put(tmp_path / "theirs", layouts.as_transformers(vit, Checkpoint(vit).config))
    facts = inspect(other)
    assert facts["digest"] == inspect(vit)["digest"] and facts["digests"] == inspect(vit)["digests"]
    converted = json.loads((convert(other, tmp_path / "out") / "provenance.json").read_text())
    assert {name: entry["sha256"] for name, entry in converted["tensors"].items()} == facts["digests"]


def test_a_published_shape_has_no_deviations(tmp_path: Path) -> None:
    for name, config in PUBLISHED.items():
        assert _deviations(config, []) == (name, [])


def test_inspect_says_what_is_in_doubt_and_what_is_wrong(vit: Path, tmp_path: Path) -> None:
    facts = inspect(TORCH / "rn.bin")
    assert facts["config"]["vision"]["heads"] is None and facts["config"]["text"]["activation"] is None
    assert "activation" not in facts["config"]["vision"] and len(facts["doubts"]) == 2
    tensors = load_file(vit / "model.safetensors")
    tensors["visual.proj"][0, :3] = np.nan
    tensors.pop("ln_final.bias")
    broken = put(tmp_path / "broken", {"config.json": (vit / "config.json").read_bytes()})
    save_file(tensors, broken / "model.safetensors")
    problems = inspect(broken)["problems"]
    assert "missing 'ln_final.bias'" in problems[0] and problems[1] == "visual.proj has 3 values that are not finite"
    assert main(["inspect", str(broken)]) == 1


def outcomes(path: Path, **options: Any) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for finding in verify(path, **options):
        found.setdefault(finding.outcome, []).append(finding.what)
    return found


def test_verify_finds_a_changed_bit(vit: Path, tmp_path: Path) -> None:
    converted = convert(vit, tmp_path / "out")
    assert "FAILED" not in outcomes(converted)
    file = converted / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(bytes(content))
    assert outcomes(converted)["FAILED"] == [
        "logit_scale",
        "finite tensors that are as provenance.json says",
        "digest of all tensors",
    ]
    assert main(["verify", str(converted)]) == 1
    content[-1] ^= 1
    end = 8 + int.from_bytes(content[:8], "little")
    header = bytes(content[8:end]).replace(b'"F16"', b'"BF16"', 1)  # the same bytes, read as other numbers
    file.write_bytes(len(header).to_bytes(8, "little") + header + content[end:])
    found = [finding for finding in verify(converted) if finding.outcome == "FAILED"]
    assert (found[0].expected, found[0].found) == ("dtype F16", "dtype BF16")
    file.write_bytes(bytes(content))
    assert "FAILED" not in outcomes(converted)
    (converted / "provenance.json").write_text("{")
    with pytest.raises(WeightsError, match="provenance.json is not JSON"):
        outcomes(converted)
    (converted / "provenance.json").unlink()
    assert outcomes(converted)["not done"][0] == "digest of all tensors" and main(["verify", str(converted)]) == 0


def test_verify_compares_published_values(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert {value.model for value in PUBLISHED_VALUES} <= PUBLISHED.keys()
    model = AutoModel.from_pretrained("clipref/shapes-vit", backend="reference")
    truth = tuple(model.encode_image(np.full((1, 3, 48, 48), 0.5, np.float32))[0, 1:4].tolist())
    picture = tmp_path / "picture.png"
    Image.fromarray(pictures(1)[0]).save(picture)
    first = tuple(model.embed_image(str(picture))[0, :2].tolist())
    seen: dict[str, np.ndarray] = {}
    model.engine.encode_image(np.full((1, 3, 48, 48), 0.5, np.float32), seen.setdefault)  # type: ignore[call-arg]
    pooled = tuple(seen["visual.ln_post"][0, 1:4].tolist())
    wrong = (truth[0], truth[1], truth[2] + 1e-2)
    name = "clip/ViT-B-32"
    monkeypatch.setitem(PUBLISHED, name, model.config)  # type: ignore[misc]
    values = (
        Published(name, "here", "right", truth, 1e-4, _grey_embedding),
        Published(name, "here", "pooled", pooled, 1e-4, _grey_pooled),
        Published(name, "here", "wrong", wrong, 1e-4, _grey_embedding),
        Published(name, "here", "nothing", (float("nan"),) * 3, 1e-4, _grey_embedding),
        Published(name, "here", "picture", first, 1e-4, _embedding(2), "picture.png", cases.digest(picture)),
        Published(name, "here", "another picture", first, 1e-4, _embedding(2), "picture.png", "0" * 64),
        Published(name, "here", "no picture", first, 1e-4, _embedding(2), "gone.png"),
        Published("clip/RN50", "here", "another model", truth, 1e-4, _grey_embedding),
    )
    monkeypatch.setattr(verifying, "PUBLISHED_VALUES", values)
    folder, _ = hub.locate("clipref/shapes-vit")
    found = {finding.what.split(" (")[0]: finding.outcome for finding in verify(folder, model=name, images=tmp_path)}
    expected = {"right": "ok", "pooled": "ok", "wrong": "FAILED", "nothing": "FAILED", "picture, picture.png": "ok"}
    expected |= {"another picture, picture.png": "not done", "no picture, gone.png": "not done"}
    assert {what: outcome for what, outcome in found.items() if what in expected} == expected
    assert "another model" not in found
    assert {"picture, picture.png": "not done"}.items() <= {
        f.what.split(" (")[0]: f.outcome for f in verify(folder, model=name)
    }.items()


def test_verify_of_what_is_not_there(vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("verify", "inspect"):
        assert main([command, str(tmp_path / "gone")]) == 1
        assert "gone' is neither a model id nor a path that exists" in capsys.readouterr().err
        assert main([command, "clip/ViT-B32"]) == 1
        assert "did you mean clip/ViT-B-32" in capsys.readouterr().err
        assert main([command, "hf:owner/name"]) == 1
        assert "not on this machine; fetch it with: clipref download hf:owner/name" in capsys.readouterr().err
    theirs = put(tmp_path / "theirs", layouts.as_transformers(vit, Checkpoint(vit).config))
    assert main(["verify", str(theirs)]) == 1
    assert "is of another layout; convert it first: clipref convert" in capsys.readouterr().err
    assert main(["verify", "clipref/shapes-rn", "--images", str(tmp_path / "gone")]) == 1
    assert "is not a folder" in capsys.readouterr().err
    assert main(["verify", "clipref/shapes-rn", "--json"]) == 0
    assert {finding["outcome"] for finding in json.loads(capsys.readouterr().out)} == {"ok", "not done"}
