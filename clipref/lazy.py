"""What is made when it is first needed, whichever thread comes first, also where a process forks meanwhile.

A forked child has one thread, and a copy of every lock as it was: a lock that another thread held stays held for ever.
Locks that are made here belong to one process, so a child begins with free ones, and makes again what was half made.
What a model needs is imported when it is opened (loading.import_libraries), so that a child of whoever has one open
imports nothing. Not promised to a child: modules that a thread of the user's own was importing before any model had
them, and progress bars while a thread of the parent showed one, because tqdm has locks of its own.
The threads that a process may use are counted here too.
"""

from __future__ import annotations

import concurrent.futures.thread  # imported before the hooks below are set, see there
import logging
import os
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# How many forks lie between this process and the first one: no ancestor has the same number.
_generation = 0


class NoFork:
    """`with no_fork:`, which any number of threads may be in at once; a fork waits until no other thread is.

    For imports and for native code that has locks of its own: Python's lock of a half-imported module and those of a
    matrix library would stay held in the child. Not for what may take for ever, such as reading from a network.
    """

    def __init__(self) -> None:
        self._inside: dict[int, int] = {}  # how often each thread has entered
        self._changed = threading.Condition()
        self._forks = 0  # that wait, or are under way; threads that come after them wait

    def __enter__(self) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._changed.wait_for(lambda: not self._forks or thread in self._inside)
            self._inside[thread] = self._inside.get(thread, 0) + 1

    def __exit__(self, *_: object) -> None:
        thread = threading.get_ident()
        with self._changed:
            self._inside[thread] -= 1
            if not self._inside[thread]:
                del self._inside[thread]
                self._changed.notify_all()

    def before_fork(self) -> None:
        """Wait for the other threads, and keep the lock until the fork is done."""
        self._changed.acquire()
        self._forks += 1
        self._changed.wait_for(lambda: not self._inside.keys() - {threading.get_ident()})

    def after_fork_in_parent(self) -> None:
        """Let the threads go on."""
        self._forks -= 1
        self._changed.notify_all()
        self._changed.release()

    def after_fork_in_child(self) -> None:
        """Forget the threads that wait, which aren't there."""
        global _generation
        _generation += 1
        self._changed, self._forks = threading.Condition(), 0


no_fork = NoFork()

# Hooks before a fork run in the reverse order of their registration, and those of logging and of thread pools take
# locks. A thread inside of `no_fork` may want these locks, as modules do that ask for a logger when they are imported,
# so a fork has to wait for that thread first: the modules' own hooks must be there before.
assert logging and concurrent.futures.thread
if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(
        before=no_fork.before_fork,
        after_in_parent=no_fork.after_fork_in_parent,
        after_in_child=no_fork.after_fork_in_child,
    )


def once(make: Callable[[], T]) -> Callable[[], T]:
    """A function that calls `make` the first time and remembers its result, also when threads race for it.

    A forked child shares what was made before the fork. If `make` raises, the next call tries again.
    """
    made: list[T] = []
    locks: dict[int, threading.Lock] = {}

    def get() -> T:
        if not made:
            with locks.setdefault(_generation, threading.Lock()):  # one step for all threads
                if not made:
                    made.append(make())
        return made[0]

    return get


def once_a_process(make: Callable[[], T]) -> Callable[[], T]:
    """Like `once`, but a forked child makes its own: a pool or a session, whose threads a fork leaves behind.

    `lock = once_a_process(threading.Lock)`, used as `with lock():`, is a lock that a child finds free.
    """
    made: dict[int, Callable[[], T]] = {}

    def get() -> T:
        return (made.get(_generation) or made.setdefault(_generation, once(make)))()

    return get


CGROUP_QUOTA = "/sys/fs/cgroup/cpu.max"  # https://docs.kernel.org/admin-guide/cgroup-v2.html, "cpu.max"
# More threads than any machine has processors for are a slip, and would end the process.
MAX_THREADS = 1024


def available_threads() -> int:
    """Threads that this process may use: its processors (affinity), less what the container's quota withholds, and at
    most OMP_NUM_THREADS, with which users of numpy and torch share a machine out.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        with open(CGROUP_QUOTA, encoding="ascii") as file:
            quota, period = file.read().split()
        if quota != "max":
            count = min(count, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no control group, or one without a quota
    # OpenMP 5.2, 21.1.2: a list has a number for each level of nested regions; the first is the outermost.
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    if wanted.isascii() and wanted.isdigit():
        count = min(count, int(wanted[:9]) or count)  # 0 is no number of threads
    return max(1, min(count, MAX_THREADS))
