"""The tokenizer against ids that OpenAI's own gave, and what it does with what isn't a text or is too long."""

import html
import threading
import unicodedata
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import regex
from hypothesis import example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import clipref
from clipref import ClipError, ConfigError, InputError, TextError, cleaning, tokenizer
from clipref.cleaning import MAX_LENGTH, clean
from clipref.tokenizer import MAX_CONTEXT, SHORT, Tokenizer
from clipref.vocabulary import DEFAULT_MERGES, SPECIALS, WORDS

from . import cases, texts

DEFAULT = Tokenizer.default()


def golden() -> list[list[int]]:
    arrays = load_file(cases.GOLDEN / "tokens.safetensors")
    ends = np.cumsum(arrays["lengths"].astype(int))
    return [part.tolist() for part in np.split(arrays["ids"].astype(int), ends[:-1])]


@cache
def known_texts() -> list[tuple[str, list[int]]]:
    """Texts and the original's ids of them, whose characters this Python and `regex` know.

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
    return known


def differs(encode: Callable[[str], list[int]]) -> bool:
    """Whether any of these texts gets other ids than the original's."""
    return any(encode(text) != ids for text, ids in known_texts())


def test_ids_are_the_originals() -> None:
    assert not differs(DEFAULT.encode)


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
        monkeypatch.setattr(ftfy, "fix_text", lambda text, config: text)
    elif step == "the second unescape":
        once, last = html.unescape, [""]
        monkeypatch.setattr(
            html, "unescape", lambda text: text if text == last[0] else last.__setitem__(0, once(text)) or last[0]
        )
    elif step == "lower case":
        monkeypatch.setattr(
            tokenizer, "cleaned_lines", lambda text: [html.unescape(html.unescape(ftfy.fix_text(text)))]
        )
    else:
        old, new = patterns[step]
        pattern = SPECIALS + WORDS
        assert old in pattern
        wrong = regex.compile(pattern.replace(old, new), regex.IGNORECASE)
        monkeypatch.setattr(tokenizer, "_words", lambda: wrong)


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
    assert differs(wrong.encode)


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


@pytest.mark.parametrize("bad", [None, 5, b"bytes", ["nested"], float("nan"), np.array("a"), object()])
def test_not_a_text(bad: object) -> None:
    with pytest.raises(TextError, match=f"text 1: expected a text, got {type(bad).__name__}"):
        clipref.tokenize(["fine", bad])  # type: ignore[list-item]
    with pytest.raises(TextError, match=f"expected a text, got {type(bad).__name__}"):
        DEFAULT.encode(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [np.str_("a cat"), ["a cat"], ("a cat",), np.array(["a cat"]), {"a cat": 1}.keys()])
def test_texts_of_every_kind(given: object) -> None:
    assert clipref.tokenize(given).tolist() == clipref.tokenize("a cat").tolist()  # type: ignore[arg-type]
    assert clipref.tokenize(np.array(["a", None, "b"], object)[[0, 2]]).shape == (2, 77)


@pytest.mark.parametrize(
    "given", [None, 5, float("nan"), b"bytes", {"a": "b"}, {"a"}, np.array("a"), np.array([["a"]]), [["a"], ["b", "c"]]]
)
def test_no_texts(given: object) -> None:
    with pytest.raises(ClipError):
        clipref.tokenize(given)  # type: ignore[arg-type]
    with pytest.raises(ClipError, match="bytes.*Decode"):
        clipref.tokenize(b"bytes")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "length", ["x", None, float("nan"), 7.0, True, -1, 0, 1, 10**9, [77], pytest.param(10**5000, id="huge")]
)
def test_absurd_contexts(length: object) -> None:
    with pytest.raises(InputError, match="context_length is .*; expected a whole number, at least 2"):
        clipref.tokenize("a", context_length=length)  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", [None, 5, "ids", b"ids", [1.5], ["a"], [None], [[1]], [10**30], [-1], [True], 1.5])
def test_absurd_ids(ids: object) -> None:
    with pytest.raises(InputError, match="ids? .*(expected a list of whole numbers|the vocabulary has)"):
        DEFAULT.decode(ids)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [None, 5, "a\0b", "", "/", 1.5, "x" * 5000])
def test_absurd_paths(path: object) -> None:
    with pytest.raises((ConfigError, InputError)):
        Tokenizer.from_file(path)  # type: ignore[arg-type]


@pytest.mark.parametrize("merges", [[("a",)], [("a", "b", "c")], ["ab"], [(1, 2)], [None], [("a", "a" * 300)]])
def test_absurd_merges(merges: object) -> None:
    with pytest.raises(ConfigError, match="Merge 0"):
        Tokenizer(merges)  # type: ignore[arg-type]
    nothing: tuple[Any, ...] = (None, 5, "ab", {}, iter([]))
    for none in nothing:
        with pytest.raises(ConfigError, match="The merges are"):
            Tokenizer(none)
    doubling = [("a" * 2**i, "a" * 2**i) for i in range(9)]
    with pytest.raises(ConfigError, match="Merge 8 makes a symbol of 512 bytes"):
        Tokenizer(doubling)


