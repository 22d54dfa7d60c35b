"""The onnx backend: the recorded graph against the reference, dynamic in batch and length, standard and checked."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import AutoModel, BackendError, WeightsError, ops
from clipref.config import ViTConfig
from clipref.engine import ReferenceEngine
from clipref.kernels import batching, recording
from clipref.kernels import onnx as kernels
from clipref.kernels.recording import Graph, RecordingOps, Symbol
from clipref.kernels.runtime import onnxruntime
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic

from . import cases
from .conftest import TINY, make_tiny, pictures, pixels
from .test_ops import MORE
from .tolerances import assert_close

TEXTS = ["a cat", "the red dog, and a cat", "dog"]


@pytest.mark.parametrize("style", ["plain", "trained"])
@pytest.mark.parametrize("kind", TINY)
def test_graph_computes_the_reference(kind: str, style: synthetic.Style, tmp_path: Path) -> None:
    synthetic.write(tmp_path / "c", TINY[kind], seed=3, style=style)
    fast = AutoModel.from_pretrained(tmp_path / "c", backend="onnx")
    exact = AutoModel.from_pretrained(tmp_path / "c", backend="reference", dtype="float64")
    assert fast.backend == "onnx"
    ids = np.array([[8, 9, 520, 0, 0, 0, 0], [8, 30, 31, 32, 520, 520, 3], [520, 0, 0, 0, 0, 0, 0]])
    for n in (1, 3):
        batch = pixels(n, TINY[kind].vision.resolution)
        assert_close(fast.encode_image(batch), exact.encode_image(batch).astype("f4"), "onnx")
        assert_close(fast.encode_text(ids[:n]), exact.encode_text(ids[:n]).astype("f4"), "onnx")
        short = ids[:n, :5]
        assert_close(fast.encode_text(short), exact.encode_text(short).astype("f4"), "onnx")


def test_exact_gelu(tmp_path: Path) -> None:
    config = cases.with_activation(TINY["vit"], "gelu")
    synthetic.write(tmp_path / "c", config, seed=3, style="plain")
    fast, exact = (AutoModel.from_pretrained(tmp_path / "c", backend=b) for b in ("onnx", "reference"))
    batch = pixels(2, config.vision.resolution)
    assert_close(fast.encode_image(batch), exact.encode_image(batch), "onnx")


OPERATIONS = [name for name in MORE if name != "softmax"]  # which is a part of attention there


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_against_the_reference(name: str) -> None:
    arguments = [a.astype("f4") if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in MORE[name]]
    expected = getattr(ops, name)(*arguments)
    assert_close(run_operation(name, arguments, RecordingOps()), expected, "operation")


class Mutants(RecordingOps):
    """Each operation wrong in a way that a port gets it wrong."""

    def linear(self, x, weight, bias=None):  # type: ignore[no-untyped-def]
        return super().linear(x, weight)

    def layer_norm(self, x, weight, bias):  # type: ignore[no-untyped-def]
        return x.graph.emit("LayerNormalization", [x, weight, bias], x.shape, axis=-1, epsilon=1e-6)

    def quick_gelu(self, x):  # type: ignore[no-untyped-def]
        return super().gelu(x)

    def gelu(self, x):  # type: ignore[no-untyped-def]
        return super().quick_gelu(x)

    def relu(self, x):  # type: ignore[no-untyped-def]
        return x.graph.emit("LeakyRelu", [x], x.shape, alpha=0.01)

    def attention(self, q, k, v, visible=None):  # type: ignore[no-untyped-def]
        return super().attention(q, k, v)

    def conv2d(self, x, weight, stride=1, padding=0, bias=None):  # type: ignore[no-untyped-def]
        return super().conv2d(x, np.ascontiguousarray(weight.swapaxes(2, 3)), stride, padding)

    def batch_norm(self, x, weight, bias, running_mean, running_var):  # type: ignore[no-untyped-def]
        return super().batch_norm(x, weight, bias, running_mean, running_var + np.float32(9.9e-4))

    def avg_pool(self, x, size):  # type: ignore[no-untyped-def]
        shape = (*x.shape[:2], x.shape[2] // size, x.shape[3] // size)
        return x.graph.emit("MaxPool", [x], shape, kernel_shape=[size] * 2, strides=[size] * 2)

    def prepend_mean(self, x):  # type: ignore[no-untyped-def]
        return super().prepend_token(x, np.zeros(x.shape[2], np.float32))

    def prepend_token(self, x, token):  # type: ignore[no-untyped-def]
        return super().prepend_token(x, token[::-1])

    def add_positions(self, x, positional_embedding, positions=None):  # type: ignore[no-untyped-def]
        return super().add_positions(x, positional_embedding[1:], positions)

    def embed(self, ids, weight):  # type: ignore[no-untyped-def]
        return super().embed(ids, weight[::-1])

    def take(self, x, positions):  # type: ignore[no-untyped-def]
        return x[:, :1]


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_wrong_operation_is_caught(name: str) -> None:
    arguments = [a.astype("f4") if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in MORE[name]]
    with pytest.raises(AssertionError):
        assert_close(run_operation(name, arguments, Mutants()), getattr(ops, name)(*arguments), "operation")


def run_operation(name: str, arguments: list[Any], operations: RecordingOps) -> np.ndarray:
    """One operation as a graph; arrays that a tower would compute are its inputs, weights are constants."""
    from onnx import helper

    computed = {"attention": 4, "take": 2}.get(name, 1)
    graph = Graph()
    inputs: list[Any] = []
    values: dict[str, np.ndarray] = {}
    for i, a in enumerate(arguments):
        if i < computed:
            assert isinstance(a, np.ndarray)
            values[f"in{i}"] = a
            inputs.append(Symbol(graph, f"in{i}", a.shape))
        else:
            inputs.append(a)
    output = getattr(operations, name)(*inputs)
    kinds = {key: helper.np_dtype_to_tensor_dtype(a.dtype) for key, a in values.items()}
    from onnx import TensorProto, numpy_helper

    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            name,
            [helper.make_tensor_value_info(key, kinds[key], a.shape) for key, a in values.items()],
            [helper.make_tensor_value_info(output.name, TensorProto.FLOAT, output.shape)],
            [numpy_helper.from_array(value, key) for key, value in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", recording.OPSET)],
        ir_version=10,
    )
    session = onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, values)[0]
    return result


def test_graph_is_standard_and_dynamic(tiny: Path) -> None:
    checkpoint = Checkpoint(tiny)
    visual, text = checkpoint.visual("float32"), checkpoint.text("float32")
    for record in (
        recording.record_image(checkpoint.config, visual),
        recording.record_text(checkpoint.config, text),
        recording.record_tree(checkpoint.config, text),
    ):
        model, weights = recording.build(record, "tower")
        assert {node.domain for node in model.graph.node} == {""} and weights
        shape = model.graph.input[0].type.tensor_type.shape
        assert shape.dim[0].dim_param == "batch" and shape.dim[0].dim_value == 0


def test_taps_are_those_of_the_reference(tiny: Path) -> None:
    fast, exact = (AutoModel.from_pretrained(tiny, backend=b).engine for b in ("onnx", "reference"))
    assert isinstance(fast, kernels.OnnxEngine) and isinstance(exact, ReferenceEngine)
    config = exact.config
    batch, ids = pixels(1, config.vision.resolution), np.array([[8, 9, 30, config.text.vocab_size - 1, 0, 0]])
    for method, given in (("image", batch), ("text", ids)):
        seen: dict[str, np.ndarray] = {}

        def tap(name: str, x: np.ndarray, seen: dict[str, np.ndarray] = seen) -> np.ndarray:
            seen[name] = x
            return x

        getattr(exact, f"encode_{method}")(given, tap)
        found = getattr(fast, f"trace_{method}")(given)
        assert found.keys() - {"embeddings"} == seen.keys()
        for name in seen:
            assert_close(found[name], seen[name], "onnx")


def test_towers_are_built_when_used(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []
    session = kernels.session

    def watched(record, name, *rest):  # type: ignore[no-untyped-def]
        built.append(name)
        return session(record, name, *rest)

    monkeypatch.setattr(kernels, "session", watched)
    model = AutoModel.from_pretrained(tiny, backend="onnx")
    assert built == []
    model.embed_text("a cat")
    assert built == ["textual"]
    model.embed_images(pictures(1))
    model.embed_images(pictures(1))
    assert built == ["textual", "visual"]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_a_batch_is_shared_out_in_order(tiny: Path, threads: int) -> None:
    model = AutoModel.from_pretrained(tiny, backend="onnx", threads=threads)
    batch = pixels(7, model.config.vision.resolution)
    one_by_one = np.concatenate([model.encode_image(batch[i : i + 1]) for i in range(7)])
    assert_close(model.encode_image(batch), one_by_one, "onnx")
    assert_close(model.encode_image(batch[:2]), one_by_one[:2], "onnx")


@pytest.mark.parametrize("threads", [1, 2])
def test_a_large_batch_goes_through_in_parts(tiny: Path, threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    run = kernels.run

    def watched(session: object, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        seen.append(len(next(iter(inputs.values()))))
        return run(session, inputs)

    monkeypatch.setattr(kernels, "run", watched)
    monkeypatch.setattr(batching, "POSITIONS", 54)  # two images of 26 positions, 13 texts of 4
    model = AutoModel.from_pretrained(tiny, backend="onnx", threads=threads)
    vit = isinstance(model.config.vision, ViTConfig)
    batch = pixels(19, model.config.vision.resolution)
    found = model.encode_image(batch)
    assert max(seen) == (2 if vit else batching.RESNET_ITEMS) and sum(seen) == 19
    seen.clear()
    ids = np.array([[8, 9 + i, 30, 520, 0, 0, 0] for i in range(40)])
    texts = model.encode_text(ids)
    assert max(seen) == 54 * threads // 4 and sum(seen) == 40
    assert_close(found[-1:], model.encode_image(batch[-1:]), "onnx")
    assert_close(texts[-1:], model.encode_text(ids[-1:]), "onnx")


FORKED = """
import os, sys, numpy as np
from clipref import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], backend="onnx", threads=2)
side = model.config.vision.resolution
def used():
    return model.encode_image(np.zeros((8, 3, side, side), "f4")).sum(), model.encode_text(np.array([[8, 520]])).sum()
