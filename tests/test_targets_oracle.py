"""The layouts of others, read by transformers and open_clip themselves: the same embeddings, ids and pixels."""

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clipref
from clipref import AutoModel
from clipref.config import ClipConfig, PreprocessConfig
from clipref.conformance import suite
from clipref.conformance.questions import models
from clipref.conformance.restated import preprocessing
from clipref.engine import NumpyEngine
from clipref.hub import locate
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic
from clipref.weights_tools.convert import convert

from . import cases
from .open_clip_embeddings import oracle_embeddings, write_inputs
from .tolerances import assert_close

pytestmark = pytest.mark.oracle

GUIDE = (Path(suite.__file__).parent / "GUIDE.md").read_text(encoding="utf-8")
TEXTS = ["a photo of a cat", "Hello World!", "two red squares, and 12 circles", "it's"]
WORDS = models.WORDS["vit-words"]
GROWN = dataclasses.replace(WORDS, text=dataclasses.replace(WORDS.text, vocab_size=49410, eos_token_id=49407))


def written(folder: Path, config: ClipConfig, style: str = "trained") -> Path:
    return synthetic.write(folder / "ours", config, cases.SEED, style)  # type: ignore[arg-type]


def expected(source: Path, config: ClipConfig) -> tuple[np.ndarray, np.ndarray, Any, Any]:
    pixels, ids = cases.pixels(config, 2), cases.ids(config, 3)
    if config.text.eos_token_id is not None:
        ids[ids == config.text.vocab_size - 1] = config.text.eos_token_id
    engine = NumpyEngine(Checkpoint(source), "float64")
    return pixels, ids, engine.encode_image(pixels), engine.encode_text(ids)


@pytest.mark.parametrize("name", ["vit-a", "vit-mlp", "vit-gelu", "grown"])
def test_transformers_embeds_the_same(name: str, tmp_path: Path) -> None:
    import torch
    from transformers import CLIPModel

    config = {**cases.TINY, "grown": GROWN}[name]
    source = written(tmp_path, config)
    theirs = convert(source, tmp_path / "theirs", to="transformers")
    assert CLIPModel.from_pretrained(theirs).dtype == torch.float32
    model = CLIPModel.from_pretrained(theirs, dtype=torch.float64, attn_implementation="sdpa").eval()
    pixels, ids, image, text = expected(source, config)
    with torch.inference_mode():
        images = model.get_image_features(torch.from_numpy(pixels.astype(np.float64)))
        texts = model.get_text_features(torch.from_numpy(ids))
    assert_close(getattr(images, "pooler_output", images).numpy(), image, "oracle float64")
    assert_close(getattr(texts, "pooler_output", texts).numpy(), text, "oracle float64")


@pytest.mark.parametrize("model", ["clipref/shapes-vit", "vit-words"])
def test_transformers_tokenizes_the_same(model: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPTokenizer

    source = locate(model)[0] if model.startswith("clipref/") else written(tmp_path, WORDS)
    theirs = convert(source, tmp_path / "theirs", to="transformers")
    ours = AutoModel.from_pretrained(source)
    for tokenizer in (CLIPTokenizer.from_pretrained(theirs), AutoTokenizer.from_pretrained(theirs)):
        ids = tokenizer(TEXTS, padding="max_length", truncation=True, return_tensors="np")["input_ids"]
        assert ids.shape == (len(TEXTS), Checkpoint(source).config.text.context_length)
        known = ours.tokenize(TEXTS)
        for row, right in zip(ids, known, strict=True):
            end = int(right.argmax()) + 1
            assert row[:end].tolist() == right[:end].tolist() and set(row[end:].tolist()) <= {int(right.max())}


@pytest.mark.parametrize(
    "pixels", [PreprocessConfig(), PreprocessConfig((0.5, 0.4, 0.3), (0.2, 0.3, 0.4), "bilinear", "squash")]
)
def test_transformers_makes_the_same_pixels(pixels: PreprocessConfig, tmp_path: Path) -> None:
    from transformers import CLIPImageProcessorPil

    config = dataclasses.replace(cases.TINY["vit-a"], preprocess=pixels)
    theirs = convert(written(tmp_path, config), tmp_path / "theirs", to="transformers")
    image = preprocessing.picture("RGB", 54, 50)  # of which the crop is the same in both
    found = CLIPImageProcessorPil.from_pretrained(theirs)(image, return_tensors="np")["pixel_values"][0]
    assert found.shape == (3, 30, 30)
    np.testing.assert_allclose(found, clipref.preprocess(image, 30, **dataclasses.asdict(pixels)), rtol=0, atol=1e-5)


def test_open_clip_embeds_and_tokenizes_the_same(tmp_path: Path) -> None:
    configs = {name: cases.TINY[name] for name in ("vit-mlp", "vit-gelu", "rn-a")} | {"words": WORDS, "grown": GROWN}
    right = {}
    for name, config in configs.items():
        source = written(tmp_path / name, config)
        theirs = convert(source, tmp_path / "theirs" / name, to="open_clip")
        pixels, ids, *right[name] = expected(source, config)
        write_inputs(theirs, pixels, ids, TEXTS if name == "words" else [])
    found = oracle_embeddings(tmp_path / "theirs")
    assert found.keys() == configs.keys()
    for name, (image, text) in right.items():
        assert_close(found[name]["image"], image, "oracle float64")
        assert_close(found[name]["text"], text, "oracle float64")
    model = AutoModel.from_pretrained(tmp_path / "words" / "ours")
    np.testing.assert_array_equal(found["words"]["tokens"], model.tokenize(TEXTS))


def test_the_guides_five_lines_are_an_engine(tmp_path: Path) -> None:
    code = next(block for block in re.findall(r"```python\n(.*?)```", GUIDE, flags=re.DOTALL) if "CLIPModel" in block)
    (tmp_path / "theirs.py").write_text(code, encoding="utf-8")
    (command,) = re.findall(r"# clipref (conformance run theirs.*)", code)
    command += " --only vit-a vit-gelu rn-b"
    run = [sys.executable, "-c", "import sys; from clipref.cli import main; sys.exit(main(sys.argv[1:]))"]
    done = subprocess.run([*run, *command.split()], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "float32-conformant in towers" in done.stdout and "no texts were embedded" in done.stdout
