"""Kinds of changes to a tower, each a function that makes another tower of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from clipref import ops
from clipref.architecture import ImageConfig

from ..protocol import Array
from .fault import Change, Fault
from .formulas import pool_at
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


def blocks(change: Callable[[dict[str, Any], int], dict[str, Any]]) -> Change:
    """A change of every residual attention block: of its parameters, given how many heads it has."""

    def apply(tower: Tower) -> Tower:
        if "transformer" not in tower.params:
            return tower
        config: Any = tower.config
        blocks = [change(dict(block), config.heads) for block in tower.params["transformer"]["resblocks"]]
        return tower.with_params(transformer={**tower.params["transformer"], "resblocks": blocks})

    return apply


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
    changed = tower.with_operations(attention=attention, find_end_of_text=pool_at(lambda ids, end: end))
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

    def apply(tower: Tower) -> Tower:
        if kind_of(tower) != kind or name not in tower.params:
            return tower
        return tower.with_params(**{name: change(tower.params[name])})

    return apply


def identity(proj: Array) -> Array:
    return np.eye(len(proj), dtype=proj.dtype)


def transpose_numbers(proj: Array) -> Array:
    """The numbers of a [W, E] matrix read as if they lay there as [E, W]."""
    return np.ascontiguousarray(proj.reshape(proj.shape[::-1]).T)


def never_loaded(name: str, value: float) -> Change:
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
