"""Kinds of changes to a tower, each a function that makes another tower of it, and operations gone wrong."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipref import ops
from clipref.architecture import ImageConfig
from clipref.text_transformer import causal

from ..protocol import Array
from .fault import Change, Fault
from .tower import Operation, Tower


@dataclass(frozen=True)
class Operations:
    """Operations that do something else, whatever the tower."""

    functions: dict[str, Operation]

    def __call__(self, tower: Tower) -> Tower:
        return tower.with_operations(**self.functions)


def operations(**functions: Operation) -> Operations:
    """A change of some operations."""
    return Operations(functions)


def operation(name: str, faults: Sequence[Fault]) -> Callable[..., Array]:
    """One operation with some faults. Raises ValueError if not one of them alone is in this operation."""
    changes = [fault.change for fault in faults]
    functions = [c.functions[name] for c in changes if isinstance(c, Operations) and name in c.functions]
    if len(functions) != len(faults) or len(functions) > 1:
        raise ValueError(f"these can't all be in {name}")
    function: Callable[..., Array] = functions[0] if functions else getattr(ops, name)
    return function


# --- parameters read wrongly ------------------------------------------------------------------------------------------


def blocks(change: Callable[[dict[str, Any], int], dict[str, Any]]) -> Change:
    """A change of every residual attention block: of its parameters, given how many heads it has."""

    def changed(tower: Tower) -> Tower:
        if "transformer" not in tower.params:
            return tower
        config: Any = tower.config
        blocks = [change(dict(block), config.heads) for block in tower.params["transformer"]["resblocks"]]
        return tower.with_params(transformer={**tower.params["transformer"], "resblocks": blocks})

    return changed


def stacks(change: Callable[[Array, int], Array]) -> Change:
    """A change of in_proj's weight and bias in every block, given how many heads it has."""

    def block(params: dict[str, Any], heads: int) -> dict[str, Any]:
        names = ("in_proj_weight", "in_proj_bias")
        return {**params, "attn": {**params["attn"], **{name: change(params["attn"][name], heads) for name in names}}}

    return blocks(block)


def permute_stacks(order: tuple[int, int, int]) -> Change:
    """The thirds of in_proj in another order than q, k, v."""
    return stacks(lambda stack, heads: np.concatenate([np.split(stack, 3)[i] for i in order]))


def stack_by_head(stack: Array, heads: int) -> Array:
    """in_proj read as if each head had its q, k and v in a row, [H, 3, D] instead of [3, H, D]."""
    by_head = stack.reshape(heads, 3, -1, *stack.shape[1:])
    thirds: Array = by_head.swapaxes(0, 1).reshape(stack.shape)
    return thirds


def interleave_stacks(params: dict[str, Any], heads: int) -> dict[str, Any]:
    """Heads taken from every H-th channel of q, k and v, instead of D channels in a row."""
    attn = params["attn"]
    order = _every_channel(attn, heads)
    stacks = {
        name: np.concatenate([part[order] for part in np.split(attn[name], 3)])
        for name in ("in_proj_weight", "in_proj_bias")
    }
    return {**params, "attn": {**attn, **stacks}}


def interleave_heads(params: dict[str, Any], heads: int) -> dict[str, Any]:
    """The same, and the heads put back where they were taken from."""
    changed = interleave_stacks(params, heads)
    attn = changed["attn"]
    out_proj = {**attn["out_proj"], "weight": attn["out_proj"]["weight"][:, _every_channel(attn, heads)]}
    return {**changed, "attn": {**attn, "out_proj": out_proj}}


