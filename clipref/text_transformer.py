"""The text transformer of CLIP: token ids to an embedding.

From the CLIP paper, section 2.4 (https://arxiv.org/abs/2103.00020), and OpenAI's clip/model.py. The feature is taken
at the end-of-text token, which is the largest id unless the vocabulary was grown behind it; causal attention makes all
columns after it irrelevant, so they are not computed.

Texts that begin alike can share what they have in common: causal attention makes it the same for all. `encode_tree`
computes a tree of tokens, in which every text is the path from the root to its end. A text alone is a tree of one path.
Which positions there are, what each may see and where a text ends is found in numpy before the tower is called
(`single_texts`, or clipref/trees.py), so that the tower itself has no length that depends on the data.

Axes: N items, T context length, L positions up to the batch's last end-of-text token, S texts in a tree, W channels,
E embedding.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .config import TextConfig
from .transformer import Array, Ops, Params, Tap, no_tap, residual_blocks

Ids: TypeAlias = NDArray[Any]


def end_of_text(ids: Ids, eos_token_id: int | None = None) -> Ids:
    """The position [N] of each text's end-of-text token in ids [N, T]: the first of that id, or of the largest id."""
    ends: Ids = (ids if eos_token_id is None else ids == eos_token_id).argmax(axis=1)
    return ends


def causal(ids: Ids) -> NDArray[np.bool_]:
    """What each of the L columns of ids [N, L] may see: itself and those before. [N, L, L] bool"""
    n, length = ids.shape
    return np.broadcast_to(np.tri(length, dtype=bool), (n, length, length))


def single_texts(ids: Ids, eos_token_id: int | None = None) -> tuple[Ids, Ids, NDArray[np.bool_], Ids]:
    """Token ids [N, T] as trees of one text each: the arguments of `encode_tree`, S being 1.

    `eos_token_id` is the configuration's.
    The columns after the batch's last end-of-text token are cut off: attention is causal, so they could not have
    changed the result.
    """
    ends = end_of_text(ids, eos_token_id)
    ids = ids[:, : ends.max() + 1]
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return ids, positions, causal(ids), ends[:, None]


def pooled(
    ops: Ops, x: Array, visible: Array, ends: Array, config: TextConfig, tap: Tap,
    *, transformer: Params, ln_final: Params, text_projection: Array,
) -> Array:  # fmt: skip
    """Embedded tokens [N, L, W], what each may see [N, L, L], end-of-text positions [N, S] -> embeddings [N, S, E]."""

    def end_tokens(x: Array) -> Array:
        return ops.take(x, ends)  # [N, S, W]

    x = residual_blocks(ops, x, config, visible, end_tokens, tap, "transformer", **transformer)  # [N, S, W]
    x = tap("ln_final", ops.layer_norm(x, **ln_final))
    return tap("text_projection", x @ text_projection)  # [N, S, E]


def encode_tree(
    ops: Ops, ids: Array, positions: Array, visible: Array, ends: Array, config: TextConfig, tap: Tap = no_tap,
    *, token_embedding: Params, positional_embedding: Array, **rest: Params,
) -> Array:  # fmt: skip
    """Trees of tokens -> embeddings [N, S, E] of the texts that end at `ends` [N, S].

    For each token its id [N, L], its position in its text [N, L], and which tokens it may see [N, L, L]: itself and
    those before it in its text.
    """
    x = tap("token_embedding", ops.embed(ids, **token_embedding))  # [N, L, W]
    x = ops.add_positions(x, positional_embedding, positions)
    return pooled(ops, x, visible, ends, config, tap, **rest)
