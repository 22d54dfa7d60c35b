"""CLIP's tokenizer: text in, token ids out, equal to the original's.

Byte-pair encoding over UTF-8 bytes shown as printable characters, after a cleaning that repairs mojibake, undoes HTML
escapes, collapses white space and lower-cases. From OpenAI's clip/simple_tokenizer.py; the algorithm is that of
"Neural Machine Translation of Rare Words with Subword Units" (https://arxiv.org/abs/1508.07909).

What may surprise: digits are split one by one; ids of whole words and of word beginnings differ (`</w>`); padding is
0, which is also the id of a "!" inside a word; `<|endoftext|>` written in a text becomes the end-of-text token, and
CLIP pools at the first of them.
"""

from __future__ import annotations

import gzip
import heapq
import html
import os
import zlib
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .arguments import is_count, is_true, listed_texts, shown
from .errors import ConfigError, InputError, TextError, numbered
from .lazy import no_fork

START = "<|startoftext|>"
END = "<|endoftext|>"

# OpenAI's file lists far more merges than its vocabulary of 49,408 has room for.
MAX_MERGES = 49408 - 512 - 2

# OpenAI's file, with all of its merges, has 3.2 MB once it is decompressed.
MAX_MERGES_BYTES = 10_000_000

# The part of it that is used.
DEFAULT_MERGES = Path(__file__).parent / "data" / "bpe_merges.txt.gz"

# Characters. A text as long as this has thousands of times the tokens of the longest context.
MAX_LENGTH = 1_000_000

# Tokens. The longest context that anyone published has 248; ids are padded to it.
MAX_CONTEXT = 2**16

