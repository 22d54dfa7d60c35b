"""How a backend's name becomes an engine: entry points, kernel sets that override some operations, what can't run."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from clipref import CLIP, AutoModel, BackendError, ops
from clipref import backends as engines
from clipref.engine import ReferenceEngine

from . import cases
from .conftest import pictures, pixels

# Those that need nothing besides what the package itself needs.
IN_PROCESS = sorted(name for name in engines.backends() if name != "openvino")


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


def test_options_of_a_function_that_takes_any(registered: ModuleType, tiny_vit: Path) -> None:
    given = {}

    def engine(checkpoint, dtype, **options):  # type: ignore[no-untyped-def]
        given.update(options)
        return ReferenceEngine(checkpoint, dtype)

    registered.engine = engine  # type: ignore[attr-defined]
    AutoModel.from_pretrained(tiny_vit, backend="somebodys", depth=3)
    assert given == {"depth": 3}


def test_a_backend_that_is_not_there(tiny_vit: Path) -> None:
    for name in (None, 1, [], ["onx"]):
        with pytest.raises(BackendError, match="there are: auto"):
            AutoModel.from_pretrained(tiny_vit, backend=name)  # type: ignore[arg-type]
    with pytest.raises(BackendError, match="No backend 'onx'; there are: auto, .*onnx.*reference"):
        AutoModel.from_pretrained(tiny_vit, backend="onx")


def test_a_backend_that_lacks_something(monkeypatch: pytest.MonkeyPatch, tiny_vit: Path) -> None:
    broken = [EntryPoint("broken", "no_such_module_anywhere", "clipref.kernels")]
    monkeypatch.setattr(engines, "entry_points", lambda group: broken)
    with pytest.raises(BackendError, match="'broken' can't run here: No module named 'no_such_module_anywhere'"):
        AutoModel.from_pretrained(tiny_vit, backend="broken")


def in_turn(model: CLIP, batch: np.ndarray, ids: np.ndarray) -> list[bytes]:
    """The bits that a thread sees, calling with all, some and one."""
    found = [model.encode_image(batch[:n]) for n in (1, 3, 5)] + [model.encode_text(ids[:n]) for n in (1, 3)]
    return [x.tobytes() for x in found]


@pytest.mark.parametrize("backend", IN_PROCESS)
def test_eight_threads_at_once_get_the_bits_of_one(tiny: Path, backend: str) -> None:
    model = AutoModel.from_pretrained(tiny, backend=backend)
    batch, ids = pixels(5, model.config.vision.resolution), cases.ids(model.config, 4)
    alone = in_turn(AutoModel.from_pretrained(tiny, backend=backend), batch, ids)
    with ThreadPoolExecutor(8) as pool:  # which are also the first to use the model
        together = list(pool.map(lambda _: in_turn(model, batch, ids), range(24)))
    assert all(bits == alone for bits in together)


MANY_CALLS = """
import resource, sys
import numpy as np
from clipref import AutoModel
from tests import cases
model = AutoModel.from_pretrained(sys.argv[1], backend=sys.argv[2])
side = model.config.vision.resolution

def calls(n):
    for i in range(n):
        model.encode_image(np.zeros((1 + i % 4, 3, side, side), np.float32))
        model.embed_text(f"a cat {'dog ' * (i % 5)}{i}")
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

before = calls(4500)  # by now every length and batch has been there, and as many texts as are remembered
print((calls(5000) - before) / 1e6)  # ten thousand, an image and a text in turn
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").is_file(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("backend", IN_PROCESS)
def test_ten_thousand_calls_do_not_grow_memory(tiny: Path, backend: str) -> None:
    # In a process of its own, whose memory nothing else has stirred.
    run = subprocess.run(
        [sys.executable, "-c", MANY_CALLS, str(tiny), backend],
        cwd=Path(__file__).parent.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 8.0, f"grew by {run.stdout} MB"
