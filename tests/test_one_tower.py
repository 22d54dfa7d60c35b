"""One tower alone: it opens, embeds what it can, and says what it can't."""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, load_file, save

from clipref import CLIP, AutoModel, ConfigError, InputError, WeightsError
from clipref.cli import main
from clipref.config import NO_IMAGE_TOWER, NO_TEXT_TOWER, ClipConfig, NoTower, TextConfig, ViTConfig, tensor_shapes
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic
from clipref.weights_tools.inspect import inspect
from clipref.weights_tools.sources import Doubt, open_source
from clipref.weights_tools.verify import verify

from . import layouts
from .conftest import MERGES, TINY, pictures
from .tolerances import assert_close

# Heads of 64 channels, which timm's files say nothing of; no two sizes alike.
CONFIG = ClipConfig(22, ViTConfig(12, 4, 64, 2, 1, 100), TextConfig(19, 521, 128, 3, 2, 90))
PIXELS = np.random.Generator(np.random.PCG64(3)).standard_normal((2, 3, 12, 12), np.float32)
IDS = np.array([[519, 7, 9, 520, 0], [519, 11, 520, 0, 0]])
Tensors = dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = synthetic.write(tmp_path_factory.mktemp("whole") / "checkpoint", CONFIG, 5, "plain")
    (folder / "merges.txt").write_text(MERGES)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))


def transformers(folder: Path, tower: str, *, projection: bool, bare: bool = False, **config: Any) -> layouts.Files:
    """What CLIPTextModel and CLIPVisionModel save, with projection or without; since version 5 the names are bare."""
    files = layouts.as_transformers(folder, CONFIG)
    kept = {f"{tower}_model.": "" if bare else f"{tower}_model."}
    if projection:
        kept[f"{'visual' if tower == 'vision' else 'text'}_projection."] = kept_name(tower)
    tensors = load(files["model.safetensors"])
    found = {
        f"{new}{n.removeprefix(old)}": t for n, t in tensors.items() for old, new in kept.items() if n.startswith(old)
    }
    settings = json.loads(files["config.json"])[f"{tower}_config"] | {"model_type": f"clip_{tower}_model"}
    settings |= {"projection_dim": CONFIG.embed_dim if projection else 512} | config
    return {
        "model.safetensors": save(found),
        "config.json": json.dumps(settings).encode(),
        "preprocessor_config.json": files["preprocessor_config.json"],
        "merges.txt": MERGES.encode(),
    }


def kept_name(tower: str) -> str:
    return "visual_projection." if tower == "vision" else "text_projection."


def openai(folder: Path, tower: str, rename: Callable[[str], str | None]) -> layouts.Files:
    """Some tensors of OpenAI's names, with open_clip's config of the whole."""
    tensors = {new: t for n, t in load_file(folder / "model.safetensors").items() if (new := rename(n)) is not None}
    config = layouts.as_open_clip(folder, CONFIG)["open_clip_config.json"]
    return {"model.safetensors": save(tensors), "open_clip_config.json": config, "merges.txt": MERGES.encode()}


def is_text(name: str) -> bool:
    return not name.startswith("visual.") and name != "logit_scale"


def as_timm(folder: Path, **head: Any) -> Tensors:
    """The state dict of timm's VisionTransformer with the image tower's weights."""
    tensors = load_file(folder / "model.safetensors")
    names = {
        "class_embedding": "cls_token", "positional_embedding": "pos_embed", "conv1.weight": "patch_embed.proj.weight",
        "ln_pre": "norm_pre", "ln_post": "norm", "transformer.resblocks": "blocks", "ln_1": "norm1", "ln_2": "norm2",
        "attn.in_proj_": "attn.qkv.", "attn.out_proj": "attn.proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2",
    }  # fmt: skip
    found = {"head.weight": np.ascontiguousarray(tensors["visual.proj"].T), "head.bias": np.zeros(22, "f4")} | head
    for name, tensor in tensors.items():
        if name.startswith("visual.") and name != "visual.proj":
            name = name.removeprefix("visual.")
            for ours, theirs in names.items():
                name = name.replace(ours, theirs)
            axes = {"cls_token": 2, "pos_embed": 1}.get(name, 0)
            found[name] = tensor.reshape((1,) * axes + tensor.shape)
    return {name: tensor for name, tensor in found.items() if tensor is not None}


