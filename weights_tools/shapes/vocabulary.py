"""The small byte-pair vocabulary of the embedded models, learned from captions.

As in CLIP, any text can be tokenized: what isn't a merge falls back to the 512 byte symbols. Few merges keep the token
table small. Algorithm: "Neural Machine Translation of Rare Words with Subword Units" (https://arxiv.org/abs/1508.07909),
section 3.2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise


def learn_merges(texts: Iterable[str], limit: int) -> list[tuple[str, str]]:
    """The up to `limit` most frequent pairs, in the order learned; ties go to the alphabetically first.

    Texts are lower-case words of ASCII letters, as the grammar's are, with hyphens as symbols between them.
    """
    counts = Counter(word for text in texts for word in text.replace("-", " ").split())
    words = {(*word[:-1], f"{word[-1]}</w>"): count for word, count in counts.items()}
    merges: list[tuple[str, str]] = []
    while len(merges) < limit:
        pairs: Counter[tuple[str, str]] = Counter()
        for symbols, count in words.items():
            for pair in pairwise(symbols):
                pairs[pair] += count
        if not pairs:
            break  # every word is one symbol
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        words = {_merge_pair(symbols, best): count for symbols, count in words.items()}
    return merges


def _merge_pair(symbols: tuple[str, ...], pair: tuple[str, str]) -> tuple[str, ...]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return tuple(merged)
