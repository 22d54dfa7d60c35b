"""How a backend's name becomes an engine: entry points, kernel sets that override some operations, what can't run."""

import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from clipref import AutoModel, BackendError, ops
from clipref import engine as engines

from .conftest import pictures


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A kernel set as somebody else would write it: a module with one operation, named by an entry point."""
    module = ModuleType("somebodys_kernels")
    calls = []

    def quick_gelu(x: np.ndarray) -> np.ndarray:
        calls.append(x.shape)
        return ops.quick_gelu(x)

    module.quick_gelu, module.calls = quick_gelu, calls  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "somebodys_kernels", module)
    found = [
        EntryPoint("somebodys", "somebodys_kernels", "clipref.kernels"),
        *engines.entry_points(group="clipref.kernels"),
    ]
    monkeypatch.setattr(engines, "entry_points", lambda group: found if group == engines.GROUP else [])
    return module


def test_a_kernel_set_overrides_what_it_has(registered: ModuleType, tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="somebodys")
    plain = AutoModel.from_pretrained(tiny_vit, backend="reference")
    assert model.backend == "somebodys"
    (image,) = pictures(1)
    assert np.array_equal(model.embed_image(image), plain.embed_image(image))
    assert len(registered.calls) == model.config.vision.layers  # type: ignore[attr-defined, union-attr]
    registered.quick_gelu = ops.gelu  # type: ignore[attr-defined]
    wrong = AutoModel.from_pretrained(tiny_vit, backend="somebodys")
    assert not np.allclose(wrong.embed_image(image), plain.embed_image(image), rtol=1e-3)


def test_a_kernel_set_has_no_options(registered: ModuleType, tiny_vit: Path) -> None:
    with pytest.raises(BackendError, match="'somebodys' has no option 'threads'"):
        AutoModel.from_pretrained(tiny_vit, backend="somebodys", threads=2)


def test_a_backend_that_is_not_there(tiny_vit: Path) -> None:
    with pytest.raises(BackendError, match="No backend 'onx'; there are: auto, .*onnx.*reference"):
        AutoModel.from_pretrained(tiny_vit, backend="onx")


def test_a_backend_that_lacks_something(monkeypatch: pytest.MonkeyPatch, tiny_vit: Path) -> None:
    broken = [EntryPoint("broken", "no_such_module_anywhere", "clipref.kernels")]
    monkeypatch.setattr(engines, "entry_points", lambda group: broken)
    with pytest.raises(BackendError, match="'broken' can't run here: No module named 'no_such_module_anywhere'"):
        AutoModel.from_pretrained(tiny_vit, backend="broken")


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
    monkeypatch.setattr(engines, "CGROUP_QUOTA", str(file))
    monkeypatch.setattr(engines.os, "sched_getaffinity", lambda _: set(range(processors)), raising=False)
    assert engines.available_threads() == expected
