"""Items of all requests, gathered into batches for one engine, one batch at a time.

A batch is what waits when the engine becomes free. While it is free, and other items are on their way (being decoded),
it waits for them, `patience` seconds at most; a lone item never waits. Items that nobody waits for any more, because
their client is gone or their time is up, are dropped before they are computed. Where one item of a batch makes the
engine fail, the others are computed again by themselves, so that only its own request fails.

Everything here happens in the event loop, but `compute`, which has a thread of its own: that one alone uses the tower.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")
S = TypeVar("S")


class Observer(Protocol):
    """Who wants to know what a batcher does."""

    def batch(self, size: int, waited: Sequence[float], seconds: float) -> None:
        """So many items were computed together, after each had waited, in so many seconds."""

    def count_dropped(self, count: int) -> None:
        """So many items weren't computed, because nobody waited for them any more."""


class NoObserver:
    """Nobody."""

    def batch(self, size: int, waited: Sequence[float], seconds: float) -> None:
        """Nothing."""

    def count_dropped(self, count: int) -> None:
        """Nothing."""


@dataclass
class Job(Generic[T, R]):
    """One item, and who waits for its result."""

    item: T
    request: object
    result: asyncio.Future[R]
    since: float = field(default_factory=time.monotonic)


class Batcher(Generic[T, R]):
    """Computes items together. `compute` takes at most `largest` of them, and gives as many results, in order.

    `mixes`: whether items of different requests may be in one batch.
    """

    def __init__(
        self,
        name: str,
        compute: Callable[[list[T]], Sequence[R]],
        *,
        largest: int,
        patience: float = 0.005,
        mixes: bool = True,
        observer: Observer | None = None,
    ) -> None:
        self._compute = compute
        self._largest = largest
        self._patience = patience
        self._mixes = mixes
        self._observer: Observer = observer or NoObserver()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"clipref-{name}")
        self._waiting: deque[Job[T, R]] = deque()
        self._arriving = 0
        self._changed = asyncio.Event()
        self._loop: asyncio.Task[None] | None = None
        self._seconds_per_item = 0.0
        self._calls = 0
        self._last_used = time.monotonic()

    def start(self) -> None:
        """Begin to take batches; in the event loop."""
        self._loop = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """End. Whoever still waits gets CancelledError."""
        if self._loop is not None:
            self._loop.cancel()
            with suppress(asyncio.CancelledError):
                await self._loop
        for job in self._waiting:
            job.result.cancel()
        self._thread.shutdown(wait=False)

    @property
    def waiting(self) -> int:
        """Items in the queue."""
        return len(self._waiting)

    @property
    def idle_seconds(self) -> float:
        """How long nothing has waited or been computed; 0 while something does or is."""
        return 0.0 if self._calls or self._waiting else time.monotonic() - self._last_used

    @property
    def seconds_ahead(self) -> int:
        """About how long the queue takes, in whole seconds, at least 1."""
        return max(1, math.ceil(len(self._waiting) * self._seconds_per_item))

    @contextmanager
    def arriving(self) -> Iterator[None]:
        """While in here, something is on its way to the queue, which a batch may wait for."""
        self._arriving += 1
        try:
            yield
        finally:
            self._arriving -= 1
            self._changed.set()

    async def results(self, items: Sequence[T]) -> list[R]:
        """The results of one request's items, in order. Who stops waiting for them leaves no work behind."""
        loop = asyncio.get_running_loop()
        request = object()
        jobs = [Job[T, R](item, request, loop.create_future()) for item in items]
        self._waiting.extend(jobs)
        self._changed.set()
        try:
            return list(await asyncio.gather(*(job.result for job in jobs)))
        finally:
            for job in jobs:
                job.result.cancel()  # nothing, if it is there

    async def call(self, function: Callable[[], S]) -> S:
        """The result of a function that is called between two batches, in the thread that computes."""
        self._calls += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, function)
        finally:
            self._calls -= 1
            self._last_used = time.monotonic()

    async def _run(self) -> None:
        while True:
            await self._gather()
            if batch := self._next_batch():
                await self._answer(batch)

    async def _gather(self) -> None:
        """Until there is an item, and others that are on their way have arrived, or are too late."""
        while not self._waiting:
            self._changed.clear()
            await self._changed.wait()
        until = time.monotonic() + self._patience
        while self._arriving and len(self._waiting) < self._largest and (left := until - time.monotonic()) > 0:
            self._changed.clear()
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    def _next_batch(self) -> list[Job[T, R]]:
        batch: list[Job[T, R]] = []
        dropped = 0
        while self._waiting and len(batch) < self._largest:
            if self._waiting[0].result.done():
                self._waiting.popleft()
                dropped += 1
                continue
            if batch and not self._mixes and self._waiting[0].request is not batch[0].request:
                break
            batch.append(self._waiting.popleft())
        if dropped:
            self._observer.count_dropped(dropped)
        return batch

    async def _answer(self, batch: list[Job[T, R]]) -> None:
        start = time.monotonic()
        try:
            results = await self.call(lambda: self._compute([job.item for job in batch]))
        except asyncio.CancelledError:  # the end
            for job in batch:
                job.result.cancel()
            raise
        except Exception as error:
            if len(batch) > 1:
                for job in batch:
                    if not job.result.done():
                        await self._answer([job])
            elif not batch[0].result.done():
                batch[0].result.set_exception(error)
            return
        seconds = time.monotonic() - start
        self._seconds_per_item = seconds / len(batch)
        self._observer.batch(len(batch), [start - job.since for job in batch], seconds)
        for job, result in zip(batch, results, strict=True):
            if not job.result.done():
                job.result.set_result(result)