def timm(folder: Path, architecture: str = "vit_base_patch32_clip_quickgelu_224", /, **head: Any) -> layouts.Files:
    pixels = CONFIG.preprocess
    settings = {"mean": pixels.mean, "std": pixels.std, "interpolation": pixels.interpolation, "crop_pct": 0.9}
    config = {"architecture": architecture, "num_classes": 22, "pretrained_cfg": settings}
    return {"model.safetensors": save(as_timm(folder, **head)), "config.json": json.dumps(config).encode()}


TEXT: dict[str, Callable[[Path], layouts.Files]] = {
    "CLIPTextModelWithProjection": lambda f: transformers(f, "text", projection=True),
    "OpenAI's names": lambda f: openai(f, "text", lambda n: n if is_text(n) else None),
    "OpenAI's names, and the scale": lambda f: openai(f, "text", lambda n: None if n.startswith("visual.") else n),
    "open_clip's, under text.": lambda f: openai(f, "text", lambda n: f"text.{n}" if is_text(n) else None),
    "in Stable Diffusion's single file": lambda f: openai(
        f, "text", lambda n: f"cond_stage_model.model.{n}" if is_text(n) else f"model.diffusion_model.{len(n)}.{n[-5:]}"
    ),
}
POOLED_TEXT: dict[str, Callable[[Path], layouts.Files]] = {
    "CLIPTextModel": lambda f: transformers(f, "text", projection=False),
    "CLIPTextModel of transformers 5": lambda f: transformers(f, "text", projection=False, bare=True),
    "Stable Diffusion's": lambda f: transformers(f, "text", projection=False, eos_token_id=2, projection_dim=768),
}
IMAGE: dict[str, Callable[[Path], layouts.Files]] = {
    "CLIPVisionModelWithProjection": lambda f: transformers(f, "vision", projection=True),
    "OpenAI's names": lambda f: openai(f, "vision", lambda n: n if n.startswith("visual.") else None),
    "OpenAI's names, bare": lambda f: openai(f, "vision", lambda n: n[7:] if n.startswith("visual.") else None),
    "under a prefix": lambda f: openai(f, "vision", lambda n: f"encoder.{n[7:]}" if n.startswith("visual.") else None),
    "timm's": timm,
    "timm's, without a bias": lambda f: timm(f, **{"head.bias": None}),
}
POOLED_IMAGE: dict[str, Callable[[Path], layouts.Files]] = {
    "CLIPVisionModel": lambda f: transformers(f, "vision", projection=False),
    "CLIPVisionModel of transformers 5": lambda f: transformers(f, "vision", projection=False, bare=True),
    "timm's": lambda f: timm(f, **{"head.weight": None, "head.bias": None}),
}


