"""What needs an independent implementation at hand: 20,000 texts, any text, and the ViTs against a second oracle."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipref.config import PUBLISHED, ViTConfig
from clipref.tokenizer import Tokenizer
from clipref.weights_tools import synthetic

from . import cases, texts
from .test_towers import goldens
from .tolerances import assert_close

pytestmark = pytest.mark.oracle
DEFAULT = Tokenizer.default()


@pytest.fixture(scope="module")
def original() -> object:
    from .oracles import openai_tokenizer

    return openai_tokenizer()


def test_twenty_thousand_texts(original) -> None:  # type: ignore[no-untyped-def]
    wrong = [text for text in texts.texts(texts.ALL) if DEFAULT.encode(text) != original.encode(text)]
    assert not wrong, f"{len(wrong)} differ, the first is {wrong[0]!r}"


def test_any_text(original) -> None:  # type: ignore[no-untyped-def]
    @settings(max_examples=2000, deadline=None)
    @given(st.text())
    def check(text: str) -> None:
        assert DEFAULT.encode(text) == original.encode(text)

    check()


def test_a_third_tokenizer_where_cleaning_changes_nothing() -> None:
    from instant_clip_tokenizer import Tokenizer as Rust

    rust, compared = Rust(), 0
    for text in texts.texts(texts.ALL):
        if text.isascii() and text.isprintable() and "&" not in text and "<" not in text:
            assert DEFAULT.encode(text) == rust.encode(text), text
            compared += 1
    assert compared > 1500


@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", [name for name, c in PUBLISHED.items() if isinstance(c.vision, ViTConfig)])
def test_transformers_agrees_with_the_golden_values(name: str, style: str, tmp_path: Path) -> None:
    import torch

    from .oracles import Transformers

    checkpoint = cases.checkpoint(tmp_path, PUBLISHED[name], style)
    oracle = Transformers(checkpoint, torch.float64)
    golden = goldens("full")[0][f"{name} {style}"]
    pixels, ids = cases.pixels(checkpoint.config, 2), cases.ids(checkpoint.config, 3)
    assert_close(oracle.encode_image(pixels), golden["image"], "oracle float64")
    assert_close(oracle.encode_text(ids), golden["text"], "oracle float64")
    assert golden["image"].dtype == np.float64
