"""Activations: which there are, of what shapes, and how an engine's become comparable with the reference's."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import numpy as np

from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint

from ..goldens import sample
from ..protocol import Array, Case, Outputs


def tap_shapes(case: Case) -> dict[str, tuple[int, ...]]:
    """The activations that the reference has in a case of taps, in order, and their shapes."""
    assert case.checkpoint is not None
    key = case.checkpoint.name, case.verb
    if key not in _shapes:
        shapes = _shapes.setdefault(key, {})

        def tap(name: str, x: Array) -> Array:
            shapes[name] = x.shape
            return x

        (x,) = case.inputs.values()
        encode = case.verb.replace("trace", "encode")
        getattr(NumpyEngine(Checkpoint(case.checkpoint), "float32"), encode)(x, tap)
    return _shapes[key]


_shapes: dict[tuple[str, str], dict[str, tuple[int, ...]]] = {}


def wrong_taps(case: Case, answer: Outputs) -> str | None:
    """The problem with the names of a trace's activations, in words; None if there is none."""
    known = tap_shapes(case)
    unknown = sorted(answer.keys() - known.keys())
    if unknown:
        return f"gave an activation {unknown[0]!r}, which there is not{_near(unknown[0], known)}"
    return None if answer else "gave no activation"


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known)}"


def cut(case: Case, name: str, found: Array) -> Array:
    """An activation cut to the positions that the reference has: no padding, one position behind the last block."""
    shape = tap_shapes(case)[name]
    if len(shape) == 3 and shape[1] == 1 and found.shape == (shape[0], shape[2]):  # pooled already
        return found[:, None]
    if found.shape == shape or found.ndim != 3 or len(found) != shape[0]:
        return found
    ends = case.inputs["ids"].argmax(1) if case.verb == "trace_text" else np.zeros(shape[0], int)
    if found.shape[1] <= ends.max():
        return found
    pooled: Array = found[np.arange(len(found)), ends]
    if len(shape) == 2:
        return pooled
    return pooled[:, None] if shape[1] == 1 else found[:, : shape[1]]


def take_sample(case: Case, name: str, found: Array) -> Array:
    """The numbers of an activation that are compared, of the positions that the reference has."""
    return sample(cut(case, name, found))