expected = used()
child = os.fork()
assert used() == expected
if child:
    assert os.waitpid(child, 0)[1] == 0
else:
    del model
    os._exit(0)  # as multiprocessing does; exit() would wait for a thread that onnxruntime has in the parent
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_fork_can_use_the_model_too(tiny_vit: Path) -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORKED, str(tiny_vit)], check=True, timeout=30)


def test_sessions_that_have_threads_are_made_anew_in_another_process(
    tiny_vit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []
    monkeypatch.setattr(kernels, "session", lambda record, name, *rest: made.append(name))
    monkeypatch.setattr(kernels, "run", lambda session, inputs: {"embeddings": np.zeros((4, 1, 22), np.float32)})
    engine = kernels.engine(Checkpoint(tiny_vit), "float32", threads=2)
    batch = pixels(4, TINY["vit"].vision.resolution)
    for process in (1, 2, 2):
        monkeypatch.setattr("clipref.lazy._generation", process)
        engine.encode_image(batch)
        engine.encode_text(np.array([[8, 520]]))
    assert made == ["visual, of one thread", "textual", "textual"]


def stored_as_float32(folder: Path, factor: float = 1.0) -> None:
    """Write the weights anew, times a factor, beside the old ones and then in their place."""
    weights = {name: np.asarray(x * np.float32(factor)) for name, x in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "new")
    os.replace(folder / "new", folder / "model.safetensors")


@pytest.mark.parametrize("change", ["replaced", "removed"])
def test_weights_that_changed_are_refused(tmp_path: Path, change: str) -> None:
    folder = make_tiny(tmp_path, "vit")
    stored_as_float32(folder)
    model = AutoModel.from_pretrained(folder, backend="onnx")
    assert model.encode_text(np.array([[8, 520]])).shape == (1, 22)
    if change == "replaced":
        stored_as_float32(folder, 0.9)
    else:
        shutil.rmtree(folder)
    message = {"replaced": "has changed since it was opened; open", "removed": r"can't be read any more \(No such"}
    with pytest.raises(WeightsError, match=message[change]):
        model.encode_image(pixels(1, model.config.vision.resolution))


def test_what_onnx_runtime_refuses_is_an_error_of_ours() -> None:
    def record(graph: recording.Graph, tap: object) -> recording.Symbol:
        return graph.emit("NoSuchOperation", [graph.input("ids", "int64", ("batch", "length"))], ("batch", "length"))

    with pytest.raises(BackendError, match="ONNX Runtime can't run the tower 'text'"):
        kernels.session(record, "text", kernels.Settings(1))


@pytest.mark.parametrize("backend", ["onnx", "auto"])
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("threads", 0, "threads is 0; expected a whole number, at least 1"),
        ("threads", True, "threads is True"),
        ("threads", 2.5, "threads is 2.5"),
        ("threads", "2", "threads is '2'"),
        ("threads", 10**6, "threads is 1000000; expected a whole number, at least 1 and at most 1024"),
        ("spinning", "no", "spinning is 'no'; expected True or False"),
        ("arena", None, "arena is None"),
        ("providers", "CPUExecutionProvider", "providers are 'CPUExecutionProvider'; expected a list"),
        ("providers", [], r"providers are \[\]"),
        ("providers", [1], r"providers are \[1\]"),
        (
            "bogus",
            1,
            "option 'bogus'; (it has|they have): .*arena.*threads|it has: threads, providers, spinning, arena",
        ),
        ("onnx_execution_providers", [], "option 'onnx_execution_providers'.* it is providers="),
        ("max_batch_size", 8, "option 'max_batch_size'.* it is batch_size= here"),
        ("api_key", "x", "option 'api_key'.* no key is needed"),
    ],
)
def test_options_of_another_kind(tiny_vit: Path, backend: str, option: str, value: object, message: str) -> None:
    with pytest.raises(BackendError, match=message):
        AutoModel.from_pretrained(tiny_vit, backend=backend, **{option: value})  # type: ignore[arg-type]


