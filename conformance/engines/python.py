"""Python objects as engines under test.

A factory takes the folder of a checkpoint and returns an object that has any of `encode_image`, `encode_text`,
`trace_image`, `trace_text`, `tokenize(texts, context_length, truncate)`, `preprocess(image, resolution)`,
`operation(name, **arguments)`, `similarity(image, text, logit_scale)`, `embed_image(image)`, `embed_text(texts)`,
`compare(image, texts)` and `describe()`. Images are the bytes of a file. What it lacks is skipped.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from clipref.backends import backends
from clipref.engine import NumpyEngine
from clipref.errors import InputError
from clipref.hub import locate
from clipref.model import CLIP
from clipref.numerics import cosines
from clipref.weights import Checkpoint

from ..protocol import Case, EngineUnderTest, Outputs, Unsupported
from .below import find_below

# A maker of engines from a checkpoint's folder, or from None for the verbs that need no model.
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


def _image(case: Case) -> bytes:
    return case.inputs["image"].tobytes()


def _texts(case: Case) -> list[str]:
    texts: list[str] = json.loads(case.inputs["texts"].tobytes())
    return texts


def _ids(method: Any, case: Case) -> Outputs:
    return {"ids": method(_texts(case), case.attributes["context_length"], case.attributes["truncate"])}


def _answer_by_name(m: Any, case: Case) -> Outputs:
    answer = m(**case.inputs)
    if not isinstance(answer, Mapping):
        raise TypeError(f"{case.verb} gave a {type(answer).__name__}, expected arrays by name")
    return answer


_ANSWERS: dict[str, Callable[[Any, Case], Outputs]] = {
    "describe": lambda method, case: {name: np.asarray(value) for name, value in method().items()},
    "tokenize": _ids,
    "preprocess": lambda method, case: {"pixels": method(_image(case), case.attributes["resolution"])},
    "operation": lambda method, case: {"y": method(**case.attributes, **case.inputs)},
    "encode_image": lambda method, case: {"embeddings": method(case.inputs["pixels"])},
    "encode_text": lambda method, case: {"embeddings": method(case.inputs["ids"])},
    "trace_image": _answer_by_name,
    "trace_text": _answer_by_name,
    "embed_image": lambda method, case: {"embeddings": method(_image(case))},
    "embed_text": lambda method, case: {"embeddings": method(_texts(case))},
    "compare": lambda method, case: {"similarity": method(_image(case), _texts(case))},
    "similarity": _answer_by_name,
}


def import_engine(module: str, name: str) -> EngineUnderTest:
    """`name` in a module that can be imported, also from the current folder: an object, or a factory of objects.

    What has a method `answer` answers for itself. Raises InputError.
    """
    folder = os.getcwd()
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        found: Any = getattr(importlib.import_module(module), name)
        if hasattr(found, "answer"):
            engine: EngineUnderTest = found() if isinstance(found, type) else found
            return engine
    except (Exception, SystemExit) as problem:  # whatever somebody's module raises
        raise InputError(
            f"The engine {module}:{name} can't be imported: {type(problem).__name__}: {problem}. "
            f"Expected that python -c 'import {module}; {module}.{name}' runs.{find_below([f'{module}.py'])}"
        ) from problem
    if not callable(found):
        raise InputError(f"{module}:{name} is a {type(found).__name__}; expected a function of a checkpoint's folder.")
    return PythonEngine(found)


class Backend:
    """What clipref does without a model."""

    def tokenize(self, texts: list[str], context_length: int, truncate: bool) -> Any:
        """Ids [N, context_length] of texts. Raises TextError for one that is too long, unless it is truncated."""
        from clipref.tokenizer import tokenize

        return tokenize(texts, context_length, truncate)

    def preprocess(self, image: bytes, resolution: int) -> Any:
        """Pixels [3, R, R] float32 of an image's file."""
        from clipref.preprocessing import preprocess

        return preprocess(image, resolution)


class BackendModel:
    """What clipref does with a checkpoint, with one of its backends as the towers."""

    def __init__(self, name: str, folder: Path, **options: Any) -> None:
        self._checkpoint = Checkpoint(folder)
        self._model = CLIP(self._checkpoint, name, **options)
        self.encode_image, self.encode_text = self._model.encode_image, self._model.encode_text
        self.embed_image, self.embed_text = self._model.embed_image, self._model.embed_text
        engine: Any = self._model.engine
        if hasattr(engine, "trace_image"):
            self.trace_image, self.trace_text = engine.trace_image, engine.trace_text

    def describe(self) -> dict[str, int]:
        """The numbers of the model."""
        config = self._model.config
        return {
            "embed_dim": config.embed_dim,
            "resolution": config.vision.resolution,
            "context_length": config.text.context_length,
            "vocab_size": config.text.vocab_size,
        }

    def compare(self, image: bytes, texts: list[str]) -> Any:
        """Cosines [N] float32 of an image's file with N texts."""
        return np.asarray(self._model.compare(image, texts), np.float32)


class Reference(Backend):
    """The operations besides."""

    def operation(self, name: str, **arguments: Any) -> Any:
        """The result of an operation of `clipref.ops`, by its name and arguments."""
        from clipref import ops

        return getattr(ops, name)(**arguments)

    def similarity(self, image: Any, text: Any, logit_scale: Any) -> dict[str, Any]:
        """Cosines and logits [N, M] of embeddings [N, E] and [M, E]; the scale is a logarithm, as in checkpoints."""
        found = cosines(image, text)
        return {"cosines": found, "logits": np.exp(logit_scale) * found}


class ReferenceModel(BackendModel):
    """The reference shows what is inside of its towers."""

    def trace_image(self, pixels: Any) -> dict[str, Any]:
        """Every activation of the image tower by its name, of pixels [N, 3, R, R]."""
        return self._trace("encode_image", pixels)

    def trace_text(self, ids: Any) -> dict[str, Any]:
        """Every activation of the text tower by its name, of ids [N, T]."""
        return self._trace("encode_text", ids)

    def _trace(self, verb: str, x: Any) -> dict[str, Any]:
        taps: dict[str, Any] = {}

        def tap(name: str, y: Any) -> Any:
            taps[name] = y
            return y

        getattr(NumpyEngine(self._checkpoint, "float32"), verb)(x, tap)
        return taps


def backend(spec: str) -> PythonEngine:
    """One of clipref's backends, with its options as an address has them: "openvino?precision=bfloat16&threads=2".

    Raises InputError for a name that there isn't, BackendError for options that it hasn't.
    """
    name, _, query = spec.partition("?")
    if name not in backends():
        raise InputError(f"No backend {name!r}; there are: {', '.join(sorted(backends()))}.")
    options = _options(spec, query)
    without, within = (Reference, ReferenceModel) if name == "reference" else (Backend, BackendModel)
    if options:  # a wrong one is told now, and not as the failure of every case
        within(name, locate(SMALL_MODEL)[0], **options)
    return PythonEngine(lambda folder: without() if folder is None else within(name, folder, **options))


# An embedded model, which is there whatever is installed.
SMALL_MODEL = "clipref/shapes-vit"


def _options(spec: str, query: str) -> dict[str, Any]:
    """Names and values, whole numbers as such. Raises InputError."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True) if query else []
    except ValueError as problem:
        raise InputError(f"backend:{spec}: {problem}; expected backend:NAME?OPTION=VALUE&...") from problem
    return {name: int(value) if value.isascii() and value.isdigit() else value for name, value in pairs}
