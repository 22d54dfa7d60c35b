"""Nested tensors: as dicts and lists, or read one at a time, so that an engine which lays them out holds no others."""

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clipref.engine import NumpyEngine, map_arrays
from clipref.kernels.fold import fold_norms
from clipref.nesting import Unread, nest
from clipref.weights import Checkpoint


def test_nesting() -> None:
    assert nest({"a.0.w": 1, "a.1.w": 2, "b": 3}) == {"a": [{"w": 1}, {"w": 2}], "b": 3}


def test_a_tensor_is_read_when_it_is_taken_out_and_no_sooner() -> None:
    asked: list[str] = []

    def read(name: str) -> str:
        asked.append(name)
        return name.upper()

    params = Unread(nest({name: name for name in ("a.0.w", "a.1.w", "b")}), read)
    first, second = params["a"]
    assert "b" in params and "c" not in params and list(params) == ["a", "b"] and len(params) == 2 and "w" in second
    assert not asked
    assert first["w"] == "A.0.W" and dict(**second) == {"w": "A.1.W"} and first["w"] == "A.0.W"
    assert asked == ["a.0.w", "a.1.w", "a.0.w"]


def leaves(params: Any) -> list[tuple[str, np.ndarray]]:
    """Names and arrays of nested parameters."""
    if isinstance(params, np.ndarray):
        return [("", params)]
    items = enumerate(params) if isinstance(params, list) else params.items()
    return [(f"{key}.{name}", array) for key, item in items for name, array in leaves(item)]


def test_unread_towers_have_the_same_tensors_folded_or_not(tiny: Path) -> None:
    checkpoint = Checkpoint(tiny)
    for whole, unread in (
        (checkpoint.visual("float64"), checkpoint.unread_visual("float64")),
        (checkpoint.text("float32"), checkpoint.unread_text("float32")),
    ):
        changes: tuple[Callable[[Any], Any], ...] = (lambda params: params, fold_norms)
        for change in changes:
            expected, found = leaves(change(whole)), leaves(map_arrays(np.asarray, change(unread)))
            assert [name for name, _ in found] == [name for name, _ in expected] and expected
            assert all((a == b).all() and a.dtype == b.dtype for (_, a), (_, b) in zip(found, expected, strict=True))


class Halves:
    """A kernel set that lays weights out anew, in a shape of its own, and looks which of those it was given live on."""

    def __init__(self) -> None:
        self.given: list[weakref.ref[np.ndarray]] = []
        self.most_alive = 0

    def prepare(self, params: Any) -> Any:
        def packed(array: np.ndarray) -> np.ndarray:
            self.given.append(weakref.ref(array))
            self.most_alive = max(self.most_alive, sum(ref() is not None for ref in self.given))
            return array.astype(np.float16).astype(np.float32)

        return map_arrays(packed, params)


def test_who_lays_weights_out_has_one_of_the_old_ones_at_a_time(tiny_vit: Path, monkeypatch: Any) -> None:
    checkpoint, halves = Checkpoint(tiny_vit), Halves()
    released: list[int] = []
    monkeypatch.setattr(checkpoint.file, "release", lambda: released.append(sum(r() is not None for r in halves.given)))
    engine = NumpyEngine(checkpoint, "float32", halves)
    engine.visual(), engine.text(), engine.text()
    assert len(halves.given) == len(leaves(checkpoint.visual("float32"))) + len(leaves(checkpoint.text("float32")))
    assert halves.most_alive <= 2  # of a level of the dicts, the last one is in a variable while the next one is read
    assert released == [0, 0]
