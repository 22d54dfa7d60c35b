"""Embeddings of texts: each text computed once, what texts begin with in common computed once, the last remembered."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arguments import as_array
from .config import TextConfig
from .engine import Engine
from .errors import InputError, TextError
from .loading import in_batches
from .memory import Memory
from .text_transformer import end_of_text
from .trees import plant

Array: TypeAlias = NDArray[Any]
Ids: TypeAlias = tuple[int, ...]

# Texts in a call of an engine that knows no trees.
TEXT_BATCH = 64


def check_tokenizer(config: TextConfig) -> None:
    """Raise InputError for a model whose texts are made to ids by another tokenizer than CLIP's."""
    if config.tokenizer is not None:
        raise InputError(
            f"This model's texts are made to ids by the tokenizer {config.tokenizer!r}, which clipref doesn't have; "
            f"make them by that one, and give encode_text the ids [N, {config.context_length}]."
        )


def checked_ids(given: Any, config: TextConfig) -> Array:
    """Token ids [N, T] int of the vocabulary, T at most the context length. Raises InputError."""
    expected = f"expected integers [N, T], T up to {config.context_length}"
    ids = as_array(given, "ids", expected)
    if ids.ndim != 2 or ids.dtype.kind not in "iu" or not ids.size or ids.shape[1] > config.context_length:
        raise InputError(f"ids are {ids.dtype} of shape {ids.shape}; {expected}.")
    if ids.min() < 0 or ids.max() >= config.vocab_size:
        raise InputError(f"ids reach from {ids.min()} to {ids.max()}; the vocabulary has 0 to {config.vocab_size - 1}.")
    config.check_ids(ids)
    return ids


def rows_of(ids: Array, texts: Sequence[str]) -> list[Ids]:
    """Token ids [N, T] -> those of each text up to its end. Raises TextError for an empty text."""
    ends = end_of_text(ids)
    empty = np.flatnonzero(ends == 1)
    if empty.size:
        raise TextError(
            f"text {empty[0]} is empty, and an empty text has no meaning to embed; "
            f"encode_text(tokenize('')) gives its vector nevertheless.",
            index=int(empty[0]),
            source=texts[empty[0]],
        )
    return [tuple(row[: end + 1]) for row, end in zip(ids.tolist(), ends, strict=True)]


def embeddings_of(texts: Sequence[Ids], engine: Engine, memory: Memory[Ids, Array]) -> Array:
    """Embeddings [N, E] of rows of token ids without padding; those in `memory` are not computed again."""
    known = {text: embedding for text in set(texts) if (embedding := memory.get(text)) is not None}
    missing = list({text: None for text in texts if text not in known})
    for rows, embeddings in _computed(missing, engine):
        known |= {missing[i]: embedding for i, embedding in zip(rows, embeddings, strict=True)}
    for text in missing:
        memory.put(text, known[text].copy())  # a row by itself, without the batch that it was computed in
    return np.stack([known[text] for text in texts])


def _computed(texts: list[Ids], engine: Engine) -> Iterator[tuple[list[int], Array]]:
    """Which texts, and their embeddings, some at a time: as trees if the engine has them, else by length."""
    if hasattr(engine, "encode_tree"):
        for tree in plant(texts):
            yield tree.texts, engine.encode_tree(tree.ids, tree.positions, tree.visible, tree.ends)[0]
        return
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for rows in in_batches(order, TEXT_BATCH):
        ids = np.zeros((len(rows), len(texts[rows[-1]])), np.int64)
        for row, i in zip(ids, rows, strict=True):
            row[: len(texts[i])] = texts[i]
        yield rows, engine.encode_text(ids)
