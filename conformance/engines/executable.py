"""A program in any language as an engine under test, run once for each case: `program VERB CASE_DIR OUT.safetensors`.

It reads `case.json` and `inputs.safetensors` in CASE_DIR, writes the outputs by name to OUT.safetensors, and exits with
0; with 3 for what it doesn't do. Every other exit code is a crash. examples/engine.py is such a program.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import IO

from clipref.errors import InputError

from ..case import Case, Outputs, Unsupported
from ..exchange import read_answer, write_case
from .failures import Crashed, Garbage, Hung

UNSUPPORTED = 3
# Of what a program prints, how much of the end is shown when it fails.
_LAST_WORDS = 160


class Executable:
    """A program, with its first arguments if there are any: "./engine", "python3 engine.py --fast"."""

    def __init__(self, command: str, time_limit: float) -> None:
        """Raises InputError if there is no such program."""
        words = shlex.split(command)
        found = shutil.which(words[0]) if words else None
        if found is None:
            raise InputError(f"{command!r} can't be run: expected the path of a program that may be executed.")
        self._command = [os.path.abspath(found), *words[1:]]
        self._time_limit = time_limit

    def answer(self, case: Case) -> Outputs:
        """What the program wrote. Raises Unsupported, Crashed, Hung or Garbage."""
        with tempfile.TemporaryDirectory(prefix="conformance-") as scratch, tempfile.TemporaryFile() as printed:
            folder = Path(scratch, "case")
            folder.mkdir()
            out = Path(scratch, "out.safetensors")
            write_case(folder, case, None if case.checkpoint is None else str(case.checkpoint.resolve()))
            code = self._run([*self._command, case.verb, str(folder), str(out)], printed)
            if code == UNSUPPORTED:
                raise Unsupported("exit code 3")
            if code != 0:
                raise Crashed(f"{_named(code)}{_last_words(printed)}")
            if not out.is_file():
                raise Garbage(f"exit code 0, but nothing was written to OUT.safetensors{_last_words(printed)}")
            return read_answer(out)

    def _run(self, command: list[str], printed: IO[bytes]) -> int:
        """The exit code; negative for a signal, as subprocess has it."""
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=printed, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            return process.wait(self._time_limit)
        except subprocess.TimeoutExpired:
            raise Hung(f"stopped after {self._time_limit:g} s{_last_words(printed)}") from None
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Stop a program and whatever it has started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(
            ProcessLookupError, PermissionError
        ):  # all of them have ended (macOS: or are about to)
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def _named(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"


def _last_words(printed: IO[bytes]) -> str:
    size = printed.seek(0, os.SEEK_END)
    printed.seek(max(0, size - _LAST_WORDS))
    text = " ".join(printed.read().decode("utf-8", "replace").split())
    return f"; its last words: {text}" if text else ""
