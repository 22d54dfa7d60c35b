"""How a backend's name becomes an engine: entry points, kernel sets that override some operations, what can't run."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from clipref import CLIP, AutoModel, BackendError, ops
from clipref import backends as engines
from clipref.config import ViTConfig, text_shapes, visual_shapes
from clipref.engine import ReferenceEngine, TowerEngine, checkpoint_params
from clipref.weights import Checkpoint

from . import cases
from .conftest import FASTEST, pictures, pixels
from .native import PROCESSORS

# Those that need nothing besides what the package itself needs, and `native` where it was built.
IN_PROCESS = sorted(set(engines.backends()) - {"openvino", "torch", *([] if PROCESSORS else ["native"])})


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
        *entry_points(group="clipref.kernels"),
    ]
    monkeypatch.setattr(engines, "entry_points", lambda group: found if group == engines.GROUP else [])
    return module


def test_a_kernel_set_overrides_what_it_has(registered: ModuleType, tiny_vit: Path) -> None:
    model = AutoModel.from_pretrained(tiny_vit, backend="somebodys")
    plain = AutoModel.from_pretrained(tiny_vit, backend="reference")
    assert model.backend == "somebodys"
    (image,) = pictures(1)
    assert np.array_equal(model.embed_image(image), plain.embed_image(image))
    vision = model.config.vision
    assert isinstance(vision, ViTConfig)
    assert len(registered.calls) == vision.layers
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


@pytest.mark.fast_cases("[vit-")
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

# By now as many texts as are remembered have been there, and every length and batch.
model.embed_text([f"a dog {'cat ' * (i % 5)}{i}" for i in range(4500)])
before = calls(500)
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


class Wide:
    """A kernel set with all that a set may have: it computes in float64, wherever the weights come from."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.on = False

    def relu(self, x: np.ndarray) -> np.ndarray:
        assert self.on and x.dtype == np.float64
        return ops.relu(x)

    def quick_gelu(self, x: np.ndarray) -> np.ndarray:
        assert self.on and x.dtype == np.float64
        return ops.quick_gelu(x)

    def prepare(self, params: Any) -> Any:
        self.said.append("prepare")
        return params

    def place(self, array: np.ndarray) -> np.ndarray:
        self.said.append("place")
        return array.astype(np.float64) if array.dtype.kind == "f" else array

    def fetch(self, own: np.ndarray) -> np.ndarray:
        self.said.append("fetch")
        return own

    def batch_size(self, tower: Any) -> int:
        return 2

    @contextmanager
    def running(self) -> Iterator[None]:
        self.on = True
        yield
        self.on = False

    def compile(self, tower: Callable[..., Any]) -> Callable[..., Any]:
        self.said.append("compile")
        return tower


def test_the_seam(tiny: Path) -> None:
    checkpoint, wide = Checkpoint(tiny), Wide()
    engine = TowerEngine(checkpoint.config, checkpoint_params(checkpoint, "float32"), engines.overlay(wide))
    exact = ReferenceEngine(checkpoint, "float64")
    batch, ids = pixels(5, checkpoint.config.vision.resolution), cases.ids(checkpoint.config, 5)
    for encode, given, weights, inputs in (
        ("encode_image", batch, len(visual_shapes(checkpoint.config)), 1),
        ("encode_text", ids, len(text_shapes(checkpoint.config)), 4),
    ):
        for first in (True, False):
            wide.said.clear()
            found = getattr(engine, encode)(given)
            assert found.dtype == np.float32  # as the engine gives, whatever the set computes in
            np.testing.assert_allclose(found, getattr(exact, encode)(given), rtol=1e-4, atol=1e-6)
            counts = {word: wide.said.count(word) for word in ("prepare", "compile", "fetch", "place")}
            assert counts == {
                "prepare": first, "compile": first, "fetch": 3, "place": first * weights + 3 * inputs
            }  # fmt: skip
        assert not wide.on


def test_a_tap_sees_every_part_and_stands_in(tiny_vit: Path) -> None:
    checkpoint = Checkpoint(tiny_vit)
    engine = TowerEngine(checkpoint.config, checkpoint_params(checkpoint, "float32"), engines.overlay(Wide()))
    seen: list[int] = []

    def tap(name: str, x: np.ndarray) -> np.ndarray:
        if name != "visual":
            return x
        seen.append(len(x))
        return x * 0

    batch = pixels(5, checkpoint.config.vision.resolution)
    assert not engine.encode_image(batch, tap).any() and seen == [2, 2, 1]
    assert engine.encode_image(batch).any()


