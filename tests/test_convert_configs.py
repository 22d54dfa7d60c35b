"""The configurations of open_clip and transformers: those of CLIP are read, others are refused with a reason."""

import json
from pathlib import Path
from typing import Any

import pytest

from clipref import ConfigError
from clipref.config import PUBLISHED, ClipConfig, PreprocessConfig, TextConfig, ViTConfig
from clipref.weights import Checkpoint
from clipref.weights_tools.configs import from_open_clip, from_transformers
from clipref.weights_tools.convert import convert
from clipref.weights_tools.sources import choose

from . import cases, layouts


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


def test_preprocessing_of_others(trained_vit: Path, tmp_path: Path) -> None:
    config = from_open_clip({"model_cfg": {"embed_dim": 4}, "preprocess_cfg": {"mean": 0.5, "interpolation": "random"}})
    assert config.preprocess == PreprocessConfig(mean=(0.5, 0.5, 0.5))
    # As transformers 5 writes it.
    files = layouts.as_transformers(trained_vit, Checkpoint(trained_vit).config)
    nested = {"image_processor": json.loads(files.pop("preprocessor_config.json")), "processor_class": "CLIPProcessor"}
    files["processor_config.json"] = json.dumps(nested).encode()
    converted = convert(layouts.put(tmp_path / "theirs", files), tmp_path / "ours")
    layouts.assert_same(converted, trained_vit)
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
def test_open_clips_models_that_are_no_clip(config: Any, message: str, trained_vit: Path, tmp_path: Path) -> None:
    files = layouts.as_open_clip(trained_vit, Checkpoint(trained_vit).config) | {
        "open_clip_config.json": json.dumps(config).encode()
    }
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")) as caught:
        convert(layouts.put(tmp_path / "theirs", files), tmp_path / "out")
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
def test_transformers_models_that_are_no_clip(
    file: str, content: Any, message: str, trained_vit: Path, tmp_path: Path
) -> None:
    files = layouts.as_transformers(trained_vit, Checkpoint(trained_vit).config) | {file: json.dumps(content).encode()}
    with pytest.raises(ConfigError) as caught:
        convert(layouts.put(tmp_path / "theirs", files), tmp_path / "out")
    assert message in str(caught.value) and str(tmp_path / "theirs") in str(caught.value)
