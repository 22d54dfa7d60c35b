"""The table of known ways to get CLIP's transformers wrong: id, claim, what it is, where it can be, and the change.

Those of image towers alone are in images.py.

Sources: the issues of the projects that port CLIP, and what its code does differently from what one expects.
"""

from __future__ import annotations

import numpy as np

from clipref import ops
from clipref.text_transformer import causal

from . import changes, constants, formulas
from .fault import Fault, Place

_TRANSFORMERS: tuple[Place, ...] = ("vit", "text")
_ALL: tuple[Place, ...] = ("vit", "resnet", "text")

FAULTS: tuple[Fault, ...] = (
    # The block that both transformers share.
    Fault(
        "gelu-exact",
        "BLK-5",
        "the exact GELU instead of QuickGELU",
        _TRANSFORMERS,
        changes.operations(quick_gelu=ops.gelu),
    ),
    Fault(
        "gelu-tanh",
        "BLK-5",
        "the tanh GELU instead of QuickGELU",
        _TRANSFORMERS,
        changes.operations(quick_gelu=formulas.tanh_gelu),
    ),
    Fault(
        "quick-gelu-1.7",
        "BLK-5",
        "QuickGELU with the factor 1.7 instead of 1.702",
        _TRANSFORMERS,
        changes.operations(quick_gelu=formulas.quick_gelu_by(1.7)),
    ),
    Fault(
        "silu",
        "BLK-5",
        "x * sigmoid(x) without the factor 1.702",
        _TRANSFORMERS,
        changes.operations(quick_gelu=formulas.quick_gelu_by(1.0)),
    ),
    Fault("relu", "BLK-5", "ReLU instead of QuickGELU", _TRANSFORMERS, changes.operations(quick_gelu=ops.relu)),
    Fault(
        "gelu-quick",
        "BLK-5",
        "QuickGELU instead of the exact GELU",
        _TRANSFORMERS,
        changes.operations(gelu=ops.quick_gelu),
    ),
    Fault(
        "gelu-exact-by-tanh",
        "BLK-5",
        "the tanh GELU instead of the exact one",
        _TRANSFORMERS,
        changes.operations(gelu=formulas.tanh_gelu),
    ),
    Fault(
        "ln-eps-1e-6",
        "BLK-1",
        "LayerNorm eps 1e-6",
        _TRANSFORMERS,
        changes.operations(layer_norm=formulas.layer_norm(1e-6)),
    ),
    Fault(
        "ln-eps-1e-12",
        "BLK-1",
        "LayerNorm eps 1e-12",
        _TRANSFORMERS,
        changes.operations(layer_norm=formulas.layer_norm(1e-12)),
    ),
    Fault(
        "ln-eps-1e-3",
        "BLK-1",
        "LayerNorm eps 1e-3",
        _TRANSFORMERS,
        changes.operations(layer_norm=formulas.layer_norm(1e-3)),
    ),
    Fault(
        "ln-unbiased",
        "BLK-1",
        "LayerNorm with the unbiased variance",
        _TRANSFORMERS,
        changes.operations(layer_norm=formulas.layer_norm(1e-5, ddof=1)),
    ),
    Fault(
        "ln-eps-outside",
        "BLK-1",
        "LayerNorm eps added to the standard deviation",
        _TRANSFORMERS,
        changes.operations(layer_norm=formulas.layer_norm_eps_outside),
    ),
    Fault(
        "rms-norm",
        "BLK-1",
        "RMSNorm: the mean isn't subtracted",
        _TRANSFORMERS,
        changes.operations(layer_norm=formulas.rms_norm),
    ),
    Fault(
        "scale-missing",
        "BLK-3",
        "attention without its scale",
        _ALL,
        changes.operations(attention=formulas.attention(0.5)),
    ),
    Fault(
        "scale-twice", "BLK-3", "attention scaled twice", _ALL, changes.operations(attention=formulas.attention(-0.5))
    ),
    Fault(
        "scale-by-width",
        "BLK-3",
        "attention scaled by the model's width",
        _ALL,
        changes.operations(attention=formulas.attention_by_width),
    ),
    Fault(
        "scale-0.2%-off",
        "BLK-3",
        "attention's scores 1.002 times as large",
        _ALL,
        changes.operations(attention=constants.attention_by(1.002)),
    ),
    Fault(
        "softmax-sum-1.001",
        "OPS-2",
        "a softmax whose sum is 1.001",
        _ALL,
        changes.operations(**constants.softmax_of_sum(1.001)),
        as_rounding=True,  # rounded weights have another sum in each row
    ),
    Fault("one-head", "BLK-4", "a single attention head", _TRANSFORMERS, changes.single_head),
    Fault(
        "heads-interleaved",
        "BLK-4",
        "heads of every H-th channel",
        _TRANSFORMERS,
        changes.blocks(changes.interleave_heads),
    ),
    Fault(
        "heads-interleaved-inside",
        "BLK-4",
        "heads of every H-th channel of q, k and v, merged as they should be",
        _TRANSFORMERS,
        changes.blocks(changes.interleave_stacks),
    ),
    Fault(
        "heads-not-transposed",
        "BLK-4",
        "heads merged without the transpose",
        _TRANSFORMERS,
        changes.heads_merged_as_they_lie,
    ),
    Fault(
        "last-block-missing",
        "BLK-6",
        "the last block left out",
        _TRANSFORMERS,
        changes.without_last_block,
    ),
    Fault("qkv-kqv", "BLK-2", "in_proj read as k, q, v", _TRANSFORMERS, changes.permute_stacks((1, 0, 2))),
    Fault("qkv-qvk", "BLK-2", "in_proj read as q, v, k", _TRANSFORMERS, changes.permute_stacks((0, 2, 1))),
    Fault("qkv-vkq", "BLK-2", "in_proj read as v, k, q", _TRANSFORMERS, changes.permute_stacks((2, 1, 0))),
    Fault("qkv-by-head", "BLK-2", "in_proj read head by head", _TRANSFORMERS, changes.stacks(changes.stack_by_head)),
    Fault(
        "qkv-no-bias", "BLK-2", "in_proj without its bias", _TRANSFORMERS, changes.without_bias("attn", "in_proj_bias")
    ),
    Fault("out-no-bias", "BLK-2", "out_proj without its bias", _TRANSFORMERS, changes.without_bias("attn", "out_proj")),
    Fault(
        "mlp-no-bias",
        "BLK-5",
        "c_proj of the MLP without its bias",
        _TRANSFORMERS,
        changes.without_bias("mlp", "c_proj"),
    ),
    # The text tower.
    Fault(
        "mask-missing",
        "TXT-2",
        "no causal mask",
        ("text",),
        changes.operations(causal=lambda ids: np.ones_like(causal(ids))),
    ),
    Fault(
        "mask-diagonal",
        "TXT-2",
        "a causal mask that hides the diagonal",
        ("text",),
        changes.operations(causal=formulas.without_diagonal),
    ),
    Fault(
        "mask-mild",
        "TXT-2",
        "a mask that isn't minus infinity",
        ("text",),
        changes.operations(attention=formulas.attention_masked_mildly),
    ),
    Fault(
        "pool-last-column",
        "TXT-3",
        "pooled at the last column",
        ("text",),
        changes.operations(find_end_of_text=formulas.pool_at(lambda ids, end: np.full(len(ids), ids.shape[1] - 1))),
    ),
    Fault(
        "pool-start",
        "TXT-3",
        "pooled at position 0",
        ("text",),
        changes.operations(find_end_of_text=formulas.pool_at(lambda ids, end: end * 0)),
    ),
    Fault(
        "pool-before-end",
        "TXT-3",
        "pooled at the token before end-of-text",
        ("text",),
        changes.operations(find_end_of_text=formulas.pool_at(lambda ids, end: end - 1)),
    ),
    Fault(
        "pool-padding",
        "TXT-3",
        "pooled at the first padding",
        ("text",),
        changes.operations(find_end_of_text=formulas.pool_at(formulas.first_padding)),
    ),
    Fault(
        "mask-id-0",
        "TXT-2",
        "the token of id 0 hidden as if it were padding",
        ("text",),
        changes.operations(causal=lambda ids: causal(ids) & (ids != 0)[:, None, :]),
    ),
    Fault(
        "pool-before-id-0",
        "TXT-3",
        "pooled before the first id 0 as if it were padding",
        ("text",),
        changes.operations(find_end_of_text=formulas.pool_at(formulas.before_the_first_0)),
    ),
    Fault(
        "pool-last-end",
        "TXT-3",
        "pooled at the last of several end-of-text tokens",
        ("text",),
        changes.operations(find_end_of_text=formulas.pool_at(formulas.last_of_the_largest)),
    ),
    Fault(
        "text-positions-shifted",
        "TXT-1",
        "text positions counted from 1",
        ("text",),
        changes.parameter("text", "positional_embedding", lambda table: np.roll(table, -1, axis=0)),
    ),
    Fault(
        "text-positions-missing",
        "TXT-1",
        "no positional embedding of texts",
        ("text",),
        changes.parameter("text", "positional_embedding", np.zeros_like),
    ),
    Fault("ln-final-missing", "TXT-4", "no ln_final", ("text",), changes.without_norm("text", "ln_final")),
    Fault(
        "text-projection-missing",
        "TXT-4",
        "no text_projection",
        ("text",),
        changes.parameter("text", "text_projection", changes.identity),
    ),
    Fault(
        "ln-final-eps-1e-6",
        "BLK-1",
        "eps 1e-6 in ln_final alone",
        ("text",),
        changes.other_norm("text", "ln_final", formulas.layer_norm(1e-6)),
    ),
    Fault(
        "text-projection-transposed",
        "TXT-4",
        "text_projection read as if it were stored transposed",
        ("text",),
        changes.parameter("text", "text_projection", changes.transpose_numbers),
    ),
)

OUTPUTS: tuple[Fault, ...] = (
    Fault(
        "sums-in-float16",
        "OUT-2",
        "sums kept in float16",
        _ALL,
        changes.operations(linear=formulas.sums_in_float16),
    ),
    # What is given back.
    Fault("normalised", "OUT-3", "embeddings of length 1 already", _ALL, changes.normalise),
)
