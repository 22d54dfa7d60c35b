"""Known ways to get CLIP's towers wrong, each a small change to the reference.

An engine's result that is not CLIP's is compared with what each of these gives; the one that gives the same is what is
wrong. Sources: the issues of the projects that port CLIP, and what its code does differently from what one expects.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np

from clipref import ops, text_transformer
from clipref.backends import overlay
from clipref.config import ViTConfig
from clipref.engine import NumpyEngine
from clipref.transformer import Tap, no_tap

from ..case import Array
from .fault import Change, Fault, Overrides, Place


def apply(engine: NumpyEngine, *faults: Fault) -> None:
    """Give a fresh engine some faults. Raises ValueError if two of them change the same operation."""
    overrides: Overrides = {}

    def encode_text(ids: Array, tap: Tap = no_tap) -> Array:
        """As TowerEngine's, with what faults change before the tower is called."""
        if "find_end_of_text" in overrides:
            ids, ends = overrides["find_end_of_text"](ids)
        else:
            ids, _, _, ends = text_transformer.single_texts(ids)
        visible = overrides.get("causal", text_transformer.causal)(ids)
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        return engine.encode_tree(ids, positions, visible, ends, tap)[:, 0]

    engine.encode_text = encode_text  # type: ignore[method-assign]
    for fault in faults:
        assert callable(fault.change)
        changed = fault.change(engine)
        if overrides.keys() & changed.keys():
            raise ValueError(f"{fault.id} changes an operation that another fault changes too")
        overrides |= changed
    engine.ops = overlay(SimpleNamespace(**overrides))


# --- kinds of changes -------------------------------------------------------------------------------------------------


class _Operation:
    """Operations that do something else, whatever the engine."""

    def __init__(self, **functions: Callable[..., Any]) -> None:
        self.functions = functions

    def __call__(self, engine: NumpyEngine) -> Overrides:
        return dict(self.functions)


def operation(name: str, faults: Sequence[Fault]) -> Callable[..., Array]:
    """One operation with some faults. Raises ValueError if not one of them alone is in this operation."""
    changed = [
        f.change.functions[name] for f in faults if isinstance(f.change, _Operation) and name in f.change.functions
    ]
    if len(changed) != len(faults) or len(changed) > 1:
        raise ValueError(f"these can't all be in {name}")
    function: Callable[..., Array] = changed[0] if changed else getattr(ops, name)
    return function


def _blocks_and_heads(engine: NumpyEngine) -> list[tuple[Any, int]]:
    """The parameters of every residual attention block of both towers, and its heads."""
    config = engine.config
    blocks = [(block, config.text.heads) for block in engine.text()["transformer"]["resblocks"]]
    if isinstance(config.vision, ViTConfig):
        blocks += [(block, config.vision.heads) for block in engine.visual()["transformer"]["resblocks"]]
    return blocks


def _blocks(engine: NumpyEngine) -> list[Any]:
    return [block for block, _ in _blocks_and_heads(engine)]


def _stacked(order: tuple[int, int, int]) -> Change:
    """The thirds of in_proj in another order than q, k, v."""

    def change(engine: NumpyEngine) -> Overrides:
        for block in _blocks(engine):
            for name in ("in_proj_weight", "in_proj_bias"):
                thirds = np.split(block["attn"][name], 3)
                block["attn"][name] = np.concatenate([thirds[i] for i in order])
        return {}

    return change


