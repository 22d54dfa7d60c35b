"""Who computes what: a batch's items, or one operation's parts, shared out to threads of Python's own.

The kernels hold no lock and start no thread, and ctypes lets other Python threads run meanwhile. So a forked child
finds nothing that its parent left behind, and makes threads of its own.

An image by itself is some sixty operations, shared out one after another within ten or twenty milliseconds. To wake a
thread for each, and to hand Python's lock to it, would take as long as the half of an operation that is won. So threads
that help stay in C between operations (helping.c), and sleep when none comes for a while.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Iterable
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from clipref.lazy import once_a_process

from .library import Place, helping

T = TypeVar("T")

_PATIENCE = 300_000  # nanoseconds that a thread looks for the next operation: more than Python takes between two


class Task(Generic[T]):
    """work(*arguments), for another thread to do."""

    def __init__(self, work: Callable[..., T], *arguments: Any) -> None:
        self._work, self._arguments = work, arguments
        self._made: list[T] = []
        self._error: BaseException | None = None
        self._undone = threading.Lock()
        self._undone.acquire()

    def run(self) -> None:
        """Do it, and let `result` go on."""
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


class Helpers:
    """Threads that compute parts of operations; `places` is what `share` of helping.c is given."""

    def __init__(self, count: int) -> None:
        self._each = [Place() for _ in range(count)]
        self.places = (ctypes.c_void_p * count)(*map(ctypes.addressof, self._each))
        self.queues = [SimpleQueue[bool]() for _ in range(count)]
        for i, (place, calls) in enumerate(zip(self._each, self.queues, strict=True)):
            start(lend, place, calls, name=f"native_helper_{i}")

    def wake(self) -> None:
        """Call those that sleep. They may come too late for one operation, which waits for none of them."""
        for place, calls in zip(self._each, self.queues, strict=True):
            if not place.awake and calls.empty():
                calls.put(True)


def lend(place: Place, calls: SimpleQueue[bool]) -> None:
    """Help for a while whenever called, until the call is False."""
    help_at = helping()[1]
    while calls.get():
        help_at(ctypes.addressof(place), _PATIENCE)


class Sharing:
    """So many threads, the calling one among them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        this = weakref.ref(self)
        self._tasks = once_a_process(lambda: _started(threads, this()))
        self._helpers = once_a_process(lambda: _helpers(threads - 1, this()))
        self._busy = threading.local()

    def parts(self, compute: int, job: ctypes.Structure, length: int) -> None:
        """Compute an operation's parts 0 to `length`, a range of them each thread; `compute` is where its function is.

        A thread that already computes its share of a batch does it all. Raises MemoryError.
        """
        share, count, places = helping()[0], 0, None
        if min(self.threads, length) > 1 and not getattr(self._busy, "items", False):
            helpers = self._helpers()
            helpers.wake()
            count, places = self.threads - 1, helpers.places
        if share(places, count, compute, ctypes.addressof(job), length):
            raise MemoryError("There is no room for what an operation needs beside its result.")

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
        for task in tasks:
            task.wait()
        return [task.result() for task in tasks]


def start(work: Callable[..., None], *arguments: Any, name: str) -> None:
    """Start a thread, which holds no process up that ends."""
    threading.Thread(target=work, args=arguments, name=name, daemon=True).start()


def _started(threads: int, owner: Sharing | None) -> Tasks:
    """The queue of so many threads, which end when their owner is gone."""
    tasks: Tasks = SimpleQueue()
    for i in range(threads):
        start(serve, tasks, name=f"native_{i}")

    def end() -> None:
        for _ in range(threads):
            tasks.put(None)

    _at_end_of(owner, end)
    return tasks


def _helpers(count: int, owner: Sharing | None) -> Helpers:
    """So many helpers, which end when their owner is gone."""
    helpers = Helpers(count)
    queues = helpers.queues

    def end() -> None:
        for calls in queues:
            calls.put(False)

    _at_end_of(owner, end)
    return helpers


def _at_end_of(owner: Sharing | None, end: Callable[[], None]) -> None:
    if owner is not None:
        weakref.finalize(owner, end).atexit = False
