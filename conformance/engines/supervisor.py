"""Runs one program, and ends together with everything that the program has started: a script of its own.

    python -I -S supervisor.py LIFE STATUS PROGRAM ARGUMENT...

LIFE and STATUS are numbers of pipes. When the program ends, or when the other end of LIFE is closed, every descendant
of the program is killed, also one that has left its session: on Linux, orphans become children of this process. Then
the program's exit code (negative for a signal, as in subprocess) is written to STATUS, or why it couldn't be started.
It imports no more than it needs, because it is started for every question.
"""

import contextlib
import os
import select
import signal
import sys
import time

_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER, linux/prctl.h
# Seconds. What can't be killed, because it is of another user or hangs in a driver, is left alone then.
_PATIENCE = 5.0


def adopt_orphans() -> None:
    """Make descendants whose parent has ended children of this process; where there is no prctl, nothing changes."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


def descendants() -> list[int]:
    """The process ids of all that this process has started, directly or not; only Linux says."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc") if sys.platform == "linux" else ():
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parents[int(name)] = int(file.read().rpartition(b")")[2].split()[1])  # the name may have spaces
            except (OSError, IndexError):  # it has ended meanwhile
                continue
    found: list[int] = []
    above = {os.getpid()}
    while above:
        above = {child for child, parent in parents.items() if parent in above}
        found += above
    return found


def kill(pid: int, group: bool = False) -> None:
    """Send SIGKILL to a process or to a group of processes; one that has ended is no error."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        (os.killpg if group else os.kill)(pid, signal.SIGKILL)


def kill_all(group: int) -> None:
    """Kill every descendant, and whatever is in the program's group, until no child is left."""
    deadline = time.monotonic() + _PATIENCE
    kill(group, group=True)
    while time.monotonic() < deadline:
        try:
            ended, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not ended:
            for pid in descendants():
                kill(pid)
            time.sleep(0.002)


def wait(program: int, life: int, signalled: int) -> str:
    """The exit code of the program, once it has ended; nothing if LIFE was closed before."""
    while True:
        ready, _, _ = select.select([signalled, life], [], [])
        if life in ready:
            return ""
        os.read(signalled, 512)
        try:
            while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
                if ended[0] == program:
                    return str(os.waitstatus_to_exitcode(ended[1]))
        except ChildProcessError:
            return ""


def main(life: int, status: int, command: list[str]) -> None:
    """Start the program, wait for it, and leave nothing of it behind."""
    os.set_inheritable(life, False)
    os.set_inheritable(status, False)
    adopt_orphans()
    signalled, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda number, frame: None)
    default = [signal.SIGPIPE, signal.SIGXFSZ]  # which Python ignores, and other programs don't expect ignored
    try:
        program = os.posix_spawn(command[0], command, os.environ, setpgroup=0, setsigdef=default)
    except OSError as problem:
        os.write(status, str(problem).encode("utf-8", "replace"))
        return
    code = wait(program, life, signalled)
    kill_all(program)
    os.write(status, code.encode("ascii"))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
