"""Who computes what: a batch's items, a tower's blocks, or one operation's parts, shared out to Python's own threads.

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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from queue import SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

from clipref.lazy import once_a_process

from .library import Occupied, Place, helping

T = TypeVar("T")
Processors: TypeAlias = "ctypes.Array[ctypes.c_int]"

_PATIENCE = 300_000  # nanoseconds that a thread looks for the next operation: more than Python takes between two


class Task(Generic[T]):
    """work(*arguments), for whichever thread begins it first."""

    def __init__(self, work: Callable[..., T], *arguments: Any) -> None:
        self._work, self._arguments = work, arguments
        self._made: list[T] = []
        self._error: BaseException | None = None
        self._unbegun, self._undone = threading.Lock(), threading.Lock()
        self._undone.acquire()
        self.cancelled = False

    def run(self) -> None:
        """Do it unless another thread has begun it or it was cancelled, and let `wait` go on.

        Raises what isn't an Exception: Ctrl-C.
        """
        if not self._unbegun.acquire(blocking=False):
            return
        try:
            if not self.cancelled:
                self._made.append(self._work(*self._arguments))
        except BaseException as error:
            self._error = error
            if not isinstance(error, Exception):
                raise
        finally:
            self._undone.release()

    def wait(self) -> None:
        """Wait until it is done."""
        with self._undone:
            pass

    def result(self) -> T:
        """The value that it returned, once it is done; raises the error that it ended with."""
        if self._error is not None:
            raise self._error
        return self._made[0]


Tasks: TypeAlias = "SimpleQueue[Task[Any] | None]"


def serve(tasks: Tasks) -> None:
    """Tasks, one after another, until None comes."""
    while (task := tasks.get()) is not None:
        with suppress(BaseException):  # which whoever waits for the task is told
            task.run()
        del task  # and the arrays that it holds, while the next one is waited for


class Helpers:
    """Threads that compute parts of operations; `places` is what `share` of helping.c is given, `count` of them.

    `occupied` counts who computes on each processor, these threads and others.
    """

    def __init__(self, count: int, occupied: Processors) -> None:
        self.occupied = occupied
        self._each: list[tuple[Place, SimpleQueue[bool]]] = []
        for i in range(count):
            place, calls = Place(), SimpleQueue[bool]()
            if not start_thread(help_when_called, place, calls, occupied, name=f"native_helper_{i}"):
                break
            self._each.append((place, calls))
        self.count = len(self._each)
        self.places = (ctypes.c_void_p * self.count)(*(ctypes.addressof(place) for place, _ in self._each))

    def wake(self) -> int | None:
        """Call those that sleep. They may come too late for one operation, which waits for none of them.

        Returns the processor that this thread has been counted at, which those that were called leave to it, or None.
        """
        asleep = [calls for place, calls in self._each if not place.awake and calls.empty()]
        where = helping().enter(self.occupied) if asleep else None
        for calls in asleep:
            calls.put(True)
        return where

    def end(self) -> None:
        """Let the threads end."""
        for _, calls in self._each:
            calls.put(False)


def help_when_called(place: Place, calls: SimpleQueue[bool], occupied: Processors) -> None:
    """Help for a while whenever called, until the call is False."""
    help_at = helping().help
    while calls.get():
        help_at(ctypes.addressof(place), _PATIENCE, occupied)


class Busy(threading.local):
    """Whether a thread computes whole items."""

    items = False


class Sharing:
    """So many threads, the calling one among them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self._share = helping().share
        self._occupied = once_a_process(Occupied)
        this = weakref.ref(self)
        self._tasks = once_a_process(lambda: _start_servers(threads - 1, this()))
        occupied = self._occupied
        self._helpers = once_a_process(lambda: _start_helpers(threads - 1, occupied(), this()))
        self._busy = Busy()

    def parts(self, compute: int, job: ctypes.Structure, length: int) -> None:
        """Compute an operation's parts 0 to `length`, a range of them each thread; `compute` is where its function is.

        A thread that already computes its share of a batch does it all. Raises MemoryError.
        """
        count, places, occupied, where = 0, None, None, None
        try:
            if min(self.threads, length) > 1 and not self._busy.items:
                helpers = self._helpers()
                count, places, occupied = helpers.count, helpers.places, helpers.occupied
                where = helpers.wake()
            failed = self._share(places, count, compute, ctypes.addressof(job), length, occupied, where is not None)
        finally:  # also after Ctrl-C
            if where is not None:
                helping().vacate(occupied, where)
        if failed:
            raise MemoryError("There is no room for what an operation needs beside its result.")

    def items(self, work: Callable[..., T], parts: Iterable[tuple[Any, ...]]) -> list[T]:
        """The results of work(*part), each computed by one thread; all by the calling one if that is such a thread.

        The calling thread does what no other has begun. So it waits for nothing that still stands in a queue, behind
        items of somebody who may wait for this one.
        """
        if self._busy.items:
            return [work(*part) for part in parts]

        def compute(*part: Any) -> T:
            with nullcontext() if self._busy.items else self._computing(helping().occupy):
                return work(*part)

        tasks = [Task(compute, *part) for part in parts]
        try:
            with self._computing(helping().enter):
                for task in tasks[1:]:
                    self._tasks().put(task)
                for task in tasks:
                    task.run()
            for task in tasks:
                task.wait()
        except BaseException:  # Ctrl-C
            for task in tasks:
                task.cancelled = True
            raise
        return [task.result() for task in tasks]

    @contextmanager
    def _computing(self, come: Callable[[Processors], int]) -> Iterator[None]:
        """While a thread computes whole items: it shares no operation out, and is counted where `come` says it is."""
        occupied, where = self._occupied(), -1
        try:
            self._busy.items = True
            where = come(occupied)
            yield
        finally:
            helping().vacate(occupied, where)
            self._busy.items = False


def start_thread(work: Callable[..., None], *arguments: Any, name: str) -> bool:
    """Start a thread, which holds no process up that ends. False where the system lets a process have no more."""
    try:
        threading.Thread(target=work, args=arguments, name=name, daemon=True).start()
    except RuntimeError:
        return False
    return True


def _start_servers(count: int, owner: Sharing | None) -> Tasks:
    """The queue of so many threads, or as many as can be had, which end when their owner is gone."""
    tasks: Tasks = SimpleQueue()
    started = 0
    while started < count and start_thread(serve, tasks, name=f"native_{started}"):
        started += 1

    def end() -> None:
        for _ in range(started):
            tasks.put(None)

    _call_when_gone(owner, end)
    return tasks


def _start_helpers(count: int, occupied: Processors, owner: Sharing | None) -> Helpers:
    """So many helpers, or as many as can be had, which end when their owner is gone."""
    helpers = Helpers(count, occupied)
    _call_when_gone(owner, helpers.end)
    return helpers


def _call_when_gone(owner: Sharing | None, end: Callable[[], None]) -> None:
    if owner is not None:
        weakref.finalize(owner, end).atexit = False
