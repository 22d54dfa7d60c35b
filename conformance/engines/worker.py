"""An engine in Python in a process of its own, which stays from question to question.

Where it runs in circles it can be stopped, whatever it is written in below Python; where it crashes, only its own
process ends. Questions and answers are the files of files.py: over pipes goes only where these lie, and what was
raised.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipref.errors import InputError
from clipref.files import parse_json, scratch_folder

from ..asking import CheckpointChanged, Misbehaved, ask, words
from ..protocol import Case, EngineUnderTest, Outputs, Unsupported
from .failures import Crashed, Exited, Garbage, Hung, Killed, Raised
from .files import read_answer, read_case, write_arrays, write_case
from .processes import Program, ending

# Seconds that opening an engine may take, if an answer may not take longer: importing a library, compiling.
_TO_OPEN = 120.0
# Bytes of a reply.
_LARGEST_REPLY = 2**16
_KINDS = {kind.__name__: kind for kind in (Unsupported, Misbehaved, CheckpointChanged, Crashed, Killed, Hung, Garbage)}


class Isolated:
    """The engine of a name, in a process that is started again when it had to be stopped."""

    def __init__(self, spec: str, time_limit: float, command: Sequence[str] = ()) -> None:
        """`command`: what the process runs; by default, this file's main under this Python.

        Raises InputError if there is no such engine, or if it doesn't open.
        """
        self._spec, self._time_limit, self._command = spec, time_limit, [*command]
        self._worker: _Worker | None = None
        try:
            self._worker = self._start()
        except Hung as problem:
            raise InputError(f"The engine {spec} doesn't open: {problem}.") from problem
        except Crashed as problem:
            raise InputError(f"The engine {spec} ends its process when it is opened: {problem}.") from problem

    def _start(self) -> _Worker:
        return _Worker(self._spec, max(_TO_OPEN, self._time_limit), self._command)

    def answer(self, case: Case) -> Outputs:
        """What the engine gave. Raises what it raised, Hung, Crashed or Killed."""
        if self._worker is None:
            self._worker = self._start()
        try:
            with scratch_folder() as scratch:
                return self._worker.answer(case, scratch, self._time_limit)
        finally:
            if not self._worker.waits:
                self._worker.stop()
                self._worker = None


class _Worker:
    """One process, and whether it waits for a question."""

    def __init__(self, spec: str, time_limit: float, command: list[str]) -> None:
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import main; main()"
        self._program = Program(command or [sys.executable, "-c", code], subprocess.PIPE, subprocess.PIPE, None)
        self.stop = weakref.finalize(self, _stop, self._program)
        self.waits = False
        try:
            reply = self._exchange({"spec": spec}, time_limit)
        except BaseException:
            self.stop()
            raise
        if "InputError" in reply:
            self.stop()
            raise InputError(reply["InputError"])

    def answer(self, case: Case, scratch: Path, time_limit: float) -> Outputs:
        checkpoint = None if case.checkpoint is None else str(case.checkpoint.resolve())
        out = scratch / "out.safetensors"
        write_case(scratch, case, checkpoint)
        reply = self._exchange({"case": str(scratch), "out": str(out)}, time_limit)
        if not reply:
            return read_answer(out, case.verb)
        name, said = reply["raised"], reply["words"]
        if name in _KINDS:
            raise _KINDS[name](said)
        raise (Exited if reply["ended"] else Raised)(name, said)

    def _exchange(self, request: dict[str, Any], time_limit: float) -> dict[str, Any]:
        """The reply to a request. Raises Hung, or Crashed or Killed if the process has ended."""
        self.waits = False
        deadline = time.monotonic() + time_limit
        try:
            self._program.stdin.write(json.dumps(request).encode("utf-8") + b"\n")
            self._program.stdin.flush()
        except OSError:  # it has ended
            raise self._ending() from None
        line = b""
        while not line.endswith(b"\n"):
            ready, _, _ = select.select([self._program.stdout], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise Hung(f"stopped after {time_limit:g} s")
            part = os.read(self._program.stdout.fileno(), _LARGEST_REPLY)
            if not part or len(line) > _LARGEST_REPLY:
                raise self._ending()
            line += part
        try:
            reply = parse_json(line)
            if not isinstance(reply, dict):
                raise ValueError(f"a {type(reply).__name__}")
        except ValueError as problem:
            raise Crashed("wrote what is no reply to its pipe to the suite") from problem
        self.waits = True
        return reply

    def _ending(self) -> Crashed:
        code = self._program.wait(1.0)
        if code is None:
            return Crashed("closed its pipe to the suite")
        return (Killed if code < 0 else Crashed)(ending(code))


def _stop(program: Program) -> None:
    program.stop()
    program.stdout.close()


def main() -> None:
    """What the process of an engine does: open it, then answer until nobody asks any more."""
    requests, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    os.dup2(2, 1)  # what an engine prints is for people

    def reply(said: dict[str, Any]) -> None:
        sys.stdout.flush()
        replies.write(json.dumps(said).encode("utf-8") + b"\n")
        replies.flush()

    opening = json.loads(requests.readline())
    try:
        engine = _open(opening["spec"])
    except InputError as problem:
        reply({"InputError": str(problem)})
        return
    reply({})
    for line in requests:
        request = json.loads(line)
        reply(_answer(engine, Path(request["case"]), Path(request["out"])))


def _open(spec: str) -> EngineUnderTest:
    from . import open_here

    return open_here(spec)


def _answer(engine: EngineUnderTest, folder: Path, out: Path) -> dict[str, Any]:
    """Writes an answer to `out`; what there is to say where there is none."""
    answer = ask(engine, read_case(folder))
    if not isinstance(answer, BaseException):
        try:
            write_arrays(out, answer)
            return {}
        except Exception as problem:  # a dtype that no file has
            answer = Garbage(f"what it gave can't be written to a file: {words(problem)}")
    return {
        "raised": type(answer).__name__, "words": words(answer), "ended": not isinstance(answer, Exception)
    }  # fmt: skip
