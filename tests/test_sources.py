"""What a path is: the same for whoever opens, converts, inspects, verifies or exports it, and never guessed."""

import dataclasses
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from safetensors.numpy import load_file, save

from clipref import AutoModel, ConfigError, InputError
from clipref.cli import main
from clipref.config import ClipConfig, PreprocessConfig, ResNetConfig, TextConfig, ViTConfig
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic
from clipref.weights_tools.convert import convert
from clipref.weights_tools.export_onnx import export_onnx
from clipref.weights_tools.sources import Doubt, open_source
from clipref.weights_tools.verify import verify

from . import cases, layouts

# Heads of 64 channels, so that only the activation and the preprocessing are in doubt; both unlike OpenAI's.
VIT = ClipConfig(
    22,
    ViTConfig(12, 4, 64, 2, 1, 100, "gelu"),
    TextConfig(9, 547, 128, 2, 2, 90, "gelu"),
    PreprocessConfig((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "squash"),
)
RESNET = dataclasses.replace(VIT, vision=ResNetConfig(32, (1, 1, 1, 1), 6, 3))


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthetic.write(tmp_path_factory.mktemp("ours") / "checkpoint", VIT, 5, "plain")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def put(folder: Path, files: layouts.Files) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def open_clip(folder: Path, **renamed: str) -> layouts.Files:
    files = layouts.as_open_clip(folder, Checkpoint(folder).config)
    return {renamed.get(name.split(".")[0], name): content for name, content in files.items()}


def both(folder: Path) -> layouts.Files:
    """As LAION's repositories have it: open_clip's pair and transformers', which say of themselves what isn't so here
    of the other's.
    """
    theirs = dataclasses.replace(VIT, preprocess=PreprocessConfig())
    return layouts.as_open_clip(folder, VIT) | layouts.as_transformers(folder, theirs)


LAYOUTS: dict[str, Callable[[Path], layouts.Files]] = {
    "transformers": lambda folder: layouts.as_transformers(folder, VIT),
    "transformers, in shards": lambda folder: layouts.as_transformers(folder, VIT, 3),
    "open_clip": open_clip,
    "open_clip, the newer name": lambda folder: open_clip(folder, open_clip_model="model.safetensors"),
    "open_clip, a name of one's own": lambda folder: open_clip(folder, open_clip_model="fine.safetensors"),
    "open_clip, with a text tower apart": lambda folder: layouts.as_open_clip(folder, VIT, "text."),
    "ours": lambda folder: {p.name: p.read_bytes() for p in folder.iterdir()},
    "both": both,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_file_and_its_folder_are_one_checkpoint(layout: str, ours: Path, tmp_path: Path) -> None:
    """The config beside a file is read, as that of its folder is."""
    folder = put(tmp_path / "theirs", LAYOUTS[layout](ours))
    files = [p for p in folder.iterdir() if p.name.endswith(".safetensors.index.json")]
    files = files or [p for p in folder.iterdir() if p.suffix == ".safetensors"]
    expected = AutoModel.from_pretrained(ours, backend="reference")
    pixels, ids = np.full((1, 3, 12, 12), 0.5, np.float32), np.array([[545, 7, 546]])
    for path in [*files, *([] if "one's own" in layout else [folder])]:
        model = AutoModel.from_pretrained(path, backend="reference")
        preprocess = PreprocessConfig() if layout == "both" and path.name == "model.safetensors" else VIT.preprocess
        assert model.config == dataclasses.replace(VIT, preprocess=preprocess) == open_source(path).config
        assert np.array_equal(model.encode_image(pixels), expected.encode_image(pixels))
        assert np.array_equal(model.encode_text(ids), expected.encode_text(ids))


def test_what_is_in_our_names_is_opened_where_it_is(ours: Path, tmp_path: Path, home: Path) -> None:
    for layout in ("open_clip", "ours"):
        AutoModel.from_pretrained(put(tmp_path / layout, LAYOUTS[layout](ours)))
    assert not home.exists()


def bare(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def as_shards(folder: Path) -> layouts.Files:
    tensors = load_file(folder / "model.safetensors")
    where = {name: f"model-0000{i % 2 + 1}-of-00002.safetensors" for i, name in enumerate(tensors)}
    index = {"model.safetensors.index.json": json.dumps({"weight_map": where}).encode()}
    return index | {f: save({n: t for n, t in tensors.items() if where[n] == f}) for f in set(where.values())}


DOUBTFUL: dict[str, Callable[[Path], layouts.Files]] = {
    "a file": lambda folder: {"a.safetensors": bare(folder)},
    "model.safetensors": lambda folder: {"model.safetensors": bare(folder)},
    "open_clip's without its config": lambda folder: {"open_clip_model.safetensors": bare(folder)},
    "with timm's config": lambda folder: {
        "open_clip_model.safetensors": bare(folder),
        "config.json": b'{"architecture": "vit_base_patch32_clip_224", "num_classes": 512}',
    },
    "with the processor's config alone": lambda folder: {
        "model.safetensors": bare(folder),
        "preprocessor_config.json": json.dumps(layouts.processor_config(VIT)).encode(),
    },
    "in shards": as_shards,
}


def verified(path: Path) -> list[Any]:
    return list(verify(path))


def exported(path: Path, out: Path) -> list[Any]:
    return list(export_onnx(path, out))


@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_is_doubtful_is_refused_alike_everywhere(
    case: str, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = put(tmp_path / "doubtful", DOUBTFUL[case](ours))
    paths = [p for p in folder.iterdir() if p.suffix == ".safetensors"]
    paths = [next(folder.glob("*.index.json"))] if case == "in shards" else paths
    for path in [*paths, *([] if case == "a file" else [folder])]:
        calls: list[Callable[[], Any]] = [
            partial(AutoModel.from_pretrained, path),
            partial(convert, path, tmp_path / "out"),
            partial(verified, path),
            partial(exported, path, tmp_path / "out"),
        ]
        for call in calls:
            with pytest.raises(Doubt, match=r"doesn't tell its activation.*activation=\.\.\. .*--activation \.\.\. "):
                call()
        for command in (["convert", path, tmp_path / "out"], ["export-onnx", path, tmp_path / "out"], ["verify", path]):
            assert main([str(part) for part in command]) == 1
            assert "--activation" in capsys.readouterr().err
        assert main(["inspect", str(path), "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["config"]["vision"]["activation"] is None and "--activation" in facts["doubts"][0]
        assert not (tmp_path / "out").exists()


ACTIVATIONS: tuple[Literal["gelu", "quick_gelu"], ...] = ("gelu", "quick_gelu")


@pytest.mark.fast_cases("a file", "in shards")
@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_is_said_settles_it(case: str, ours: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = put(tmp_path / "doubtful", DOUBTFUL[case](ours))
    path = folder / "a.safetensors" if case == "a file" else folder
    expected = AutoModel.from_pretrained(ours, backend="reference").encode_text(np.array([[545, 7, 546]]))
    for activation in ACTIVATIONS:  # one after the other: neither is remembered
        model = AutoModel.from_pretrained(path, activation=activation, backend="reference")
        assert model.config == cases.with_activation(model.config, activation)
        assert np.array_equal(model.encode_text(np.array([[545, 7, 546]])), expected) == (activation == "gelu")
    assert AutoModel.from_pretrained(path, config=VIT, backend="reference").config == VIT
    assert main(["convert", str(path), str(tmp_path / "out"), "--activation", "gelu"]) == 0
    assert Checkpoint(tmp_path / "out").config == dataclasses.replace(VIT, preprocess=PreprocessConfig())
    assert main(["export-onnx", str(path), str(tmp_path / "onnx"), "--activation", "gelu"]) == 0
    assert main(["inspect", str(path), "--activation", "gelu", "--json"]) == 0
    if case != "in shards":
        assert main(["verify", str(path), "--activation", "gelu"]) == 0
    capsys.readouterr()


def test_what_is_said_counts_more_than_what_is_written(ours: Path, tmp_path: Path) -> None:
    transformers = put(tmp_path / "theirs", layouts.as_transformers(ours, VIT))
    for path in (ours, ours / "model.safetensors", transformers, transformers / "model.safetensors"):
        assert AutoModel.from_pretrained(path).config == VIT
        config = AutoModel.from_pretrained(path, activation="quick_gelu").config
        assert config == cases.with_activation(config, "quick_gelu") and config != VIT
    assert AutoModel.from_pretrained("clipref/shapes-rn", activation="gelu").config.text.activation == "gelu"
    with pytest.raises(InputError, match="activation is 'relu'; expected 'quick_gelu' or 'gelu'"):
        AutoModel.from_pretrained(ours, activation="relu")  # type: ignore[arg-type]


def test_a_resnet_is_in_doubt_too(tmp_path: Path) -> None:
    """Its text tower has an activation."""
    folder = synthetic.write(tmp_path / "rn", RESNET, 5, "plain")
    (folder / "config.json").unlink()
    with pytest.raises(Doubt, match="activation"):
        AutoModel.from_pretrained(folder)
    assert AutoModel.from_pretrained(folder, activation="gelu").config.text == RESNET.text


@pytest.mark.parametrize("name", ["config.json", "open_clip_config.json"])
def test_a_config_that_never_arrived(name: str, ours: Path, tmp_path: Path) -> None:
    files = both(ours) if name == "open_clip_config.json" else layouts.as_transformers(ours, VIT)
    folder = put(tmp_path / "theirs", files | {name: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"})
    with pytest.raises(ConfigError, match=rf"{name} is not JSON: it is a Git LFS pointer"):
        AutoModel.from_pretrained(folder)
