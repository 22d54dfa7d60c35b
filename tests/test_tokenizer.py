"""The tokenizer against ids that OpenAI's own gave, and what it does with what isn't a text or is too long."""

import gzip
import html
import threading
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import clipref
from clipref import ConfigError, InputError, TextError, tokenizer
from clipref.tokenizer import MAX_LENGTH, Tokenizer, clean

from . import cases, texts

DEFAULT = Tokenizer.default()


def golden() -> list[list[int]]:
    arrays = load_file(cases.GOLDEN / "tokens.safetensors")
    ends = np.cumsum(arrays["lengths"].astype(int))
    return [part.tolist() for part in np.split(arrays["ids"].astype(int), ends[:-1])]


def differing(encode: object) -> int:
    """How many texts get other ids than the original's, of those whose characters this Python and `regex` know.

    Later versions of Unicode make letters of code points that earlier ones know nothing of, and so change words: the
    original's ids of such a text depend on the versions under it, as ours do.
    """
    pairs = list(zip(texts.texts(texts.GOLDEN), golden(), strict=True))
    unassigned = regex.compile(r"\p{Cn}")
    known = [
        (text, ids)
        for text, ids in pairs
        if not unassigned.search(text) and not any(unicodedata.category(c) == "Cn" for c in text)
    ]
    assert len(known) > 0.8 * len(pairs)
    return sum(encode(text) != ids for text, ids in known)  # type: ignore[operator]


def test_ids_are_the_originals() -> None:
    assert differing(DEFAULT.encode) == 0


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello World!", [49406, 3306, 1002, 256, 49407]),
        ("a photo of a cat", [49406, 320, 1125, 539, 320, 2368, 49407]),
        ("", [49406, 49407]),
        ("<|endoftext|>", [49406, 49407, 49407]),
    ],
)
def test_published_ids(text: str, ids: list[int]) -> None:
    row = clipref.tokenize(text)
    assert row.dtype == np.int32 and row.shape == (1, 77)
    assert row[0].tolist() == ids + [0] * (77 - len(ids))


def test_vocabulary() -> None:
    assert (DEFAULT.vocab_size, DEFAULT.start_id, DEFAULT.end_id) == (49408, 49406, 49407)
    small = Tokenizer([("a", "t</w>"), ("c", "at</w>")])
    assert small.vocab_size == 516 and small.encode("cat at c") == [513, 512, small.encode("c")[0]]
    assert small.encode("猫") == [*small.encode("猫")] and len(small.encode("猫")) == 3


