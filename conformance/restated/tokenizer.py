"""CLIP's tokenizer, stated a second time: plain loops, each step of which can be done otherwise.

From OpenAI's clip/simple_tokenizer.py. It shares the table of merges with clipref.tokenizer, and no step. The golden
ids are OpenAI's own (tests/make_goldens.py); the known faults are deviations of this.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import numpy as np

from clipref.cleaning import libraries
from clipref.tokenizer import Tokenizer
from clipref.vocabulary import END, START, byte_symbols

from ..protocol import Array

SPECIALS = r"<\|startoftext\|>|<\|endoftext\|>|"
_CONTRACTIONS = r"'s|'t|'re|'ve|'m|'ll|'d|"
_WORDS = r"[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True)
class Steps:
    """The steps; the defaults are OpenAI's."""

    repaired: bool = True  # ftfy
    unescaped: int = 2
    lowered: bool = True
    pattern: str = SPECIALS + _CONTRACTIONS + _WORDS
    specials: bool = True  # names of special tokens in a text become their ids
    spelling: tuple[str, str] = (START, END)  # of their names
    ends_of_words: bool = True  # </w>
    merges: Literal["by rank", "from the left", "none"] = "by rank"
    left_out: int = 0  # of the merges, the last
    start: bool = True
    end: bool = True
    padding: int = 0
    length: int | None = None  # in place of the context length that is asked for
    cut: Literal["keep the end", "drop the end", "from the left"] = "keep the end"


def tokenize(texts: Sequence[str], length: int, truncate: bool, steps: Steps = Steps()) -> Array:
    """Ids [N, length] int64. Raises ValueError if a text is too long, and not to be truncated."""
    length = steps.length or length
    start, end = (Tokenizer.default()._ids[special] for special in (START, END))
    rows = np.full((len(texts), length), steps.padding, np.int64)
    for row, text in zip(rows, texts, strict=True):
        ids = [*[start] * steps.start, *encode(text, steps), *[end] * steps.end]
        if len(ids) > length:
            if not truncate:
                raise ValueError(f"{len(ids)} tokens, with start and end; expected at most {length}")
            if steps.cut == "from the left":
                ids = [*ids[:1], *ids[len(ids) - length + 1 :]]
            ids = ids[:length]
            if steps.cut == "keep the end" and steps.end:
                ids[-1] = end
        row[: len(ids)] = ids
    return rows


def encode(text: str, steps: Steps) -> list[int]:
    """The ids of one text, without start and end."""
    ids = Tokenizer.default()._ids
    symbols = byte_symbols()
    found: list[int] = []
    _, regex = libraries()
    for word in regex.findall(steps.pattern, clean(text, steps), regex.IGNORECASE):
        if word in steps.spelling and steps.specials:
            found.append(ids[(START, END)[steps.spelling.index(word)]])
        else:
            letters = "".join(symbols[byte] for byte in word.encode("utf-8"))
            found += _merge(letters, steps.ends_of_words, steps.merges, steps.left_out)
    return found


def clean(text: str, steps: Steps) -> str:
    """A text before it is split."""
    ftfy, regex = libraries()
    text = ftfy.fix_text(text) if steps.repaired else text
    for _ in range(steps.unescaped):
        text = html.unescape(text)
    text = regex.sub(r"\s+", " ", text.strip()).strip()
    return text.lower() if steps.lowered else text


@lru_cache(maxsize=65536)
def _merge(word: str, ends_of_words: bool, merges: str, left_out: int) -> tuple[int, ...]:
    """Always the pair of the lowest rank, everywhere it is, until there is none; or the first pair that has a rank."""
    tokenizer = Tokenizer.default()
    ranks = tokenizer._ranks
    symbols = [*word[:-1], word[-1] + "</w>" * ends_of_words]
    while merges != "none":
        pairs = [pair for pair in pairwise(symbols) if ranks.get(pair, len(ranks)) < len(ranks) - left_out]
        if not pairs:
            break
        best = pairs[0] if merges == "from the left" else min(pairs, key=ranks.__getitem__)
        joined: list[str] = []
        i = 0
        while i < len(symbols):
            pair = tuple(symbols[i : i + 2])
            joined.append("".join(pair) if pair == best else symbols[i])
            i += 2 if pair == best else 1
        symbols = joined
    return tuple(tokenizer._ids[symbol] for symbol in symbols)
