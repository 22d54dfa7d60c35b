"""Synthetic checkpoints: the same bytes everywhere, the published layout, and the statistics of their styles."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from clipref import InputError
from clipref.config import PUBLISHED, ClipConfig, TextConfig, ViTConfig, tensor_shapes
from clipref.engine import NumpyEngine
from clipref.weights_tools import synthetic

from . import cases
from .conftest import TINY
from .tolerances import assert_close

# sha256 of model.safetensors of seed 7. They may change with the recipe, never with the platform or numpy.
DIGESTS = {
    "vit plain": "d83f03221869c3cc7c85dc58f9a0aa4c0d3c0f8559e7f983f15c383c3731e0ee",
    "vit trained": "7b6501d3994bff760cf4c3113e7721a5a1abdef416a6fcf9d435eb4d3852d177",
    "resnet plain": "b9b498ba229e39ee901040adb45b5dbfda472f55102589f9aa2f5e4212e1c870",
    "resnet trained": "44e69a0c1f836feaef1a632fad3df70cfd9117cde7a6fd17289f560b4c4bb427",
}


@pytest.mark.parametrize("case", DIGESTS)
def test_bytes_are_the_same_everywhere(case: str, tmp_path: Path) -> None:
    kind, style = case.split()
    path = synthetic.write(tmp_path / "c", TINY[kind], 7, style)  # type: ignore[arg-type]
    assert cases.digest(path / "model.safetensors") == DIGESTS[case]


def test_raw_words_are_philoxs() -> None:
    # Philox 4x64-10 with this key and a counter from 1 on, as https://doi.org/10.1145/2063384.2063405 defines it.
    key = int.from_bytes(hashlib.sha256(b"key").digest()[:16], "little")
    mask = 2**64 - 1
    counter, keys = [1, 0, 0, 0], [key & mask, key >> 64]
    for _ in range(10):
        one, two = 0xD2E7470EE14C6C93 * counter[0], 0xCA5A826395121157 * counter[2]
        counter = [(two >> 64) ^ counter[1] ^ keys[0], two & mask, (one >> 64) ^ counter[3] ^ keys[1], one & mask]
        keys = [(keys[0] + 0x9E3779B97F4A7C15) & mask, (keys[1] + 0xBB67AE8584CAA73B) & mask]
    assert synthetic.raw("key", 4).tolist() == counter


@pytest.mark.parametrize("storage", ["mixed", "float32"])
def test_layout_is_the_published_one(tmp_path: Path, storage: str) -> None:
    path = synthetic.write(tmp_path / "c", TINY["resnet"], 1, "trained", storage)  # type: ignore[arg-type]
    loaded = load_file(path / "model.safetensors")  # the library's own reader
    assert {name: x.shape for name, x in loaded.items()} == tensor_shapes(TINY["resnet"])
    made = dict(synthetic.tensors(TINY["resnet"], 1, "trained", storage))  # type: ignore[arg-type]
    for name, x in loaded.items():
        assert x.dtype == made[name].dtype and (x == made[name]).all() and np.isfinite(x).all()
    wide = {
        "token_embedding.weight",
        "positional_embedding",
        "logit_scale",
        "ln_final.weight",
        "visual.bn1.running_var",
    }
    assert all(loaded[name].dtype == np.float32 for name in wide)
    half = np.float16 if storage == "mixed" else np.float32
    for name in ("visual.conv1.weight", "text_projection", "transformer.resblocks.0.attn.in_proj_bias"):
        assert loaded[name].dtype == half
    assert json.loads((path / "config.json").read_text()) == json.loads(json.dumps(TINY["resnet"].to_dict()))


def test_the_dtypes_are_those_of_openais_convert_weights() -> None:
    for config in (PUBLISHED["clip/ViT-B-32"], PUBLISHED["clip/RN50"]):
        half = {name for name in tensor_shapes(config) if synthetic.dtype_of(name, "mixed").itemsize == 2}
        for name in tensor_shapes(config):
            module = name.rpartition(".")[0].rpartition(".")[2]
            linear = module in ("c_fc", "c_proj", "out_proj", "q_proj", "k_proj", "v_proj") or "in_proj" in name
            conv = module.startswith("conv") or ".downsample.0." in name
            assert (name in half) == (linear or conv or name in ("visual.proj", "text_projection")), name


def test_both_storages_hold_the_same_values() -> None:
    both = zip(*(synthetic.tensors(TINY["vit"], 3, "trained", s) for s in ("mixed", "float32")), strict=True)
    assert all((a == b).all() and b.dtype == np.float32 for (_, a), (_, b) in both)


def test_seeds_and_styles_differ() -> None:
    def value(seed: int, style: str) -> np.ndarray:
        return synthetic.tensor(TINY["vit"], "visual.proj", seed, style)  # type: ignore[arg-type]

    assert (value(0, "plain") != value(1, "plain")).mean() > 0.9
    assert (value(0, "plain") != value(0, "trained")).mean() > 0.9


def test_values_are_nearly_normal() -> None:
    x = synthetic.normal("some key", 200_000)
    assert abs(x.mean()) < 0.01 and abs(x.std() - 1) < 0.01 and np.abs(x).max() < 3.5
    assert abs((np.abs(x) < 1).mean() - 0.67) < 0.02
    u = synthetic.uniform("some key", 200_000)
    assert u.min() >= 0 and u.max() < 1 and abs(u.mean() - 0.5) < 0.01


def test_trained_style_has_outliers_and_wide_gains() -> None:
    config = PUBLISHED["clip/ViT-B-32"]
    for style, outlying in (("plain", False), ("trained", True)):
        channels = np.abs(synthetic.tensor(config, "positional_embedding", 0, style)).mean(0)  # type: ignore[arg-type]
        few = (channels > 15 * np.median(channels)).sum()
        assert (1 <= few <= 8) == outlying and (few == 0) != outlying
        gains = synthetic.tensor(config, "visual.transformer.resblocks.3.ln_1.weight", 0, style)  # type: ignore[arg-type]
        assert (gains.max() / gains.min() > 100) == outlying


@pytest.mark.slow
def test_trained_style_keeps_its_outliers_and_its_precision_through_the_depth(tmp_path: Path) -> None:
    vision = ViTConfig(resolution=80, patch_size=16, width=256, layers=6, heads=4, mlp_width=1024)
    text = TextConfig(context_length=40, vocab_size=600, width=512, layers=6, heads=8, mlp_width=2048)
    config = ClipConfig(128, vision, text)
    checkpoint = cases.checkpoint(tmp_path, config, "trained")
    pixels, ids = cases.pixels(config, 2), cases.ids(config, 2)
    exact, taps = cases.traced(NumpyEngine(checkpoint, "float64"), pixels, ids)
    streams = {name: x for name, x in taps.items() if name.rpartition(".")[2].isdigit()}
    assert len(streams) == 12
    for name, x in streams.items():
        channels = np.sqrt(np.square(x).mean(axis=(0, 1)))
        assert 10 < channels.max() / np.median(channels) < 200, name
        assert (channels > 10 * np.median(channels)).sum() <= 4, name
    # Attention that is saturated amplifies roundings: 270 eps where 30 were measured.
    single, _ = cases.traced(NumpyEngine(checkpoint, "float32"), pixels, ids)
    for tower, values in exact.items():
        assert_close(single[tower], values.astype(np.float32), "reference float32")


def test_nothing_half_made_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object) -> object:
        yield from ()
        raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "tensors", broken)
    with pytest.raises(KeyboardInterrupt):
        synthetic.write(tmp_path / "c", TINY["vit"])
    assert list(tmp_path.iterdir()) == []


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists already"):
        synthetic.write(tmp_path, TINY["vit"])
    with pytest.raises(InputError, match="style 'wild'"):
        list(synthetic.tensors(TINY["vit"], 0, "wild"))  # type: ignore[arg-type]