# What a port gets wrong, and the golden ids must show.
def without(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ftfy
    import regex

    patterns = {
        "digits one by one": (r"[\p{N}]", r"[\p{N}]+"),
        "letters of all scripts": (r"[\p{L}]+", "[a-z]+"),
        "contractions": ("'s|'t|'re|'ve|'m|'ll|'d|", ""),
        "specials": (r"<\|startoftext\|>|<\|endoftext\|>|", ""),
    }
    if step == "ftfy":
        monkeypatch.setattr(ftfy, "fix_text", lambda text: text)
    elif step == "the second unescape":
        once, last = html.unescape, [""]
        monkeypatch.setattr(
            html, "unescape", lambda text: text if text == last[0] else last.__setitem__(0, once(text)) or last[0]
        )
    elif step == "lower case":
        monkeypatch.setattr(tokenizer, "clean", lambda text: html.unescape(html.unescape(ftfy.fix_text(text))).strip())
    else:
        old, new = patterns[step]
        assert old in tokenizer._PATTERN
        wrong = regex.compile(tokenizer._PATTERN.replace(old, new), regex.IGNORECASE), regex.compile(r"\s+")
        monkeypatch.setattr(tokenizer, "_compiled", lambda: wrong)


@pytest.mark.parametrize(
    "step",
    [
        "ftfy",
        "the second unescape",
        "lower case",
        "digits one by one",
        "letters of all scripts",
        "contractions",
        "specials",
    ],
)
def test_golden_ids_show_a_missing_step(step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without(step, monkeypatch)
    wrong = Tokenizer.from_file(Path(clipref.__file__).parent / "data" / "bpe_merges.txt.gz")
    assert differing(wrong.encode) > 0


def test_too_long() -> None:
    fits, long = " ".join(["cat"] * 75), " ".join(["cat"] * 76)
    assert clipref.tokenize(fits)[0, -1] == 49407
    with pytest.raises(
        TextError, match=r"text 1: 78 tokens, with start and end, but the context takes 77.*truncate=True"
    ):
        clipref.tokenize(["a", long])
    cut = clipref.tokenize(long, truncate=True)[0]
    assert cut.tolist() == clipref.tokenize(fits)[0].tolist()
    assert clipref.tokenize("a b c", context_length=3, truncate=True).tolist() == [[49406, 320, 49407]]


@pytest.mark.parametrize("bad", [None, 5, b"bytes", ["nested"]])
def test_not_a_text(bad: object) -> None:
    with pytest.raises(TextError, match=f"text 1: expected a text, got {type(bad).__name__}"):
        clipref.tokenize(["fine", bad])  # type: ignore[list-item]


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="No texts"):
        clipref.tokenize([])
    with pytest.raises(InputError, match="context_length is 1"):
        clipref.tokenize("a", context_length=1)
    with pytest.raises(InputError, match="id 49408"):
        DEFAULT.decode([49408])
    with pytest.raises(TextError, match=f"{MAX_LENGTH + 1} characters; at most {MAX_LENGTH}"):
        clipref.tokenize("a" * (MAX_LENGTH + 1))


@pytest.mark.parametrize("long", ["a" * 300_000, "ab!1" * 50_000, "abcdefghij" * 30_000])
def test_a_long_word_is_not_quadratic(long: str) -> None:
    # The plain loop would take hours. ftfy, which is linear, takes most of this.
    assert len(DEFAULT.encode(long)) > 1000


def test_lone_surrogates_are_replaced() -> None:
    assert DEFAULT.encode("a\ud800b") == DEFAULT.encode("a\ufffdb")


@settings(deadline=None)
@given(st.text())
@example("<|endoftext|> a")
@example("\u0345")
def test_any_text_comes_back(text: str) -> None:
    ids = DEFAULT.encode(text)
    assert all(0 <= i < DEFAULT.vocab_size for i in ids)
    # A space ends every word, also where the text had none. A few marks whose other case is a letter, such as U+0345,
    # are in no word of the original's pattern, and vanish there too.
    words, _ = tokenizer._compiled()
    assert DEFAULT.decode(ids).replace(" ", "") == "".join(words.findall(clean(text)))


def test_threads() -> None:
    fresh = Tokenizer.from_file(Path(clipref.__file__).parent / "data" / "bpe_merges.txt.gz")
    lines = list(texts.texts(300))
    expected = [DEFAULT.encode(text) for text in lines]
    got: list[list[list[int]]] = []
    threads = [threading.Thread(target=lambda: got.append([fresh.encode(t) for t in lines])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == [expected] * 4


@pytest.mark.parametrize("header", ["", "#version: 0.2\n"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_files_of_merges(tmp_path: Path, header: str, pack: object, newline: str) -> None:
    path = tmp_path / "merges.txt"
    path.write_bytes(pack((header + "a t</w>\nc at</w>\n").replace("\n", newline).encode()))  # type: ignore[operator]
    assert Tokenizer.from_file(path).encode("cat") == [513]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a t</w>\nb\n", "line 2: 'b' is not two symbols"),
        (b"a t</w>\n\nb c\n", "line 2: '' is not two symbols"),
        (b"a b c\n", "line 1"),
        (b"zz t\n", "nothing before it makes 'zz'"),
        (b"\xff\xfe", "can't be read"),
        (b"\x1f\x8bgarbage", "can't be read"),
        (gzip.compress(b"a t</w>\n" * 99)[:-9], "can't be read"),
    ],
)
def test_damaged_merges(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "merges.txt").write_bytes(content)
    with pytest.raises(ConfigError, match=r"merges\.txt") as caught:
        Tokenizer.from_file(tmp_path / "merges.txt")
    assert message in str(caught.value)
    with pytest.raises(ConfigError, match="none"):
        Tokenizer.from_file(tmp_path / "none")