def _every_channel(attn: dict[str, Any], heads: int) -> Array:
    width = attn["in_proj_weight"].shape[1]
    order: Array = np.arange(width).reshape(width // heads, heads).T.reshape(-1)
    return order


def heads_merged_as_they_lie(tower: Tower) -> Tower:
    """Attention's result [N, H, L, D] taken for [N, L, H * D] without its axes exchanged.

    Positions end up elsewhere, so all are needed: a block that adds nothing follows, because the last block computes
    those alone that are read, and texts keep their padding.
    """
    if "transformer" not in tower.params:
        return tower

    def attention(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
        y = ops.attention(q, k, v, visible)
        n, heads, length, channels = y.shape
        as_it_lies: Array = y.reshape(n, length, heads, channels).swapaxes(1, 2)
        return as_it_lies

    resblocks = tower.params["transformer"]["resblocks"]
    transformer = {**tower.params["transformer"], "resblocks": [*resblocks, _idle(resblocks[-1])]}
    changed = tower.with_operations(attention=attention, find_end_of_text=pooled_at(lambda ids, end: end))
    return changed.with_params(transformer=transformer)


def _idle(block: dict[str, Any]) -> dict[str, Any]:
    """A block that adds nothing to what goes through it."""
    attn, mlp = block["attn"], block["mlp"]
    nothing = {name: {key: np.zeros_like(x) for key, x in product.items()}
               for name, product in (("out_proj", attn["out_proj"]), ("c_proj", mlp["c_proj"]))}  # fmt: skip
    return {**block, "attn": {**attn, "out_proj": nothing["out_proj"]}, "mlp": {**mlp, "c_proj": nothing["c_proj"]}}


def without_last_block(tower: Tower) -> Tower:
    """One block less: a list that is read to its last but one. Raises ValueError where there is one block only."""
    if "transformer" not in tower.params:
        return tower
    resblocks = tower.params["transformer"]["resblocks"]
    if len(resblocks) < 2:
        raise ValueError("the only block can't be left out")
    return tower.with_params(transformer={**tower.params["transformer"], "resblocks": resblocks[:-1]})


def without_bias(owner: str, name: str) -> Change:
    """A product of every block without its bias: attn's in_proj or out_proj, mlp's c_proj."""

    def block(params: dict[str, Any], heads: int) -> dict[str, Any]:
        given = params[owner][name]
        zero = np.zeros_like(given) if name.endswith("bias") else {**given, "bias": np.zeros_like(given["bias"])}
        return {**params, owner: {**params[owner], name: zero}}

    return blocks(block)


def single_head(tower: Tower) -> Tower:
    """As many channels a head as the tower is wide."""
    if "transformer" not in tower.params:
        return tower
    config: Any = tower.config
    return dataclasses.replace(tower, config=dataclasses.replace(config, heads=1))


def kind_of(tower: Tower) -> str:
    return "image" if isinstance(tower.config, ImageConfig) else "text"


def without_norm(kind: str, name: str) -> Change:
    """A LayerNorm left out: what goes in comes out."""
    return other_norm(kind, name, lambda x, weight, bias: x)


def other_norm(kind: str, name: str, norm: Operation) -> Change:
    """One LayerNorm that is computed otherwise. It is known by its weight, because operations have no names."""

    def change(tower: Tower) -> Tower:
        if kind_of(tower) != kind or name not in tower.params:
            return tower
        other = tower.params[name]["weight"]

        def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
            y: Array = norm(x, weight, bias) if weight is other else ops.layer_norm(x, weight, bias)
            return y

        return tower.with_operations(layer_norm=layer_norm)

    return change


def parameter(kind: str, name: str, change: Callable[[Array], Array]) -> Change:
    """One parameter of a tower of a kind read in another way."""

    def changed(tower: Tower) -> Tower:
        if kind_of(tower) != kind or name not in tower.params:
            return tower
        return tower.with_params(**{name: change(tower.params[name])})

    return changed


def identity(proj: Array) -> Array:
    return np.eye(len(proj), dtype=proj.dtype)


def forgotten(name: str, value: float) -> Change:
    """A BatchNorm statistic that was never loaded, in the whole tower."""

    def walk(node: Any) -> Any:
        if isinstance(node, list):
            return [walk(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {key: np.full_like(item, value) if key == name else walk(item) for key, item in node.items()}

    return lambda tower: dataclasses.replace(tower, params=walk(tower.params))


def strided_blocks(tower: Tower) -> list[Any]:
    """The first block of each stage of a ResNet that halves the size."""
    return [tower.params[f"layer{stage}"][0] for stage in (2, 3, 4)]


def strided_second_convolution(tower: Tower) -> Tower:
    """The stride of a block in conv2 instead of the pool behind it, as in other ResNets.

    The convolutions are known by their weights, because operations have no names.
    """
    strided = {id(block["conv2"]["weight"]) for block in strided_blocks(tower)}

    def conv2d(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
        if id(weight) not in strided:
            return ops.conv2d(x, weight, stride, padding)
        y = ops.conv2d(x, weight, 2, padding)
        return y.repeat(2, axis=2).repeat(2, axis=3)  # which the pool behind takes back

    return tower.with_operations(conv2d=conv2d)


def strided_shortcut(tower: Tower) -> Tower:
    """The shortcut's stride in its convolution instead of the pool before it: every other position is taken."""
    inputs = {block["downsample"][0]["weight"].shape[1] for block in strided_blocks(tower)}
    stem = len(tower.params["bn3"]["weight"])

    def avg_pool(x: Array, size: int) -> Array:
        shortcut = x.shape[1] in inputs and x.shape[1] != stem
        return x[:, :, ::size, ::size] if shortcut else ops.avg_pool(x, size)

    return tower.with_operations(avg_pool=avg_pool)


def normalise(tower: Tower) -> Tower:
    """Embeddings of length 1 already."""
    return dataclasses.replace(tower, normalised=True)


# --- operations gone wrong --------------------------------------------------------------------------------------------


def layer_norm(eps: float, ddof: int = 0) -> Callable[..., Array]:
    def layer_norm(x: Array, weight: Array, bias: Array) -> Array:
        centred = x - x.mean(-1, keepdims=True)
        y: Array = centred / np.sqrt(x.var(-1, keepdims=True, ddof=ddof) + eps) * weight + bias
        return y

    return layer_norm


def layer_norm_eps_outside(x: Array, weight: Array, bias: Array) -> Array:
    y: Array = (x - x.mean(-1, keepdims=True)) / (x.std(-1, keepdims=True) + 1e-5) * weight + bias
    return y


def rms_norm(x: Array, weight: Array, bias: Array) -> Array:
    y: Array = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-5) * weight + bias
    return y


def attention(power: float) -> Callable[..., Array]:
    """With the scores multiplied by D ** power besides."""
    return lambda q, k, v, visible=None: ops.attention(q * q.shape[-1] ** power, k, v, visible)


def attention_by_width(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """Scaled by the width of the model instead of a head's."""
    return ops.attention(q * q.shape[1] ** -0.5, k, v, visible)


def attention_masked_mildly(q: Array, k: Array, v: Array, visible: Array | None = None) -> Array:
    """What should be hidden is lowered by 1 instead of by infinity."""
    if visible is None:
        return ops.attention(q, k, v)
    scores = (q * q.shape[-1] ** -0.5) @ k.swapaxes(-1, -2) - (~visible[:, None]).astype(q.dtype)
    y: Array = ops.softmax(scores) @ v
    return y


def tanh_gelu(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def quick_gelu_by(factor: float) -> Operation:
    """x * sigmoid(factor x)"""

    def quick_gelu(x: Array) -> Array:
        y: Array = x / (1 + np.exp(-np.clip(factor * x, -500, None)))
        return y

    return quick_gelu


def without_diagonal(ids: Array) -> Array:
    seen = causal(ids) & ~np.eye(ids.shape[1], dtype=bool)
    seen[:, 0, 0] = True  # the first has nothing else to see
    return seen


def pooled_at(position: Callable[[Array, Array], Array]) -> Callable[..., Any]:
    def find_end_of_text(ids: Array) -> tuple[Array, Array]:
        return ids, np.asarray(position(ids, ids.argmax(1)))[:, None]

    return find_end_of_text


def first_padding(ids: Array, end: Array) -> Array:
    return np.asarray(np.minimum(end + 1, ids.shape[1] - 1))


def before_the_first_0(ids: Array, end: Array) -> Array:
    zeros = ids == 0
    before: Array = np.where(zeros.any(1), zeros.argmax(1), ids.shape[1]) - 1
    return before


def last_of_the_largest(ids: Array, end: Array) -> Array:
    last: Array = ids.shape[1] - 1 - ids[:, ::-1].argmax(1)
    return last


def same_padding(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    """TensorFlow's SAME: where the stride is 2, an even side gets its row of zeros behind, and none before."""
    if stride == 2 and padding:
        return ops.conv2d(np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1))), weight, stride, 0)
    return ops.conv2d(x, weight, stride, padding)


def edge_padding(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    sides = (padding, padding)
    return ops.conv2d(np.pad(x, ((0, 0), (0, 0), sides, sides), mode="edge"), weight, stride, 0)


def batch_norm(eps: float) -> Callable[..., Array]:
    def batch_norm(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
        return ops.batch_norm(x, weight, bias, running_mean, running_var + (eps - 1e-5))

    return batch_norm


def batch_norm_of_the_batch(x: Array, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Array:
    mean, variance = x.mean(axis=(0, 2, 3)), x.var(axis=(0, 2, 3))
    return ops.batch_norm(x, weight, bias, mean, variance)


def max_pool(x: Array, size: int) -> Array:
    n, c, height, width = x.shape
    y: Array = x.reshape(n, c, height // size, size, width // size, size).max(axis=(3, 5))
    return y


def flip_kernels(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    return ops.conv2d(x, weight[:, :, ::-1, ::-1], stride, padding)


def exchange_colours(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    return ops.conv2d(x[:, ::-1] if x.shape[1] == 3 else x, weight, stride, padding)


def columns_first(x: Array, weight: Array, stride: int = 1, padding: int = 0) -> Array:
    y = ops.conv2d(x, weight, stride, padding)
    return y.swapaxes(2, 3) if stride > 2 else y


def sums_in_float16(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """Products whose running sum is kept in float16, 32 terms at a time, as half-precision kernels without care do."""
    total = np.zeros((*x.shape[:-1], len(weight)), np.float16)
    for i in range(0, x.shape[-1], 32):
        part = x[..., i : i + 32] @ weight[:, i : i + 32].T
        total = (total + part).astype(np.float16)
    y: Array = total.astype(x.dtype)
    return y if bias is None else y + bias


def transpose_numbers(proj: Array) -> Array:
    """The numbers of a [W, E] matrix read as if they lay there as [E, W]."""
    return np.ascontiguousarray(proj.reshape(proj.shape[::-1]).T)
