"""Which word of a text counts: what the end of the text takes straight from it, and what is lost without it.

The two disagree, and neither is wrong. The direct effect counts what the end-of-text token's attention takes from a
word's position in any layer, and holds everything else; what a word has told the positions after it is counted there,
most of all at the end of the text itself. Leaving a word out changes all that, and moves the words behind it to other
positions besides.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..clip import CLIP
from ..errors import InputError
from ..similarity import cosines, unit_vectors
from .decomposition import direct_effect
from .items import toward_directions

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Token:
    """One token: its id, the piece of text that it stands for, and the word that it is in; None for start and end."""

    id: int
    piece: str
    word: int | None


@dataclass(frozen=True)
class WordEffects:
    """Effects of the words of one text on its cosines [T].

    `direct` [words, T] sums a word's positions in the exact split of each cosine; `start` and `end` [T] are those of
    the two tokens around the text, and `rest` [T] what has no position (MLPs, biases, the beginning), so that all of
    them sum to the cosines. `left_out` [words, T] is what a cosine loses without the word.
    """

    words: list[str]
    tokens: list[Token]
    cosines: Array
    direct: Array
    start: Array
    end: Array
    rest: Array
    left_out: Array


def tokens_of(model: CLIP, text: str) -> list[Token]:
    """What the model's tokenizer makes of one text, start and end included. Raises TextError."""
    ids = [i for i in model.tokenize([text])[0].tolist()]
    ids = ids[: ids.index(model.tokenizer.end_id) + 1]
    tokens, word = [], 0
    for position, token in enumerate(ids):
        piece = model.tokenizer.decode([token])
        inside = 0 < position < len(ids) - 1
        tokens.append(Token(token, piece.strip(), word if inside else None))
        word += inside and piece.endswith(" ")
    return tokens


def word_effects(model: CLIP, toward: Any, text: str) -> WordEffects:
    """How each word of `text` counts for its cosines with `toward`: texts, or embeddings [T, E].

    One pass by the reference, and one more a word. Raises InputError, TextError.
    """
    if not isinstance(text, str):
        raise InputError(f"text is a {type(text).__name__}; expected one text.")
    tokens = tokens_of(model, text)
    directions = toward_directions(model, toward)
    ids = np.array([[token.id for token in tokens]])
    scores = direct_effect(model, directions, ids=ids)
    members = [token.word for token in tokens]
    count = max((word for word in members if word is not None), default=-1) + 1
    if not count:
        raise InputError("The text has no words; expected at least one.")
    positions = scores.positions  # [positions, T]
    direct = np.stack([positions[[m == word for m in members]].sum(axis=0) for word in range(count)])
    shorter = np.zeros((count, ids.shape[1]), ids.dtype)
    for word, row in enumerate(shorter):
        kept = [token.id for token in tokens if token.word != word]
        row[: len(kept)] = kept
    without = cosines(unit_vectors(model.encode_text(shorter))[:, None], directions)  # [words, T]
    spelled = ["".join(token.piece for token in tokens if token.word == word) for word in range(count)]
    return WordEffects(
        spelled,
        tokens,
        scores.cosines,
        direct,
        positions[0],
        positions[-1],
        scores.cosines - positions.sum(axis=0),
        scores.cosines - without,
    )
