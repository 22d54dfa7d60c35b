"""The text transformer of CLIP: token ids to an embedding.

From the CLIP paper, section 2.4 (https://arxiv.org/abs/2103.00020), and OpenAI's clip/model.py. The feature is taken
at the end-of-text token, which is the largest id; causal attention makes all columns after it irrelevant, so they
are not computed.

Texts that begin alike can share what they have in common: causal attention makes it the same for all. `encode_tree`
computes a tree of tokens, in which every text is the path from the root to its end.

Axes: N items, T context length, L positions up to the batch's last end-of-text token, S texts in a tree, W channels,
E embedding.
"""

from __future__ import annotations

from .config import TextConfig
from .transformer import Array, Ops, Params, Tap, no_tap, residual_blocks


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


def encode_text(
    ops: Ops, ids: Array, config: TextConfig, tap: Tap = no_tap,
    *, token_embedding: Params, positional_embedding: Array, **rest: Params,
) -> Array:  # fmt: skip
    """Token ids [N, T] -> embeddings [N, E], not normalised. T may be shorter than the context length."""
    ids, end = ops.find_end_of_text(ids)  # [N, L], [N, 1]
    x = tap("token_embedding", ops.embed(ids, **token_embedding))  # [N, L, W]
    x = ops.add_positions(x, positional_embedding)
    return pooled(ops, x, ops.causal(ids), end, config, tap, **rest)[:, 0]  # [N, E]


def encode_tree(
    ops: Ops, ids: Array, positions: Array, visible: Array, ends: Array, config: TextConfig, tap: Tap = no_tap,
    *, token_embedding: Params, positional_embedding: Array, **rest: Params,
) -> Array:  # fmt: skip
    """Trees of tokens -> embeddings [N, S, E] of the texts that end at `ends` [N, S].

    For each token its id [N, L], its position in its text [N, L], and which tokens it may see [N, L, L]: itself and
    those before it in its text.
    """
    x = tap("token_embedding", ops.embed(ids, **token_embedding))  # [N, L, W]
    x = x + ops.embed(positions, positional_embedding)
    return pooled(ops, x, visible, ends, config, tap, **rest)