def put(folder: Path, files: layouts.Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def opened(path: Path) -> CLIP:
    return AutoModel.from_pretrained(path, backend="reference")


@pytest.mark.parametrize("layout", TEXT)
def test_a_text_tower(layout: str, whole: Path, tmp_path: Path) -> None:
    expected, model = opened(whole), opened(put(tmp_path / "text", TEXT[layout](whole)))
    assert isinstance(model.config.vision, NoTower) and model.config.text == CONFIG.text
    assert np.array_equal(model.encode_text(IDS), expected.encode_text(IDS))
    assert np.array_equal(model.embed_text(["a cat", "red"]), expected.embed_text(["a cat", "red"]))
    assert model.compare("a cat", ["red"], subject_type="text") == expected.compare("a cat", ["red"], "text")
    for call in (
        lambda: model.embed_image(pictures(1)[0]),
        lambda: model.embed_images(pictures(2)),
        lambda: model.encode_image(PIXELS),
        lambda: model.compare(pictures(1)[0], "a cat"),
        lambda: model.classify(pictures(1)[0], ["a cat"]),
        lambda: model.trace(image=pictures(1)[0]),
    ):
        with pytest.raises(InputError, match="no image tower: it is a CLIP's text tower alone, and embeds texts only"):
            call()
    assert "text tower" in repr(model)


@pytest.mark.parametrize("layout", IMAGE)
def test_an_image_tower(layout: str, whole: Path, tmp_path: Path) -> None:
    expected, model = opened(whole), opened(put(tmp_path / "image", IMAGE[layout](whole)))
    assert model.config.vision == CONFIG.vision and isinstance(model.config.text, NoTower)
    assert model.config.preprocess == CONFIG.preprocess
    assert np.array_equal(model.encode_image(PIXELS), expected.encode_image(PIXELS))
    assert np.array_equal(model.embed_images(pictures(2)), expected.embed_images(pictures(2)))
    corpus = model.embed_images(pictures(2))
    assert model.search(pictures(1)[0], corpus, query_type="image")[0][0] == 0
    for call in (
        lambda: model.embed_text("a cat"),
        lambda: model.encode_text(IDS),
        lambda: model.tokenize("a cat"),
        lambda: model.compare(pictures(1)[0], "a cat"),
        lambda: model.classify(pictures(1)[0], ["a cat"]),
        lambda: model.search("a cat", corpus),
        lambda: model.trace(text="a cat"),
    ):
        with pytest.raises(InputError, match="no text tower: it is a CLIP's image tower alone, and embeds images only"):
            call()
    assert "ViT at 12 px" in repr(model)


@pytest.mark.parametrize("layout", POOLED_TEXT)
def test_a_text_tower_without_projection_gives_its_pooled_output(layout: str, whole: Path, tmp_path: Path) -> None:
    model = opened(put(tmp_path / "text", POOLED_TEXT[layout](whole)))
    pooled = opened(whole).trace(text="a cat")["ln_final"][:, 0]
    assert model.config.embed_dim == CONFIG.text.width == pooled.shape[1]
    assert np.array_equal(model.embed_text("a cat"), pooled)


@pytest.mark.parametrize("layout", POOLED_IMAGE)
def test_an_image_tower_without_projection_gives_its_pooled_output(layout: str, whole: Path, tmp_path: Path) -> None:
    model = opened(put(tmp_path / "image", POOLED_IMAGE[layout](whole)))
    pooled = opened(whole).trace(image=pictures(1)[0])["visual.ln_post"]
    vision = CONFIG.vision
    assert isinstance(vision, ViTConfig)
    assert model.config.embed_dim == vision.width == pooled.shape[1]
    assert np.array_equal(model.embed_image(pictures(1)[0]), pooled)


def test_a_resnets_image_tower(tmp_path: Path) -> None:
    folder = synthetic.write(tmp_path / "rn", TINY["resnet"], 5, "plain")
    tensors = load_file(folder / "model.safetensors")
    alone = {name.removeprefix("visual."): t for name, t in tensors.items() if name.startswith("visual.")}
    config = layouts.as_open_clip(folder, TINY["resnet"])["open_clip_config.json"]
    put(tmp_path / "alone", {"open_clip_model.safetensors": save(alone), "open_clip_config.json": config})
    model = opened(tmp_path / "alone")
    assert np.array_equal(model.embed_images(pictures(2)), opened(folder).embed_images(pictures(2)))


@pytest.mark.parametrize("backend", ["blas", "onnx", "onnx-int8"])
def test_every_backend(backend: str, whole: Path, tmp_path: Path) -> None:
    expected = opened(whole)
    for name, files in (("text", TEXT), ("image", IMAGE)):
        folder = put(tmp_path / name, next(iter(files.values()))(whole))
        model = AutoModel.from_pretrained(folder, backend=backend)
        if name == "text":
            found, right = model.embed_text(["a cat", "red"]), expected.embed_text(["a cat", "red"])
        else:
            found, right = model.encode_image(PIXELS), expected.encode_image(PIXELS)
        if backend == "onnx-int8":
            assert found.shape == right.shape and np.isfinite(found).all()
        else:
            assert_close(found, right, backend)


def test_tools(whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, files, exported in (("text", TEXT, "textual.onnx"), ("image", IMAGE, "visual.onnx")):
        folder = put(tmp_path / name, next(iter(files.values()))(whole))
        converted = tmp_path / f"{name} converted"
        assert main(["convert", str(folder), str(converted)]) == 0
        checkpoint = Checkpoint(converted)
        assert checkpoint.file.shapes == tensor_shapes(checkpoint.config)
        assert not [finding for finding in verify(converted) if finding.outcome == "FAILED"]
        facts = inspect(converted)
        other = "vision" if name == "text" else "text"
        assert facts["config"][other] is None and not facts["problems"]
        assert main(["inspect", str(folder)]) == 0 and "none; 0 parameters" in capsys.readouterr().out
        assert main(["export-onnx", str(converted), str(tmp_path / f"{name} onnx")]) == 0
        assert [path.name for path in (tmp_path / f"{name} onnx").iterdir()] == [exported]
        capsys.readouterr()
    assert main(["embed", str(tmp_path), "--model", str(tmp_path / "text converted"), "--out", str(tmp_path / "o.npy")])
    assert "image" in capsys.readouterr().err


def test_what_is_no_tower_of_clip(whole: Path, tmp_path: Path) -> None:
    classifier = put(tmp_path / "classifier", timm(whole, **{"head.bias": np.ones(22, "f4")}))
    with pytest.raises(WeightsError, match="head has a bias, so it is a classifier"):
        opened(classifier)
    other = put(tmp_path / "other", {"model.safetensors": save(as_timm(whole) | {"blocks.0.ls1.gamma": PIXELS[0]})})
    with pytest.raises(WeightsError, match=r"unexpected 'visual\.blocks\.0\.ls1\.gamma'"):
        AutoModel.from_pretrained(other, config=CONFIG)
    siglip = transformers(whole, "text", projection=True, model_type="siglip_text_model")
    with pytest.raises(ConfigError, match="model_type is 'siglip_text_model'"):
        opened(put(tmp_path / "siglip", siglip))
    head = load(transformers(whole, "vision", projection=True)["model.safetensors"]) | {"classifier.bias": PIXELS[0]}
    files = transformers(whole, "vision", projection=True) | {"model.safetensors": save(head)}
    with pytest.raises(WeightsError, match=r"unexpected 'classifier\.bias'"):
        opened(put(tmp_path / "head", files))


def test_timms_activation_is_known_from_its_name_alone(whole: Path, tmp_path: Path) -> None:
    folder = put(tmp_path / "timm", timm(whole, "vit_base_patch32_clip_224"))
    with pytest.raises(Doubt, match="doesn't tell its activation"):
        opened(folder)
    files = timm(whole, "vit_base_patch32_clip_quickgelu_224")
    vision = open_source(put(tmp_path / "named", files)).config.vision
    assert isinstance(vision, ViTConfig) and vision.activation == "quick_gelu"


def test_a_whole_model_that_lacks_a_projection_is_refused(whole: Path, tmp_path: Path) -> None:
    for name in ("visual.proj", "text_projection"):
        folder = put(tmp_path / name, openai(whole, "", lambda n, name=name: None if n == name else n))  # type: ignore[misc]
        with pytest.raises(WeightsError, match=f"missing '{name}'"):
            opened(folder)


def test_a_tower_that_is_not_there() -> None:
    for config in (ClipConfig(22, NO_IMAGE_TOWER, CONFIG.text), ClipConfig(22, CONFIG.vision, NO_TEXT_TOWER)):
        assert ClipConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config and repr(config)
    with pytest.raises(InputError, match="no text tower"):
        NO_TEXT_TOWER.vocab_size  # noqa: B018
    with pytest.raises(ConfigError, match="at least one tower"):
        ClipConfig(22, NO_IMAGE_TOWER, NO_TEXT_TOWER)
    with pytest.raises(ConfigError, match=r"config\.json: text is missing"):
        ClipConfig.from_dict({"embed_dim": 3, "vision": None})
