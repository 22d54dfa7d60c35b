"""What needs an independent implementation at hand: 20,000 texts, any text, and the ViTs against a second oracle."""

import gc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipref.config import PUBLISHED, ClipConfig, ViTConfig
from clipref.conformance.goldens import goldens
from clipref.tokenizer import Tokenizer
from clipref.weights_tools import synthetic

from . import cases, texts
from .tolerances import assert_close

pytestmark = pytest.mark.oracle


@pytest.fixture(scope="module")
def original() -> object:
    from .oracles import openai_tokenizer

    return openai_tokenizer()


def test_twenty_thousand_texts(original) -> None:  # type: ignore[no-untyped-def]
    wrong = [text for text in texts.texts(texts.ALL) if Tokenizer.default().encode(text) != original.encode(text)]
    assert not wrong, f"{len(wrong)} differ, the first is {wrong[0]!r}"


def test_any_text(original) -> None:  # type: ignore[no-untyped-def]
    @settings(max_examples=2000, deadline=None)
    @given(st.text())
    def check(text: str) -> None:
        assert Tokenizer.default().encode(text) == original.encode(text)

    check()


def test_a_third_tokenizer_where_cleaning_changes_nothing() -> None:
    from instant_clip_tokenizer import Tokenizer as Rust

    rust, compared = Rust(), 0
    for text in texts.texts(texts.ALL):
        if text.isascii() and text.isprintable() and "&" not in text and "<" not in text:
            assert Tokenizer.default().encode(text) == rust.encode(text), text
            compared += 1
    assert compared > 1500


@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", [name for name, c in PUBLISHED.items() if isinstance(c.vision, ViTConfig)])
def test_transformers_agrees_with_the_golden_values(name: str, style: str, tmp_path: Path) -> None:
    agree_with_transformers("full", name, PUBLISHED[name], style, tmp_path)


@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", [name for name, c in cases.TINY.items() if isinstance(c.vision, ViTConfig)])
def test_transformers_agrees_with_the_tiny_golden_values(name: str, style: str, tmp_path: Path) -> None:
    agree_with_transformers("tiny", name, cases.TINY[name], style, tmp_path)


def agree_with_transformers(which: str, name: str, config: ClipConfig, style: str, folder: Path) -> None:
    import torch

    from .oracles import Transformers

    gc.collect()  # a model's hooks refer to the model, so only the collector frees the one before: 3.4 GB each
    oracle = Transformers(cases.checkpoint(folder, config, style), torch.float64)
    golden = goldens(which)[0][f"{name} {style}"]
    pixels, ids = (cases.tiny_inputs if which == "tiny" else cases.full_inputs)(config)
    assert_close(oracle.encode_image(pixels), golden["image"], "oracle float64")
    assert_close(oracle.encode_text(ids), golden["text"], "oracle float64")


@pytest.mark.parametrize("name", ["vit-a", "rn-a"])
def test_half_precision_is_where_openai_puts_it(name: str, tmp_path: Path) -> None:
    import torch

    from .oracles import OpenAI, openai_code

    model = OpenAI(cases.checkpoint(tmp_path, cases.TINY[name], "plain"), torch.float32).model
    openai_code("model").convert_weights(model)
    theirs = {key: x.dtype for key, x in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    ours = {key: synthetic.dtype_of(key, "mixed") for key in theirs}
    assert {str(dtype) for dtype in theirs.values()} == {"torch.float16", "torch.float32"}
    assert {key: str(dtype).removeprefix("torch.") for key, dtype in theirs.items()} == {
        key: str(dtype) for key, dtype in ours.items()
    }


def test_shipped_merges_are_openais() -> None:
    import gzip
    import importlib.metadata

    from clipref.weights_tools import merges

    files = importlib.metadata.files("clip-anytorch") or []
    source = next(Path(str(file.locate())) for file in files if file.name == merges.NAME)
    assert gzip.decompress(merges.SHIPPED.read_bytes()) == merges.trim_merges(merges.read_source(source))
