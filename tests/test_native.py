"""The native backend: operations and towers by each processor's kernels, fused passes, threads, forks."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from clipref import AutoModel, BackendError, WeightsError, backends, ops
from clipref.backends import own_operations
from clipref.config import PUBLISHED
from clipref.engine import TowerEngine, checkpoint_params
from clipref.kernels.check import BUDGET, check_operations, errors
from clipref.kernels.compiled import open_library
from clipref.kernels.native import NativeOps, available, library, operations
from clipref.kernels.native.packing import Projection, Weight, pack
from clipref.kernels.native.pending import Pending
from clipref.lazy import once
from clipref.weights import Checkpoint, SafetensorsFile
from clipref.weights_tools import synthetic

from . import cases
from .conftest import pixels
from .native import PROCESSORS, needs_library
from .tolerances import assert_close

pytestmark = needs_library
GENERATOR = np.random.Generator(np.random.PCG64(5))


def normal(*shape: int) -> np.ndarray:
    return GENERATOR.standard_normal(shape).astype(np.float32)


def test_a_processor_of_the_list_runs_here() -> None:
    check_operations("native")
    assert PROCESSORS[-1] == "plain" and operations().processor == PROCESSORS[0]


@pytest.mark.parametrize("processor", PROCESSORS)
def test_operations_are_right(processor: str) -> None:
    found = list(errors(backends.overlay(NativeOps(processor, 2)), "float32"))
    assert [finding for finding in found if not finding.units <= BUDGET] == []


@pytest.mark.fast_cases("trained")
@pytest.mark.parametrize("style", synthetic.STYLES)
@pytest.mark.parametrize("name", cases.TINY)
def test_towers_are_the_reference(name: str, style: str, tmp_path: Path) -> None:
    checkpoint = cases.checkpoint(tmp_path, cases.TINY[name], style)
    config, params = checkpoint.config, checkpoint_params(checkpoint, "float32")
    batch, ids = cases.tiny_inputs(config)
    batch.flags.writeable = ids.flags.writeable = False
    exact = AutoModel.from_pretrained(checkpoint.file.path, config=config, dtype="float64")
    image, text = (x.astype("f4") for x in (exact.encode_image(batch), exact.encode_text(ids)))
    for processor in PROCESSORS:
        for threads in (1, 2):  # items one after another; shared out, or their operations
            engine = TowerEngine(config, params, backends.overlay(NativeOps(processor, threads)))
            assert_close(engine.encode_image(batch), image, "native")
            assert_close(engine.encode_text(ids), text, "native")


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_full_sizes_are_the_reference(name: str, tmp_path: Path) -> None:
    synthetic.write(tmp_path / "c", PUBLISHED[name], 7, "trained")
    native = AutoModel.from_pretrained(tmp_path / "c", backend="native")
    exact = AutoModel.from_pretrained(tmp_path / "c", dtype="float64")
    batch, texts = pixels(2, native.config.vision.resolution), ["a cat", "a photo of two small dogs on a red sofa"]
    assert_close(native.encode_image(batch), exact.encode_image(batch).astype("f4"), "native full size")
    assert_close(native.embed_text(texts), exact.embed_text(texts).astype("f4"), "native full size")


def test_trees_and_traces_are_the_reference() -> None:
    """Texts that share what they begin with, and what a trace sees and puts in an activation's place."""
    texts = [f"a photo of a {colour} {shape}" for colour in ("red", "green") for shape in ("circle", "star", "ring")]
    for name in ("clipref/shapes-vit", "clipref/shapes-rn"):
        native, plain = (AutoModel.from_pretrained(name, backend=backend) for backend in ("native", "reference"))
        assert_close(native.embed_text(texts), plain.embed_text(texts), "native")
        batch = pixels(1, native.config.vision.resolution)
        part = "visual.layer1.0" if "rn" in name else "visual.transformer.resblocks.1.ln_1"
        edit = {part: lambda x: 2 * x, "transformer.resblocks.0.mlp": lambda x: 2 * x}
        for edits in (None, edit):
            found, expected = (model.trace(pixels=batch, text=texts[0], edit=edits) for model in (native, plain))
            assert found.keys() == expected.keys()
            for key in expected:
                assert_close(found[key], expected[key], "native")


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu", "relu"])
def test_what_is_done_in_one_pass(activation: str) -> None:
    """Each order in which the towers add and activate, with numbers of outputs that end within a panel."""
    kernels = NativeOps(PROCESSORS[0], 2)
    x, weight, bias, residual = normal(3, 5, 7), normal(37, 7), normal(37), normal(3, 5, 37)
    act = getattr(kernels, activation)
    product: Callable[[], Any] = lambda: kernels.linear(x, pack(weight), bias)  # noqa: E731
    expected = ops.linear(x, weight, bias)
    assert_close(kernels.fetch(act(product())), getattr(ops, activation)(expected), "operation")
    assert_close(kernels.fetch(residual + product()), residual + expected, "operation")
    assert_close(kernels.fetch(product() + residual[:, ::-1]), residual[:, ::-1] + expected, "operation")
    both = kernels.fetch(act(product() + residual))
    assert_close(both, getattr(ops, activation)(residual + expected), "operation")
    assert_close(kernels.fetch(act(product()) + residual), getattr(ops, activation)(expected) + residual, "operation")
    assert_close(kernels.fetch(product() + product()), 2 * expected, "operation")
    assert_close(kernels.fetch(product() + residual + residual), 2 * residual + expected, "operation")
    seen = product()
    assert_close(seen[:, 1:], expected[:, 1:], "operation")  # computed by now: nothing is done to it on the way
    assert_close(kernels.fetch(act(seen)), getattr(ops, activation)(expected), "operation")
    assert_close(kernels.fetch(seen + residual), expected + residual, "operation")


