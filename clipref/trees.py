"""Texts as trees of tokens: what several of them begin with is there once.

"a photo of a cat" and "a photo of a dog" share five tokens of seven. A causal transformer gives a token the same value
whatever comes after it, so a shared beginning needs to be computed only once; text_transformer.encode_tree does it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Attention within a tree grows with its square, and the weights are read anew for each tree.
MAX_TOKENS = 256


@dataclass(frozen=True)
class Tree:
    """One tree, as the arguments of text_transformer.encode_tree: N is 1, L its tokens, S its texts."""

    texts: list[int]  # which of the texts given end at `ends`
    ids: NDArray[np.int64]  # [1, L]
    positions: NDArray[np.int64]  # [1, L]
    visible: NDArray[np.bool_]  # [1, L, L]
    ends: NDArray[np.int64]  # [1, S]


def plant(texts: Sequence[tuple[int, ...]], max_tokens: int = MAX_TOKENS) -> Iterator[Tree]:
    """Trees of at most `max_tokens` tokens (or of one text) that hold all texts, each a row of token ids."""
    order = sorted(range(len(texts)), key=lambda i: texts[i])  # next to one another, texts share the most
    start = 0
    while start < len(order):
        ids: list[int] = []
        parents: list[int] = []
        ends: list[int] = []
        path: list[int] = []  # the nodes of the text before
        stop = start
        for i in map(order.__getitem__, range(start, len(order))):  # no copy of the rest for each tree
            text, before = texts[i], texts[order[stop - 1]] if stop > start else ()
            shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, before, strict=False)))
            if ends and len(ids) + len(text) - shared > max_tokens:
                break
            path = path[:shared]
            for token in text[shared:]:
                parents.append(path[-1] if path else -1)
                path.append(len(ids))
                ids.append(token)
            ends.append(path[-1])
            stop += 1
        yield _tree(order[start:stop], ids, parents, ends)
        start = stop


def _tree(texts: list[int], ids: list[int], parents: list[int], ends: list[int]) -> Tree:
    visible = np.eye(len(ids), dtype=bool)
    for node, parent in enumerate(parents):  # a parent comes before its children
        if parent >= 0:
            visible[node] |= visible[parent]
    positions = visible.sum(axis=1) - 1
    arrays: list[Any] = [np.array(x)[None] for x in (ids, positions, visible, ends)]
    return Tree(texts, *arrays)
