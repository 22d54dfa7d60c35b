"""What is made once: raced for by threads, forked meanwhile, failed; and how many threads there are."""

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipref import lazy
from clipref.lazy import once, once_a_process

can_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


def test_threads_that_race_make_one() -> None:
    made = []

    def make() -> int:
        time.sleep(0.01)
        made.append(1)
        return len(made)

    for get in (once(make), once_a_process(make)):
        made.clear()
        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(lambda _: get(), range(32))) == {1}  # noqa: B023


def test_what_failed_is_tried_again() -> None:
    results = iter([OSError("full"), "made"])

    def make() -> str:
        result = next(results)
        if isinstance(result, OSError):
            raise result
        return result  # type: ignore[return-value]

    get = once(make)
    with pytest.raises(OSError, match="full"):
        get()
    assert get() == get() == "made"


# A process of its own, because pytest's threads are not to be forked. The parent's thread stays inside.
FORK = """
import os, signal, sys, threading
from clipref.lazy import no_fork, once, once_a_process

inside, leave = threading.Event(), threading.Event()

def make():
    if threading.current_thread() is not threading.main_thread():
        inside.set()
        leave.wait()
        return "parent"
    return "child"

def child(check):
    process = os.fork()
    if not process:
        signal.alarm(5)
        os._exit(0 if check() else 1)
    return os.waitpid(process, 0)[1]

def grandchild(check):
    return lambda: child(check) == 0 and check()
"""


def in_a_fork(code: str) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK + code], check=True, timeout=30)


@can_fork
@pytest.mark.parametrize("kind", ["once", "once_a_process"])
def test_a_child_makes_what_another_thread_had_half_made(kind: str) -> None:
    in_a_fork(f"""
outer = once(lambda: ("outer", get()))  # one inside the other, as a session and its weights are
get = {kind}(make)
thread = threading.Thread(target=outer)
thread.start()
inside.wait()
assert child(grandchild(lambda: get() == "child" and outer() == ("outer", "child"))) == 0
leave.set()
thread.join()
assert get() == "parent"
""")


@can_fork
def test_a_child_shares_what_was_made_and_has_its_own_of_a_process() -> None:
    in_a_fork("""
shared, own = once(object), once_a_process(object)
both = shared(), own()
assert child(grandchild(lambda: shared() is both[0] and own() is not both[1])) == 0
assert (shared(), own()) == both
lock = once_a_process(threading.Lock)
with lock():
    assert child(grandchild(lambda: lock().acquire(timeout=1) and not lock().release())) == 0
assert not lock().locked()
""")


@can_fork
def test_a_fork_waits_for_an_import(tmp_path: Path) -> None:
    (tmp_path / "slowly.py").write_text("import time; time.sleep(0.3); done = True")
    in_a_fork(f"""
sys.path.insert(0, {str(tmp_path)!r})

def load():
    with no_fork:
        inside.set()
        import slowly
    return slowly.done

get = once(load)
thread = threading.Thread(target=get)
thread.start()
inside.wait()
assert child(get) == 0
with no_fork:  # which doesn't keep a thread from forking itself
    assert child(get) == 0
""")


FORKS = {("blas", 0.01)}  # of them all, those that are tried each time
FIRST_USE = """
import numpy as np, os, signal, sys, threading, time
from clipref import AutoModel

model = AutoModel.from_pretrained(sys.argv[1], backend=sys.argv[2])
side = model.config.vision.resolution

def use():
    return model.encode_image(np.zeros((2, 3, side, side), np.float32)).sum(), model.embed_text("a red circle").sum()

thread = threading.Thread(target=use)
thread.start()
time.sleep(float(sys.argv[3]))
process = os.fork()
if not process:
    signal.alarm(20)
    found = use()
    os._exit(0)
thread.join()
assert os.waitpid(process, 0)[1] == 0
"""


@can_fork
@pytest.mark.parametrize(
    ("backend", "after"),
    [
        pytest.param(backend, after, marks=() if (backend, after) in FORKS else pytest.mark.slow)
        for backend in ("onnx", "blas")
        for after in (0.0, 0.01, 0.05, 0.15)
    ],
)
def test_a_fork_in_the_middle_of_the_first_use(backend: str, after: float) -> None:
    code = [sys.executable, "-W", "ignore", "-c", FIRST_USE, "clipref/shapes-rn", backend, str(after)]
    subprocess.run(code, check=True, timeout=60)


@pytest.mark.parametrize(
    ("quota", "processors", "expected"),
    [("max 100000", 4, 4), ("150000 100000", 4, 2), ("50000 100000", 4, 1), ("800000 100000", 4, 4), (None, 3, 3)],
)
def test_threads_are_those_of_the_container(
    quota: str | None, processors: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "cpu.max"
    if quota is not None:
        file.write_text(quota + "\n", encoding="ascii")
    monkeypatch.setattr(lazy, "CGROUP_QUOTA", str(file))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(processors)), raising=False)
    assert lazy.available_threads() == expected


@pytest.mark.parametrize(
    ("given", "expected"),
    [("2", 2), (" 3 ", 3), ("8", 4), ("2,4", 2), ("0", 4), ("-1", 4), ("many", 4), ("", 4), ("²", 4), ("1" * 5000, 4)],
)
def test_threads_are_at_most_those_that_openmp_is_told(
    given: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "CGROUP_QUOTA", str(tmp_path / "none"))
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    assert lazy.available_threads() == expected
