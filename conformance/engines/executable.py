"""A program in any language as an engine under test, run once for each case: `program VERB CASE_DIR OUT.safetensors`.

It reads `case.json` and `inputs.safetensors` in CASE_DIR, writes the outputs by name to OUT.safetensors, and exits with
0; with 3 for what it doesn't do. Every other exit code is a crash. examples/engine.py is such a program.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import threading
from pathlib import Path
from typing import IO

from clipref.errors import InputError
from clipref.files import scratch_folder

from ..protocol import Case, Outputs, Unsupported
from .below import find_below
from .failures import Crashed, Garbage, Hung, Killed
from .files import read_answer, write_case
from .processes import Program, ending

UNSUPPORTED = 3
# Characters, of the end of what a program prints, that are shown when it fails.
_LAST_WORDS = 160
# Seconds that reading it may take when the program has ended.
_GRACE = 1.0


class Executable:
    """A program, with its first arguments if there are any: "./engine", "python3 engine.py --fast"."""

    def __init__(self, command: str, time_limit: float) -> None:
        """Raises InputError if there is no such program."""
        try:
            words = shlex.split(command)
        except ValueError as problem:
            raise InputError(
                f"exec:{command} can't be taken apart into words: {problem}. Close the quotes."
            ) from problem
        found = shutil.which(words[0]) if words else None
        if found is None:
            raise InputError(f"exec:{command} can't be run: {_why_not(words[0] if words else '')}")
        self._command = [os.path.abspath(found), *words[1:]]
        self._time_limit = time_limit

    def answer(self, case: Case) -> Outputs:
        """What the program wrote. Raises Unsupported, Crashed, Hung or Garbage."""
        with scratch_folder() as scratch:
            folder = scratch / "case"
            folder.mkdir()
            out = scratch / "out.safetensors"
            write_case(folder, case, None if case.checkpoint is None else str(case.checkpoint.resolve()))
            code, words = self._run([*self._command, case.verb, str(folder), str(out)])
            if code == UNSUPPORTED:
                raise Unsupported(f"exit code {UNSUPPORTED}{words}")
            if code < 0:
                raise Killed(f"{ending(code)}{words}")
            if code > 0:
                raise Crashed(f"{ending(code)}{words}{self._hint}")
            if not os.path.lexists(out):
                raise Garbage(f"exit code 0, but nothing was written to OUT.safetensors{words}")
            return read_answer(out, case.verb)

    @property
    def _hint(self) -> str:
        """Where a file is that the command names, and that isn't here."""
        hint = find_below(self._command[1:])
        return f".{hint}" if hint else ""

    def _run(self, command: list[str]) -> tuple[int, str]:
        """The exit code, negative for a signal, as subprocess has it; and what was printed last."""
        program = Program(command, subprocess.DEVNULL, subprocess.PIPE, subprocess.STDOUT)
        printed = _Tail(program.stdout)
        try:
            code = program.wait(self._time_limit)
        finally:
            program.stop()
        words = printed.last_words()
        if code is None:
            raise Hung(f"stopped after {self._time_limit:g} s{words}")
        return code, words


class _Tail:
    """The end of what a program prints, read as it comes: a file of it would fill the disk, an unread pipe stop it."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self._pipe, self._kept, self._ended = pipe, b"", threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        with self._pipe:
            while not self._ended.is_set() and (part := os.read(self._pipe.fileno(), 2**16)):
                self._kept = (self._kept + part)[-_LAST_WORDS:]

    def last_words(self) -> str:
        """What was printed last. Waits for no more: a process that has left the group may hold the pipe open."""
        self._reader.join(_GRACE)
        self._ended.set()
        text = " ".join(self._kept.decode("utf-8", "replace").split())
        return f"; its last words: {text}" if text else ""


def _why_not(program: str) -> str:
    path = Path(program)
    if path.is_dir():
        return f"{program} is a folder; expected a program in it.{find_below([path.name])}"
    if not path.exists():
        return f"{program or 'nothing'} does not exist in {os.getcwd()} or on the PATH.{find_below([program])}"
    if not os.access(path, os.X_OK):
        return f"{program} may not be executed; make it so: chmod +x {program}"
    return f"{program} is not on the PATH; did you mean exec:./{program}?"