@pytest.mark.fast_cases("[vit-")
@pytest.mark.parametrize("backend", IN_PROCESS)
def test_what_is_stated_of_bits_in_any_batch_holds(backend: str, tiny: Path) -> None:
    model = AutoModel.from_pretrained(tiny, backend=backend)
    batch, ids = pixels(5, model.config.vision.resolution), cases.ids(model.config, 5)
    whole = np.concatenate([model.encode_image(batch), model.encode_text(ids)])
    alone = np.concatenate(
        [model.encode_image(batch[i : i + 1]) for i in range(5)] + [model.encode_text(ids[i : i + 1]) for i in range(5)]
    )
    if engines.describe(backend)["same bits"]:
        assert np.array_equal(whole, alone)


@pytest.mark.parametrize(
    ("options", "backend", "precision"),
    [
        ({}, FASTEST, "float32"),
        ({"precision": "float32"}, FASTEST, "float32"),
        ({"precision": "int8"}, "onnx-int8", "int8"),
        ({"dtype": "float64"}, "reference", "float64"),
        ({"dtype": "float64", "precision": "float64"}, "reference", "float64"),
        ({"backend": "onnx-int8"}, "onnx-int8", "int8"),
        ({"backend": "blas", "precision": "float32"}, "blas", "float32"),
        ({"backend": "blas", "dtype": "float64"}, "blas", "float64"),
        ({"backend": ["nothing", "blas"]}, "blas", "float32"),
        ({"arena": False}, "onnx", "float32"),
        ({"precision": "int8", "calibration": None}, "onnx-int8", "int8"),
    ],
)
def test_a_precision_chooses_a_backend(
    tiny_vit: Path, options: dict[str, Any], backend: str, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "processor_features", frozenset)
    model = AutoModel.from_pretrained(tiny_vit, **options)
    assert (model.backend, model.precision) == (backend, precision) and model.fidelity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"backend": "onnx", "precision": "int8"}, "'onnx' has no precision 'int8'; it has: float32"),
        ({"backend": "onnx-int8", "precision": "float32"}, "'onnx-int8' has no precision 'float32'"),
        ({"precision": "fp16"}, "precision is 'fp16'; expected one of float64, float32"),
        ({"precision": ["int8"]}, "precision is .*expected one of"),
        ({"precision": "float64"}, "'float64' is asked for by dtype"),
        ({"precision": "int8", "dtype": "float64"}, "'float64' is asked for by dtype"),
        (
            {"precision": "int8", "providers": []},
            "computes in int8 here with these options: .*onnx-int8 has no option 'providers'",
        ),
    ],
)
def test_a_precision_that_is_not_to_be_had(tiny_vit: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        AutoModel.from_pretrained(tiny_vit, **options)


def test_auto_takes_the_highest_speed_stated_for_this_processor(
    registered: ModuleType, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def speed(precision: str, kind: str, features: frozenset[str]) -> float:
        asked.append((precision, kind))
        return 99.0 if kind == "vit" and "amx_bf16" in features else 0.0

    registered.TRAITS = engines.Traits(speed=speed)  # type: ignore[attr-defined]
    features = frozenset({"amx_bf16"})
    for found in (features, frozenset({"avx2"})):
        monkeypatch.setattr(engines, "processor_features", lambda found=found: found)
        model = AutoModel.from_pretrained(tiny)
        kind = engines.kind_of(model.config)
        assert model.backend == ("somebodys" if found is features and kind == "vit" else FASTEST)
        assert asked[-1] == ("float32", kind)


def test_auto_leaves_out_what_cannot_be_imported(
    registered: ModuleType, tiny_vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "processor_features", frozenset)
    assert AutoModel.from_pretrained(tiny_vit).backend == FASTEST  # a set that states no speed is taken by name only
    del sys.modules["somebodys_kernels"]
    assert AutoModel.from_pretrained(tiny_vit).backend == FASTEST
    assert not engines.describe("somebodys")["runs"]
