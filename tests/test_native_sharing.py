"""How the native backend shares work out: all of it, once, errors too, by threads that end with their owner."""

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from clipref.kernels.native import library
from clipref.kernels.native.library import helping
from clipref.kernels.native.sharing import Sharing

from .native import needs_library

pytestmark = needs_library

PART = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_ssize_t)


class Job(ctypes.Structure):
    """Nothing, which is what a function in Python is told."""


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("native_")]


def share(sharing: Sharing, length: int, work: Callable[[int, int], Any]) -> None:
    """An operation's parts, computed by a function in Python; where that returns True there is no room."""
    compute = PART(lambda job, begin, end: -1 if work(begin, end) is True else 0)
    address = ctypes.cast(compute, ctypes.c_void_p).value
    assert address
    sharing.parts(address, Job(), length)


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_parts_are_the_whole_once(threads: int) -> None:
    sharing = Sharing(threads)
    for length in (1, 2, 5, 100) * 5:
        done: list[int] = []
        share(sharing, length, lambda begin, end, done=done: done.extend(range(begin, end)))  # type: ignore[misc]
        assert sorted(done) == list(range(length))


def test_threads_help_and_help_again() -> None:
    sharing = Sharing(3)
    names: set[int] = set()

    def work(begin: int, end: int) -> None:
        time.sleep(0.005)
        names.add(threading.get_ident())

    for _ in range(2):
        names.clear()
        for _ in range(1000):  # who is woken may come too late for an operation
            share(sharing, 3, work)
            if len(names) == 3:
                break
        assert len(names) == 3
        time.sleep(0.01)  # they sleep by now


def test_callers_at_the_same_time_get_all_of_theirs() -> None:
    sharing = Sharing(3)

    def call(_: int) -> list[int]:
        done: list[int] = []
        for _ in range(50):
            share(sharing, 4, lambda begin, end: done.extend(range(begin, end)))
        return sorted(done)

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(call, range(4))) == [sorted([0, 1, 2, 3] * 50)] * 4


def test_items_keep_their_order_and_share_nothing_out_themselves() -> None:
    sharing = Sharing(3)

    def name(i: int) -> tuple[int, int, list[int]]:
        inside: list[int] = []
        for _ in range(20):
            share(sharing, 5, lambda begin, end: inside.append(threading.get_ident()))
        return i, threading.get_ident(), inside

    found = sharing.items(name, [(i,) for i in range(20)])
    assert all(item == (i, own, [own] * 20) for i, item in enumerate(found) for own in [item[1]])
    assert len({own for _, own, _ in found}) <= 3


def test_whoever_waits_does_what_nobody_has_begun() -> None:
    """Others' items may wait for what these are needed for: weights that a thread lays out once for all."""
    sharing, lock, held = Sharing(2), threading.Lock(), threading.Event()

    def first() -> list[int]:
        with lock:
            held.set()
            time.sleep(0.05)  # now all threads wait for the lock
            return sharing.items(lambda i: i, [(i,) for i in range(5)])

    def after(i: int) -> int:
        with lock:
            return i

    found: list[list[int]] = []
    both = [
        threading.Thread(target=lambda: found.append(first()), daemon=True),
        threading.Thread(target=lambda: found.append(sharing.items(after, [(i,) for i in range(4)])), daemon=True),
    ]
    both[0].start()
    held.wait()
    both[1].start()
    for thread in both:
        thread.join(10)
    assert sorted(found) == [[0, 1, 2, 3], [0, 1, 2, 3, 4]]


def raising(error: BaseException) -> Callable[..., None]:
    def work(*_: object) -> None:
        raise error

    return work


