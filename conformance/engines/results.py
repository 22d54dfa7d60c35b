"""A folder that `export` wrote, and somebody has put answers into, as an engine under test."""

from __future__ import annotations

import json
import os
from pathlib import Path

from clipref.errors import InputError
from clipref.files import parse_json, read_bytes
from clipref.weights_tools.sources import sha256

from ..exchange import ANSWER, CHECKPOINT_FILES, folder_name, read_export
from ..protocol import Case, Outputs, Unsupported
from .failures import Garbage
from .files import description, read_answer

_LARGEST_CASE = 2**20  # bytes of a case.json: those there are have less than a hundredth of it


class Results:
    """The answers in a folder. A case without one is skipped; one whose question is gone, or another by now, fails."""

    def __init__(self, folder: str) -> None:
        """Raises InputError if there is no answer at all in the folder, or no case."""
        self._root = Path(folder).absolute()
        self._exported = read_export(self._root)
        self._checked: set[str] = set()
        if next(self._root.glob(f"cases/**/{ANSWER}"), None) is None:
            raise InputError(f"{folder} has no answers; expected {ANSWER} beside the case.json of each case answered.")

    def answer(self, case: Case) -> Outputs:
        """What lies beside the case. Raises Unsupported, or Garbage."""
        if case.id not in self._exported.cases:
            raise Unsupported("was not exported")
        folder = folder_name(case)
        self._refuse_changed(f"{folder}/inputs.safetensors")
        path = self._refuse_changed(f"{folder}/case.json")
        try:
            written = dict(parse_json(read_bytes(path, _LARGEST_CASE)))
        except (OSError, ValueError, TypeError) as problem:
            raise Garbage(f"{folder}/case.json is not as it was exported: {problem}") from problem
        # Descriptions are compared as they are read back: JSON has no tuples.
        if any(written.get(key) != value for key, value in json.loads(json.dumps(description(case))).items()):
            raise Garbage("the folder was exported with other inputs; export it again, and answer it anew")
        if case.checkpoint is not None:
            self._refuse_other_checkpoint(case.checkpoint)
        answer = self._root / folder / ANSWER
        if not os.path.lexists(answer):
            raise Unsupported(f"has no {ANSWER}")
        return read_answer(answer, case.verb)

    def _refuse_other_checkpoint(self, checkpoint: Path) -> None:
        """Raise Garbage if a checkpoint of the folder isn't the one that the right answer is of."""
        for name in CHECKPOINT_FILES:
            file = f"checkpoints/{checkpoint.name}/{name}"
            if file not in self._checked and (checkpoint / name).is_file():
                self._refuse_changed(file)
                if self._exported.files[file] != sha256(checkpoint / name):
                    raise Garbage(f"the folder was exported with another {file}; export it again, and answer it anew")
                self._checked.add(file)

    def _refuse_changed(self, name: str) -> Path:
        """A file of the folder. Raises Garbage if it isn't as it was exported."""
        path = self._root / name
        found = sha256(path) if path.is_file() else None
        if found is None or found != self._exported.files.get(name):
            state = "missing" if found is None else "not as it was exported"
            raise Garbage(f"{name} is {state}; bring the original back, or export the cases again and answer them anew")
        return path
