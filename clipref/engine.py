"""Engines: what turns checked arrays into embeddings. Here is the one that runs the towers with a set of operations.

`TowerEngine(config, params, ops)` runs any kernel set through the same towers: numpy's, those of kernels/, training's,
and the wrong ones of the conformance suite. Which engine a backend's name stands for is clipref/backends.py's matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from . import ops as reference_ops
from .arguments import as_array, brief
from .arguments import is_count as is_count
from .errors import BackendError, InputError
from .lazy import MAX_THREADS, no_fork, once
from .towers import encoder
from .transformer import Ops, Params, Tap, no_tap
from .weights import Checkpoint, DType

Array: TypeAlias = NDArray[Any]
Tower: TypeAlias = Literal["visual", "text"]
TowerParams: TypeAlias = Mapping[Tower, Callable[[], Params]]  # a tower's weights, nested, read when it is first used


class Engine(Protocol):
    """Anything that computes the two towers. Inputs are checked before they get here."""

    def encode_image(self, pixels: Array) -> Array:
        """Preprocessed pixels [N, 3, R, R] float -> embeddings [N, E], not normalised."""

    def encode_text(self, ids: Array) -> Array:
        """Token ids [N, T] int -> embeddings [N, E], not normalised."""


class TreeEngine(Engine, Protocol):
    """An engine that can share what texts have in common. `CLIP.embed_text` makes use of it where it is there."""

    def encode_tree(self, ids: Array, positions: Array, visible: Array, ends: Array) -> Array:
        """Trees of tokens -> embeddings [N, S, E]; see text_transformer.encode_tree."""


def checked_pixels(pixels: Any, side: int, dtype: DType, name: str = "pixels") -> Array:
    """Preprocessed pixels [N, 3, side, side] as `dtype`. Raises InputError, which calls them `name`."""
    expected = f"expected [N, 3, {side}, {side}] floats, as preprocess makes them"
    pixels = as_array(pixels, name, expected)
    if pixels.dtype.kind != "f":
        raise InputError(f"{name} have dtype {pixels.dtype}; {expected}.")
    if pixels.ndim != 4 or pixels.shape[1:] != (3, side, side) or not len(pixels):
        raise InputError(f"{name} have shape {pixels.shape}; {expected}.")
    with np.errstate(over="ignore"):  # what float32 can't hold is found below
        pixels = pixels.astype(dtype, copy=False)
    if not np.isfinite(pixels).all():  # in 8 bits one would spoil the whole batch
        item = int(np.flatnonzero(~np.isfinite(pixels).all(axis=(1, 2, 3)))[0])
        raise InputError(f"{name}: item {item} has values that are not finite in {dtype}; {expected}.")
    return cast(Array, pixels)


def check_threads(threads: Any) -> None:
    """Raise BackendError unless this is a number of threads, or None."""
    if threads is not None and not (is_count(threads) and threads <= MAX_THREADS):
        raise BackendError(
            f"threads is {brief(threads)}; expected a whole number, at least 1 and at most {MAX_THREADS}."
        )


class TowerEngine:
    """The towers, run with a set of operations.

    `ops` has the functions of clipref.ops, and any of these besides, all of them optional:

    - `calibrate(params, tower_config)` changes a tower's weights (nested numpy arrays), for the same result in real
      arithmetic, so that the set's precision comes nearer to it.
    - `prepare(params)` lays a tower's weights (nested numpy arrays) out as its operations want them.
      Either is given mappings that may read an array anew each time that it is taken out of them.
    - `place(array)` brings a numpy array to where the set computes: each weight once, and the inputs of each call.
    - `fetch(own)` brings a result back, as a numpy array.
    - `batch_size(tower_config)` is how many items go through a tower together.
    - `in_parts(encode, tower_config, *inputs)` is a whole batch's embeddings: it calls `encode` with some of the items
      of each input at a time, from several threads if it likes, and puts the results together.
    - `running()` is a context in which the towers are called.
    - `compile(tower)` turns a tower, a function of its placed inputs, into a faster one.
    """

    def __init__(self, config: Any, params: TowerParams, ops: Ops = reference_ops, dtype: DType = "float32") -> None:
        self.config = config
        self.ops = ops
        self.dtype: DType = dtype
        self.visual: Callable[[], Any] = once(lambda: self._place(params["visual"](), config.vision))
        self.text: Callable[[], Any] = once(lambda: self._place(params["text"](), config.text))
        self._compiled = {tower: once(partial(self._compile, tower)) for tower in ("visual", "text")}

    def encode_image(self, pixels: Array, tap: Tap = no_tap) -> Array:
        """Preprocessed pixels [N, 3, R, R] -> embeddings [N, E]."""
        pixels = pixels.astype(self.dtype, copy=False)
        return self._in_parts(lambda part: self._run("visual", tap, part), "visual", pixels)

    def encode_text(self, ids: Array, tap: Tap = no_tap) -> Array:
        """Token ids [N, T] -> embeddings [N, E]."""

        def encode(part: Array) -> Array:
            trees = self.config.text.single_texts(part)
            return self._run("text", tap, *trees)[:, 0]

        return self._in_parts(encode, "text", ids)

    def encode_tree(self, ids: Array, positions: Array, visible: Array, ends: Array, tap: Tap = no_tap) -> Array:
        """Trees of tokens -> embeddings [N, S, E]; see text_transformer.encode_tree."""
        trees = ids, positions, visible, ends
        return self._in_parts(lambda *part: self._run("text", tap, *part), "text", *trees)

    def _in_parts(self, encode: Callable[..., Array], tower: Tower, *inputs: Array) -> Array:
        """As many items at a time as the set takes."""
        config, _ = self._placed(tower)  # before any thread has items: all of them can place it
        if hasattr(self.ops, "in_parts"):
            return cast(Array, self.ops.in_parts(encode, config, *inputs))
        n = len(inputs[0])
        size = self.ops.batch_size(config) if hasattr(self.ops, "batch_size") else n
        parts = [encode(*(x[i : i + size] for x in inputs)) for i in range(0, n, size)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def _run(self, tower: Tower, tap: Tap, *inputs: Array) -> Array:
        encode = self._compiled[tower]() if tap is no_tap else self._function(tower, tap)
        running = self.ops.running() if hasattr(self.ops, "running") else nullcontext()
        with no_fork, running:  # matrix libraries have locks
            place = getattr(self.ops, "place", np.asarray)
            found = getattr(self.ops, "fetch", np.asarray)(encode(*map(place, inputs)))
        return np.asarray(found, self.dtype)

    def _function(self, tower: Tower, tap: Tap = no_tap) -> Callable[..., Any]:
        """A tower as a function of its placed inputs."""
        config, params = self._placed(tower)
        encode = encoder(config)
        return lambda *inputs: encode(self.ops, *inputs, config, tap, **params)

    def _placed(self, tower: Tower) -> tuple[Any, Any]:
        """A tower's configuration and its parameters, as the set takes them."""
        return (self.config.vision, self.visual()) if tower == "visual" else (self.config.text, self.text())

    def _compile(self, tower: Tower) -> Callable[..., Any]:
        function = self._function(tower)
        return self.ops.compile(function) if hasattr(self.ops, "compile") else function

    def _place(self, params: Params, config: Any) -> Any:
        if hasattr(self.ops, "calibrate"):
            params = self.ops.calibrate(params, config)
        prepared = self.ops.prepare(params) if hasattr(self.ops, "prepare") else params
        return map_arrays(getattr(self.ops, "place", np.asarray), prepared)  # which reads what isn't read so far