def test_who_is_done_is_counted_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    sharing = Sharing(3)
    share(sharing, 5, lambda begin, end: None)
    sharing.items(lambda i: i, [(1,), (2,), (3,), (4,)])
    with pytest.raises(MemoryError):
        share(sharing, 5, lambda begin, end: True)
    for error in (ValueError("a wrong item"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            sharing.items(raising(error), [(1,), (2,), (3,)])
        time.sleep(0.01)  # all sleep by now
        with monkeypatch.context() as patched, pytest.raises(type(error)):
            patched.setattr(sharing, "_share", raising(error))
            share(sharing, 5, lambda begin, end: None)
    end = time.monotonic() + 10
    while any(sharing._occupied()) and time.monotonic() < end:  # who was called may come late
        time.sleep(0.01)
    assert not any(sharing._occupied())
    assert sharing.items(lambda i: i, [(1,), (2,)]) == [1, 2]


def test_there_is_room_for_every_processor_that_is_counted() -> None:
    header = Path(library.__file__).with_name("helping.h").read_text(encoding="utf-8")
    assert f"MOST = {library.Occupied._length_} " in header


def test_items_inside_of_an_item_wait_for_nobody() -> None:
    sharing = Sharing(2)

    def inside(i: int) -> list[tuple[int, int]]:
        return sharing.items(lambda j: (j, threading.get_ident()), [(i,), (i + 1,), (i + 2,)])

    found = sharing.items(inside, [(0,), (10,), (20,)])
    assert [[j for j, _ in item] for item in found] == [[0, 1, 2], [10, 11, 12], [20, 21, 22]]
    assert all(len({thread for _, thread in item}) == 1 for item in found)


def test_an_error_comes_when_all_are_done() -> None:
    sharing = Sharing(3)
    done: list[int] = []

    def work(begin: int, end: int) -> bool:
        time.sleep(0.01 * begin)
        done.append(begin)
        return begin == 1

    def fail(begin: int, end: int) -> None:
        if work(begin, end):
            raise MemoryError("no room")

    for _ in range(3):  # the threads live on
        done.clear()
        with pytest.raises(MemoryError, match="There is no room"):
            share(sharing, 3, work)
        assert sorted(done) == [0, 1, 2]
    with pytest.raises(MemoryError, match="no room"):
        sharing.items(fail, [(i, i) for i in range(3)])


def test_what_nobody_waits_for_any_more_is_not_begun() -> None:
    sharing, caller = Sharing(2), threading.get_ident()
    begun: list[int] = []

    def work(i: int) -> None:
        begun.append(i)
        time.sleep(0.05 if threading.get_ident() == caller else 0.2)
        if threading.get_ident() == caller:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sharing.items(work, [(i,) for i in range(9)])
    assert sharing.items(lambda i: i, [(1,), (2,)]) == [1, 2]
    time.sleep(0.3)
    assert len(begun) <= 2


def processor() -> int:
    """Where this thread runs."""
    return int(helping().enter(library.Occupied()))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="elsewhere threads stay where they are")
@pytest.mark.parametrize("taken", ["none", "this one", "all", "all that it may use"])
def test_who_comes_to_a_processor_that_is_taken_goes_to_another(taken: str) -> None:
    allowed = os.sched_getaffinity(0)
    if taken == "this one" and len(allowed) < 2:
        pytest.skip("there is one processor")

    def come() -> tuple[int, int, int, set[int]]:
        if taken == "all that it may use":
            os.sched_setaffinity(0, {max(allowed)})
        here = processor()
        occupied = library.Occupied()
        for i in {"none": set(), "this one": {here}}.get(taken, allowed):
            occupied[i] = 1
        before, found = sum(occupied), helping().occupy(occupied)
        assert sum(occupied) == before + 1
        now, may = processor(), os.sched_getaffinity(0)
        helping().vacate(occupied, found)
        assert sum(occupied) == before
        return here, found, now, may

    for _ in range(5):
        with ThreadPoolExecutor(1) as pool:
            here, found, now, may = pool.submit(come).result()
        if found != now or (taken in ("none", "all") and found != here):
            continue  # the system moved it meanwhile
        assert (found != here) == (taken == "this one")
        assert may == ({max(allowed)} if taken == "all that it may use" else allowed)
        return
    raise AssertionError("a thread is never where it said")


@pytest.mark.parametrize("had", [0, 1, 2])
def test_fewer_threads_than_were_asked_for_do_as_well(had: int, monkeypatch: pytest.MonkeyPatch) -> None:
    begin, left = threading.Thread.start, [had, had]

    def start(thread: threading.Thread) -> None:
        kind = "helper" in thread.name
        if not left[kind]:
            raise RuntimeError("can't start new thread")
        left[kind] -= 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    sharing = Sharing(4)
    done: list[int] = []
    for _ in range(3):
        done.clear()
        share(sharing, 9, lambda begin, end: done.extend(range(begin, end)))
        assert sorted(done) == list(range(9))
        assert sharing.items(lambda i: i, [(1,), (2,), (3,)]) == [1, 2, 3]


def test_threads_end_with_their_owner() -> None:
    gc.collect()
    before = set(helpers())
    sharing = Sharing(3)
    share(sharing, 3, lambda begin, end: None)
    sharing.items(lambda i: i, [(1,), (2,)])
    made = set(helpers()) - before
    assert len(made) == 4
    del sharing
    gc.collect()
    for thread in made:
        thread.join(10)
        assert not thread.is_alive()
