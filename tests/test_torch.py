"""The torch backend: every operation, all towers in each precision, shapes of the nine models, and what travels."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, BackendError
from clipref.backends import make_engine, overlay, own_operations
from clipref.config import PUBLISHED, text_shapes, visual_shapes
from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.engines.python import Backend, BackendModel, PythonEngine
from clipref.engine import TowerEngine
from clipref.kernels import torch as kernels
from clipref.kernels.check import BUDGET, check, check_operations, errors
from clipref.model import CLIP
from clipref.nesting import nest
from clipref.text_transformer import encode_tree, single_texts
from clipref.towers import encoder
from clipref.trees import plant
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

from . import cases
from .conftest import pictures, pixels
from .tolerances import assert_close, cosines

pytestmark = pytest.mark.oracle

Array = np.ndarray


def test_operations_are_right() -> None:
    check_operations("torch")
    assert max(max(units.values()) for units in check("torch").units.values()) < BUDGET / 1.5


class Mutants(kernels.PlacedTorchOps):
    """Each operation wrong in a way that torch makes easy."""

    def linear(self, x, weight, bias=None):  # type: ignore[no-untyped-def]
        return super().linear(x, weight)

    def layer_norm(self, x, weight, bias):  # type: ignore[no-untyped-def]
        return self.functional.layer_norm(x, weight.shape, weight, bias, 1e-4)

    def quick_gelu(self, x):  # type: ignore[no-untyped-def]
        return self.functional.silu(x)

    def gelu(self, x):  # type: ignore[no-untyped-def]
        return self.functional.gelu(x, approximate="tanh")

    def relu(self, x):  # type: ignore[no-untyped-def]
        return self.functional.relu6(x)

    def softmax(self, x):  # type: ignore[no-untyped-def]
        return self.torch.softmax(x, 0)

    def attention(self, q, k, v, visible=None):  # type: ignore[no-untyped-def]
        return super().attention(q, k, v, None if visible is None else ~visible | self.torch.ones_like(visible))

    def conv2d(self, x, weight, stride=1, padding=0, bias=None):  # type: ignore[no-untyped-def]
        return super().conv2d(x, weight.transpose(2, 3), stride, padding)

    def batch_norm(self, x, weight, bias, running_mean, running_var):  # type: ignore[no-untyped-def]
        return super().batch_norm(x, weight, bias, running_mean, running_var + 1e-3)

    def avg_pool(self, x, size):  # type: ignore[no-untyped-def]
        return self.functional.max_pool2d(x, size)

    def prepend_mean(self, x):  # type: ignore[no-untyped-def]
        return self.torch.cat([x, x.mean(1, keepdim=True)], 1)

    def prepend_token(self, x, token):  # type: ignore[no-untyped-def]
        return super().prepend_token(x, token.flip(0))

    def add_positions(self, x, positional_embedding, positions=None):  # type: ignore[no-untyped-def]
        return super().add_positions(x, positional_embedding)

    def embed(self, ids, weight):  # type: ignore[no-untyped-def]
        return super().embed(ids, weight.flip(0))

    def take(self, x, positions):  # type: ignore[no-untyped-def]
        return x[:, : positions.shape[1]]


def test_a_wrong_operation_is_caught() -> None:
    wrong = {f.operation for f in errors(overlay(Mutants("cpu", "float32", False)), "float64") if not f.units <= BUDGET}
    assert wrong == set(own_operations(kernels.TorchOps)) == {name for name in vars(Mutants) if name[0] != "_"}


def relative(found: Array, exact: Array) -> float:
    return float(np.sqrt(np.square(found - exact, dtype=np.float64).mean() / np.square(exact).mean()))


@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", cases.TINY)
def test_towers_are_the_reference(name: str, style: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = cases.checkpoint(tmp_path, cases.TINY[name], style)
    batch, ids = cases.tiny_inputs(checkpoint.config)
    batch.flags.writeable = ids.flags.writeable = False
    exact = make_engine("reference", checkpoint, "float64").engine
    image, text = exact.encode_image(batch.astype("f8")), exact.encode_text(ids)
    double, single = (make_engine("torch", checkpoint, dtype).engine for dtype in ("float64", "float32"))
    assert relative(double.encode_image(batch), image) < 1e-13 > relative(double.encode_text(ids), text)
    for widest in (kernels.WIDEST_ON_CPU, 1):  # all at once; one by one
        monkeypatch.setattr(kernels, "WIDEST_ON_CPU", widest)
        assert_close(single.encode_image(batch), image.astype("f4"), "onnx")
        assert_close(single.encode_text(ids), text.astype("f4"), "onnx")
    for tree in plant([tuple(row[: row.argmax() + 1]) for row in ids]):
        found = double.encode_tree(tree.ids, tree.positions, tree.visible, tree.ends)[0]  # type: ignore[attr-defined]
        assert relative(found, text[tree.texts]) < 1e-13


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_the_suite_grades_each_precision_as_what_it_is(precision: str) -> None:
    class Model(BackendModel):
        def __init__(self, folder: Path) -> None:
            self._checkpoint = Checkpoint(folder)
            model = self._model = CLIP(self._checkpoint, "torch", precision=precision)
            self.encode_image, self.encode_text = model.encode_image, model.encode_text

    engine = PythonEngine(lambda folder: Backend() if folder is None else Model(folder))
    asked = [q for q in levels.questions(["towers"]) if q.id.startswith(("towers/vit-b", "towers/rn-b"))]
    report = suite.run(engine, asked, precision=precision, diagnose=False)
    assert not [(r.case, r.units, r.problem) for r in report.results if r.verdict != "PASS"]
    if precision != "float32":
        strict = suite.run(engine, asked, diagnose=False)
        assert all(r.verdict == "FAIL" for r in strict.results)


@pytest.mark.slow
def test_bfloat16_keeps_the_direction_of_embeddings(tmp_path: Path) -> None:
    checkpoint = cases.checkpoint(tmp_path, PUBLISHED["clip/ViT-B-32"], "trained")
    batch, ids = cases.full_inputs(checkpoint.config)
    exact = make_engine("reference", checkpoint, "float32").engine
    fast = make_engine("torch", checkpoint, "float32", precision="bfloat16").engine
    assert cosines(fast.encode_image(batch), exact.encode_image(batch)).min() >= 0.9999
    assert cosines(fast.encode_text(ids), exact.encode_text(ids)).min() >= 0.9999


@pytest.mark.parametrize("name", PUBLISHED)
def test_shapes_of_the_nine_models_without_their_numbers(name: str) -> None:
    import torch

    config, ops = PUBLISHED[name], kernels.TorchOps()
    with torch.device("meta"):
        params = {n: torch.empty(shape) for n, shape in {**visual_shapes(config), **text_shapes(config)}.items()}
        text: Any = nest(params)
        visual = text.pop("visual")
        side = config.vision.resolution
        image = encoder(config.vision)(ops, torch.empty(3, 3, side, side), config.vision, **visual)
        ids = np.array([[5, 6, 7, 49407, 0], [5, 6, 49407, 0, 0]])
        trees: Any = [torch.from_numpy(np.ascontiguousarray(x)).to("meta") for x in single_texts(ids)]
        ids, positions, visible, ends = trees
        embedded = encode_tree(ops, ids, positions, visible, ends, config.text, **text)
    assert image.shape == (3, config.embed_dim) and embedded.shape == (2, 1, config.embed_dim)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["vit-a", "rn-a"])
def test_maps_are_channels_last_and_weights_are_not_copied(name: str, precision: str, tmp_path: Path) -> None:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    maps: list[Any] = []

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            if "conv" in str(func):
                maps.append(result)
            return result

    checkpoint = cases.checkpoint(tmp_path, cases.TINY[name], "plain")
    engine = make_engine("torch", checkpoint, "float32", precision=precision).engine
    batch, _ = cases.tiny_inputs(checkpoint.config)
    with Watch():
        engine.encode_image(batch)
    assert maps and all(each.is_contiguous(memory_format=torch.channels_last) for each in maps)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        engine.encode_image(batch)
    called = {event.name for event in profile.events()}
    assert "aten::linear" in called and not any("batch_norm" in name for name in called)
    assert not [event for event in profile.events() if event.name == "aten::bmm" and "aten::linear" in callers(event)]


def callers(event: Any) -> list[str]:
    """The names of the operators that called one, in torch's profile."""
    names = []
    while (event := event.cpu_parent) is not None:
        names.append(event.name)
    return names