def test_options(tiny: Path) -> None:
    expected = AutoModel.from_pretrained(tiny, backend="onnx").embed_text("a cat")
    for options in ({"threads": 1}, {"spinning": True}, {"arena": False}):
        model = AutoModel.from_pretrained(tiny, backend="onnx", **options)
        assert_close(model.embed_text("a cat"), expected, "onnx")
    with pytest.raises(BackendError, match="threads is 0"):
        AutoModel.from_pretrained(tiny, backend="onnx", threads=0)
    with pytest.raises(BackendError, match="no NoSuchProvider here; there are: .*CPUExecutionProvider"):
        AutoModel.from_pretrained(tiny, backend="onnx", providers=["NoSuchProvider"])


@pytest.mark.fast_cases("[vit]")
def test_auto_falls_back_when_onnxruntime_is_missing(tiny: Path) -> None:
    code = f"""
import sys
sys.modules["onnxruntime"] = None
from clipref import AutoModel, BackendError
print(AutoModel.from_pretrained({str(tiny)!r}).backend)
try:
    AutoModel.from_pretrained({str(tiny)!r}, backend="onnx")
except BackendError as error:
    print(error)
"""
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.splitlines()
    assert out[0] != "onnx" and "pip install onnx onnxruntime" in out[1]


def test_settings_reach_onnx_runtime(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ort = onnxruntime()
    seen: list[Any] = []
    options = ort.SessionOptions

    def watched() -> Any:
        seen.append(options())
        return seen[-1]

    monkeypatch.setattr(ort, "SessionOptions", watched)
    engine = kernels.engine(Checkpoint(tiny), "float32", threads=3, spinning=True, arena=False)
    engine.encode_text(np.array([[8, 9, 520]]))
    found = seen[-1]
    spin = found.get_session_config_entry("session.force_spinning_stop")
    assert (found.intra_op_num_threads, found.enable_cpu_mem_arena, spin) == (3, False, "0")


@pytest.mark.parametrize("move", ["reshape", "slice", "step"])
def test_what_cannot_be_recorded_is_refused(move: str) -> None:
    x = Symbol(Graph(), "x", ("batch", "length", 4))
    with pytest.raises(BackendError, match="Can't record"):
        if move == "reshape":
            x.reshape(4, "length", "batch")
        elif move == "slice":
            x[:, 1:]
        else:
            x[:, :, ::2]
