"""CLIPA: another kind of both towers, in every backend, against golden values of open_clip's code.

tests/test_clipa_oracle.py made those values (`python -m tests.test_clipa_oracle`), and compares with a third code.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, ConfigError, InputError
from clipref import clipa as towers
from clipref.config import PUBLISHED, ClipConfig, TextConfig, ViTConfig, tensor_shapes
from clipref.model import CLIP
from clipref.towers import IMAGE_KINDS, TEXT_KINDS
from clipref.weights import Checkpoint
from clipref.weights_tools.configs import from_open_clip
from clipref.weights_tools.convert import convert
from clipref.weights_tools.export_onnx import export_onnx
from clipref.weights_tools.infer import infer_config
from clipref.weights_tools.inspect import _print, inspect
from clipref.weights_tools.sources import open_source

from . import clipa
from .conftest import pictures
from .tolerances import INT8_COSINE, assert_close, cosines, error

PIXELS, IDS = clipa.inputs()


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clipa.write(tmp_path_factory.mktemp("clipa"))


def opened(path: Path, backend: str = "reference", **options: str) -> CLIP:
    return AutoModel.from_pretrained(path, backend=backend, **options)  # type: ignore[arg-type]


def golden() -> dict[str, np.ndarray]:
    return {name: np.array(x) for name, x in json.loads(clipa.GOLDEN.read_text(encoding="utf-8"))["trained"].items()}


def test_the_reference_is_open_clips(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    model, right = opened(theirs, dtype="float64"), golden()
    assert model.config == clipa.CONFIG and "CLIP(CLIPA at 30 px" in repr(model)
    assert_close(model.encode_image(PIXELS), right["image"], "oracle float64")
    assert_close(model.encode_text(IDS), right["text"], "oracle float64")


@pytest.mark.parametrize("backend", ["reference", "blas", "onnx", "onnx-int8"])
def test_every_backend_computes_it(backend: str, theirs: Path) -> None:
    model, right = opened(theirs, backend), golden()
    found = {"image": model.encode_image(PIXELS), "text": model.encode_text(IDS)}
    for name, x in found.items():
        if backend == "onnx-int8":
            assert cosines(x, right[name]).min() > INT8_COSINE
        else:
            budget = "reference float32" if backend == "reference" else backend
            assert_close(x, right[name].astype(np.float32), budget)


@pytest.mark.extra
@pytest.mark.parametrize("backend", ["openvino", "torch"])
def test_every_extra_computes_it(backend: str, theirs: Path) -> None:
    if backend == "torch":
        pytest.importorskip("torch")
    model, right = opened(theirs, backend), golden()
    assert_close(model.encode_image(PIXELS), right["image"].astype(np.float32), "onnx")
    assert_close(model.encode_text(IDS), right["text"].astype(np.float32), "onnx")


def test_what_tells_it_from_a_clip_matters(theirs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each difference from CLIP, taken back, is far from the golden values."""
    right, checkpoint = golden(), Checkpoint(convert(theirs, tmp_path / "converted"))
    causal = dataclasses.replace(checkpoint.config, text=TextConfig(**dataclasses.asdict(checkpoint.config.text)))
    found = CLIP(Checkpoint(checkpoint.file.path, causal), "reference").encode_text(IDS)
    assert cosines(found, right["text"]).max() < 0.99
    padded = opened(theirs).encode_text(np.where(IDS == 0, 1, IDS))
    assert cosines(padded[:2], right["text"][:2]).max() < 0.99999 < cosines(padded[2:], right["text"][2:]).min()
    for pool in (lambda x: x, lambda x: x[:, :1]):  # the mean with the class token in it, and the class token alone
        monkeypatch.setattr(towers, "patch_tokens", pool)
        assert error(opened(theirs).encode_image(PIXELS), right["image"].astype(np.float32)) > 1000


