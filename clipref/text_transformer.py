"""The text transformer of CLIP: token ids to an embedding.

From the CLIP paper, section 2.4 (https://arxiv.org/abs/2103.00020), and OpenAI's clip/model.py. The feature is taken
at the end-of-text token, which is the largest id; causal attention makes all columns after it irrelevant, so they
are not computed.

Axes: N items, T context length, L positions up to the batch's last end-of-text token, W channels, E embedding.
"""

from __future__ import annotations

from .config import TextConfig
from .transformer import Array, Ops, Params, Tap, no_tap, residual_blocks


def encode_text(
    ops: Ops, ids: Array, config: TextConfig, tap: Tap = no_tap,
    *, token_embedding: Params, positional_embedding: Array, transformer: Params, ln_final: Params,
    text_projection: Array,
) -> Array:  # fmt: skip
    """Token ids [N, T] -> embeddings [N, E], not normalised. T may be shorter than the context length."""
    ids, end = ops.find_end_of_text(ids)  # [N, L], [N, 1]
    x = tap("token_embedding", ops.embed(ids, **token_embedding))  # [N, L, W]
    x = ops.add_positions(x, positional_embedding)

    def end_token(x: Array) -> Array:
        return ops.take(x, end)  # [N, 1, W]

    x = residual_blocks(ops, x, config, ops.causal(ids), end_token, end, tap, "transformer", **transformer)  # [N, 1, W]
    x = tap("ln_final", ops.layer_norm(x[:, 0], **ln_final))  # [N, W]
    return tap("text_projection", x @ text_projection)  # [N, E]