@pytest.mark.parametrize("name", ["vit-a", "rn-a"])
def test_weights_travel_once_and_inputs_once_a_batch(name: str, tmp_path: Path) -> None:
    """On the device `meta`, which computes shapes only: whatever reaches it or leaves it is a copy that torch shows."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    travelled: list[str] = []

    class Watch(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            inputs = {a.device.type for a in args if isinstance(a, torch.Tensor)}
            if isinstance(result, torch.Tensor) and inputs and inputs != {result.device.type}:
                travelled.append(f"{inputs} to {result.device.type}")
            return result

    class Meta(kernels.PlacedTorchOps):
        def fetch(self, own: Any) -> Array:
            travelled.append("fetched")
            return np.zeros(own.shape, np.float32)

    checkpoint = cases.checkpoint(tmp_path, cases.TINY[name], "plain")
    config = checkpoint.config
    params = {"visual": lambda: checkpoint.visual("float32"), "text": lambda: checkpoint.text("float32")}
    engine = TowerEngine(config, params, overlay(Meta("meta", "bfloat16", False)))  # type: ignore[arg-type]
    batch, ids = cases.tiny_inputs(config)
    for tower, encode, given, inputs in (
        (visual_shapes(config), engine.encode_image, batch, 1),
        (text_shapes(config), engine.encode_text, ids, 4),
    ):
        norms = sum(name.endswith("running_var") for name in tower)  # whose four became their convolution's bias
        for weights in (len(tower) - 3 * norms, 0, 0):
            travelled.clear()
            with Watch():
                assert encode(given).shape == (len(given), config.embed_dim)
            assert travelled.count("fetched") == 1
            assert [x for x in travelled if x != "fetched"] == ["{'cpu'} to meta"] * (weights + inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vit-a", "rn-a"])
@pytest.mark.filterwarnings("ignore")  # torch's own, about itself
def test_compiled_towers_are_the_same(name: str, tmp_path: Path) -> None:
    checkpoint = cases.checkpoint(tmp_path, cases.TINY[name], "plain")
    batch, ids = cases.tiny_inputs(checkpoint.config)
    plain, compiled = (make_engine("torch", checkpoint, "float32", compile=c).engine for c in (False, True))
    for n in (1, 2, 3):
        assert_close(compiled.encode_image(batch[:n]), plain.encode_image(batch[:n]), "onnx")
        assert_close(compiled.encode_text(ids[:n]), plain.encode_text(ids[:n]), "onnx")


def test_eight_threads_get_the_bits_of_one(tiny: Path) -> None:
    model = AutoModel.from_pretrained(tiny, backend="torch")
    batch = pixels(3, model.config.vision.resolution)
    alone = model.encode_image(batch)
    assert isinstance(alone, np.ndarray) and alone.dtype == np.float32
    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(found, alone) for found in pool.map(model.encode_image, [batch] * 24))


FORKED = """
import os, signal, sys, numpy as np
from clipref import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], backend="torch")
side = model.config.vision.resolution
def used():
    return model.encode_image(np.ones((32, 3, side, side), "f4")), model.encode_text(np.array([[8, 520]] * 30))