def test_texts_are_refused_by_the_tokenizers_name(theirs: Path) -> None:
    model = opened(theirs)
    for call in (
        lambda: model.embed_text("a cat"),
        lambda: model.tokenize(["a cat"]),
        lambda: model.classify(pictures(1)[0], ["a cat"]),
        lambda: model.compare(pictures(1)[0], "a cat"),
        lambda: model.trace(text="a cat"),
    ):
        with pytest.raises(InputError, match=r"tokenizer 'bert-base-uncased', which clipref doesn't.* ids \[N, 11\]"):
            call()
    with pytest.raises(InputError, match=r"ids have 7 columns; expected 11, padded with 0"):
        model.encode_text(IDS[:, :7])
    assert model.embed_images(pictures(2)).shape == (2, 22)
    assert model.trace(image=pictures(1)[0])["visual.transformer.resblocks.1"].shape == (1, 25, 36)


def test_it_is_converted_exported_and_inspected(
    theirs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = convert(theirs, tmp_path / "ours")
    assert not {"merges.txt", "tokenizer.json"} & {path.name for path in folder.iterdir()}
    assert Checkpoint(folder).config == clipa.CONFIG and open_source(folder).as_it_is
    assert np.array_equal(opened(folder).encode_image(PIXELS), opened(theirs).encode_image(PIXELS))
    assert max(dict(export_onnx(folder, tmp_path / "onnx")).values()) < 1e-5
    facts = inspect(theirs)
    assert not facts["problems"] and not facts["doubts"] and facts["nearest published"].startswith("clip/ViT")
    assert "vision.kind is clipa, not vit" in facts["deviations"]
    _print(facts)
    assert "tokenizer bert-base-uncased" in capsys.readouterr().out


def test_json_and_shapes() -> None:
    config = clipa.CONFIG
    data = json.loads(json.dumps(config.to_dict()))
    assert data["vision"]["kind"] == data["text"]["kind"] == "clipa"
    assert ClipConfig.from_dict(data) == config
    shapes = tensor_shapes(config)
    assert not [name for name in shapes if "ln_pre" in name]
    with pytest.raises(ConfigError, match=r"or it is a CLIPA.*open_clip_config\.json"):
        infer_config(shapes, "gelu", 3, 5)
    for changes, message in (
        ({"tokenizer": None}, "text.tokenizer is None"),
        ({"eos_token_id": 3}, "text.eos_token_id is 3"),
        ({"tokenizer": 7}, "text: tokenizer is 7; expected a value of type str"),
    ):
        with pytest.raises(ConfigError, match=message):
            ClipConfig.from_dict({**data, "text": {**data["text"], **changes}})


def test_open_clips_six_are_known() -> None:
    """Their numbers: src/open_clip/model_configs/ViT-*-14-CLIPA*.json."""
    text = {"context_length": 32, "vocab_size": 32000, **clipa.TEXT}
    sizes: dict[str, tuple[int, dict[str, Any], dict[str, Any]]] = {
        "L": (768, {"layers": 24, "width": 1024}, {"width": 768, "heads": 12, "layers": 12}),
        "H": (1024, {"layers": 32, "width": 1280, "head_width": 80}, {"width": 1024, "heads": 16, "layers": 24}),
        "bigG": (
            1280,
            {"layers": 48, "width": 1664, "head_width": 104, "mlp_ratio": 4.9231},
            {"width": 1280, "heads": 20, "layers": 32},
        ),
    }
    for embed_dim, vision, words in sizes.values():
        for side in (224, 336):
            model = {
                "embed_dim": embed_dim,
                "vision_cfg": {"image_size": side, "patch_size": 14, **vision, **clipa.VISION},
                "text_cfg": {**text, **words},
            }
            config = from_open_clip({"model_cfg": model})
            assert (config.vision.kind, config.text.kind) == ("clipa", "clipa")
            assert tensor_shapes(config)["positional_embedding"] == (32, words["width"])
    assert tensor_shapes(config)["visual.transformer.resblocks.47.mlp.c_fc.weight"] == (8192, 1664)


@pytest.mark.parametrize(
    ("vision", "text", "message"),
    [
        ({"no_ln_pre": False}, {}, r"vision_cfg\.pool_type is 'avg'"),
        ({"pool_type": "tok"}, {}, r"vision_cfg\.no_ln_pre is True"),
        ({"final_ln_after_pool": False}, {}, r"vision_cfg\.no_ln_pre is True"),
        ({"ls_init_value": 1e-5}, {}, r"vision_cfg\.ls_init_value is 1e-05"),
        ({}, {"pool_type": "argmax"}, r"text_cfg\.no_causal_mask is True"),
        ({}, {"no_causal_mask": False}, r"text_cfg\.pool_type is 'last'"),
        ({}, {"hf_tokenizer_name": None, "tokenizer_kwargs": None}, r"text\.tokenizer is None"),
    ],
)
def test_what_is_half_a_clipa_is_refused(vision: dict[str, object], text: dict[str, object], message: str) -> None:
    model = clipa.open_clip_config()["model_cfg"]
    model = {**model, "vision_cfg": {**model["vision_cfg"], **vision}, "text_cfg": {**model["text_cfg"], **text}}
    with pytest.raises(ConfigError, match=message):
        from_open_clip({"model_cfg": model})


@pytest.mark.parametrize(
    ("where", "key", "value", "what"),
    [
        ("model_cfg", "init_logit_bias", -10, "it is a SigLIP"),
        ("model_cfg", "multimodal_cfg", {"width": 3}, "it is a CoCa"),
        ("model_cfg", "audio_cfg", {"mel_bins": 3}, "it is a CLAP, which embeds sound"),
        ("vision_cfg", "timm_model_name", "convnext_base", "its image tower is one of timm's"),
        ("text_cfg", "hf_model_name", "roberta-base", "its text tower is one of transformers'"),
        ("text_cfg", "text_arch", "modern", "a tower without it would give another result"),
    ],
)
def test_its_siblings_are_refused_by_what_they_are(where: str, key: str, value: object, what: str) -> None:
    inside = {key: value} if where == "model_cfg" else {where: {key: value}}
    message = rf"{where}\.{key} is .*: {what}\. clipref has no such tower; open it with open_clip\."
    with pytest.raises(ConfigError, match=message):
        from_open_clip({"model_cfg": {"embed_dim": 4, **inside}})


def test_causal_texts_of_another_tokenizer_are_embedded_as_ids() -> None:
    """open_clip's model_configs/ViT-H-14-worldwide.json: the end of a text is the second id of 901,629."""
    text = {"hf_tokenizer_name": "facebook/xlm-v-base", "pool_type": "eos", "eos_id": 2, "vocab_size": 901629}
    config = from_open_clip({"model_cfg": {"embed_dim": 1024, "text_cfg": text}})
    assert isinstance(config.text, TextConfig) and config.text.kind == "causal"
    assert (config.text.eos_token_id, config.text.tokenizer) == (2, "facebook/xlm-v-base")
    assert ClipConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="end-of-text id is None of 901629 tokens"):
        from_open_clip({"model_cfg": {"embed_dim": 1024, "text_cfg": {**text, "eos_id": None}}})
    ids = np.array([[7, 9, 5, 2, 1], [7, 2, 2, 1, 1]])
    assert config.text.single_texts(ids)[3].tolist() == [[3], [1]]


def test_every_kind_goes_to_its_tensors_and_back() -> None:
    """The published models are of two kinds of image tower; no kind is taken for another."""
    kinds = {config.vision.kind for config in PUBLISHED.values()}
    assert kinds == set(IMAGE_KINDS) - {"clipa"} and set(TEXT_KINDS) == {"causal", "clipa"}
    for config in (PUBLISHED["clip/RN50"], PUBLISHED["clip/ViT-B-32"], clipa.CONFIG):
        names = config.vision.shapes(config.embed_dim)
        found = [kind.kind for kind in IMAGE_KINDS.values() if kind.is_in([f"visual.{name}" for name in names])]
        assert found[0] == config.vision.kind
    assert isinstance(clipa.CONFIG.vision, ViTConfig) and clipa.CONFIG.vision.family == "vit"
