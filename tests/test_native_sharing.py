"""How the native backend shares work out: all of it, once, errors too, by threads that end with their owner."""

import gc
import threading
import time

import pytest

from clipref.kernels.native.sharing import Sharing


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("native_")]


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_ranges_are_the_whole_once(threads: int) -> None:
    sharing = Sharing(threads)
    for length in (1, 2, 5, 100):
        done: list[int] = []
        sharing.ranges(lambda begin, end, done=done: done.extend(range(begin, end)), length)  # type: ignore[misc]
        assert sorted(done) == list(range(length))


def test_items_keep_their_order_and_share_nothing_out_themselves() -> None:
    sharing = Sharing(3)

    def name(i: int) -> tuple[int, str, list[str]]:
        inside: list[str] = []
        sharing.ranges(lambda begin, end: inside.append(threading.current_thread().name), 5)
        return i, threading.current_thread().name, inside

    for i, (found, own, inside) in enumerate(sharing.items(name, [(i,) for i in range(20)])):
        assert found == i and inside == [own] and own.startswith("native_")


def test_an_error_comes_when_all_are_done() -> None:
    sharing = Sharing(3)
    done: list[int] = []

    def work(begin: int, end: int) -> None:
        time.sleep(0.01 * begin)
        done.append(begin)
        if begin == 1:
            raise MemoryError("no room")

    for _ in range(2):  # the threads live on
        done.clear()
        with pytest.raises(MemoryError, match="no room"):
            sharing.ranges(work, 3)
        assert sorted(done) == [0, 1, 2]
    with pytest.raises(MemoryError, match="no room"):
        sharing.items(work, [(i, i) for i in range(3)])


def test_threads_end_with_their_owner() -> None:
    gc.collect()
    before = set(helpers())
    sharing = Sharing(3)
    sharing.ranges(lambda begin, end: None, 3)
    made = set(helpers()) - before
    assert len(made) == 3
    del sharing
    gc.collect()
    for thread in made:
        thread.join(10)
        assert not thread.is_alive()
