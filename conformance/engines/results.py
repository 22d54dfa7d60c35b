"""A folder that `export` wrote, and somebody has put answers into, as an engine under test."""

from __future__ import annotations

from pathlib import Path

from clipref.errors import InputError

from ..case import Case, Outputs, Unsupported
from ..exchange import ANSWER, digest, exported, folder_name, read_answer, recorded_digest
from .failures import Garbage


class Results:
    """The answers in a folder. A case without one is skipped."""

    def __init__(self, folder: str) -> None:
        """Raises InputError if there is no answer at all in the folder, or no case."""
        self._root = Path(folder)
        exported(self._root)
        if next(self._root.glob(f"cases/**/{ANSWER}"), None) is None:
            raise InputError(f"{folder} has no answers; expected {ANSWER} beside the case.json of each case answered.")

    def answer(self, case: Case) -> Outputs:
        """What lies beside the case. Raises Unsupported, or Garbage."""
        folder = self._root / folder_name(case)
        recorded = recorded_digest(folder)
        if recorded is None:
            raise Unsupported("was not exported")
        if not (folder / ANSWER).is_file():
            raise Unsupported(f"has no {ANSWER}")
        if recorded != digest(case.inputs):
            raise Garbage("the folder was exported with other inputs; export it again, and answer it anew")
        return read_answer(folder / ANSWER)
