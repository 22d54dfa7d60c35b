"""An engine that is given its checkpoints in the layout of another library, as that library's own reader wants them."""

from __future__ import annotations

import dataclasses
import shutil
import weakref
from contextlib import ExitStack
from pathlib import Path

from clipref.errors import ConfigError
from clipref.files import scratch_folder
from clipref.weights_tools.convert import convert

from ..asking import CheckpointChanged, checkpoint_state
from ..protocol import Case, EngineUnderTest, Outputs, Unsupported


class LaidOut:
    """An engine whose checkpoints are converted first; one is kept at a time, because some have gigabytes."""

    def __init__(self, engine: EngineUnderTest, layout: str) -> None:
        """`layout`: "transformers" or "open_clip", of weights_tools/targets.py."""
        self._engine, self._layout = engine, layout
        stack = ExitStack()
        self._scratch = stack.enter_context(scratch_folder())
        weakref.finalize(self, stack.close)
        self._kept: tuple[Path, Path] | None = None  # the checkpoint, and what was made of it

    def answer(self, case: Case) -> Outputs:
        """The engine's answer, of the converted checkpoint. Raises Unsupported for what the layout can't express."""
        if case.checkpoint is None:
            return self._engine.answer(case)
        folder = self._convert(case.checkpoint)
        before = checkpoint_state(folder)
        try:
            return self._engine.answer(dataclasses.replace(case, checkpoint=folder))
        finally:
            if checkpoint_state(folder) != before:
                self._kept = None
                shutil.rmtree(folder)
                raise CheckpointChanged("changed the files of the checkpoint")

    def _convert(self, checkpoint: Path) -> Path:
        if self._kept is None or self._kept[0] != checkpoint:
            if self._kept is not None:
                shutil.rmtree(self._kept[1])
                self._kept = None
            try:
                self._kept = checkpoint, convert(checkpoint, self._scratch / checkpoint.name, to=self._layout)
            except ConfigError as problem:
                raise Unsupported(str(problem)) from problem
        return self._kept[1]