before = used()
child = os.fork()
if child:
    assert os.waitpid(child, 0)[1] == 0
    used()
else:
    signal.alarm(30)
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-5) for a, b in zip(used(), before))
    os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_can_use_the_model_too() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, "clipref/shapes-rn"], check=True, timeout=120)


def test_a_gpu_is_refused_to_a_fork_and_its_lack_of_memory_is_an_error_of_ours() -> None:
    import torch

    ops = kernels.PlacedTorchOps("cpu", "float32", False)
    with pytest.raises(BackendError, match="cpu lacks memory.*fewer items"), ops.running():
        raise torch.OutOfMemoryError("CUDA out of memory.")
    ops.device, ops.process = torch.device("cuda"), -1
    with pytest.raises(BackendError, match="A forked process can't use the device cuda"), ops.running():
        pass


def test_gradients_and_tf32_of_the_program_are_left_alone() -> None:
    import torch

    ops = kernels.PlacedTorchOps("cpu", "float32", False)
    ops.device = torch.device("cuda")  # which needn't be there to be asked for
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32
    try:
        matmul.allow_tf32 = True
        for asked in (False, True):
            ops.tf32 = asked
            with ops.running():
                assert matmul.allow_tf32 is cudnn.allow_tf32 is asked and not torch.is_grad_enabled()
            assert matmul.allow_tf32 and torch.is_grad_enabled()
    finally:
        matmul.allow_tf32 = before


def test_embedding_says_what_computed_it(tiny: Path) -> None:
    model = AutoModel.from_pretrained(tiny, backend=["torch", "onnx"], precision="bfloat16", device="cpu")
    assert (model.backend, model.precision) == ("torch", "bfloat16") and "0.9999" in model.fidelity
    assert AutoModel.from_pretrained(tiny, device="cpu").backend == "torch"  # the one that has a device
    assert model.embed_images(pictures(2), normalize=True).shape == (2, model.config.embed_dim)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "cuda:99"}, "torch has no device 'cuda:99' here .*there are: cpu"),
        ({"device": "toaster"}, "torch has no device 'toaster'"),
        ({"device": None}, "torch has no device None"),
        ({"compile": "yes"}, "compile is 'yes'; expected True or False"),
        ({"threads": 0}, "threads is 0"),
        ({"precision": "int8"}, "'torch' has no precision 'int8'; it has: float32, float64, tf32, bfloat16, float16"),
        ({"precision": "half"}, "precision is 'half'; expected one of"),
        ({"precision": "float64"}, "'float64' is asked for by dtype"),
        ({"precision": "float16", "dtype": "float64"}, "'float64' is asked for by dtype"),
    ],
)
def test_options_of_another_kind(tiny_vit: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(BackendError, match=message):
        AutoModel.from_pretrained(tiny_vit, backend="torch", **options)
