"""Engines under test, of any kind, by what the command line calls them."""

from __future__ import annotations

import shutil
from pathlib import Path

from clipref.errors import InputError

from ..protocol import EngineUnderTest
from .below import find_below

KINDS = """\
  module:name              a Python function from a checkpoint's folder, or None, to an object with the verbs as methods
  python:PYTHON:FILE:NAME  the same in an environment of its own, by its interpreter and the file of the function
  backend:NAME             one of clipref's own: reference, onnx, ... or onnx?threads=2, with its options
  exec:COMMAND             a program in any language, called with VERB CASE_DIR OUT.safetensors
  onnx:ROOT                ONNX files, ROOT/CHECKPOINT/visual.onnx and textual.onnx, or as optimum and others name them
  onnx:VISUAL,TEXTUAL@NAME the ONNX files of one checkpoint
  results:FOLDER           what `export` wrote, with answers beside the cases
  http://HOST:PORT         a server with /clip/embed_image, /clip/embed_text and /clip/compare
  openai:DTYPE             OpenAI's code under torch: float32, float64, float16 or bfloat16
  transformers:DTYPE       transformers' CLIPModel under torch"""
TIME_LIMIT = 60.0
# Seconds; a day, and less than any system's clock overflows at.
_LONGEST = 86400.0


def open_engine(spec: str, time_limit: float = TIME_LIMIT) -> EngineUnderTest:
    """The engine of a name as KINDS has them. `time_limit`: seconds for one answer.

    What computes in Python, or in a library below it, is opened in a process of its own, so that it can be stopped;
    but not clipref's own backends. Raises InputError.
    """
    if not 0 < time_limit <= _LONGEST:
        raise InputError(f"The time limit is {time_limit:g} seconds; expected more than 0, and at most {_LONGEST:g}.")
    kind, colon, rest = spec.partition(":")
    if not colon or not rest:
        hint = f"did you mean exec:./{Path(spec)}? " if Path(spec).is_file() else ""
        kinds = ", ".join(line.split()[0] for line in KINDS.splitlines())
        raise InputError(
            f"The engine is {spec!r}; {hint}expected one of these: {kinds}; see clipref conformance run --help."
        )
    if kind == "backend":
        from .python import backend

        return backend(rest)
    if kind == "exec":
        from .executable import Executable

        return Executable(rest, time_limit)
    if kind == "results":
        from .results import Results

        return Results(rest)
    if kind == "python":
        return _elsewhere(spec, time_limit)
    if kind in ("http", "https"):
        from .server import Server

        return Server(spec, time_limit)
    from .worker import Isolated

    return Isolated(spec, time_limit)


def _elsewhere(spec: str, time_limit: float) -> EngineUnderTest:
    from .worker import Isolated

    interpreter, adapter, name = [*spec.split(":"), "", "", ""][1:4]
    found = shutil.which(interpreter)
    if found is None or not Path(adapter).is_file() or not name:
        raise InputError(
            f"The engine is {spec!r}; expected python:PYTHON:FILE:NAME, an interpreter that can be run, a file in "
            f"Python, and the name in it of a function of a checkpoint's folder.{find_below([adapter])}"
        )
    script = Path(__file__).with_name("elsewhere.py")
    return Isolated(spec, time_limit, [str(Path(found).absolute()), str(script), str(Path(adapter).absolute()), name])


def open_here(spec: str) -> EngineUnderTest:
    """An engine that computes in Python, in this process. Raises InputError."""
    kind, _, rest = spec.partition(":")
    if kind == "onnx":
        from .onnx import OnnxPair

        return OnnxPair(rest)
    if kind in ("openai", "transformers"):
        return _under_torch(kind, rest)
    from .python import import_engine

    return import_engine(kind, rest)


def _under_torch(kind: str, dtype: str) -> EngineUnderTest:
    from .python import PythonEngine

    try:
        from . import torch_models
    except ImportError as problem:
        raise InputError(f"The engine {kind}:{dtype} needs torch: {problem}.") from problem
    if dtype not in torch_models.DTYPES:
        raise InputError(
            f"The engine is {kind}:{dtype}; expected one of {', '.join(torch_models.DTYPES)} after {kind}:."
        )
    make = torch_models.openai if kind == "openai" else torch_models.transformers

    def factory(folder: Path | None) -> object:
        made: object = make(folder, dtype)
        return made

    return PythonEngine(factory)
