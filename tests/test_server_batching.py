"""Batching across requests: what is gathered, what is dropped, what a bad item spoils. With an engine of numbers."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from clipref.server.batching import Batcher


class Engine:
    """Doubles numbers, when it is let; refuses -1."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.free = threading.Event()
        self.free.set()

    def __call__(self, items: list[int]) -> list[int]:
        self.batches.append(items)
        assert self.free.wait(10)
        if -1 in items:
            raise ValueError("-1")
        return [2 * item for item in items]


class Observer:
    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.lost = 0

    def batch(self, size: int, waited: Sequence[float], seconds: float) -> None:
        assert len(waited) == size and min(*waited, seconds) >= 0
        self.sizes.append(size)

    def count_dropped(self, count: int) -> None:
        self.lost += count


def run(scenario: Callable[[Batcher[int, int], Engine, Observer], Awaitable[Any]], **options: Any) -> None:
    async def main() -> None:
        engine, observer = Engine(), Observer()
        batcher = Batcher("test", engine, observer=observer, **{"largest": 4, "patience": 5.0, **options})
        batcher.start()
        try:
            await asyncio.wait_for(scenario(batcher, engine, observer), 20)
        finally:
            engine.free.set()
            await batcher.stop()

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.001)


async def busy(batcher: Batcher[int, int], engine: Engine) -> "asyncio.Task[list[int]]":
    """A request that occupies the engine until it is let."""
    engine.free.clear()
    first = asyncio.ensure_future(batcher.results([0]))
    await until(lambda: engine.batches == [[0]])
    return first


def test_items_that_wait_are_computed_together_in_order_and_no_more_than_fit() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        first = await busy(batcher, engine)
        others = [asyncio.ensure_future(batcher.results([i, 10 * i])) for i in (1, 2, 3)]
        await until(lambda: batcher.waiting == 6)
        engine.free.set()
        assert await first == [0]
        assert await asyncio.gather(*others) == [[2, 20], [4, 40], [6, 60]]
        assert engine.batches == [[0], [1, 10, 2, 20], [3, 30]] and observer.sizes == [1, 4, 2]

    run(scenario)


def test_a_lone_item_does_not_wait_and_one_with_others_on_their_way_does() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        assert await batcher.results([1]) == [2]  # patience is endless here, so it hasn't waited
        with batcher.arriving():
            first = asyncio.ensure_future(batcher.results([2]))
            await asyncio.sleep(0.05)
            assert engine.batches == [[1]]
            second = asyncio.ensure_future(batcher.results([3]))
            await asyncio.sleep(0)
        assert list(await asyncio.gather(first, second)) == [[4], [6]]
        assert engine.batches == [[1], [2, 3]]

    run(scenario, patience=1e6)


def test_patience_ends() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        with batcher.arriving():
            assert await batcher.results([1]) == [2]

    run(scenario, patience=0.01)


def test_what_nobody_waits_for_is_dropped_before_it_is_computed() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        first = await busy(batcher, engine)
        gone = asyncio.ensure_future(batcher.results([7, 8]))
        stays = asyncio.ensure_future(batcher.results([9]))
        await until(lambda: batcher.waiting == 3)
        gone.cancel()
        await asyncio.gather(gone, return_exceptions=True)
        engine.free.set()
        assert list(await asyncio.gather(first, stays)) == [[0], [18]]
        assert engine.batches == [[0], [9]] and observer.lost == 2

    run(scenario)


def test_an_item_that_fails_fails_alone() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        first = await busy(batcher, engine)
        others = [asyncio.ensure_future(batcher.results([i])) for i in (1, -1, 2)]
        await until(lambda: batcher.waiting == 3)
        engine.free.set()
        assert await first == [0]
        found = await asyncio.gather(*others, return_exceptions=True)
        assert found[0] == [2] and found[2] == [4] and isinstance(found[1], ValueError)
        assert await batcher.results([5]) == [10]

    run(scenario)


def test_requests_are_not_mixed_where_an_item_depends_on_its_batch() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        first = await busy(batcher, engine)
        others = [asyncio.ensure_future(batcher.results([i, i])) for i in (1, 2)]
        await until(lambda: batcher.waiting == 4)
        engine.free.set()
        await asyncio.gather(first, *others)
        assert engine.batches == [[0], [1, 1], [2, 2]]

    run(scenario, mixes=False)


def test_a_call_runs_between_batches() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        first = await busy(batcher, engine)
        called = asyncio.ensure_future(batcher.call(lambda: len(engine.batches)))
        assert batcher.seconds_ahead == 1 and not called.done()
        engine.free.set()
        assert await first == [0] and await called == 1

    run(scenario)


def test_who_waits_at_the_end_is_told() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        first = await busy(batcher, engine)
        second = asyncio.ensure_future(batcher.results([1]))
        await until(lambda: batcher.waiting == 1)
        stopping = asyncio.ensure_future(batcher.stop())
        for request in (first, second):
            with pytest.raises(asyncio.CancelledError):
                await request
        await stopping

    run(scenario)


def test_what_computes_is_not_idle() -> None:
    async def scenario(batcher: Batcher[int, int], engine: Engine, observer: Observer) -> None:
        engine.free.clear()
        waiting = asyncio.ensure_future(batcher.results([1]))
        await until(lambda: engine.batches == [[1]])
        await asyncio.sleep(0.01)
        assert batcher.idle_seconds == 0.0  # though nothing is in the queue, and the last batch was long ago
        engine.free.set()
        assert await waiting == [2]
        await until(lambda: batcher.idle_seconds > 0.01)

    run(scenario)
