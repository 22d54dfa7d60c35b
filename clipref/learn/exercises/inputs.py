"""Chapters 1 to 3: from a picture and a text to what the towers take."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from ..grading import Array, Exercise

MEAN = np.array([0.48145466, 0.4578275, 0.40821073])
STD = np.array([0.26862954, 0.26130258, 0.27577711])
_random = np.random.Generator(np.random.PCG64(1))


def _normalisation(x: Array) -> Array:
    return (x / 255 - MEAN) / STD


def _symbols_of(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    return _merge([*word[:-1], word[-1] + "</w>"], ranks)


def _merge(symbols: list[str], ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Byte-pair encoding: the pair that was learned first is merged, until none is known."""
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
        if not pairs:
            return symbols
        _, i = min(pairs)
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]


def _from_the_left(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    symbols = [*word[:-1], word[-1] + "</w>"]
    i = 0
    while i + 1 < len(symbols):
        if (symbols[i], symbols[i + 1]) in ranks:
            symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
            i = 0
        else:
            i += 1
    return symbols


def _one_merge(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    symbols = [*word[:-1], word[-1] + "</w>"]
    pairs = [(ranks[pair], i) for i, pair in enumerate(pairwise(symbols)) if pair in ranks]
    for _, i in sorted(pairs)[:1]:
        symbols[i : i + 2] = [symbols[i] + symbols[i + 1]]
    return symbols


def _without_mark(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    return _merge(list(word), ranks)


_RANKS = {("a", "b"): 3, ("b", "c"): 0, ("c</w>", "x"): 9, ("bc", "d</w>"): 1, ("a", "bcd</w>"): 2, ("c", "d</w>"): 4}
_WORDS = [(word, _RANKS) for word in ("abcd", "abc", "bcd", "cd", "a", "abab")]


def _patches(pixels: Array, size: int) -> Array:
    channels, rows, columns = pixels.shape
    squares = pixels.reshape(channels, rows // size, size, columns // size, size)
    return squares.transpose(1, 3, 0, 2, 4).reshape(-1, channels * size * size)


def _patches_by_column(pixels: Array, size: int) -> Array:
    channels, rows, columns = pixels.shape
    squares = pixels.reshape(channels, rows // size, size, columns // size, size)
    return squares.transpose(3, 1, 0, 2, 4).reshape(-1, channels * size * size)


def _patches_colours_last(pixels: Array, size: int) -> Array:
    channels, rows, columns = pixels.shape
    squares = pixels.reshape(channels, rows // size, size, columns // size, size)
    return squares.transpose(1, 3, 2, 4, 0).reshape(-1, channels * size * size)


def _tokens(patches: Array, token: Array, positions: Array) -> Array:
    return np.concatenate([token[None], patches]) + positions


def _tokens_of(patches: Array, token: Array, positions: Array, *, kind: str) -> Array:
    if kind == "last":
        return np.concatenate([patches, token[None]]) + positions
    if kind == "bare":
        return np.concatenate([token[None], patches + positions[1:]])
    if kind == "shifted":
        return np.concatenate([token[None] + positions[-1], patches + positions[:-1]])
    return np.concatenate([token[None], patches])


EXERCISES = {
    "pixels": Exercise(
        "From a picture [R, R, 3] of whole numbers up to 255 to pixels [3, R, R] as the towers take them.",
        lambda x: _normalisation(x).transpose(2, 0, 1),
        [(_random.integers(0, 256, (n, n, 3)).astype(np.uint8),) for n in (2, 5)],
        {
            "the numbers weren't divided by 255 before the mean was taken off": lambda x: ((x - MEAN) / STD).transpose(
                2, 0, 1
            ),
            "mean and deviation are missing": lambda x: (x / 255).transpose(2, 0, 1),
            "the mean is taken off, but nothing is divided by the deviation": lambda x: (x / 255 - MEAN).transpose(
                2, 0, 1
            ),
            "the colours are still the last axis; `transpose(2, 0, 1)` moves them to the front": _normalisation,
            "`reshape` doesn't move an axis, it reads the same numbers in another pattern; `transpose(2, 0, 1)` moves "
            "the colours to the front": lambda x: _normalisation(x).reshape(3, *x.shape[:2]),
            "rows and columns are exchanged: `.T` turns all axes round, `transpose(2, 0, 1)` leaves rows before "
            "columns": lambda x: _normalisation(x).T,
            "red and blue are exchanged": lambda x: _normalisation(x[..., ::-1]).transpose(2, 0, 1),
        },
    ),
    "symbols": Exercise(
        "The symbols that byte-pair encoding makes of a word, given the ranks of pairs: {('a', 'b'): 3, ...}.",
        _symbols_of,
        _WORDS,
        {
            "pairs are merged from the left; of all pairs that are there, the one of the lowest rank comes first": (
                _from_the_left
            ),
            "it stops after one merge; go on until no pair is known": _one_merge,
            "the end of the word isn't marked: its last letter is a symbol of its own, with </w>": _without_mark,
        },
    ),
    "end": Exercise(
        "The position [N] of the end of each text in ids [N, T], filled up with zeros; its id is the largest.",
        lambda ids: ids.argmax(axis=1),
        [(np.array([[9, 4, 10, 0, 0, 0], [9, 10, 0, 0, 0, 0], [9, 4, 10, 3, 10, 0], [9, 3, 0, 4, 10, 0]]),)],
        {
            "that is the last column: texts are shorter than the context, and zeros come after their end": lambda ids: (
                np.full(len(ids), ids.shape[1] - 1)
            ),
            "that is how many aren't zero, which is one too far; and an id of 0 may be a token within a text": (
                lambda ids: (ids != 0).sum(axis=1)
            ),
            "a 0 within a text was taken for the filling; look for the largest id, not for what isn't zero": (
                lambda ids: (ids != 0).sum(axis=1) - 1
            ),
            "of several ends of text the first counts": lambda ids: ids.shape[1] - 1 - ids[:, ::-1].argmax(axis=1),
            "that is the id itself, not where it is: `argmax`, not `max`": lambda ids: ids.max(axis=1),
        },
    ),
    "patches": Exercise(
        "From pixels [C, R, R] to patches [G * G, C * P * P], row by row from the top left, given P.",
        _patches,
        [(_random.standard_normal((3, 6, 6)), 2), (_random.standard_normal((2, 6, 6)), 3)],
        {
            "`reshape` alone cuts the picture into strips; name rows and columns of patches as axes of their own, "
            "then move them to the front": lambda x, size: x.reshape(-1, len(x) * size * size),
            "the patches go down the columns; row by row is meant": _patches_by_column,
            "within a patch, the colours come last; they come first, as in the weights of `conv1`": (
                _patches_colours_last
            ),
        },
    ),
    "tokens": Exercise(
        "From patches [G * G, W], the class token [W] and positions [1 + G * G, W] to what goes into `ln_pre`.",
        _tokens,
        [(_random.standard_normal((4, 3)), _random.standard_normal(3), _random.standard_normal((5, 3)))],
        {
            "the class token comes first, before the patches": lambda *a: _tokens_of(*a, kind="last"),
            "the class token has a position, too: the first": lambda *a: _tokens_of(*a, kind="bare"),
            "the positions are off by one: the first is the class token's": lambda *a: _tokens_of(*a, kind="shifted"),
            "the positions are missing": lambda *a: _tokens_of(*a, kind="none"),
        },
    ),
}