def map_arrays(function: Callable[[Array], Any], params: Any) -> Any:
    """Nested parameters with each numpy array replaced by what the function makes of it."""
    if isinstance(params, Mapping):
        return {name: map_arrays(function, item) for name, item in params.items()}
    if isinstance(params, list):
        return [map_arrays(function, item) for item in params]
    return function(params) if isinstance(params, np.ndarray) else params


def checkpoint_params(checkpoint: Checkpoint, dtype: DType) -> TowerParams:
    """A checkpoint's weights as numpy arrays of a dtype, each read when it is taken out."""
    return {"visual": lambda: checkpoint.unread_visual(dtype), "text": lambda: checkpoint.unread_text(dtype)}


class NumpyEngine(TowerEngine):
    """The towers with a checkpoint's weights, and the reference's operations unless others are given."""

    def __init__(self, checkpoint: Checkpoint, dtype: DType, ops: Ops = reference_ops) -> None:
        super().__init__(checkpoint.config, checkpoint_params(checkpoint, dtype), ops, dtype)
        self._file = checkpoint.file

    def _place(self, params: Params, config: Any) -> Any:
        placed = super()._place(params, config)
        self._file.release()  # tensors that the set has copies of
        return placed


class ReferenceEngine(NumpyEngine):
    """One item at a time, so that the bits of an embedding don't depend on what else is in the batch.

    A matrix product may add in another order when it has more rows; here it never has.
    """

    def __init__(self, checkpoint: Checkpoint, dtype: DType) -> None:
        super().__init__(checkpoint, dtype)

    def _in_parts(self, encode: Callable[..., Array], tower: Tower, *inputs: Array) -> Array:
        return np.concatenate([encode(*(x[i : i + 1] for x in inputs)) for i in range(len(inputs[0]))])

    def encode_tree(self, ids: Array, positions: Array, visible: Array, ends: Array, tap: Tap = no_tap) -> Array:
        """Each text by itself: the tokens that its end may see."""
        texts = [[row[seen[end]] for end in tree] for row, seen, tree in zip(ids, visible, ends, strict=True)]
        return np.stack([np.concatenate([self.encode_text(text[None], tap) for text in tree]) for tree in texts])
