"""Engines: what turns checked arrays into embeddings, and how a backend's name becomes one.

`reference` is the numpy of clipref.ops. Every other backend is found by name through the entry-point group
`clipref.kernels`, and imported only when chosen. An entry point names a module, which either

- has a function `engine(checkpoint, dtype, **options) -> Engine`, for a runtime of its own, or
- overrides functions of clipref.ops, the rest of which it falls back to.

Either may have a function `available()` that raises BackendError, with the reason, where the backend can't run.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from inspect import Parameter, isfunction, signature
from types import SimpleNamespace
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from . import ops as reference_ops
from . import resnet, text_transformer, vision_transformer
from .arguments import as_array, shown
from .arguments import is_count as is_count
from .config import ResNetConfig
from .errors import BackendError, InputError
from .peers import backend_advice, option_advice
from .transformer import Ops, Tap, no_tap
from .weights import Checkpoint, DType

Array = NDArray[Any]
GROUP = "clipref.kernels"
# The order in which `auto` prefers float32 backends.
FASTEST_FIRST = ("onnx", "blas", "reference")


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


class NumpyEngine:
    """The towers, run with numpy arrays and a set of operations. A tower's weights are read when it is first used."""

    def __init__(self, checkpoint: Checkpoint, dtype: DType, ops: Ops = reference_ops) -> None:
        self.config = checkpoint.config
        self.ops = ops
        self.dtype: DType = dtype
        self._visual = once(lambda: checkpoint.visual(dtype))
        self._text = once(lambda: checkpoint.text(dtype))

    def encode_image(self, pixels: Array, tap: Tap = no_tap) -> Array:
        """Preprocessed pixels [N, 3, R, R] -> embeddings [N, E]."""
        pixels = pixels.astype(self.dtype, copy=False)
        vision = self.config.vision
        if isinstance(vision, ResNetConfig):
            return _array(resnet.encode_image(self.ops, pixels, vision, tap, **self._visual()))
        return _array(vision_transformer.encode_image(self.ops, pixels, vision, tap, **self._visual()))

    def encode_text(self, ids: Array, tap: Tap = no_tap) -> Array:
        """Token ids [N, T] -> embeddings [N, E]."""
        return _array(text_transformer.encode_text(self.ops, ids, self.config.text, tap, **self._text()))

    def encode_tree(self, ids: Array, positions: Array, visible: Array, ends: Array, tap: Tap = no_tap) -> Array:
        """Trees of tokens -> embeddings [N, S, E]; see text_transformer.encode_tree."""
        encode = text_transformer.encode_tree
        return _array(encode(self.ops, ids, positions, visible, ends, self.config.text, tap, **self._text()))


class ReferenceEngine(NumpyEngine):
    """One item at a time, so that the bits of an embedding don't depend on what else is in the batch.

    A matrix product may add in another order when it has more rows; here it never has.
    """

    def encode_image(self, pixels: Array, tap: Tap = no_tap) -> Array:
        """Preprocessed pixels [N, 3, R, R] -> embeddings [N, E]."""
        encode = super().encode_image
        return np.concatenate([encode(pixels[i : i + 1], tap) for i in range(len(pixels))])

    def encode_text(self, ids: Array, tap: Tap = no_tap) -> Array:
        """Token ids [N, T] -> embeddings [N, E]."""
        encode = super().encode_text
        return np.concatenate([encode(ids[i : i + 1], tap) for i in range(len(ids))])

    def encode_tree(self, ids: Array, positions: Array, visible: Array, ends: Array, tap: Tap = no_tap) -> Array:
        """Each text by itself: the tokens that its end may see."""
        texts = [[row[seen[end]] for end in tree] for row, seen, tree in zip(ids, visible, ends, strict=True)]
        return np.stack([np.concatenate([self.encode_text(text[None], tap) for text in tree]) for tree in texts])


def _array(x: Any) -> Array:
    return np.asarray(x)


def once(make: Callable[[], Any]) -> Callable[[], Any]:
    """A function that calls `make` the first time and remembers its result, also when threads race for it."""
    lock = threading.Lock()
    made: list[Any] = []

    def get() -> Any:
        if not made:
            with lock:
                if not made:
                    made.append(make())
        return made[0]

    return get