def test_bad_arguments() -> None:
    with pytest.raises(InputError, match="No texts"):
        clipref.tokenize([])
    assert clipref.tokenize("a", context_length=MAX_CONTEXT).shape == (1, MAX_CONTEXT)
    with pytest.raises(InputError, match="truncate"):
        clipref.tokenize("a", truncate=np.ones(3))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="id 49408"):
        DEFAULT.decode([49408])
    with pytest.raises(TextError, match=f"{MAX_LENGTH + 1} characters; at most {MAX_LENGTH}"):
        clipref.tokenize("a" * (MAX_LENGTH + 1))


# --- texts that mean harm ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("&#" + "1" * 5000 + ";", "\ufffd"),
        ("&#" + "1" * 5000, "\ufffd"),
        ("&#" + "0" * 5000 + "65;b", "ab"),
        ("&#" + "0" * 5000 + ";", "\ufffd"),
        ("&#9999999;&#1114112;&#1114111;", "\ufffd\ufffd"),
        ("&#x" + "f" * 5000 + ";", "\ufffd"),
        ("&amp;#" + "1" * 5000 + ";", "\ufffd"),
        ("&amp;amp;#" + "1" * 5000 + ";", "\ufffd"),
        ("&#" + "\u0661" * 5000 + ";", "&#" + "\u0661" * 5000 + ";"),
    ],
)
def test_numbers_of_thousands_of_digits(text: str, same: str) -> None:
    assert clean(text) == same


N = MAX_LENGTH
LONG = {
    "letters": "a" * N,
    "letters of all kinds": "abcdefghij" * (N // 10),
    "signs": "!" * N,
    "words": "a photo of a cat " * (N // 17),
    "lines": "a cat\n" * (N // 6),
    "digits": "1" * N,
    "escapes": "&amp;" * (N // 5),
}


@pytest.mark.fast_cases("letters]", "words", "escapes")
@pytest.mark.parametrize("name", LONG)
def test_a_million_characters_cost_what_the_context_takes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[int] = []
    merge = Tokenizer._merge

    def counted(self: Tokenizer, letters: Any, whole: Any) -> Any:
        merged.append(len(letters))
        return merge(self, letters, whole)

    monkeypatch.setattr(Tokenizer, "_merge", counted)
    fresh = Tokenizer.from_file(DEFAULT_MERGES)
    cut = fresh(LONG[name], truncate=True)
    assert cut.tolist() == fresh(LONG[name][:20_000], truncate=True).tolist() or name == "escapes"
    assert sum(merged) < 300_000
    with pytest.raises(TextError, match="text 1: over 77 tokens, with start and end, but the context"):
        fresh(["a", LONG[name]])


@pytest.mark.parametrize("seed", range(20))
def test_the_first_ids_of_a_long_word_are_those_of_the_whole(seed: int) -> None:
    generator = np.random.Generator(np.random.PCG64(seed))
    symbols, merges = list("abc"), []
    for _ in range(int(generator.integers(1, 40))):  # some symbols twice, which no published table has
        pair = tuple(symbols[i] for i in generator.integers(0, len(symbols), 2))
        if len("".join(pair)) < 25:
            merges.append(pair)
            symbols.append("".join(pair))
    small = Tokenizer(merges)
    told = 0
    for period in (1, 2, 3, 5, 1000):
        word = "".join(generator.choice(list("abc"), period)) * (1000 // period)
        ids = small.encode(word)
        for limit in (1, 5, 20):
            first = small._first(word, limit)
            assert first is None or list(first) == ids[:limit]
            told += first is not None
    assert told > 5


def test_escapes_of_escapes_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert clean("&" + "amp;" * 500 + "é") == "&é"
    monkeypatch.setattr(cleaning, "MAX_REPAIR", 100_000)
    for text in ("&" + "amp;" * 500, ("&" + "amp;" * 50 + "\n") * 50, "&" + "#38;" * 500 + "é"):
        with pytest.raises(TextError, match="nested in one another too deeply"):
            DEFAULT.encode(text)


def test_what_grows_when_it_is_cleaned_is_bounded() -> None:
    with pytest.raises(TextError, match="once it is cleaned"):
        DEFAULT.encode("ﬃ" * (N // 2))


def test_long_words_are_not_remembered() -> None:
    fresh = Tokenizer.from_file(DEFAULT_MERGES)
    fresh.encode(" ".join(letter * (SHORT + 1) for letter in "abcdefgh"))
    assert fresh._short_word.cache_info().currsize == 0
    fresh.encode("a" * SHORT)
    assert fresh._short_word.cache_info().currsize == 1


def test_lines_are_cleaned_as_the_whole() -> None:
    import ftfy

    for text in texts.texts(400):
        for several in (text, f"{text}\n\n{text[::-1]}&lt;\r{text}", f"<{text}\n&amp;amp;lt;{text}\n \n"):
            whole = html.unescape(html.unescape(ftfy.fix_text(several))).strip()
            assert clean(several) == cleaning._space().sub(" ", whole).strip().lower()


@pytest.mark.fast_cases("long1")
@pytest.mark.parametrize("long", ["a" * 100_000, "ab!1" * 30_000, "abcdefghij" * 10_000])
def test_a_long_word_is_not_quadratic(long: str) -> None:
    # The plain loop would take hours.
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
    assert DEFAULT.decode(ids).replace(" ", "") == "".join(tokenizer._words().findall(clean(text)))


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
