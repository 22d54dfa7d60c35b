"""One tower as a value: everything that it is computed with. A fault makes another tower of it, and changes none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeAlias

import numpy as np

from clipref.architecture import ImageConfig
from clipref.backends import overlay
from clipref.config import TextConfig
from clipref.numerics import unit_rows
from clipref.text_transformer import causal
from clipref.towers import encoder
from clipref.transformer import Params, Tap
from clipref.weights import Checkpoint

from ..protocol import Array

Operation: TypeAlias = Callable[..., Any]
DType: TypeAlias = Literal["float32", "float64"]
# Bytes. Of larger files, one tower is kept in memory at a time.
_SMALL = 2**24


@dataclass(frozen=True)
class Tower:
    """A tower's configuration, its parameters as the tower's function takes them, and operations not CLIP's."""

    config: ImageConfig | TextConfig
    params: Params
    operations: Mapping[str, Operation] = field(default_factory=dict)
    normalised: bool = False  # its embeddings have length 1

    def with_params(self, **params: Any) -> Tower:
        """The same tower with some parameters of its own in place of others."""
        return dataclasses.replace(self, params={**self.params, **params})

    def with_operations(self, **operations: Operation) -> Tower:
        """The same tower with other operations. Raises ValueError if one of them is another's already."""
        if twice := sorted(self.operations.keys() & operations.keys()):
            raise ValueError(f"{twice[0]} can be changed in one way only")
        return dataclasses.replace(self, operations={**self.operations, **operations})

    def encode(self, x: Array, tap: Tap) -> Array:
        """Pixels [N, 3, R, R] in the parameters' dtype, or ids [N, T] -> embeddings [N, E]."""
        ops, config = overlay(SimpleNamespace(**self.operations)), self.config
        if isinstance(config, ImageConfig):
            y = encoder(config)(ops, x, config, tap, **self.params)
        else:
            y = encoder(config)(ops, *self._single_texts(x, config), config, tap, **self.params)[:, 0]
        embeddings: Array = np.asarray(y)
        return unit_rows(embeddings) if self.normalised else embeddings

    def _single_texts(self, ids: Array, config: TextConfig) -> tuple[Array, Array, Array, Array]:
        """As the configuration's, with what a fault may do otherwise: find the end, hide tokens."""
        if find_end := self.operations.get("find_end_of_text"):
            ids, ends = find_end(ids)
            visible = causal(ids)
        else:
            ids, _, visible, ends = config.single_texts(ids)
        if hide := self.operations.get("causal"):
            visible = hide(ids)
        positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
        return ids, positions, visible, ends


def read_tower(folder: Path, kind: Literal["image", "text"], dtype: DType) -> Tower:
    """A tower of a checkpoint, without faults. Read once as long as its file stays as it is."""
    file = (folder / "model.safetensors").stat()
    read = _read_small if file.st_size <= _SMALL else _read_large
    return read(folder, kind, dtype, file.st_size, file.st_mtime_ns)


def _read(folder: Path, kind: str, dtype: DType, size: int, changed: int) -> Tower:
    checkpoint = Checkpoint(folder)
    if kind == "text":
        return Tower(checkpoint.config.text, checkpoint.text(dtype))
    return Tower(checkpoint.config.vision, checkpoint.visual(dtype))


_read_small = lru_cache(maxsize=32)(_read)
_read_large = lru_cache(maxsize=1)(_read)