def once_a_process(make: Callable[[], Any]) -> Callable[[], Any]:
    """As `once`, and anew in a process that was forked: for what has threads, which a fork doesn't take along."""
    made: dict[int, Callable[[], Any]] = {}

    def get() -> Any:
        process = os.getpid()
        return (made.get(process) or made.setdefault(process, once(make)))()

    return get


CGROUP_QUOTA = "/sys/fs/cgroup/cpu.max"  # https://docs.kernel.org/admin-guide/cgroup-v2.html, "cpu.max"


def available_threads() -> int:
    """Processors that this process may use: its affinity, less what the container's quota withholds."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open(CGROUP_QUOTA, encoding="ascii") as file:
            quota, period = file.read().split()
    except (OSError, ValueError):
        return count
    return count if quota == "max" else max(1, min(count, -(-int(quota) // int(period))))


def backends() -> Mapping[str, EntryPoint | None]:
    """Every backend's name, and where it comes from; None is the reference."""
    return {"reference": None, **{entry.name: entry for entry in entry_points(group=GROUP)}}


def described(name: str) -> dict[str, Any]:
    """What there is to say of a backend: its module, what it overrides, whether it can run here, and why not."""
    entry = backends()[name]
    if entry is None:
        return {"module": reference_ops.__name__, "overrides": "nothing", "runs": True, "why not": None}
    try:
        kernels = entry.load()
        if hasattr(kernels, "available"):
            kernels.available()
    except (ImportError, BackendError) as error:
        return {"module": entry.value, "overrides": "?", "runs": False, "why not": str(error)}
    own = ", ".join(n for n in vars(overlay(None)) if hasattr(operations(kernels), n))
    overrides = own or ("everything: an engine of its own" if hasattr(kernels, "engine") else "nothing")
    return {"module": entry.value, "overrides": overrides, "runs": True, "why not": None}


def make_engine(name: str, checkpoint: Checkpoint, dtype: DType, **options: Any) -> tuple[str, Engine]:
    """The engine of that name, and the name it has if `auto` was asked for. Raises BackendError."""
    if isinstance(name, str) and name == "auto":
        name, kernels = _first_that_runs() if dtype == "float32" else ("reference", None)
    else:
        kernels = _loaded(name)
    make = getattr(kernels, "engine", None)
    _check_names(name, options, [] if make is None else list(signature(make).parameters.values())[2:])
    if make is not None:
        engine: Engine = make(checkpoint, dtype, **options)
        return name, engine
    if kernels is None:
        return name, ReferenceEngine(checkpoint, dtype)
    return name, NumpyEngine(checkpoint, dtype, overlay(kernels))


def _loaded(name: str) -> Any:
    """The module of a backend that can run here, None for the reference. Raises BackendError if it can't."""
    known = backends()
    there = f"there are: auto, {', '.join(sorted(known))}"
    if not isinstance(name, str):
        raise BackendError(f"backend is {shown(name)}; expected one name; {there}.")
    if name not in known:
        raise BackendError(f"No backend {name!r}; {there}.{backend_advice(name)}")
    entry = known[name]
    if entry is None:
        return None
    try:
        kernels = entry.load()
    except ImportError as error:
        raise BackendError(f"Backend {name!r} can't run here: {error}. Install what it needs.") from error
    if hasattr(kernels, "available"):
        kernels.available()
    return kernels


def operations(kernels: Any) -> Any:
    """What has the functions of a kernel set: the module, or what its own `operations()` makes."""
    return kernels.operations() if hasattr(kernels, "operations") else kernels


def overlay(kernels: Any) -> Ops:
    """The operations of a kernel set, and the reference's where it has none."""
    functions = {
        n: f for n, f in vars(reference_ops).items() if isfunction(f) and f.__module__ == reference_ops.__name__
    }
    return SimpleNamespace(**{n: getattr(kernels, n, f) for n, f in functions.items()})


def _first_that_runs() -> tuple[str, Any]:
    for name in FASTEST_FIRST[:-1]:
        try:
            return name, _loaded(name)
        except BackendError:
            continue  # not installed, or not for this machine: the next one, down to the reference
    return FASTEST_FIRST[-1], _loaded(FASTEST_FIRST[-1])


def _check_names(name: str, options: Mapping[str, Any], parameters: list[Parameter]) -> None:
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return
    known = [parameter.name for parameter in parameters]
    for option in options:
        if option not in known:
            has = f"it has: {', '.join(known)}" if known else "it has none"
            raise BackendError(f"Backend {name!r} has no option {option!r}; {has}.{option_advice(option)}")
