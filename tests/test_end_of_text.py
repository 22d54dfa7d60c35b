"""A vocabulary that was grown behind the end-of-text token: texts are still pooled there, by every engine."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import AutoModel, ConfigError, InputError
from clipref.cli import main
from clipref.config import PUBLISHED, ClipConfig
from clipref.kernels.runtime import onnxruntime
from clipref.text_transformer import end_of_text
from clipref.weights_tools import synthetic
from clipref.weights_tools.configs import from_open_clip, from_transformers
from clipref.weights_tools.sources import Options, open_source

from . import layouts
from .conftest import MERGES, TINY
from .tolerances import assert_close

BASE = TINY["vit"]  # of 521 tokens
END = BASE.text.vocab_size - 1
GROWN = dataclasses.replace(BASE, text=dataclasses.replace(BASE.text, vocab_size=END + 4, eos_token_id=END))
# With an added token, END + 1 or END + 3, before the end, behind it, and in a text without.
IDS = np.array([[END - 1, 7, END + 3, END, 0], [END - 1, 9, END, END + 3, END], [END - 1, END + 1, 9, 11, END]])


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = synthetic.write(tmp_path_factory.mktemp("base") / "checkpoint", BASE, 5, "plain")
    (folder / "merges.txt").write_text(MERGES)
    return folder


@pytest.fixture(scope="module")
def grown(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same model with three more rows in its table of tokens, like those of 5, 6 and 8."""
    folder = tmp_path_factory.mktemp("grown")
    tensors = load_file(base / "model.safetensors")
    tensors["token_embedding.weight"] = np.concatenate([table := tensors["token_embedding.weight"], table[[5, 6, 8]]])
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(GROWN.to_dict()))
    (folder / "merges.txt").write_text(MERGES)
    return folder


def as_base(ids: np.ndarray) -> np.ndarray:
    return np.select([ids == END + 1, ids == END + 3], [5, 8], ids)


@pytest.mark.parametrize("backend", ["reference", "blas", "onnx"])
def test_every_engine_pools_at_the_end_of_text(backend: str, base: Path, grown: Path) -> None:
    model, expected = (AutoModel.from_pretrained(p, backend=b) for p, b in ((grown, backend), (base, "reference")))
    right, budget = expected.encode_text(as_base(IDS)), "onnx" if backend == "onnx" else "blas"
    assert_close(model.encode_text(IDS), right, budget)
    assert_close(np.concatenate([model.encode_text(row[None]) for row in IDS]), right, budget)
    assert_close(model.embed_text(["a cat", "red"]), expected.embed_text(["a cat", "red"]), budget)
    with pytest.raises(InputError, match=f"row 1 has no end-of-text token, which is {END}"):
        model.encode_text(np.array([[END - 1, END], [END - 1, END + 3]]))


def test_an_exported_graph_does_too(base: Path, grown: Path, tmp_path: Path) -> None:
    assert main(["export-onnx", str(grown), str(tmp_path / "onnx")]) == 0
    session = onnxruntime().InferenceSession(
        str(tmp_path / "onnx" / "textual.onnx"), providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"ids": IDS.astype(np.int32)})
    assert_close(found, AutoModel.from_pretrained(base, backend="reference").encode_text(as_base(IDS)), "onnx")


def test_eight_bits_open_too(grown: Path) -> None:
    model = AutoModel.from_pretrained(grown, backend="onnx-int8")
    exact = AutoModel.from_pretrained(grown, backend="reference").encode_text(IDS)
    assert (np.sum(model.encode_text(IDS) * exact, 1) / np.linalg.norm(exact, axis=1) ** 2 > 0.8).all()


def test_where_a_text_ends() -> None:
    assert end_of_text(IDS, END).tolist() == [3, 2, 4]
    assert end_of_text(IDS).tolist() == [2, 3, 1]


def put(folder: Path, files: layouts.Files, merges: str | None = MERGES) -> Path:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if merges:
        (folder / "merges.txt").write_text(merges)
    return folder


