"""Processes that engines run in: each is ended with all that it has started, whatever sessions that is in."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from .failures import Crashed

_SUPERVISOR = Path(__file__).with_name("supervisor.py")
# Seconds that the supervisor may take to kill what it watches, before it is killed itself.
_PATIENCE = 10.0


class Program:
    """A running program, started under supervisor.py where the system is a Unix; elsewhere alone."""

    def __init__(self, command: list[str], stdin: int, stdout: int, stderr: int | None) -> None:
        """`command` begins with a path. The last three are as in subprocess.Popen."""
        self._life = self._status = -1
        if os.name != "posix":
            self._process = subprocess.Popen(command, stdin=stdin, stdout=stdout, stderr=stderr)
            return
        life, self._life = os.pipe()
        self._status, status = os.pipe()
        supervised = [sys.executable, "-I", "-S", str(_SUPERVISOR), str(life), str(status), *command]
        try:
            self._process = subprocess.Popen(
                supervised, stdin=stdin, stdout=stdout, stderr=stderr, pass_fds=(life, status), start_new_session=True
            )
        except BaseException:
            self._close()
            raise
        finally:
            os.close(life)
            os.close(status)

    @property
    def stdin(self) -> IO[bytes]:
        """The pipe to its standard input."""
        assert self._process.stdin is not None
        return self._process.stdin

    @property
    def stdout(self) -> IO[bytes]:
        """The pipe from its standard output."""
        assert self._process.stdout is not None
        return self._process.stdout

    def wait(self, seconds: float) -> int | None:
        """The exit code, negative for a signal, as subprocess has it; None if it is still running then.

        Raises Crashed if the program can't be started.
        """
        try:
            code = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        if self._status < 0:
            return code
        told = os.read(self._status, 2**12).decode("utf-8", "replace")
        self._close()
        try:
            return int(told)
        except ValueError:
            raise Crashed(told or f"the process that watches it ended with code {code}") from None

    def stop(self) -> None:
        """Kill it and everything that it has started, if it is running."""
        if self._life >= 0:
            os.close(self._life)
            self._life = -1
        else:
            self._process.kill()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._close()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # what was to be written reaches nobody
                self._process.stdin.close()

    def _close(self) -> None:
        for descriptor in (self._life, self._status):
            if descriptor >= 0:
                os.close(descriptor)
        self._life = self._status = -1


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"ended by signal {-code}"
