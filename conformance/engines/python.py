"""Python objects as engines under test.

A factory takes the folder of a checkpoint and returns an object that has any of `encode_image`, `encode_text`,
`trace_image`, `trace_text`, `tokenize(texts, truncate)`, `preprocess(image bytes, resolution)`,
`operation(name, **arguments)`, `similarity(image, text, logit_scale)` and `describe()`. What it lacks is skipped.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipref.engine import backends, make_engine
from clipref.errors import InputError
from clipref.weights import Checkpoint

from ..case import Case, Outputs, Unsupported

# Of a checkpoint's folder; None for the verbs that need no model.
Factory = Callable[[Path | None], Any]


class PythonEngine:
    """An engine whose answers are methods of an object; one is made for each checkpoint, and the last one kept."""

    def __init__(self, factory: Factory) -> None:
        self._factory = factory
        self._made: tuple[Path | None, Any] | None = None

    def answer(self, case: Case) -> Outputs:
        """The outputs of the method that the verb names. Raises Unsupported where the object has none."""
        if self._made is None or self._made[0] != case.checkpoint:
            self._made = None  # before the next one is made, so that two never lie in memory
            self._made = case.checkpoint, self._factory(case.checkpoint)
        method = getattr(self._made[1], case.verb, None)
        if method is None:
            raise Unsupported(f"has no {case.verb}")
        return _ANSWERS[case.verb](method, case)


def _pixels(method: Any, case: Case) -> Outputs:
    return {"pixels": method(case.inputs["image"].tobytes(), case.attributes["resolution"])}


def _ids(method: Any, case: Case) -> Outputs:
    return {"ids": method(json.loads(case.inputs["texts"].tobytes()), case.attributes["truncate"])}


def _named(method: Any, case: Case) -> Outputs:
    answer = method(*case.inputs.values())
    if not isinstance(answer, Mapping):
        raise TypeError(f"{case.verb} gave a {type(answer).__name__}, expected arrays by name")
    return answer


_ANSWERS: dict[str, Callable[[Any, Case], Outputs]] = {
    "describe": lambda method, case: {name: np.asarray(value) for name, value in method().items()},
    "tokenize": _ids,
    "preprocess": _pixels,
    "operation": lambda method, case: {"y": method(**case.attributes, **case.inputs)},
    "encode_image": lambda method, case: {"embeddings": method(case.inputs["pixels"])},
    "encode_text": lambda method, case: {"embeddings": method(case.inputs["ids"])},
    "trace_image": _named,
    "trace_text": _named,
    "similarity": _named,
}


def imported(module: str, name: str) -> PythonEngine:
    """The engine of the factory `name` in a module. Raises InputError."""
    try:
        return PythonEngine(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as problem:
        raise InputError(f"The engine {module}:{name} can't be imported: {problem}.") from problem


class Backend:
    """All that clipref does, with one of its backends as the towers."""

    def __init__(self, name: str, folder: Path | None) -> None:
        self._checkpoint = None if folder is None else Checkpoint(folder)
        if self._checkpoint is not None:
            engine = make_engine(name, self._checkpoint, "float32")[1]
            self.encode_image, self.encode_text = engine.encode_image, engine.encode_text

    def describe(self) -> dict[str, int]:
        assert self._checkpoint is not None
        config = self._checkpoint.config
        return {
            "embed_dim": config.embed_dim,
            "resolution": config.vision.resolution,
            "context_length": config.text.context_length,
            "vocab_size": config.text.vocab_size,
        }

    def tokenize(self, texts: list[str], truncate: bool) -> Any:
        from clipref.tokenizer import tokenize

        return tokenize(texts, truncate=truncate)

    def preprocess(self, image: bytes, resolution: int) -> Any:
        from clipref.preprocessing import preprocess

        return preprocess(image, resolution)


class Reference(Backend):
    """The reference besides shows what is inside it."""

    def trace_image(self, pixels: Any) -> dict[str, Any]:
        return self._traced("encode_image", pixels)

    def trace_text(self, ids: Any) -> dict[str, Any]:
        return self._traced("encode_text", ids)

    def _traced(self, verb: str, x: Any) -> dict[str, Any]:
        from clipref.engine import NumpyEngine

        taps: dict[str, Any] = {}

        def tap(name: str, y: Any) -> Any:
            taps[name] = y
            return y

        assert self._checkpoint is not None
        getattr(NumpyEngine(self._checkpoint, "float32"), verb)(x, tap)
        return taps

    def operation(self, name: str, **arguments: Any) -> Any:
        from clipref import ops

        return getattr(ops, name)(**arguments)

    def similarity(self, image: Any, text: Any, logit_scale: Any) -> dict[str, Any]:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        cosines = a @ b.T
        return {"cosines": cosines, "logits": np.exp(logit_scale) * cosines}


def backend(name: str) -> PythonEngine:
    """One of clipref's backends. Raises InputError for a name that there isn't."""
    if name not in backends():
        raise InputError(f"No backend {name!r}; there are: {', '.join(sorted(backends()))}.")
    kind = Reference if name == "reference" else Backend
    return PythonEngine(lambda folder: kind(name, folder))
