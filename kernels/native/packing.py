"""Weights as the products want them: in panels of 32 outputs, drawn in common.h."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..fold import fold_norms
from .library import PANEL, aligned

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight [O, I], packed. `shape` is the one that it has in the checkpoint: [O, I], or [O, C, k, k]."""

    panels: Array  # [steps(O, 32), I, 32]
    shape: tuple[int, ...]
    _parts: dict[tuple[int, int], Weight] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """O"""
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """I, which is C*k*k of a convolution."""
        return int(self.panels.shape[1])

    def __getitem__(self, rows: slice) -> Weight:
        """Some of the outputs, packed; a view where they begin with a panel."""
        begin, end, _ = rows.indices(self.outputs)
        if (begin, end) not in self._parts:
            shape = (end - begin, *self.shape[1:])
            if begin % PANEL == 0 and (end % PANEL == 0 or end == self.outputs):
                panels = self.panels[begin // PANEL : -(-end // PANEL)]
            else:
                whole = self.panels.swapaxes(1, 2).reshape(-1, self.inputs)
                panels = pack(whole[begin:end]).panels
            self._parts[begin, end] = Weight(panels, shape)
        return self._parts[begin, end]


def pack(weight: Array) -> Weight:
    """A weight [O, I], or [O, C, k, k] whose inputs become [k, k, C] as channels-last maps have them."""
    shape = weight.shape
    if len(shape) == 4:
        weight = weight.transpose(0, 2, 3, 1)
    rows = weight.reshape(shape[0], -1)
    outputs, inputs = rows.shape
    panels = aligned((-(-outputs // PANEL), inputs, PANEL), np.float32)
    for i, panel in enumerate(panels):
        some = rows[i * PANEL : (i + 1) * PANEL]
        panel[:, : len(some)] = some.T
    return Weight(panels, shape)


@dataclass(frozen=True, eq=False)
class Projection:
    """A projection [W, E] of which the towers say `x @ proj`."""

    weight: Weight  # [E, W]
    project: Callable[[Array, Weight], Array]

    # numpy leaves `x @ proj` to this class then.
    __array_ufunc__ = None

    def __rmatmul__(self, x: Array) -> Array:
        return self.project(x, self.weight)


def pack_tower(params: Any, project: Callable[[Array, Weight], Array]) -> Any:
    """A tower's parameters with each BatchNorm part of its convolution, and all that is multiplied with packed.

    `project` multiplies rows with a projection.
    """

    def packed(params: Any, name: str = "") -> Any:
        if isinstance(params, Mapping):
            # A table's rows are looked up.
            return {key: item if name == "token_embedding" else packed(item, key) for key, item in params.items()}
        if isinstance(params, list):
            return [packed(item) for item in params]
        if name in ("proj", "text_projection"):
            return Projection(pack(params.T), project)
        return pack(params) if name in ("weight", "in_proj_weight") and params.ndim > 1 else params

    return packed(fold_norms(params))
