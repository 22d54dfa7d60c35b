"""Embeddings of texts: each text computed once, what texts begin with in common computed once, the last remembered."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .arguments import as_array
from .config import TextConfig
from .engine import Engine
from .errors import InputError, TextError
from .loading import in_batches
from .memory import Memory
from .similarity import finite_embeddings
from .tokenizer import Ids, Tokenizer
from .trees import plant

if TYPE_CHECKING:
    from .clip import CLIP

Array: TypeAlias = NDArray[Any]

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


def rows_of(texts: list[str], tokenizer: Tokenizer, context_length: int, truncate: bool = False) -> list[Ids]:
    """The token ids of each text up to its first end. Raises TextError for one that is empty, or too long."""
    rows = tokenizer.rows(texts, context_length, truncate)
    for i, row in enumerate(rows):
        end = row.index(row[-1])
        if end == 1:
            raise TextError(
                f"text {i} is empty, and an empty text has no meaning to embed; "
                f"encode_text(tokenize('')) gives its vector nevertheless.",
                index=i,
                source=texts[i],
            )
        if end + 1 < len(row):
            rows[i] = row[: end + 1]
    return rows


class PackedRows:
    """Rows of token ids, in as many bytes an id as the vocabulary needs: of 49,408 tokens two."""

    def __init__(self, vocab_size: int) -> None:
        self._ids = array("H" if vocab_size <= 2**16 else "I")
        self._ends = array("Q", [0])

    def add(self, rows: Sequence[Ids]) -> None:
        """Rows behind those that are there."""
        for row in rows:
            self._ids.extend(row)
            self._ends.append(len(self._ids))

    def __getitem__(self, i: int) -> Ids:
        return tuple(self._ids[self._ends[i] : self._ends[i + 1]])


def embed_rows(model: CLIP, rows: Sequence[Ids], normalize: bool = False) -> Array:
    """A model's embeddings [N, E] of rows of token ids without padding. Raises WeightsError."""
    with model.weights_in_use():
        embeddings = embeddings_of(rows, model.engine, model.text_memory)
    return finite_embeddings(embeddings, "text", range(len(rows)), normalize)


def embeddings_of(texts: Sequence[Ids], engine: Engine, memory: Memory[Ids, Array]) -> Array:
    """Embeddings [N, E] of rows of token ids without padding; those in `memory` are not computed again."""
    distinct = list(dict.fromkeys(texts))
    known = {i: row for i, text in enumerate(distinct) if (row := memory.get(text)) is not None}
    missing = [i for i in range(len(distinct)) if i not in known]
    found = None if not known else _room(len(distinct), next(iter(known.values())))
    for rows, embeddings in _embeddings_in_parts([distinct[i] for i in missing], engine):
        found = _room(len(distinct), embeddings[0]) if found is None else found
        found[[missing[i] for i in rows]] = embeddings
    assert found is not None
    for i, row in known.items():
        found[i] = row
    for i in missing[-memory.limit :]:
        memory.put(distinct[i], found[i].copy())  # a row by itself, without the others that it was computed with
    if len(distinct) == len(texts):
        return found
    places = {text: i for i, text in enumerate(distinct)}
    return np.asarray(found[[places[text] for text in texts]])


def _room(n: int, row: Array) -> Array:
    """Room for n rows like this one."""
    return np.empty((n, len(row)), row.dtype)


def _embeddings_in_parts(texts: list[Ids], engine: Engine) -> Iterator[tuple[list[int], Array]]:
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
