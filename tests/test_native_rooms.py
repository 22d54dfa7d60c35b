"""Memory for the native backend's results: used again when nobody has it, and never before."""

import ctypes
import threading
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, ops
from clipref.kernels.native import rooms
from clipref.kernels.native.library import address
from clipref.kernels.native.pending import Eager
from clipref.kernels.native.rooms import LARGE, LINE, MOST, aligned, for_result

from .native import needs_library

pytestmark = needs_library

SHAPE = (LARGE,)


@pytest.fixture(autouse=True)
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rooms of the test's own."""
    monkeypatch.setattr(rooms, "_kept", rooms.Rooms())


@pytest.mark.parametrize("shape", [(0,), (3,), (50, 768), (7, LARGE)])
def test_arrays_begin_with_a_line(shape: tuple[int, ...]) -> None:
    for x in (aligned(shape, np.float32), for_result(shape)):
        assert x.shape == shape and x.dtype == np.float32 and x.flags.writeable and x.flags.c_contiguous
        assert not x.size or address(x) % LINE == 0


def test_what_nobody_has_is_used_again() -> None:
    x = for_result(SHAPE)
    place = address(x)
    del x
    assert address(for_result(SHAPE)) == place
    assert address(for_result((2, SHAPE[0] // 3))) == place  # of about that size


@pytest.mark.parametrize(
    "hold",
    [
        lambda x: x,
        lambda x: x[5:7].view(np.uint8)[::3],
        memoryview,
        lambda x: ctypes.c_char.from_buffer(x.data),
        lambda x: x.reshape(2, -1).T,
        lambda x: np.frombuffer(x, np.uint8),
    ],
    ids=["itself", "part", "memoryview", "address", "transposed", "frombuffer"],
)
def test_what_somebody_has_is_not(hold: Any) -> None:
    x = for_result(SHAPE)
    x[:] = 1
    held = hold(x)
    before = bytes(held)
    del x
    others = [for_result(SHAPE) for _ in range(3)]
    for other in others:
        other[:] = 2
    assert bytes(held) == before


def test_threads_have_their_own() -> None:
    place = address(for_result(SHAPE))
    found: list[np.ndarray] = []
    thread = threading.Thread(target=lambda: found.append(for_result(SHAPE)))
    thread.start()
    thread.join()
    assert address(found[0]) != place


def test_no_more_is_kept_than_said() -> None:
    held = [for_result((MOST // 16,)) for _ in range(9)]  # a quarter each
    assert rooms._kept._size <= MOST
    assert len({address(x) for x in held}) == 9
    huge = for_result((MOST // 4 + 1,))
    place = address(huge)
    assert rooms._kept._size <= MOST and place not in {address(x) for x in held}


@pytest.mark.parametrize("operation", ["add_positions", "add_some_positions", "prepend_token"])
def test_what_has_no_kernel_lies_there_too(operation: str) -> None:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, 20, 512)).astype(np.float32)
    rows = generator.standard_normal((30, 512)).astype(np.float32)
    arguments: tuple[Any, ...] = (x, rows[0] if operation == "prepend_token" else rows)
    if operation == "add_some_positions":
        operation, arguments = "add_positions", (*arguments, generator.integers(0, 30, (3, 20)))
    found = getattr(Eager(), operation)(*arguments)
    assert np.array_equal(found, getattr(ops, operation)(*arguments)) and found.dtype == np.float32
    assert any(found.base is room for some in rooms._kept._rooms.values() for room, _ in some)


def test_a_second_batch_needs_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model = AutoModel.from_pretrained("clipref/shapes-vit", backend="native", threads=1)
    pixels = np.random.default_rng(0).standard_normal((64, 3, 48, 48)).astype(np.float32)
    first = model.encode_image(pixels)
    sizes: list[int] = []
    new = rooms.new_room

    def counted(size: int) -> tuple[np.ndarray, int]:
        sizes.append(size)
        return new(size)

    monkeypatch.setattr(rooms, "new_room", counted)
    second = model.encode_image(pixels)
    assert max(sizes, default=0) < LARGE
    assert np.array_equal(first, second)
