"""The text transformer of CLIP: token ids to an embedding.

From the CLIP paper, section 2.4 (https://arxiv.org/abs/2103.00020), and OpenAI's clip/model.py. Attention is causal: a
token sees itself and those before it. The feature is taken at the end-of-text token, which is the largest id unless
the vocabulary was grown behind it; all columns after it are irrelevant, so they are not computed.

Where each token stands in its text, what it may see and where a text ends is found in numpy before the tower is called
(`single_texts`), so that the tower itself has no length that depends on the data. And so texts that begin alike can
share what they have in common, which causal attention makes the same for all: a row of ids may be a tree, in which each
text is the path from the root to its end (clipref/trees.py). A text alone is a tree of one path, and S is 1.

To read it without trees: take S to be 1, `positions` to be 0, 1, 2, ... in each row, `visible` the lower triangle, and
`ends` the column of each text's end; that is what `single_texts` gives.

Axes: N items, T context length, L positions up to the batch's last end-of-text token, S texts in a row, W channels,
E embedding.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .architecture import (
    Activation,
    Shape,
    Shapes,
    TowerConfig,
    axis_of,
    check_numbers,
    count_of,
    heads_of,
    norm_shapes,
)
from .arguments import brief
from .errors import ConfigError, InputError
from .transformer import Array, Ops, Params, Tap, no_tap, resblock_shapes, residual_blocks

Ids: TypeAlias = NDArray[Any]
Texts: TypeAlias = tuple[Ids, Ids, NDArray[np.bool_], Ids]  # ids, positions, visible, ends, as encode_tree takes them


@dataclass(frozen=True)
class TextConfig(TowerConfig):
    """The causal text transformer.

    It pools at the first end-of-text token of a text. That is the largest id of all, and so the largest of a text,
    unless `eos_token_id` says otherwise: a vocabulary may have been grown by tokens behind it. `tokenizer` is the name
    of one that isn't CLIP's: ids are embedded then, and texts refused.
    """

    kind: ClassVar[str] = "causal"

    context_length: int
    vocab_size: int
    width: int
    layers: int
    heads: int
    mlp_width: int
    activation: Activation = "quick_gelu"
    eos_token_id: int | None = None
    tokenizer: str | None = None

    @property
    def end_of_text(self) -> int | None:
        """The id of the end-of-text token; None if the tower needs none."""
        return self.vocab_size - 1 if self.eos_token_id is None else self.eos_token_id

    @property
    def widest(self) -> int:
        """What the MLPs have inside."""
        return self.context_length * self.mlp_width

    def single_texts(self, ids: Ids) -> Texts:
        """Token ids [N, T] as rows of one text each: the arguments of `encode_tree`, S being 1."""
        return single_texts(ids, self.eos_token_id)

    def check_ids(self, ids: Ids) -> None:
        """Raise InputError for ids [N, T] of the vocabulary that are no texts of this tower."""
        if self.eos_token_id is not None:
            endless = np.flatnonzero(~(ids == self.eos_token_id).any(axis=1))
            if endless.size:
                raise InputError(f"ids: row {endless[0]} has no end-of-text token, which is {self.eos_token_id}.")

    def check(self, where: str) -> None:
        if self.tokenizer is not None and not (isinstance(self.tokenizer, str) and self.tokenizer):
            raise ConfigError(f"{where}.tokenizer is {brief(self.tokenizer)}; expected a name, or null for CLIP's own.")
        eos = () if self.eos_token_id is None else ("eos_token_id",)
        names = ("context_length", "vocab_size", "width", "heads", "mlp_width", *eos)
        check_numbers(where, self, names, (self.layers,))
        if self.eos_token_id is not None and self.eos_token_id >= self.vocab_size:
            raise ConfigError(f"{where}.eos_token_id is {self.eos_token_id}; expected one of {self.vocab_size} tokens.")

    def shapes(self, embed_dim: int) -> dict[str, Shape]:
        return {
            "token_embedding.weight": (self.vocab_size, self.width),
            "positional_embedding": (self.context_length, self.width),
            **resblock_shapes(self.width, self.layers, self.mlp_width),
            **norm_shapes("ln_final", self.width),
            "text_projection": (self.width, embed_dim),
        }

    @classmethod
    def is_in(cls, names: Collection[str]) -> bool:
        parts = {"token_embedding", "positional_embedding", "transformer", "ln_final", "text_projection"}
        return any(name.split(".")[0] in parts for name in names)

    @classmethod
    def infer(cls, shapes: Shapes, activation: Activation, heads: int | None) -> tuple[Any, int]:
        width = axis_of(shapes, "token_embedding.weight", 1)
        text = cls(
            context_length=axis_of(shapes, "positional_embedding", 0),
            vocab_size=axis_of(shapes, "token_embedding.weight", 0),
            width=width,
            layers=count_of(shapes, r"transformer\.resblocks\.(\d+)\."),
            heads=heads or heads_of(width, "text"),
            mlp_width=axis_of(shapes, "transformer.resblocks.0.mlp.c_fc.weight", 0),
            activation=activation,
        )
        return text, axis_of(shapes, "text_projection", 1)


def end_of_text(ids: Ids, eos_token_id: int | None = None) -> Ids:
    """The position [N] of each text's end-of-text token in ids [N, T]: the first of that id, or of the largest id."""
    ends: Ids = (ids if eos_token_id is None else ids == eos_token_id).argmax(axis=1)
    return ends


def causal(ids: Ids) -> NDArray[np.bool_]:
    """What each of the L columns of ids [N, L] may see: itself and those before. [N, L, L] bool"""
    n, length = ids.shape
    return np.broadcast_to(np.tri(length, dtype=bool), (n, length, length))


def single_texts(ids: Ids, eos_token_id: int | None = None) -> Texts:
    """Token ids [N, T] as rows of one text each: the arguments of `encode_tree`, S being 1.

    `eos_token_id` is the configuration's.
    The columns after the batch's last end-of-text token are cut off: attention is causal, so they could not have
    changed the result.
    """
    ends = end_of_text(ids, eos_token_id)
    ids = ids[:, : ends.max() + 1]  # [N, L]
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return ids, positions, causal(ids), ends[:, None]


def encode_tree(
    ops: Ops, ids: Array, positions: Array, visible: Array, ends: Array, config: TextConfig, tap: Tap = no_tap,
    *, token_embedding: Params, positional_embedding: Array, transformer: Params, ln_final: Params,
    text_projection: Array,
) -> Array:  # fmt: skip
    """Texts, or trees of them -> embeddings [N, S, E] of the texts that end at `ends` [N, S], not normalised.

    For each token its id [N, L], its position in its text [N, L], and which tokens it may see [N, L, L]: itself and
    those before it in its text.
    """

    def end_tokens(x: Array) -> Array:
        return ops.take(x, ends)  # [N, S, W]

    x = tap("token_embedding", ops.embed(ids, **token_embedding))  # [N, L, W]
    x = ops.add_positions(x, positional_embedding, positions)
    x = residual_blocks(ops, x, config, visible, end_tokens, tap, "transformer", **transformer)  # [N, S, W]
    x = tap("ln_final", ops.layer_norm(x, **ln_final))
    return tap("text_projection", x @ text_projection)  # [N, S, E]


TOWERS = {TextConfig: encode_tree}