# Specials, English contractions, runs of letters, single digits, runs of what is neither letter, digit nor space.
_PATTERN = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@cache
def byte_symbols() -> tuple[str, ...]:
    """A printable character for each of the 256 bytes: itself where it is printable, else one from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return tuple(chr(byte if byte in printable else next(others)) for byte in range(256))


@cache
def _compiled() -> tuple[Any, Any]:
    """The pattern of words, and that of white space, which the module `regex` sees more of than `re`."""
    with no_fork:
        import regex

    return regex.compile(_PATTERN, regex.IGNORECASE), regex.compile(r"\s+")


class Tokenizer:
    """A vocabulary, and the way from text to its ids and back. Safe to call from several threads.

    Ids: 256 byte symbols, the same 256 at the end of a word, one for each merge, the start and the end of text. The end
    of text has the largest id, by which CLIP finds it.
    """

    def __init__(self, merges: Sequence[tuple[str, str]]) -> None:
        """`merges`: pairs of symbols, the first merged first. Raises ConfigError if one merges an unknown symbol."""
        printable_first = sorted(byte_symbols(), key=lambda symbol: (ord(symbol) > 255, ord(symbol)))
        symbols = [*printable_first, *(symbol + "</w>" for symbol in printable_first)]
        known = set(symbols)
        for i, (left, right) in enumerate(merges):
            if left not in known or right not in known:
                unknown = right if left in known else left
                raise ConfigError(f"Merge {i}, {left!r} + {right!r}: nothing before it makes {unknown!r}; wrong file?")
            symbols.append(left + right)
            known.add(left + right)
        symbols += [START, END]
        self.vocab_size = len(symbols)
        self.start_id, self.end_id = self.vocab_size - 2, self.vocab_size - 1
        self._symbols = symbols
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._encode_word = lru_cache(maxsize=65536)(self._merge)

    @staticmethod
    @cache
    def default() -> Tokenizer:
        """The tokenizer of the nine published models, with the merges that are part of this package."""
        return Tokenizer.from_file(DEFAULT_MERGES)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read merges, gzipped or not: OpenAI's bpe_simple_vocab_16e6.txt.gz, or a merges.txt as transformers has it.

        Raises ConfigError if the file can't be read or isn't a list of merges.
        """
        path = Path(path)
        try:
            with open(path, "rb") as file:
                zipped = file.read(2) == b"\x1f\x8b"
            with gzip.open(path) if zipped else open(path, "rb") as file:
                data = file.read(MAX_MERGES_BYTES + 1)
            if len(data) > MAX_MERGES_BYTES:
                raise OSError(f"it has over {MAX_MERGES_BYTES} bytes")
            text = data.decode("utf-8")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} can't be read as a table of merges: {error}. Fetch it again.") from error
        lines = text.split("\n")
        first = 1 if lines[0].startswith(("#version", '"bpe_simple_vocab')) else 0
        merges = []
        for number, line in enumerate(lines[first : first + MAX_MERGES], start=first + 1):
            left, space, right = line.rstrip("\r").partition(" ")
            if not line and number == len(lines):
                break
            if not (left and space and right) or " " in right:
                raise ConfigError(
                    f"{path}, line {number}: {line[:50]!r} is not two symbols; is this a table of merges?"
                )
            merges.append((left, right))
        try:
            return cls(merges)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def encode(self, text: str) -> list[int]:
        """A text's ids, without start and end. Raises TextError if it isn't text, or beyond MAX_LENGTH."""
        if not isinstance(text, str):
            raise TextError(f"expected a text, got {type(text).__name__}.")
        if len(text) > MAX_LENGTH:
            raise TextError(f"a text of {len(text)} characters; at most {MAX_LENGTH} are taken. Shorten it.")
        words, _ = _compiled()
        symbols = byte_symbols()
        ids: list[int] = []
        for word in words.findall(clean(text)):
            if word in (START, END):
                ids.append(self._ids[word])
            else:
                ids += self._encode_word("".join(symbols[byte] for byte in word.encode("utf-8")))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The cleaned text that ids stand for; bytes that aren't UTF-8 become U+FFFD. Raises InputError."""
        values = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        data = bytearray()
        for i in ids:
            if not 0 <= i < self.vocab_size:
                raise InputError(f"id {i}; the vocabulary has 0 to {self.vocab_size - 1}.")
            symbol = self._symbols[i]
            if symbol in (START, END):
                data += symbol.encode()
                continue
            data += bytes(values[c] for c in symbol.removesuffix("</w>"))
            data += b" " if symbol.endswith("</w>") else b""
        return data.decode("utf-8", errors="replace")

    def __call__(
        self, texts: str | Iterable[str], context_length: int = 77, truncate: bool = False
    ) -> NDArray[np.int32]:
        """One text or several -> ids [N, context_length] int32: start, text, end, and zeros.

        Raises TextError, with the number of the text, if one is too long and not to be truncated; `truncate` cuts it,
        and the last id becomes the end. Raises InputError if there are no texts.
        """
        if not is_count(context_length) or not 2 <= context_length <= MAX_CONTEXT:
            raise InputError(
                f"context_length is {shown(context_length)}; expected a whole number up to {MAX_CONTEXT}, at least 2, "
                f"for start and end."
            )
        truncate = is_true("truncate", truncate)
        rows = []
        for number, text in enumerate(listed_texts(texts)):
            try:
                row = [self.start_id, *self.encode(text), self.end_id]
                if len(row) > context_length and not truncate:
                    raise TextError(
                        f"{len(row)} tokens, with start and end, but the context takes {context_length}: "
                        f"{text[:50]!r}... Shorten it, or pass truncate=True."
                    )
            except TextError as error:
                raise numbered(error, "text", number, text) from None
            if len(row) > context_length:
                row = [*row[: context_length - 1], self.end_id]
            rows.append(row)
        ids = np.zeros((len(rows), context_length), np.int32)
        for i, row in enumerate(rows):
            ids[i, : len(row)] = row
        return ids

    def _merge(self, word: str) -> tuple[int, ...]:
        """The ids of one word of byte symbols.

        Always merges the pair of the lowest rank, the leftmost first. A queue of pairs and links between the symbols
        that are left keep that in n log n steps, where the plain loop takes n squared.
        """
        symbols: list[str | None] = [*word[:-1], word[-1] + "</w>"]
        before = list(range(-1, len(symbols) - 1))
        after = list(range(1, len(symbols) + 1))
        queue: list[tuple[int, int, str, str]] = []

        def offer(left: int, right: int) -> None:
            if left >= 0 and right < len(symbols):
                one, other = symbols[left], symbols[right]
                assert one is not None and other is not None
                rank = self._ranks.get((one, other))
                if rank is not None:
                    heapq.heappush(queue, (rank, left, one, other))

        for left, right in pairwise(range(len(symbols))):
            offer(left, right)
        while queue:
            _, left, one, other = heapq.heappop(queue)
            right = after[left]
            if symbols[left] != one or right == len(symbols) or symbols[right] != other:
                continue  # one of the two has been merged since
            symbols[left], symbols[right] = one + other, None
            after[left] = after[right]
            if after[left] < len(symbols):
                before[after[left]] = left
            offer(before[left], left)
            offer(left, after[left])
        return tuple(self._ids[symbol] for symbol in symbols if symbol is not None)


def clean(text: str) -> str:
    """As the original cleans: mojibake repaired, HTML unescaped twice, white space collapsed, lower case."""
    with no_fork:
        import ftfy

    _, space = _compiled()
    text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
    return str(space.sub(" ", text)).strip().lower()


def tokenize(texts: str | Iterable[str], context_length: int = 77, truncate: bool = False) -> NDArray[np.int32]:
    """Token ids [N, context_length] int32 in the vocabulary of the nine published models. See `Tokenizer.__call__`."""
    return Tokenizer.default()(texts, context_length, truncate)
