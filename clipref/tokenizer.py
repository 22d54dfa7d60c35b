"""CLIP's tokenizer: text in, token ids out, equal to the original's.

Byte-pair encoding over UTF-8 bytes shown as printable characters, of a text that was cleaned first. From OpenAI's
clip/simple_tokenizer.py; the algorithm is that of "Neural Machine Translation of Rare Words with Subword Units"
(https://arxiv.org/abs/1508.07909).

What may surprise: digits are split one by one; ids of whole words and of word beginnings differ (`</w>`); padding is
0, which is also the id of a "!" inside a word; `<|endoftext|>` written in a text becomes the end-of-text token, and
CLIP pools at the first of them.
"""

from __future__ import annotations

import hashlib
import heapq
import os
from array import array
from collections.abc import Iterable, Sequence
from functools import cache, lru_cache
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arguments import brief, elements, is_count, is_true, listed_texts
from .cleaning import cleaned_lines, libraries
from .errors import InputError, TextError, with_index
from .vocabulary import DEFAULT_MERGES, END, SPECIALS, START, WORDS, Merges, byte_symbols, read_vocabulary, symbols_of

Ids: TypeAlias = tuple[int, ...]

# The longest context: no array of ids takes more than 400 KB a text.
MAX_CONTEXT = 100_000

# Words of up to this many characters are remembered with their ids, so that what is kept has a bound.
SHORT = 32
REMEMBERED = 65536

# The tokens of a text that is too long are counted up to this many characters, to say by how much it is.
MAX_COUNTED = 10_000


@cache
def _words() -> Any:
    regex = libraries()[1]
    return regex.compile(SPECIALS + WORDS, regex.IGNORECASE)


