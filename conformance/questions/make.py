"""How a question is put together: its case is made when it is asked, with its checkpoint if it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from clipref.files import scratch_folder
from clipref.weights_tools import synthetic

from ..protocol import Case, Exact, Question, Units
from .models import FULL, SEED, TINY, WORDS


def write_checkpoint(name: str, style: str, folder: Path) -> Path:
    """The folder of a synthetic checkpoint, made if it isn't there."""
    path = folder / f"{name.removeprefix('clip/')}-{style}"
    if not path.exists() and name in FULL:
        synthetic.write(path, FULL[name], SEED, style)  # type: ignore[arg-type]
    elif not path.exists():
        path.mkdir(parents=True)
        for file, content in _small_files(name, style).items():
            (path / file).write_bytes(content)
    return path


@cache
def _small_files(name: str, style: str) -> Mapping[str, bytes]:
    """The files of a checkpoint that is small, made once a process: every run has a folder of its own for them."""
    with scratch_folder() as folder:
        made = synthetic.write(folder / "made", {**TINY, **WORDS}[name], SEED, style)  # type: ignore[arg-type]
        return {file.name: file.read_bytes() for file in made.iterdir()}


def question(
    id: str,
    claims: tuple[str, ...],
    verb: str,
    model: tuple[str, str] | None,
    inputs: Any,
    attributes: Mapping[str, Any],
    exact: Any,
    measure: Callable[[Case, Exact], Units] | None = None,
) -> Question:
    """`inputs`: the arrays, or a function that makes them."""
    level = id.partition("/")[0]

    def make(folder: Path) -> Case:
        checkpoint = None if model is None else write_checkpoint(*model, folder)
        return Case(id, level, verb, claims, inputs() if callable(inputs) else inputs, attributes, checkpoint)

    return Question(id, level, verb, claims, make, exact, "" if model is None else "-".join(model), measure)
