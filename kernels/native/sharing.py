"""Who computes what: a batch's items, or one operation's outputs, shared out to threads of Python's own.

The C functions hold no lock and start no thread, and ctypes lets other Python threads run meanwhile. So a forked child
finds nothing that its parent left behind, and makes threads of its own.

A picture by itself is some sixty operations that are shared out, in some twenty milliseconds. Sharing one out takes 12
microseconds of a processor; by an executor of `concurrent.futures` it takes 23.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from clipref.lazy import once_a_process

T = TypeVar("T")


class Task(Generic[T]):
    """work(*arguments), for another thread to do."""

    def __init__(self, work: Callable[..., T], *arguments: Any) -> None:
        self._work, self._arguments = work, arguments
        self._made: list[T] = []
        self._error: BaseException | None = None
        self._undone = threading.Lock()
        self._undone.acquire()

    def run(self) -> None:
        """Do it, and let `wait` go on."""
        try:
            self._made.append(self._work(*self._arguments))
        except BaseException as error:
            self._error = error
        self._undone.release()

    def wait(self) -> None:
        """Wait until it is done."""
        with self._undone:
            pass

    def result(self) -> T:
        """What it returned, or raises what it raised, when it is done."""
        if self._error is not None:
            raise self._error
        return self._made[0]


Tasks: TypeAlias = "SimpleQueue[Task[Any] | None]"


def serve(tasks: Tasks) -> None:
    """Tasks, one after another, until None comes."""
    while (task := tasks.get()) is not None:
        task.run()
        del task  # and the arrays that it holds, while the next one is waited for


class Sharing:
    """So many threads, the calling one among them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        this = weakref.ref(self)
        self._tasks = once_a_process(lambda: _started(threads, this()))
        self._busy = threading.local()

    def ranges(self, work: Callable[[int, int], Any], length: int) -> None:
        """Call work(begin, end) for ranges that together are 0 to `length`, a thread each.

        A thread that already computes its share of a batch does it all.
        """
        parts = min(self.threads, length)
        if parts <= 1 or getattr(self._busy, "items", False):
            work(0, length)
            return
        bounds = [length * i // parts for i in range(parts + 1)]
        others = [Task(work, *bounds[i : i + 2]) for i in range(1, parts)]
        for other in others:
            self._tasks().put(other)
        mine = Task(work, 0, bounds[1])
        mine.run()
        _results([mine, *others])

    def items(self, work: Callable[..., T], parts: Iterable[tuple[Any, ...]]) -> list[T]:
        """The results of work(*part), each computed by one thread."""

        def alone(*part: Any) -> T:
            self._busy.items = True
            try:
                return work(*part)
            finally:
                self._busy.items = False

        tasks = [Task(alone, *part) for part in parts]
        for task in tasks:
            self._tasks().put(task)
        return _results(tasks)


def _results(tasks: list[Task[T]]) -> list[T]:
    """Of all tasks, when all are done; raises what the first that failed raised."""
    for task in tasks:
        task.wait()
    return [task.result() for task in tasks]


def _started(threads: int, owner: Sharing | None) -> Tasks:
    """The queue of so many threads, which end when their owner is gone. They hold no process up that ends."""
    tasks: Tasks = SimpleQueue()
    for i in range(threads):
        threading.Thread(target=serve, args=(tasks,), name=f"native_{i}", daemon=True).start()

    def end() -> None:
        for _ in range(threads):
            tasks.put(None)

    if owner is not None:
        weakref.finalize(owner, end).atexit = False
    return tasks
