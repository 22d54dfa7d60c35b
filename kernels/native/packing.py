"""Weights as the products want them: in panels of 32 outputs, drawn in common.h."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from clipref.errors import BackendError
from clipref.numerics import to_bfloat16

from ..fold import fold_norms
from ..quantisation import quantise_weight
from .library import PANEL, STEP, address
from .rooms import aligned
from .sharing import Sharing

Array: TypeAlias = NDArray[Any]

# Inputs of a layer in int8 whose products, of 255 * 127 at most, have room in a sum of 32 bits.
MOST_INPUTS = 2**31 // (255 * 127) - 1


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight [O, I], packed for a precision. `shape` is that of the checkpoint: [O, I], or [O, C, k, k]."""

    panels: Array  # [steps(O, 32), P, 32] uint32
    shape: tuple[int, ...]
    precision: str
    _parts: dict[tuple[int, int], Weight] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """O"""
        return self.shape[0]

    @cached_property
    def address(self) -> int:
        """Where the first panel is."""
        return address(self.panels)

    def __getitem__(self, rows: slice) -> Weight:
        """Some of the outputs, packed; a view where they begin with a panel."""
        begin, end, _ = rows.indices(self.outputs)
        if (begin, end) not in self._parts:
            if begin % PANEL == 0 and (end % PANEL == 0 or end == self.outputs):
                panels = self.panels[begin // PANEL : -(-end // PANEL)]
            else:
                panels = in_panels(self.panels.swapaxes(1, 2).reshape(-1, self.panels.shape[1])[begin:end])
            self._parts[begin, end] = Weight(panels, (end - begin, *self.shape[1:]), self.precision)
        return self._parts[begin, end]


def pack(weight: Array, precision: str = "float32") -> Weight:
    """A weight [O, I], or [O, C, k, k] whose inputs become [k, k, C] as channels-last maps have them."""
    shape = weight.shape
    if len(shape) == 4:
        weight = weight.transpose(0, 2, 3, 1)
    return Weight(in_panels(WORDS[precision](weight.reshape(shape[0], -1))), shape, precision)


def in_panels(words: Array) -> Array:
    """Words [O, P] of each output -> panels [steps(O, 32), P, 32]."""
    outputs, length = words.shape
    panels = aligned((-(-outputs // PANEL), length, PANEL), np.uint32)
    for i, panel in enumerate(panels):
        some = words[i * PANEL : (i + 1) * PANEL]
        panel[:, : len(some)] = some.T
        panel[:, len(some) :] = 0
    return panels


def float32_words(rows: Array) -> Array:
    """Rows [O, I] as words [O, I]."""
    return np.ascontiguousarray(rows, np.float32).view(np.uint32)


def bfloat16_words(rows: Array) -> Array:
    """Rows [O, I], rounded to nearest even, as words [O, P] of two, P a multiple of 16."""
    halves = np.zeros((len(rows), -(-rows.shape[1] // (2 * STEP)) * 2 * STEP), np.uint16)
    halves[:, : rows.shape[1]] = to_bfloat16(rows).view(np.uint32) >> 16
    return halves.view(np.uint32)


def int8_words(rows: Array) -> Array:
    """Rows [O, I] as words [O, 2 + P]: the size of a step, the sum of whole numbers, and those in words of four.

    Raises BackendError for rows so long that 32 bits could be too few for a sum.
    """
    outputs, inputs = rows.shape
    if inputs > MOST_INPUTS:
        raise BackendError(f"A layer has {inputs} inputs; sums of int8 have room for {MOST_INPUTS}. Take 'bfloat16'.")
    whole, size = quantise_weight(rows, 127)
    words = np.zeros((outputs, 2 + -(-inputs // (4 * STEP)) * STEP), np.uint32)
    words[:, 0] = size.view(np.uint32)
    words[:, 1] = whole.sum(axis=1, dtype=np.int32).view(np.uint32)
    words.view(np.int8)[:, 8 : 8 + inputs] = whole
    return words


# Each output's words, from top to bottom of its column in a panel.
WORDS: dict[str, Callable[[Array], Array]] = {"float32": float32_words, "bfloat16": bfloat16_words, "int8": int8_words}


@dataclass(frozen=True, eq=False)
class Projection:
    """A projection [W, E] of which the towers say `x @ proj`."""

    weight: Weight  # [E, W]
    project: Callable[[Array, Weight], Array]

    # numpy leaves `x @ proj` to this class then.
    __array_ufunc__ = None

    def __rmatmul__(self, x: Array) -> Array:
        return self.project(x, self.weight)


def pack_tower(params: Any, precision: str, project: Callable[[Array, Weight], Array], sharing: Sharing) -> Any:
    """A tower's parameters with each BatchNorm part of its convolution, and all that is multiplied with packed.

    `project` multiplies rows with a projection, which stays in float32. Lists of blocks are read and packed by as many
    threads as `sharing` has; BatchNorms are folded before, by one.
    """

    def packed(params: Any, name: str = "", shared: bool = False) -> Any:
        if isinstance(params, Mapping):
            # A table's rows are looked up.
            items = params.items()
            return {key: item if name == "token_embedding" else packed(item, key, shared) for key, item in items}
        if isinstance(params, list):
            if shared:
                return sharing.items(packed, ((item,) for item in params))
            return [packed(item) for item in params]
        if name in ("proj", "text_projection"):
            return Projection(pack(params.T), project)
        if name in ("weight", "in_proj_weight") and params.ndim > 1:
            return pack(params, precision)
        return np.array(params)  # the address of the file's own, which can't be written to, takes longer to get

    return packed(fold_norms(params), shared=sharing.threads > 1)