def test_a_convolution_in_one_pass() -> None:
    kernels = NativeOps(PROCESSORS[0], 2)
    for kernel, stride in ((1, 1), (3, 1), (3, 2)):
        x, weight, bias = normal(2, 5, 9, 8), normal(35, 5, kernel, kernel), normal(35)
        expected = ops.conv2d(x, weight, stride, kernel // 2) + bias[:, None, None]
        residual = normal(*expected.shape)
        convolved = kernels.conv2d(x, pack(weight), stride, kernel // 2, bias)
        assert isinstance(convolved, Pending) and convolved.shape == expected.shape
        assert_close(kernels.fetch(kernels.relu(convolved + residual)), ops.relu(expected + residual), "operation")


def test_rows_of_a_weight() -> None:
    """As the last block takes them: from a panel's beginning, as a view, and from within."""
    weight = normal(3 * 32, 7)
    packed = pack(weight)
    for rows in (slice(None, 32), slice(32, None), slice(5, 70)):
        part = packed[rows]
        assert isinstance(part, Weight) and part is packed[rows]
        assert np.array_equal(part.panels, pack(weight[rows]).panels)
    assert np.shares_memory(packed[32:].panels, packed.panels)


def test_blocks_are_packed_by_several_threads_as_by_one(tiny_vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, readers, read = Checkpoint(tiny_vit), set[int](), SafetensorsFile.read

    def read_slowly(*arguments: Any) -> Any:
        readers.add(threading.get_ident())
        time.sleep(0.001)
        return read(*arguments)

    monkeypatch.setattr(SafetensorsFile, "read", read_slowly)

    def arrays(params: Any) -> Iterator[np.ndarray]:
        if isinstance(params, Weight | Projection):
            yield params.panels if isinstance(params, Weight) else params.weight.panels
        elif isinstance(params, np.ndarray):
            yield params
        else:
            for item in params.values() if isinstance(params, dict) else params:
                yield from arrays(item)

    packed = []
    for count in (1, 3):
        readers.clear()
        params = checkpoint.unread_visual("float32")
        packed.append(list(arrays(operations(threads=count).prepare(params))))
        assert (len(readers) > 1) == (count > 1)
    assert len(packed[0]) > 20
    for one, several in zip(*packed, strict=True):
        np.testing.assert_array_equal(one, several)


@pytest.mark.parametrize("threads", [1, 2])
def test_weights_that_cannot_be_read_are_an_error_each_time(threads: int, tiny_vit: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_vit, tmp_path / "damaged")
    tensors = {name: x.copy() for name, x in load_file(folder / "model.safetensors").items()}
    tensors["visual.transformer.resblocks.1.mlp.c_fc.weight"][3, 5] = np.nan
    save_file(tensors, folder / "model.safetensors")
    checkpoint = Checkpoint(folder)
    engine = TowerEngine(checkpoint.config, checkpoint_params(checkpoint, "float32"), operations(threads=threads))
    for n in (1, 4, 1):
        with pytest.raises(WeightsError, match=re.escape("resblocks.1.mlp.c_fc.weight")):
            engine.encode_image(pixels(n, checkpoint.config.vision.resolution))


@pytest.mark.parametrize("name", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_an_item_has_the_same_bits_in_any_batch(name: str) -> None:
    config = AutoModel.from_pretrained(name, backend="reference").config
    batch = pixels(9, config.vision.resolution)
    ids = np.zeros((9, config.text.context_length), np.int64)
    for i, row in enumerate(ids):
        row[: 2 + i] = 400 + np.arange(2 + i) * 7
        row[2 + i] = config.text.vocab_size - 1
    one = AutoModel.from_pretrained(name, backend="native", threads=1)
    images, texts = (
        np.concatenate([encode(x[i : i + 1]) for i in range(9)])
        for encode, x in ((one.encode_image, batch), (one.encode_text, ids))
    )
    for threads in (1, 2, 3):
        model = AutoModel.from_pretrained(name, backend="native", threads=threads)
        for n in (1, 2, 9):
            assert np.array_equal(model.encode_image(batch[:n]), images[:n])
            assert np.array_equal(model.encode_text(ids[:n]), texts[:n])
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(model.encode_image, [batch] * 16):
            assert np.array_equal(found, images)


FORK = """
import os, signal, threading
import numpy as np
from clipref import AutoModel

model = AutoModel.from_pretrained("clipref/shapes-vit", backend="native", threads=2)
batch = np.zeros((8, 3, model.config.vision.resolution, model.config.vision.resolution), np.float32)
expected = model.encode_image(batch)
model.encode_image(batch[:1])
for n, thread in (1, "native_helper_0"), (8, "native_0"):
    child = os.fork()
    if not child:
        signal.alarm(20)
        same = np.array_equal(model.encode_image(batch[:n]), expected[:n])
        os._exit(0 if same and thread in {one.name for one in threading.enumerate()} else 1)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(signal, "alarm"), reason="no fork here")
def test_a_forked_child_has_threads_of_its_own() -> None:
    subprocess.run([sys.executable, "-W", "ignore", "-c", FORK], check=True, timeout=60)


def test_nan_is_not_hidden() -> None:
    for name in ("clipref/shapes-vit", "clipref/shapes-rn"):
        engine = AutoModel.from_pretrained(name, backend="native").engine
        assert isinstance(engine, TowerEngine)
        batch = pixels(2, engine.config.vision.resolution)
        batch[1, 2, 5, 7] = np.nan
        found = engine.encode_image(batch)
        assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


@pytest.mark.parametrize(
    ("features", "kind", "chosen"),
    [
        ({"avx512_bf16", "avx_vnni", "clzero"}, "vit", True),  # Zen 5
        ({"avx512_bf16", "avx_vnni", "clzero"}, "resnet", False),
        ({"avx512_bf16", "clzero"}, "vit", False),  # Zen 4
        ({"avx512_bf16", "avx_vnni", "amx_bf16"}, "vit", False),  # Sapphire Rapids
        (set(), "vit", False),
    ],
)
def test_auto_prefers_it_where_they_were_compared(features: set[str], kind: Any, chosen: bool) -> None:
    ours, onnx, openvino = (
        backends.traits(import_module(f"clipref.kernels.{name}")).speed("float32", kind, frozenset(features))
        for name in ("native", "onnx", "openvino")
    )
    assert (max(onnx, openvino) < ours) if chosen else ours == 0


def test_options() -> None:
    for options, message in (
        ({"threads": 0}, "threads is 0"),
        ({"precision": "float16"}, "'native' has no precision 'float16'"),
        ({"dtype": "float64"}, "float64"),
    ):
        with pytest.raises(BackendError, match=message):
            AutoModel.from_pretrained("clipref/shapes-vit", backend="native", **options)


class Mutants(NativeOps):
    """Each operation wrong in a way that a kernel gets it wrong."""

    def linear(self, x, weight, bias=None):  # type: ignore[no-untyped-def]
        return super().linear(x, weight)

    def layer_norm(self, x, weight, bias):  # type: ignore[no-untyped-def]
        return super().layer_norm(x[..., ::-1], weight, bias)

    def quick_gelu(self, x):  # type: ignore[no-untyped-def]
        return super().gelu(x)

    def gelu(self, x):  # type: ignore[no-untyped-def]
        return super().quick_gelu(x)

    def relu(self, x):  # type: ignore[no-untyped-def]
        return np.fmax(x, 0.0)

    def attention(self, q, k, v, visible=None):  # type: ignore[no-untyped-def]
        return super().attention(q, k, v)

    def conv2d(self, x, weight, stride=1, padding=0, bias=None):  # type: ignore[no-untyped-def]
        return super().conv2d(x, weight[:, ::-1], stride, padding)

    def avg_pool(self, x, size):  # type: ignore[no-untyped-def]
        return super().avg_pool(x[:, :, ::-1], size)


def test_a_wrong_operation_is_caught() -> None:
    found = errors(backends.overlay(Mutants(PROCESSORS[0], 1)), "float32")
    wrong = {finding.operation for finding in found if not finding.units <= BUDGET}
    assert wrong == set(own_operations(Mutants)) & set(vars(Mutants))


def test_without_a_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "broken.so"
    broken.write_bytes(b"no library")
    for path, message in (
        (tmp_path / "none.so", "wasn't built, for want of a C compiler"),
        (broken, "can't be loaded"),
    ):
        monkeypatch.setattr(library, "library", once(partial(open_library, path)))
        with pytest.raises(BackendError, match=message):
            available()
        assert message in backends.describe("native")["why not"]
        assert AutoModel.from_pretrained("clipref/shapes-vit", backend=["native", "reference"]).backend == "reference"