def _interleaved(engine: NumpyEngine) -> Overrides:
    """Heads taken from every H-th channel instead of D channels in a row."""

    def order(width: int, heads: int) -> Array:
        channels: Array = np.arange(width).reshape(width // heads, heads).T.reshape(-1)
        return channels

    for block, heads in _blocks_and_heads(engine):
        attn = block["attn"]
        p = order(attn["in_proj_weight"].shape[1], heads)
        for name in ("in_proj_weight", "in_proj_bias"):
            attn[name] = np.concatenate([part[p] for part in np.split(attn[name], 3)])
        attn["out_proj"] = {**attn["out_proj"], "weight": attn["out_proj"]["weight"][:, p]}
    return {}


def _heads(count: Callable[[int], int]) -> Change:
    def change(engine: NumpyEngine) -> Overrides:
        config = engine.config
        vision, text = config.vision, config.text
        if isinstance(vision, ViTConfig):
            vision = dataclasses.replace(vision, heads=count(vision.heads))
        engine.config = dataclasses.replace(
            config, vision=vision, text=dataclasses.replace(text, heads=count(text.heads))
        )
        return {}

    return change


def _without_bias(name: str) -> Change:
    def change(engine: NumpyEngine) -> Overrides:
        for block in _blocks(engine):
            owner = block["attn"]
            if name == "in_proj_bias":
                owner[name] = np.zeros_like(owner[name])
            else:
                owner["out_proj"] = {**owner["out_proj"], "bias": np.zeros_like(owner["out_proj"]["bias"])}
        return {}

    return change


def _without_norm(tower: str, name: str) -> Change:
    def change(engine: NumpyEngine) -> Overrides:
        skipped = (engine.text() if tower == "text" else engine.visual())[name]["weight"]

        def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
            return x if weight is skipped else ops.layer_norm(x, weight, bias)

        return {"layer_norm": layer_norm}

    return change


def _projection(tower: str, name: str, changed: Callable[[Array], Array]) -> Change:
    def change(engine: NumpyEngine) -> Overrides:
        params = engine.text() if tower == "text" else engine.visual()
        params[name] = changed(params[name])
        return {}

    return change


def _identity(proj: Array) -> Array:
    return np.eye(len(proj), dtype=proj.dtype)


# --- operations gone wrong --------------------------------------------------------------------------------------------


def _layer_norm(eps: float, ddof: int = 0) -> Callable[..., Array]:
    def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        y: Array = centred / np.sqrt(x.var(-1, keepdims=True, ddof=ddof) + eps) * weight + bias
        return y

    return layer_norm


def _layer_norm_eps_outside(x: Array, weight: Array, bias: Array) -> Array:
    y: Array = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-5) * weight + bias
    return y


def _rms_norm(x: Array, weight: Array, bias: Array) -> Array:
    y: Array = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * weight + bias
    return y


def _attention(power: float) -> Callable[..., Array]:
    """With the scores multiplied by D ** power besides."""
    return lambda q, k, v, visible=None: ops.attention(q * q.shape[-1] ** power, k, v, visible)