class Tokenizer:
    """A vocabulary, and the way from text to its ids and back. Safe to call from several threads.

    Ids: 256 byte symbols, the same 256 at the end of a word, one for each merge, the start and the end of text, and
    what was added to the vocabulary after that. CLIP finds the end of text by its id, the largest in any row.

    >>> from clipref.tokenizer import Tokenizer
    >>> tokenizer = Tokenizer.default()
    """

    def __init__(self, merges: Merges, added: Sequence[str] = (), symbols: Sequence[str] = ()) -> None:
        """`merges`: pairs of symbols, the first merged first. Raises ConfigError if one merges an unknown symbol.

        `added`: tokens beyond the end of text. They count, and are never made: a text that has one of them is refused.
        `symbols`: what `symbols_of` makes of the merges, for who has it already.
        """
        symbols = symbols or symbols_of(merges)
        self.start_id, self.end_id = len(symbols) - 2, len(symbols) - 1
        self.vocab_size = len(symbols) + len(added)
        self._symbols = [*symbols, *added]
        self._ids = {symbol: i for i, symbol in enumerate(symbols)}
        self._ranks = dict(zip(map(tuple, merges), range(len(merges)), strict=True))
        self._longest = max(len(symbol.removesuffix("</w>")) for symbol in symbols[:-2])
        self._added = [token.lower() for token in added]
        self._short_word = lru_cache(maxsize=REMEMBERED)(lambda word: self._merge(_spell(word), True))

    @staticmethod
    @cache
    def default() -> Tokenizer:
        """The tokenizer of the nine published models, with the merges that are part of this package.

        >>> Tokenizer.default().vocab_size, Tokenizer.default().start_id, Tokenizer.default().end_id
        (49408, 49406, 49407)
        """
        return Tokenizer.from_file(DEFAULT_MERGES)

    @classmethod
    def from_file(cls, path: str | os.PathLike[str]) -> Tokenizer:
        """Read merges, gzipped or not: OpenAI's bpe_simple_vocab_16e6.txt.gz, or transformers' merges.txt or
        tokenizer.json. Files beside it that contradict it are refused (see clipref.vocabulary).

        Raises ConfigError if the file can't be read or isn't CLIP's kind of vocabulary.

        >>> from clipref.vocabulary import DEFAULT_MERGES
        >>> Tokenizer.from_file(DEFAULT_MERGES).vocab_size
        49408
        """
        vocabulary = read_vocabulary(path)
        return cls(vocabulary.merges, vocabulary.added, vocabulary.symbols)

    @property
    def digest(self) -> str:
        """sha256 of the vocabulary: the symbols of all ids, in their order."""
        return hashlib.sha256("\n".join(self._symbols).encode()).hexdigest()

    def check_vocabulary(self, vocab_size: int, end_of_text: int | None) -> None:
        """Raise InputError unless a model of so many tokens, with this end-of-text id, can take these ids.

        >>> tokenizer.check_vocabulary(49408, 49407)
        """
        if self.end_id != end_of_text or self.vocab_size > vocab_size:
            raise InputError(
                f"The merges give {self.vocab_size} tokens, but the model has {vocab_size} (end of text: "
                f"{self.end_id}, {end_of_text}): put the model's own merges.txt beside its weights."
            )

    def encode(self, text: str) -> list[int]:
        """A text's ids, without start and end.

        Raises TextError if it isn't text, is too long (see clipref.cleaning), or has a token that was added.

        >>> tokenizer.encode("A photo of 2 cats!")
        [320, 1125, 539, 273, 3989, 256]
        """
        return self._encode(text, None)

    def _encode(self, text: str, limit: int | None) -> list[int]:
        """A text's first ids, up to `limit`, for which no more of the text is read than is needed."""
        if not isinstance(text, str):
            raise TextError(f"expected a text, got {type(text).__name__}. Decode bytes: x.decode('utf-8').")
        ids: list[int] = []
        for line in cleaned_lines(text):
            if found := next((token for token in self._added if token in line), None):
                raise TextError(
                    f"it has {brief(found)}, which was added to the vocabulary: no merges make it. Omit it."
                )
            for match in _words().finditer(line):
                ids += self._word(match[0], None if limit is None else limit - len(ids))
                if limit is not None and len(ids) >= limit:
                    return ids[:limit]
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The cleaned text that ids stand for; bytes that aren't UTF-8 become U+FFFD. Raises InputError.

        >>> tokenizer.decode([320, 1125, 539, 273, 3989, 256])
        'a photo of 2 cats ! '
        """
        values = {symbol: byte for byte, symbol in enumerate(byte_symbols())}
        data = bytearray()
        for i in self._check_ids(ids):
            symbol = self._symbols[i]
            if i >= self.start_id:
                data += symbol.encode()
                continue
            data += bytes(values[c] for c in symbol.removesuffix("</w>"))
            data += b" " if symbol.endswith("</w>") else b""
        return data.decode("utf-8", errors="replace")

    def _check_ids(self, ids: Any) -> list[int]:
        if isinstance(ids, str | bytes) or not isinstance(ids, Iterable):
            raise InputError(f"ids are {brief(ids)}; expected a list of whole numbers.")
        listed = list(elements(ids, "ids", "expected a list of whole numbers"))
        for i in listed:
            if not isinstance(i, int | np.integer) or isinstance(i, bool) or not 0 <= i < self.vocab_size:
                raise InputError(f"id {brief(i)}; the vocabulary has 0 to {self.vocab_size - 1}.")
        return listed

    def __call__(
        self, texts: str | Iterable[str], context_length: int = 77, truncate: bool = False
    ) -> NDArray[np.int32]:
        """One text or several -> ids [N, context_length] int32: start, text, end, and zeros.

        Raises TextError, with the number of the text, if one is too long and not to be truncated; `truncate` cuts it,
        and the last id becomes the end. Raises InputError if there are no texts.

        >>> tokenizer(["a cat", "two cats"], context_length=5)
        array([[49406,   320,  2368, 49407,     0],
               [49406,  1237,  3989, 49407,     0]], dtype=int32)
        """
        rows = self.rows(texts, context_length, truncate)
        ids = np.zeros((len(rows), context_length), np.int32)
        for to, row in zip(ids, rows, strict=True):
            to[: len(row)] = row
        return ids

    def rows(self, texts: str | Iterable[str], context_length: int = 77, truncate: bool = False) -> list[Ids]:
        """As a call, but each text's ids by themselves: start, text, end. Raises what a call raises.

        >>> tokenizer.rows(["a cat", "two"])
        [(49406, 320, 2368, 49407), (49406, 1237, 49407)]
        """
        if not is_count(context_length) or not 2 <= context_length <= MAX_CONTEXT:
            raise InputError(
                f"context_length is {brief(context_length)}; expected a whole number, at least 2 for start and end, at "
                f"most {MAX_CONTEXT}."
            )
        cut = is_true("truncate", truncate)
        rows = []
        for i, text in enumerate(listed_texts(texts)):
            try:
                found = self._encode(text, context_length - 1)
                if len(found) > context_length - 2 and not cut:
                    raise TextError(self._too_long(text, int(context_length)))
            except TextError as error:
                raise with_index(error, "text", i, text) from None
            rows.append((self.start_id, *found[: context_length - 2], self.end_id))
        return rows

    def _too_long(self, text: str, context_length: int) -> str:
        count = f"{2 + len(self.encode(text))}" if len(text) <= MAX_COUNTED else f"over {context_length}"
        return (
            f"{count} tokens, with start and end, but the context takes {context_length}: {text[:50]!r}... "
            "Shorten it, or pass truncate=True."
        )

    def _word(self, word: str, limit: int | None) -> Ids:
        """The ids of a word; of a long one the first `limit`."""
        if word in (START, END):
            return (self._ids[word],)
        if len(word) <= SHORT:
            return self._short_word(word)
        first = None if limit is None else self._first(word, limit)
        return self._merge(_spell(word), True) if first is None else first

    def _first(self, word: str, limit: int) -> Ids | None:
        """The first `limit` ids of a long word, if they can be told from its beginning; None if they can't.

        Merges happen inside of what becomes one id, in an order that doesn't depend on the rest. So a beginning that
        ends where an id ends has, by itself, the same ids as in the word. Where an id ends isn't known; but around any
        place it is either there, or where a symbol begins that lies across the place. If the beginnings up to each of
        these have the same first ids, so has the word.
        """
        for size in (16 * limit, 64 * limit):
            if size + self._longest >= len(word):
                return None
            letters = _spell(word[: size + self._longest])
            across = (
                begin
                for begin in range(max(0, size - self._longest + 1), size)
                if any(letters[begin:end] in self._ids for end in range(size + 1, begin + self._longest + 1))
            )
            found = {self._merge(letters[:end], False)[:limit] for end in (size, *across)}
            if len(found) == 1 and len(first := found.pop()) == limit:
                return first
        return None

    def _merge(self, letters: str, whole: bool) -> Ids:
        """The ids of byte symbols, which are a whole word or the beginning of one.

        Always merges the pair of the lowest rank, the leftmost first. A queue of pairs, each one number for its rank
        and place, and links between the symbols that are left keep that in n log n steps, where the plain loop takes n
        squared.
        """
        if not letters:
            return ()
        size = len(letters)
        symbols: list[str | None] = [*letters]
        if whole:
            symbols[-1] = f"{letters[-1]}</w>"
        before, after = array("q", range(-1, size - 1)), array("q", range(1, size + 1))
        ranks: Any = self._ranks  # of pairs of symbols; None, what has been merged into another, is in no pair
        queue = [ranks[pair] * size + i for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
        heapq.heapify(queue)
        while queue:
            rank, left = divmod(heapq.heappop(queue), size)
            right = after[left]
            if right == size or ranks.get((symbols[left], symbols[right])) != rank:
                continue  # one of the two has been merged since
            merged = self._symbols[512 + rank]
            symbols[left], symbols[right] = merged, None
            after[left] = following = after[right]
            if following < size:
                before[following] = left
                if (rank := ranks.get((merged, symbols[following]), -1)) >= 0:
                    heapq.heappush(queue, rank * size + left)
            if (previous := before[left]) >= 0 and (rank := ranks.get((symbols[previous], merged), -1)) >= 0:
                heapq.heappush(queue, rank * size + previous)
        return tuple(self._ids[symbol] for symbol in symbols if symbol is not None)


def _spell(word: str) -> str:
    """A byte symbol for each byte of a word."""
    symbols = byte_symbols()
    return "".join([symbols[byte] for byte in word.encode("utf-8")])


def tokenize(texts: str | Iterable[str], context_length: int = 77, truncate: bool = False) -> NDArray[np.int32]:
    """Token ids [N, context_length] int32 in the vocabulary of the nine published models. See `Tokenizer.__call__`.

    >>> from clipref import tokenize
    >>> tokenize("a cat", context_length=5)
    array([[49406,   320,  2368, 49407,     0]], dtype=int32)
    """
    return Tokenizer.default()(texts, context_length, truncate)
