"""Configurations: the published numbers, and the ways from shapes and JSON and back."""

import dataclasses
import json
import math

import pytest

from clipref.config import (
    PUBLISHED,
    ClipConfig,
    ViTConfig,
    tensor_shapes,
    text_shapes,
    visual_shapes,
)
from clipref.errors import ConfigError
from clipref.weights_tools.infer import infer_config

from .conftest import TINY

# Parameters in millions, image and text tower: open_clip, docs/model_profile.csv.
PARAMETERS = {
    "clip/RN50": (38.32, 63.69),
    "clip/RN101": (56.26, 63.43),
    "clip/RN50x4": (87.14, 91.16),
    "clip/RN50x16": (167.33, 123.65),
    "clip/RN50x64": (420.38, 202.88),
    "clip/ViT-B-32": (87.85, 63.43),
    "clip/ViT-B-16": (86.19, 63.43),
    "clip/ViT-L-14": (303.97, 123.65),
    "clip/ViT-L-14-336px": (304.29, 123.65),
}


def parameters(shapes: dict[str, tuple[int, ...]]) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if ".running_" not in name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_as_published(name: str) -> None:
    config = PUBLISHED[name]
    millions = tuple(round(parameters(shapes) / 1e6, 2) for shapes in (visual_shapes(config), text_shapes(config)))
    assert millions == PARAMETERS[name]


def test_vit_b_32_has_as_many_parameters_as_openai_says() -> None:
    assert parameters(tensor_shapes(PUBLISHED["clip/ViT-B-32"])) == 151_277_313  # openai/CLIP, Interacting_with_CLIP


def test_nine_models_are_published() -> None:
    assert PARAMETERS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_config_is_inferred_from_shapes(name: str) -> None:
    assert infer_config(tensor_shapes(PUBLISHED[name]), "quick_gelu") == PUBLISHED[name]


@pytest.mark.parametrize("config", [*PUBLISHED.values(), *TINY.values()])
def test_json_round_trip(config: ClipConfig) -> None:
    assert ClipConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_heads_that_cannot_be_inferred() -> None:
    with pytest.raises(ConfigError, match=r"vision tower is 36 wide.*config\.json with vision\.heads"):
        infer_config(tensor_shapes(TINY["vit"]), "quick_gelu")
    # open_clip's ViT-H-14, whose 16 heads have 80 channels; its text tower is as OpenAI's are.
    high = ViTConfig(224, 14, 1280, 32, 16, 5120)
    text = dataclasses.replace(PUBLISHED["clip/RN50x64"].text, layers=24)
    config = ClipConfig(1024, high, text)
    with pytest.raises(ConfigError, match="vision tower is 1280 wide, unlike OpenAI's"):
        infer_config(tensor_shapes(config), "quick_gelu")
    assert infer_config(tensor_shapes(config), "quick_gelu", vision_heads=16) == config


def test_tensor_that_decides_is_missing() -> None:
    shapes = tensor_shapes(PUBLISHED["clip/ViT-B-32"])
    del shapes["visual.conv1.weight"]
    with pytest.raises(ConfigError, match=r"visual\.conv1\.weight"):
        infer_config(shapes, "quick_gelu")


def test_positions_that_form_no_square() -> None:
    shapes = tensor_shapes(PUBLISHED["clip/ViT-B-32"]) | {"visual.positional_embedding": (52, 768)}
    with pytest.raises(ConfigError, match="51 positions"):
        infer_config(shapes, "quick_gelu")


def changed(**changes: object) -> dict[str, object]:
    """ViT-B-32's JSON with keys such as `vision.width` changed, or removed where the value is None."""
    data = PUBLISHED["clip/ViT-B-32"].to_dict()
    for key, value in changes.items():
        *path, leaf = key.split("__")
        node = data
        for part in path:
            node = node[part]
        if value is None:
            del node[leaf]
        else:
            node[leaf] = value
    return data


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embed_dim": None}, "embed_dim is None"),
        ({"embed_dim": True}, "embed_dim is True"),
        ({"embed_dim": 0}, "embed_dim is 0"),
        ({"vision__kind": "mlp"}, r"vision\.kind is 'mlp'.*resnet.*vit"),
        ({"vision__width": "768"}, "width is '768'"),
        ({"vision__width": None}, r"vision\.width is missing"),
        ({"vision__widht": 768}, r"unknown key vision\.widht.*width"),
        ({"vision__heads": 7}, "width of 768 can't be divided among 7 heads"),
        ({"vision__patch_size": 300}, "patches of 300"),
        ({"vision__layers": -1}, r"vision\.layers is -1"),
        ({"text__activation": "swish"}, "'swish'; expected 'quick_gelu' or 'gelu'"),
        ({"preprocess__std": [0.2, 0.0, 0.2]}, r"preprocess\.std"),
        ({"preprocess__mean": [0.2, 0.3]}, r"preprocess\.mean"),
        ({"preprocess__resize_mode": "longest"}, "resize_mode is 'longest'; expected one of .*'squash'"),
        ({"preprocess__interpolation": 3}, "interpolation is 3; expected a value of type str"),
        ({"preprocess__upright": 1}, "upright is 1; expected a value of type bool"),
        ({"preprocess__upright": "yes"}, "upright is 'yes'"),
        ({"text": 5}, "text: expected a JSON object, got int"),
        ({"colour": 5}, "unknown key 'colour'"),
    ],
)
def test_wrong_json_is_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipConfig.from_dict(changed(**changes))


def test_upright_is_part_of_what_is_recorded() -> None:
    assert PUBLISHED["clip/ViT-B-32"].to_dict()["preprocess"]["upright"] is False
    turned = ClipConfig.from_dict(changed(preprocess__upright=True))
    assert turned.preprocess.upright and turned != PUBLISHED["clip/ViT-B-32"]
    assert ClipConfig.from_dict(json.loads(json.dumps(turned.to_dict()))) == turned
    older = changed(preprocess__upright=None)  # as versions without it wrote it
    assert ClipConfig.from_dict(older) == PUBLISHED["clip/ViT-B-32"]
    with pytest.raises(ConfigError, match="upright is 1"):
        dataclasses.replace(turned, preprocess=dataclasses.replace(turned.preprocess, upright=1))  # type: ignore[arg-type]


def test_configs_cannot_be_changed() -> None:
    config = PUBLISHED["clip/ViT-B-32"].vision
    assert isinstance(config, ViTConfig) and config.grid == 7
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.width = 3  # type: ignore[misc]
