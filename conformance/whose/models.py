"""A model whose vectors they may be: its towers in both precisions, and what each variant of it gives for an item."""

from __future__ import annotations

import hashlib
from functools import cached_property
from typing import Any, Literal

import numpy as np

from clipref.config import Activation, NoTower
from clipref.hub import EMBEDDED, find, locate, present
from clipref.model import CLIP
from clipref.numerics import rms_error
from clipref.published import MODELS
from clipref.weights import Checkpoint

from ..faults.changes import Operations
from ..faults.tower import Tower
from ..protocol import Array
from .variants import AS_IT_IS, Variant, image_variants, text_variants

Kind = Literal["image", "text"]
DType = Literal["float32", "float64"]


def models_here() -> list[str]:
    """The embedded models, and those of the published ones that are on this machine."""
    return [*EMBEDDED, *(name for name in MODELS if find(name) is not None)]


class Model:
    """One model, opened by its name or path; nothing is fetched. Raises ModelNotFound and what opening raises."""

    def __init__(self, name: str, kind: Kind, activation: Activation | None = None) -> None:
        self.name, self.kind, self.activation = name, kind, activation
        present(name)
        self.checkpoint = Checkpoint(*locate(name, activation=activation))
        self.config = self.checkpoint.config
        self._clip = CLIP(self.checkpoint, "reference")
        self._towers: dict[DType, Tower] = {}
        self._seen: dict[tuple[Any, ...], Array | None] = {}
        self._inputs: dict[tuple[Any, ...], tuple[Any, Array]] = {}  # with the item, so that its id stays its own

    @property
    def has_tower(self) -> bool:
        """Whether it makes vectors of this kind at all."""
        return not isinstance(self.config.vision if self.kind == "image" else self.config.text, NoTower)

    @cached_property
    def variants(self) -> list[Variant]:
        """Every way to make vectors with it that can make a difference."""
        images = self.kind == "image"
        found = image_variants(self.config) if images else text_variants(self._clip.tokenizer.digest)
        used = self._operations_used()
        return [variant for variant in found if _has_effect(variant, used)]

    def tower(self, dtype: DType) -> Tower:
        """The tower as it is, read once."""
        if dtype not in self._towers:
            config, read = (
                (self.config.vision, self.checkpoint.visual)
                if self.kind == "image"
                else (self.config.text, self.checkpoint.text)
            )
            self._towers[dtype] = Tower(config, read(dtype))
        return self._towers[dtype]

    def tokenize(self, text: str) -> Array:
        """Ids [1, T], cut where they are too many."""
        return self._clip.tokenize(text, truncate=True)

    def input(self, variant: Variant, item: Any) -> Array:
        """What the variant's tower is given of an item."""
        key = variant.steps, variant.edit, id(item)
        if key not in self._inputs:
            self._inputs[key] = item, variant.input(item, self.config, self.tokenize)
        return self._inputs[key][1]

    def embedding(self, variant: Variant, item: Any, dtype: DType) -> Array | None:
        """The embedding [E] of one item; None where the variant can't be computed, or gives no finite numbers."""
        x = self.input(variant, item)
        fault = None if variant.fault is None else variant.fault.id
        key = hashlib.sha256(x.tobytes()).digest(), x.shape, fault, dtype
        if key not in self._seen:
            self._seen[key] = self._encode(variant, x, dtype)
        return self._seen[key]

    def unit(self, variant: Variant, item: Any) -> float:
        """What float32 errs in this variant's embedding of an item: ours in float32 against ours in float64."""
        single, exact = self.embedding(variant, item, "float32"), self.embedding(variant, item, "float64")
        return float("inf") if single is None or exact is None else rms_error(single, exact)

    def forget(self) -> None:
        """Give back the memory of what was made of items that are done with."""
        self._seen.clear()
        self._inputs.clear()

    def _encode(self, variant: Variant, x: Array, dtype: DType) -> Array | None:
        try:
            with np.errstate(all="ignore"):
                tower = variant.tower(self.tower(dtype))
                y = tower.encode(x.astype(dtype) if x.dtype.kind == "f" else x, lambda name, value: value)[0]
        except (ValueError, KeyError, IndexError, TypeError):  # the fault can't be in this tower
            return None
        return y.astype(np.float64) if np.isfinite(y).all() and y.any() else None

    def _operations_used(self) -> set[str]:
        """Names of the operations that the tower calls."""
        from clipref import ops

        used: set[str] = {"causal", "find_end_of_text"}  # asked by the tower of the suite, not by its function

        def noting(name: str) -> Any:
            function = getattr(ops, name)

            def call(*arguments: Any, **options: Any) -> Any:
                used.add(name)
                return function(*arguments, **options)

            return call

        names = [name for name in vars(ops) if callable(getattr(ops, name)) and not name.startswith("_")]
        tower = self.tower("float32").with_operations(**{name: noting(name) for name in names})
        if self.kind == "image":
            side = self.config.vision.resolution
            x: Array = np.zeros((1, 3, side, side), np.float32)
        else:
            x = self.tokenize("a")
        with np.errstate(all="ignore"):
            tower.encode(x, lambda name, value: value)
        return used


def _has_effect(variant: Variant, used: set[str]) -> bool:
    """Whether a fault's operations are among those that the tower calls."""
    if variant.id == AS_IT_IS or variant.fault is None or not isinstance(variant.fault.change, Operations):
        return True
    return bool(used & variant.fault.change.functions.keys())