def _attention_by_width(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """Scaled by the width of the model instead of a head's."""
    return ops.attention(q * q.shape[1] ** -0.5, k, v, visible)


def _attention_masked_mildly(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """What should be hidden is lowered by 1 instead of by infinity."""
    if visible is None:
        return ops.attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2) - (~visible[:, None]).astype(q.dtype)
    y: Array = ops.softmax(scores) @ v
    return y


def _tanh_gelu(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def _silu(x: Array) -> Array:
    y: Array = x / (1 + np.exp(-np.clip(x, -500, None)))
    return y


def _without_diagonal(ids: Array) -> Array:
    seen = text_transformer.causal(ids) & ~np.eye(ids.shape[1], dtype=bool)
    seen[:, 0, 0] = True  # the first has nothing else to see
    return seen


def _pooled_at(position: Callable[[Array, Array], Array]) -> Callable[..., Any]:
    def find_end_of_text(ids: Array) -> tuple[Array, Array]:
        return ids, np.asarray(position(ids, ids.argmax(1)))[:, None]

    return find_end_of_text


def _first_padding(ids: Array, end: Array) -> Array:
    return np.asarray(np.minimum(end + 1, ids.shape[1] - 1))


def _before_the_first_0(ids: Array, end: Array) -> Array:
    zeros = ids == 0
    before: Array = np.where(zeros.any(1), zeros.argmax(1), ids.shape[1]) - 1
    return before


def _last_of_the_largest(ids: Array, end: Array) -> Array:
    last: Array = ids.shape[1] - 1 - ids[:, ::-1].argmax(1)
    return last


def _same_padding(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    """TensorFlow's SAME: where the stride is 2, an even side gets its row of zeros behind, and none before."""
    if stride == 2 and padding:
        return ops.conv2d(np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), weight, stride, 0)
    return ops.conv2d(x, weight, stride, padding)


def _edge_padding(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    sides = (padding, padding)
    return ops.conv2d(np.pad(x, ((0, 0), (0, 0), sides, sides), mode="edge"), weight, stride, 0)


def _without_mlp_bias(engine: NumpyEngine) -> Overrides:
    for block in _blocks(engine):
        c_proj = block["mlp"]["c_proj"]
        block["mlp"] = {**block["mlp"], "c_proj": {**c_proj, "bias": np.zeros_like(c_proj["bias"])}}
    return {}


def _batch_norm(eps: float) -> Callable[..., Array]:
    def batch_norm(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
        return ops.batch_norm(x, weight, bias, running_mean, running_var + (eps - 1e-5))

    return batch_norm


def _batch_norm_of_the_batch(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    return ops.batch_norm(x, weight, bias, mean, variance)


def _max_pool(x: Array, size: int) -> Array:
    n, c, height, width = x.shape
    y: Array = x.reshape(n, c, height // size, size, width // size, size).max(axis=(3, 5))
    return y


def _flipped(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    return ops.conv2d(x, weight[:, :, ::-1, ::-1], stride, padding)


def _colours_exchanged(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    return ops.conv2d(x[:, ::-1] if x.shape[1] == 3 else x, weight, stride, padding)


def _columns_first(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    y = ops.conv2d(x, weight, stride, padding)
    return y.swapaxes(2, 3) if stride > 2 else y


def _strided_second_convolution(engine: NumpyEngine) -> Overrides:
    """The stride of a block in conv2 instead of the pool behind it, as in other ResNets.

    Told by the weights, because an operation doesn't know where it stands.
    """
    strided = {id(stage[0]["conv2"]["weight"]) for stage in _later_stages(engine)}

    def conv2d(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
        if id(weight) not in strided:
            return ops.conv2d(x, weight, stride, padding)
        y = ops.conv2d(x, weight, 2, padding)
        return y.repeat(2, axis=2).repeat(2, axis=3)  # which the pool behind takes back

    return {"conv2d": conv2d}


def _strided_shortcut(engine: NumpyEngine) -> Overrides:
    """The shortcut's stride in its convolution instead of the pool before it: every other position is taken."""
    inputs = {stage[0]["downsample"][0]["weight"].shape[1] for stage in _later_stages(engine)}
    stem = engine.config.vision.width

    def avg_pool(x: Array, size: int) -> Array:
        shortcut = x.shape[1] in inputs and x.shape[1] != stem
        return x[:, :, ::size, ::size] if shortcut else ops.avg_pool(x, size)

    return {"avg_pool": avg_pool}


def _later_stages(engine: NumpyEngine) -> list[Any]:
    return [engine.visual()[f"layer{stage}"] for stage in (2, 3, 4)]


def _forgotten(name: str, value: float) -> Change:
    """A BatchNorm statistic that was never loaded, in the whole tower."""

    def walk(node: Any) -> None:
        for item in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
            if isinstance(item, dict) and name in item:
                item[name] = np.full_like(item[name], value)
            walk(item)

    def change(engine: NumpyEngine) -> Overrides:
        walk(engine.visual())
        return {}

    return change


def _normalised(engine: NumpyEngine) -> Overrides:
    """Both outputs of length 1 already."""
    for method in ("encode_image", "encode_text"):
        encode = getattr(engine, method)

        def unit(x: Array, *rest: Any, encode: Callable[..., Array] = encode) -> Array:
            y = encode(x, *rest)
            z: Array = y / np.linalg.norm(y, axis=-1, keepdims=True)
            return z

        setattr(engine, method, unit)
    return {}


def _sums_in_float16(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Products whose running sum is kept in float16, 32 terms at a time, as half-precision kernels without care do."""
    total = np.zeros((*x.shape[:-1], len(weight)), np.float16)
    for i in range(0, x.shape[-1], 32):
        part = x[..., i : i + 32] @ weight[:, i : i + 32].T
        total = (total + part).astype(np.float16)
    y: Array = total.astype(x.dtype)
    return y if bias is None else y + bias


def _read_as_transposed(proj: Array) -> Array:
    """The numbers of a [W, E] matrix read as if they lay there as [E, W]."""
    return np.ascontiguousarray(proj.reshape(proj.shape[::-1]).T)


def _interleaved_stack(engine: NumpyEngine) -> Overrides:
    """in_proj read as if each head had its q, k and v in a row, [H, 3, D] instead of [3, H, D]."""
    for block, heads in _blocks_and_heads(engine):
        for name in ("in_proj_weight", "in_proj_bias"):
            stacked = block["attn"][name]
            by_head = stacked.reshape(heads, 3, -1, *stacked.shape[1:])
            block["attn"][name] = by_head.swapaxes(0, 1).reshape(stacked.shape)
    return {}


_TRANSFORMERS: tuple[Place, ...] = ("vit", "text")
_ALL: tuple[Place, ...] = ("vit", "resnet", "text")

FAULTS: tuple[Fault, ...] = (
    # The block that both transformers share.
    Fault("gelu-exact", "BLK-5", "the exact GELU instead of QuickGELU", _TRANSFORMERS, _Operation(quick_gelu=ops.gelu)),
    Fault("gelu-tanh", "BLK-5", "the tanh GELU instead of QuickGELU", _TRANSFORMERS, _Operation(quick_gelu=_tanh_gelu)),
    Fault("silu", "BLK-5", "x * sigmoid(x) without the factor 1.702", _TRANSFORMERS, _Operation(quick_gelu=_silu)),
    Fault("relu", "BLK-5", "ReLU instead of QuickGELU", _TRANSFORMERS, _Operation(quick_gelu=ops.relu)),
    Fault("gelu-quick", "BLK-5", "QuickGELU instead of the exact GELU", _TRANSFORMERS, _Operation(gelu=ops.quick_gelu)),
    Fault("ln-eps-1e-6", "BLK-1", "LayerNorm eps 1e-6", _TRANSFORMERS, _Operation(layer_norm=_layer_norm(1e-6))),
    Fault("ln-eps-1e-12", "BLK-1", "LayerNorm eps 1e-12", _TRANSFORMERS, _Operation(layer_norm=_layer_norm(1e-12))),
    Fault("ln-eps-1e-3", "BLK-1", "LayerNorm eps 1e-3", _TRANSFORMERS, _Operation(layer_norm=_layer_norm(1e-3))),
    Fault(
        "ln-unbiased",
        "BLK-1",
        "LayerNorm with the unbiased variance",
        _TRANSFORMERS,
        _Operation(layer_norm=_layer_norm(1e-5, ddof=1)),
    ),
    Fault(
        "ln-eps-outside",
        "BLK-1",
        "LayerNorm eps added to the standard deviation",
        _TRANSFORMERS,
        _Operation(layer_norm=_layer_norm_eps_outside),
    ),
    Fault("rms-norm", "BLK-1", "RMSNorm: the mean isn't subtracted", _TRANSFORMERS, _Operation(layer_norm=_rms_norm)),
    Fault("scale-missing", "BLK-3", "attention without its scale", _ALL, _Operation(attention=_attention(0.5))),
    Fault("scale-twice", "BLK-3", "attention scaled twice", _ALL, _Operation(attention=_attention(-0.5))),
    Fault(
        "scale-by-width",
        "BLK-3",
        "attention scaled by the model's width",
        _ALL,
        _Operation(attention=_attention_by_width),
    ),
    Fault("one-head", "BLK-4", "a single attention head", _TRANSFORMERS, _heads(lambda n: 1)),
    Fault("heads-interleaved", "BLK-4", "heads of every H-th channel", _TRANSFORMERS, _interleaved),
    Fault("qkv-kqv", "BLK-2", "in_proj read as k, q, v", _TRANSFORMERS, _stacked((1, 0, 2))),
    Fault("qkv-qvk", "BLK-2", "in_proj read as q, v, k", _TRANSFORMERS, _stacked((0, 2, 1))),
    Fault("qkv-vkq", "BLK-2", "in_proj read as v, k, q", _TRANSFORMERS, _stacked((2, 1, 0))),
    Fault("qkv-by-head", "BLK-2", "in_proj read head by head", _TRANSFORMERS, _interleaved_stack),
    Fault("qkv-no-bias", "BLK-2", "in_proj without its bias", _TRANSFORMERS, _without_bias("in_proj_bias")),
    Fault("out-no-bias", "BLK-2", "out_proj without its bias", _TRANSFORMERS, _without_bias("out_proj")),
    Fault("mlp-no-bias", "BLK-5", "c_proj of the MLP without its bias", _TRANSFORMERS, _without_mlp_bias),
    # The text tower.
    Fault(
        "mask-missing",
        "TXT-2",
        "no causal mask",
        ("text",),
        _Operation(causal=lambda ids: np.ones_like(text_transformer.causal(ids))),
    ),
    Fault(
        "mask-diagonal",
        "TXT-2",
        "a causal mask that hides the diagonal",
        ("text",),
        _Operation(causal=_without_diagonal),
    ),
    Fault(
        "mask-mild",
        "TXT-2",
        "a mask that isn't minus infinity",
        ("text",),
        _Operation(attention=_attention_masked_mildly),
    ),
    Fault(
        "pool-last-column",
        "TXT-3",
        "pooled at the last column",
        ("text",),
        _Operation(find_end_of_text=_pooled_at(lambda ids, end: np.full(len(ids), ids.shape[1] - 1))),
    ),
    Fault(
        "pool-start",
        "TXT-3",
        "pooled at position 0",
        ("text",),
        _Operation(find_end_of_text=_pooled_at(lambda ids, end: end * 0)),
    ),
    Fault(
        "pool-before-end",
        "TXT-3",
        "pooled at the token before end-of-text",
        ("text",),
        _Operation(find_end_of_text=_pooled_at(lambda ids, end: end - 1)),
    ),
    Fault(
        "pool-padding",
        "TXT-3",
        "pooled at the first padding",
        ("text",),
        _Operation(find_end_of_text=_pooled_at(_first_padding)),
    ),
    Fault(
        "mask-id-0",
        "TXT-2",
        "the token of id 0 hidden as if it were padding",
        ("text",),
        _Operation(causal=lambda ids: text_transformer.causal(ids) & (ids != 0)[:, None, :]),
    ),
    Fault(
        "pool-before-id-0",
        "TXT-3",
        "pooled before the first id 0 as if it were padding",
        ("text",),
        _Operation(find_end_of_text=_pooled_at(_before_the_first_0)),
    ),
    Fault(
        "pool-last-end",
        "TXT-3",
        "pooled at the last of several end-of-text tokens",
        ("text",),
        _Operation(find_end_of_text=_pooled_at(_last_of_the_largest)),
    ),
    Fault(
        "text-positions-shifted",
        "TXT-1",
        "text positions counted from 1",
        ("text",),
        _projection("text", "positional_embedding", lambda table: np.roll(table, -1, axis=0)),
    ),
    Fault(
        "text-positions-missing",
        "TXT-1",
        "no positional embedding of texts",
        ("text",),
        _projection("text", "positional_embedding", np.zeros_like),
    ),
    Fault("ln-final-missing", "TXT-4", "no ln_final", ("text",), _without_norm("text", "ln_final")),
    Fault(
        "text-projection-missing",
        "TXT-4",
        "no text_projection",
        ("text",),
        _projection("text", "text_projection", _identity),
    ),
    # The vision transformer.
    Fault("ln-pre-missing", "VIT-4", "no ln_pre", ("vit",), _without_norm("image", "ln_pre")),
    Fault("ln-post-missing", "VIT-5", "no ln_post", ("vit",), _without_norm("image", "ln_post")),
    Fault(
        "class-token-last",
        "VIT-2",
        "the class token after the patches",
        ("vit",),
        _Operation(prepend_token=lambda x, token: np.roll(ops.prepend_token(x, token), -1, axis=1)),
    ),
    Fault(
        "vit-positions-missing",
        "VIT-3",
        "no positional embedding of patches",
        ("vit",),
        _projection("image", "positional_embedding", np.zeros_like),
    ),
    Fault(
        "vit-positions-shifted",
        "VIT-3",
        "the class token without a position, the others shifted",
        ("vit",),
        _projection("image", "positional_embedding", lambda table: np.roll(table, 1, axis=0)),
    ),
    Fault(
        "vit-positions-reversed",
        "VIT-3",
        "the patches' positions from the last to the first",
        ("vit",),
        _projection("image", "positional_embedding", lambda table: np.concatenate([table[:1], table[:0:-1]])),
    ),
    Fault(
        "patches-columns-first", "VIT-1", "patches read column by column", ("vit",), _Operation(conv2d=_columns_first)
    ),
    Fault(
        "projection-missing",
        "VIT-5",
        "no image projection",
        ("vit",),
        _projection("image", "proj", _identity),
    ),
    # Both image towers.
    Fault(
        "colours-exchanged",
        "IMG-7",
        "the channels taken as blue, green, red",
        ("vit", "resnet"),
        _Operation(conv2d=_colours_exchanged),
    ),
    Fault(
        "kernels-flipped",
        "OPS-1",
        "convolutions that flip their kernels",
        ("vit", "resnet"),
        _Operation(conv2d=_flipped),
    ),
    # The ResNet.
    Fault("padding-same", "OPS-1", "TensorFlow's SAME padding", ("resnet",), _Operation(conv2d=_same_padding)),
    Fault("padding-edge", "OPS-1", "borders repeated instead of zeros", ("resnet",), _Operation(conv2d=_edge_padding)),
    Fault("relu6", "RN-1", "ReLU6 instead of ReLU", ("resnet",), _Operation(relu=lambda x: np.clip(x, 0, 6))),
    Fault("bn-eps-1e-3", "RN-3", "BatchNorm eps 1e-3", ("resnet",), _Operation(batch_norm=_batch_norm(1e-3))),
    Fault("bn-eps-1e-6", "RN-3", "BatchNorm eps 1e-6", ("resnet",), _Operation(batch_norm=_batch_norm(1e-6))),
    Fault(
        "bn-of-the-batch",
        "RN-3",
        "BatchNorm with the batch's statistics",
        ("resnet",),
        _Operation(batch_norm=_batch_norm_of_the_batch),
    ),
    Fault("bn-mean-forgotten", "RN-3", "running means never loaded", ("resnet",), _forgotten("running_mean", 0.0)),
    Fault(
        "bn-variance-forgotten", "RN-3", "running variances never loaded", ("resnet",), _forgotten("running_var", 1.0)
    ),
    Fault("max-pool", "RN-1", "max pools instead of average pools", ("resnet",), _Operation(avg_pool=_max_pool)),
    Fault(
        "conv2-strided",
        "RN-2",
        "the stride in conv2 instead of a pool behind it",
        ("resnet",),
        _strided_second_convolution,
    ),
    Fault("shortcut-strided", "RN-2", "the shortcut strided instead of pooled", ("resnet",), _strided_shortcut),
    Fault("relu-missing", "RN-1", "no ReLU", ("resnet",), _Operation(relu=lambda x: x)),
    Fault(
        "mean-query-missing",
        "RN-4",
        "the attention pool asks with the first position, not the mean",
        ("resnet",),
        _Operation(prepend_mean=lambda x: np.concatenate([x[:, :1], x], axis=1)),
    ),
    Fault(
        "text-projection-transposed",
        "TXT-4",
        "text_projection read as if it were stored transposed",
        ("text",),
        _projection("text", "text_projection", _read_as_transposed),
    ),
    Fault(
        "projection-transposed",
        "VIT-5",
        "proj read as if it were stored transposed",
        ("vit",),
        _projection("image", "proj", _read_as_transposed),
    ),
    Fault("sums-in-float16", "OUT-2", "sums kept in float16", _ALL, _Operation(linear=_sums_in_float16)),
    # What is given back.
    Fault("normalised", "OUT-3", "embeddings of length 1 already", _ALL, _normalised),
)
