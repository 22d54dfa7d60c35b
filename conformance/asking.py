"""Asks an engine one question, and guards against what it does beside answering."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .protocol import Case, EngineUnderTest, Outputs, Unsupported


class Misbehaved(Exception):
    """What an engine did wrong beside its values."""


class CheckpointChanged(Misbehaved):
    """The files of the checkpoint are not as they were; the next question needs them made again."""


def ask(engine: EngineUnderTest, case: Case) -> Outputs | BaseException:
    """What an engine answers, as plain arrays, or what it raised; what else it did wrong counts as that.

    It is given copies, and whatever it does to the settings of numpy, of warnings or of the process is undone.
    """
    given = dataclasses.replace(
        case, inputs={name: x.copy() for name, x in case.inputs.items()}, attributes=dict(case.attributes)
    )
    files, here = checkpoint_state(case.checkpoint), os.getcwd()
    try:
        with np.errstate(), warnings.catch_warnings():
            outputs = plain(engine.answer(given))
        for name, x in case.inputs.items():
            if name not in given.inputs or not np.array_equal(given.inputs[name], x):
                raise Misbehaved(f"changed its input {name!r}")
        if files != checkpoint_state(case.checkpoint):
            raise CheckpointChanged("changed the files of the checkpoint")
    except KeyboardInterrupt:
        raise
    except NotImplementedError as problem:
        return Unsupported(words(problem) or "not implemented")
    except BaseException as problem:  # whatever somebody's engine raises is the verdict, SystemExit too
        return problem
    finally:
        os.chdir(here)
    return outputs


def plain(outputs: Any) -> Outputs:
    """Copies of what an engine gave, without its classes: an engine may use its memory again."""
    if not isinstance(outputs, Mapping):
        raise Misbehaved(f"gave a {type(outputs).__name__}, expected arrays by name")
    arrays = {}
    for name, x in outputs.items():
        if not isinstance(name, str):
            raise Misbehaved(f"gave an output by the name of {name!r}, expected a string")
        if isinstance(x, np.ma.MaskedArray) or not isinstance(x, np.ndarray | np.generic):
            raise Misbehaved(f"gave a {type(x).__name__} as {name!r}, expected arrays by name")
        array = np.array(x, subok=False)
        if array.dtype.kind not in "biufc":
            raise Misbehaved(f"gave {name!r} in {array.dtype}, expected numbers")
        arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return arrays


_OF_A_CHECKPOINT = ("model.safetensors", "config.json", "open_clip_model.safetensors", "open_clip_config.json")


def checkpoint_state(checkpoint: Path | None) -> dict[str, tuple[int, int]]:
    """Size and time of a checkpoint's files, by which a change shows; what an engine puts beside them is its own."""
    files = {} if checkpoint is None else {name: checkpoint / name for name in _OF_A_CHECKPOINT}
    return {
        name: (file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else (0, 0)
        for name, file in files.items()
    }


def words(problem: BaseException) -> str:
    """What an exception says, in a line of bounded length."""
    try:
        return " ".join(str(problem).split())[:300]
    except Exception:  # of an exception that can't even be shown
        return "(which can't be shown)"