def transformers(folder: Path, **text: Any) -> layouts.Files:
    files = layouts.as_transformers(folder, GROWN)
    config = json.loads(files["config.json"])
    config["text_config"] |= {"eos_token_id": END} | text
    return files | {"config.json": json.dumps(config).encode()}


LAYOUTS: dict[str, Callable[[Path], layouts.Files]] = {
    "transformers, which says it": transformers,
    "transformers, as before it did": lambda folder: transformers(folder, eos_token_id=2),
    "open_clip": lambda folder: layouts.as_open_clip(folder, GROWN),
    "ours": lambda folder: {p.name: p.read_bytes() for p in folder.iterdir()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_it_is_found(layout: str, base: Path, grown: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path / "home"))
    model = AutoModel.from_pretrained(put(tmp_path / "theirs", LAYOUTS[layout](grown)), backend="reference")
    expected = AutoModel.from_pretrained(base, backend="reference")
    assert model.config == GROWN
    assert np.array_equal(model.encode_text(IDS), expected.encode_text(as_base(IDS)))
    assert np.array_equal(model.embed_text("a cat"), expected.embed_text("a cat"))
    assert main(["convert", str(tmp_path / "theirs"), str(tmp_path / "out")]) == 0
    assert np.array_equal(AutoModel.from_pretrained(tmp_path / "out", backend="reference").embed_text("a cat"),
                          expected.embed_text("a cat"))  # fmt: skip


def test_openais_vocabulary_grown(tmp_path: Path) -> None:
    """As by textual inversion: whoever adds tokens to OpenAI's leaves its end of text where it was."""
    text = {"vocab_size": 49411}
    for eos in ({"eos_token_id": 49407}, {"eos_token_id": 2}):
        said = from_transformers({"model_type": "clip", "text_config": text | eos}, None).text
        assert said.eos_token_id == (49407 if eos["eos_token_id"] == 49407 else None)
    assert PUBLISHED["clip/ViT-B-32"].text.end_of_text == 49407
    small = dataclasses.replace(BASE, text=dataclasses.replace(BASE.text, vocab_size=49411))
    folder = synthetic.write(tmp_path / "grown", small, 5, "plain")
    (folder / "config.json").unlink()
    source = open_source(folder, Options(activation="quick_gelu", vision_heads=3, text_heads=5))
    assert source.config.text.eos_token_id == 49407
    more = dataclasses.replace(BASE, text=dataclasses.replace(BASE.text, vocab_size=60000))
    folder = synthetic.write(tmp_path / "another", more, 5, "plain")
    (folder / "config.json").unlink()
    source = open_source(folder, Options(activation="quick_gelu", vision_heads=3, text_heads=5))
    assert source.config.text.eos_token_id is None


def test_open_clip_pools_at_an_id() -> None:
    def text(**settings: Any) -> ClipConfig:
        return from_open_clip({"model_cfg": {"embed_dim": 4, "text_cfg": settings}})

    assert text(pool_type="eos", eos_id=49407).text == text().text
    assert text(pool_type="eos", eos_id=49407, vocab_size=49411).text.eos_token_id == 49407
    for settings in ({"pool_type": "eos"}, {"pool_type": "eos", "eos_id": 7}, {"pool_type": "last"}):
        with pytest.raises(ConfigError, match="open_clip_config"):
            text(**settings)


def test_configurations() -> None:
    assert ClipConfig.from_dict(json.loads(json.dumps(GROWN.to_dict()))) == GROWN
    assert "eos_token_id" not in BASE.to_dict()["text"]
    assert ClipConfig.from_dict({**BASE.to_dict(), "text": {**BASE.to_dict()["text"], "eos_token_id": None}}) == BASE
    for wrong in (END + 4, -1, "x", True):
        with pytest.raises(ConfigError, match="eos_token_id"):
            ClipConfig.from_dict({**BASE.to_dict(), "text": {**BASE.to_dict()["text"], "eos_token_id": wrong}})
