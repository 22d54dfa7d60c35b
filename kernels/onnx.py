"""The fast path: the towers of clipref, called with arrays that record, become ONNX graphs that ONNX Runtime executes.

There is no second topology: `Symbol` stands for an array whose values aren't known yet, `RecordingOps` emits one ONNX
node or a few for every operation of clipref.ops, and what comes out is the graph of the very functions that are the
reference. Batch and text length are symbolic dimensions, so one graph serves all. `RecordingOps` uses standard
operators only (opset 18), and ONNX Runtime's own optimiser fuses them; `OnnxRuntimeOps` has one of its own besides.

Weights are handed to the session beside the graph: those that lie in the checkpoint's file as they are needed, as a
place in that file; the others in memory. So there is no temporary file, and no protobuf near its 2 GiB.
Refuses float64, which ONNX Runtime's CPU kernels only partly have.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, cast
from weakref import WeakSet

import numpy as np
from numpy.typing import NDArray

from clipref import ops, resnet, text_transformer, vision_transformer
from clipref.config import ClipConfig, ResNetConfig, ViTConfig
from clipref.engine import available_threads, is_count, once, once_a_process
from clipref.errors import BackendError
from clipref.transformer import Tap, no_tap
from clipref.weights import Checkpoint, DType, SafetensorsFile

Array: TypeAlias = NDArray[Any]
Dim: TypeAlias = "int | str"  # a length, or the name of one that is known only when the graph runs

OPSET = 18
CPU = "CPUExecutionProvider"

# Of a thread's items at a time: enough for the weights to be worth fetching, few enough for the cache.
POSITIONS = 512
# Images at a time that all threads share, of a ResNet: more are no faster, and each takes memory.
RESNET_ITEMS = 8


@dataclass
class Graph:
    """The nodes recorded so far, and the constants that they use."""

    nodes: list[Any] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    inputs: dict[str, tuple[np.dtype[Any], tuple[Dim, ...]]] = field(default_factory=dict)
    _named: dict[int, tuple[str, Array]] = field(default_factory=dict)

    def input(self, name: str, dtype: str, shape: Sequence[Dim]) -> Symbol:
        """An array that is given when the graph runs."""
        self.inputs[name] = np.dtype(dtype), tuple(shape)
        return Symbol(self, name, tuple(shape))

    def constant(self, value: Array) -> str:
        """The name of a constant, the same for the same array."""
        if id(value) not in self._named:
            name = f"c{len(self._named)}"
            self._named[id(value)] = name, value  # keeps the array, so that its id stays its own
            self.constants[name] = np.asarray(value, order="C")
        return self._named[id(value)][0]

    def emit(self, operator: str, inputs: Sequence[Any], shape: Sequence[Dim], **attributes: Any) -> Symbol:
        """Add one node; its inputs are symbols, arrays or None (left out), its output has the shape given."""
        from onnx import helper

        name = f"{operator}_{len(self.nodes)}"
        names = ["" if x is None else x.name if isinstance(x, Symbol) else self.constant(np.asarray(x)) for x in inputs]
        self.nodes.append(helper.make_node(operator, names, [name], name=name, **attributes))
        return Symbol(self, name, tuple(shape))


@dataclass(frozen=True, eq=False)
class Symbol:
    """An array that records: as much of numpy as the towers use."""

    graph: Graph
    name: str
    shape: tuple[Dim, ...]

    def __add__(self, other: Any) -> Symbol:
        shape = self.shape if isinstance(other, float) else broadcast(self.shape, other.shape)
        return self.graph.emit("Add", [self, np.float32(other) if isinstance(other, float) else other], shape)

    def __matmul__(self, weight: Any) -> Symbol:
        return self.graph.emit("MatMul", [self, weight], (*self.shape[:-1], weight.shape[-1]))

    def swapaxes(self, first: int, second: int) -> Symbol:
        """As numpy's."""
        order = list(range(len(self.shape)))
        order[first], order[second] = order[second], order[first]
        return self.graph.emit("Transpose", [self], [self.shape[i] for i in order], perm=order)

    def reshape(self, *shape: Dim) -> Symbol:
        """As numpy's; a length that isn't known has to stay at its place."""
        target = []
        for i, length in enumerate(shape):
            if isinstance(length, str) and self.shape[i] != length:
                raise BackendError(f"Can't record a reshape of {self.shape} to {shape}: {length!r} would move.")
            target.append(0 if isinstance(length, str) else length)  # 0 copies the input's length
        return self.graph.emit("Reshape", [self, np.array(target, np.int64)], shape)

    def __getitem__(self, index: Any) -> Symbol:
        """Slices with fixed ends, and whole numbers."""
        x, dropped = self, []
        for axis, item in enumerate(index):
            if isinstance(item, int):
                dropped.append(axis)
                item = slice(item, item + 1)
            if item == slice(None):
                continue
            length = x.shape[axis]
            begin, end = item.start or 0, length if item.stop is None else item.stop
            if not isinstance(end, int) or begin < 0 or end < begin or item.step is not None:
                raise BackendError(f"Can't record the slice {item} of an axis of length {length}.")
            shape = (*x.shape[:axis], end - begin, *x.shape[axis + 1 :])
            x = self.graph.emit("Slice", [x, *(np.array([v], np.int64) for v in (begin, end, axis))], shape)
        if dropped:
            shape = tuple(length for axis, length in enumerate(x.shape) if axis not in dropped)
            x = self.graph.emit("Squeeze", [x, np.array(dropped, np.int64)], shape)
        return x


def broadcast(one: Sequence[Dim], other: Sequence[Dim]) -> list[Dim]:
    """The shape of two arrays that broadcast, of which lengths that aren't known are equal by name or 1."""
    rank = max(len(one), len(other))
    pairs = zip((*[1] * (rank - len(one)), *one), (*[1] * (rank - len(other)), *other), strict=True)
    return [b if a == 1 else a for a, b in pairs]


class RecordingOps:
    """The operations of clipref.ops, each of which emits the nodes that compute it."""

    def linear(self, x: Symbol, weight: Array, bias: Array | None = None) -> Symbol:
        y: Symbol = x @ weight.T
        return y if bias is None else y + bias

    def layer_norm(self, x: Symbol, weight: Array, bias: Array) -> Symbol:
        return x.graph.emit("LayerNormalization", [x, weight, bias], x.shape, axis=-1, epsilon=1e-5)

    def quick_gelu(self, x: Symbol) -> Symbol:
        scaled = x.graph.emit("Mul", [x, np.float32(1.702)], x.shape)
        return x.graph.emit("Mul", [x, x.graph.emit("Sigmoid", [scaled], x.shape)], x.shape)

    def gelu(self, x: Symbol) -> Symbol:
        scaled = x.graph.emit("Div", [x, np.float32(2**0.5)], x.shape)
        erf = x.graph.emit("Erf", [scaled], x.shape) + 1.0
        product = x.graph.emit("Mul", [x, erf], x.shape)
        return x.graph.emit("Mul", [product, np.float32(0.5)], x.shape)

    def relu(self, x: Symbol) -> Symbol:
        return x.graph.emit("Relu", [x], x.shape)

    def attention(self, q: Symbol, k: Symbol, v: Symbol, visible: Symbol | Array | None = None) -> Symbol:
        emit = q.graph.emit
        n, heads, queries, channels = q.shape
        keys = k.shape[2]
        assert isinstance(channels, int)
        scaled = emit("Mul", [q, np.float32(channels**-0.5)], q.shape)
        scores = emit("MatMul", [scaled, k.swapaxes(2, 3)], (n, heads, queries, keys))
        if visible is not None:
            visible = emit("Unsqueeze", [visible, np.array([1], np.int64)], (n, 1, queries, keys))
            scores = emit("Where", [visible, scores, np.float32(-np.inf)], scores.shape)
        weights = emit("Softmax", [scores], scores.shape, axis=-1)
        return emit("MatMul", [weights, v], (n, heads, queries, v.shape[3]))

    def conv2d(self, x: Symbol, weight: Any, stride: int = 1, padding: int = 0, bias: Any = None) -> Symbol:
        # The bias is for those who fold a BatchNorm into it.
        n, _, height, width = x.shape
        assert isinstance(height, int) and isinstance(width, int)
        sides = [(side + 2 * padding - weight.shape[2]) // stride + 1 for side in (height, width)]
        shape = (n, weight.shape[0], *sides)
        inputs = [x, weight] if bias is None else [x, weight, bias]
        return x.graph.emit("Conv", inputs, shape, strides=[stride] * 2, pads=[padding] * 4)

    def batch_norm(self, x: Symbol, weight: Array, bias: Array, running_mean: Array, running_var: Array) -> Symbol:
        inputs = [x, weight, bias, running_mean, running_var]
        return x.graph.emit("BatchNormalization", inputs, x.shape, epsilon=1e-5)

    def avg_pool(self, x: Symbol, size: int) -> Symbol:
        n, c, height, width = x.shape
        assert isinstance(height, int) and isinstance(width, int)
        shape = (n, c, height // size, width // size)
        return x.graph.emit("AveragePool", [x], shape, kernel_shape=[size] * 2, strides=[size] * 2)

    def prepend_mean(self, x: Symbol) -> Symbol:
        n, length, width = x.shape
        assert isinstance(length, int)
        mean = x.graph.emit("ReduceMean", [x, np.array([1], np.int64)], (n, 1, width), keepdims=1)
        return x.graph.emit("Concat", [mean, x], (n, 1 + length, width), axis=1)

    def prepend_token(self, x: Symbol, token: Array) -> Symbol:
        emit = x.graph.emit
        n, length, width = x.shape
        assert isinstance(length, int)
        size = emit("Shape", [x], (1,), start=0, end=1)
        shape = emit("Concat", [size, np.array([1, width], np.int64)], (3,), axis=0)
        tokens = emit("Expand", [token.reshape(1, 1, -1), shape], (n, 1, width))
        return emit("Concat", [tokens, x], (n, 1 + length, width), axis=1)

    def add_positions(self, x: Symbol, positional_embedding: Array) -> Symbol:
        length = x.shape[1]
        if isinstance(length, int):
            return x + positional_embedding[:length]
        zero, end = np.array([0], np.int64), x.graph.emit("Shape", [x], (1,), start=1, end=2)
        rows = x.graph.emit("Slice", [positional_embedding, zero, end, zero], x.shape[1:])
        return x + rows

    def embed(self, ids: Symbol, weight: Array) -> Symbol:
        return ids.graph.emit("Gather", [weight, ids], (*ids.shape, weight.shape[1]), axis=0)

    def find_end_of_text(self, ids: Symbol) -> tuple[Symbol, Symbol]:
        emit = ids.graph.emit
        end = emit("ArgMax", [ids], (ids.shape[0], 1), axis=1, keepdims=1)
        longest = emit("ReduceMax", [end], (), keepdims=0)
        length = emit("Reshape", [longest, np.array([1], np.int64)], (1,)) + np.array([1], np.int64)
        zero, one = np.array([0], np.int64), np.array([1], np.int64)
        return emit("Slice", [ids, zero, length, one], (ids.shape[0], "length")), end

    def causal(self, ids: Symbol) -> Symbol:
        emit = ids.graph.emit
        n, length = ids.shape
        size = emit("Shape", [ids], (2,))
        square = emit("Concat", [size, emit("Shape", [ids], (1,), start=1, end=2)], (3,), axis=0)
        columns = count(ids, axis=1)  # [L]
        rows = emit("Unsqueeze", [columns, np.array([1], np.int64)], (length, 1))
        seen = emit("LessOrEqual", [columns, rows], (length, length))
        return emit("Expand", [seen, square], (n, length, length))

    def take(self, x: Symbol, positions: Symbol) -> Symbol:
        n, chosen = positions.shape
        indices = x.graph.emit("Unsqueeze", [positions, np.array([2], np.int64)], (n, chosen, 1))
        return x.graph.emit("GatherND", [x, indices], (n, chosen, x.shape[2]), batch_dims=1)


class OnnxRuntimeOps(RecordingOps):
    """With ONNX Runtime's own operators where they save what the standard ones cost."""

    def linear(self, x: Symbol, weight: Array, bias: Array | None = None) -> Symbol:
        # Takes the weight as it lies in the checkpoint; MatMul would need a transposed copy of every one.
        shape = (*x.shape[:-1], weight.shape[0])
        y = x.graph.emit("FusedMatMul", [x, weight], shape, domain="com.microsoft", transB=1)
        return y if bias is None else y + bias


def count(x: Symbol, axis: int) -> Symbol | Array:
    """[0, 1, 2, ...], as many as x is long along the axis."""
    emit = x.graph.emit
    known = x.shape[axis]
    if isinstance(known, int):
        return np.arange(known)
    length = emit("Gather", [emit("Shape", [x], (len(x.shape),)), np.array(axis, np.int64)], ())
    return emit("Range", [np.array(0, np.int64), length, np.array(1, np.int64)], (x.shape[axis],))


Record: TypeAlias = Callable[[Graph, Tap], Symbol]  # puts a tower into a graph; returns the embeddings


STANDARD = RecordingOps()


def record_image(config: ClipConfig, params: Mapping[str, Any], ops: RecordingOps = STANDARD) -> Record:
    """Records the image tower: `pixels` [batch, 3, R, R] float32 -> [batch, E]."""
    vision = config.vision

    def record(graph: Graph, tap: Tap) -> Symbol:
        pixels = graph.input("pixels", "float32", ("batch", 3, vision.resolution, vision.resolution))
        if isinstance(vision, ResNetConfig):
            return cast(Symbol, resnet.encode_image(ops, pixels, vision, tap, **params))
        return cast(Symbol, vision_transformer.encode_image(ops, pixels, vision, tap, **params))

    return record


def record_text(config: ClipConfig, params: Mapping[str, Any], dtype: str = "int64") -> Record:
    """Records the text tower: `ids` [batch, columns] of a dtype -> [batch, E]."""

    def record(graph: Graph, tap: Tap) -> Symbol:
        ids = graph.input("ids", dtype, ("batch", "columns"))
        if dtype != "int64":  # in which the operations count
            ids = graph.emit("Cast", [ids], ids.shape, to=7)  # TensorProto.INT64
        return cast(Symbol, text_transformer.encode_text(STANDARD, ids, config.text, tap, **params))

    return record


def record_tree(config: ClipConfig, params: Mapping[str, Any], ops: RecordingOps = STANDARD) -> Record:
    """Records the text tower for trees of tokens, with the inputs of text_transformer.encode_tree -> [batch, S, E]."""

    def record(graph: Graph, tap: Tap) -> Symbol:
        tokens = ("batch", "length")
        ids, positions = (graph.input(name, "int64", tokens) for name in ("ids", "positions"))
        visible = graph.input("visible", "bool", (*tokens, "length"))
        ends = graph.input("ends", "int64", ("batch", "texts"))
        encode = text_transformer.encode_tree
        return cast(Symbol, encode(ops, ids, positions, visible, ends, config.text, tap, **params))

    return record


def build(
    record: Record, name: str, taps: bool = False, file: SafetensorsFile | None = None
) -> tuple[Any, dict[str, Array]]:
    """An ONNX model whose large weights are outside of it, and those weights by name.

    Its output is `embeddings`, and with `taps` each named activation besides. Weights that lie in `file` as they are
    needed are referred to by their place in it, and not among those returned.
    """
    from onnx import TensorProto, helper, numpy_helper

    def value_info(name: str, dtype: np.dtype[Any], shape: Sequence[Dim]) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    graph, outputs = Graph(), []

    def output(name: str, x: Symbol) -> Symbol:
        graph.emit("Identity", [x], x.shape)
        graph.nodes[-1].output[0] = name
        outputs.append(value_info(name, np.dtype(np.float32), x.shape))
        return x

    output("embeddings", record(graph, output if taps else no_tap))
    initializers, outside = [], {}
    for key, value in graph.constants.items():
        if value.nbytes < 1024:  # shapes and scalars, which the optimiser wants to see
            initializers.append(numpy_helper.from_array(value, key))
            continue
        tensor = TensorProto(name=key, dims=value.shape, data_location=TensorProto.EXTERNAL)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        initializers.append(tensor)
        offset = None if file is None else file.offset_of(value)
        if file is None or offset is None:
            tensor.external_data.add(key="location", value="in memory")
            outside[key] = value
        else:
            place = {"location": file.path.resolve().name, "offset": offset, "length": value.nbytes}
            for entry, text in place.items():
                tensor.external_data.add(key=entry, value=str(text))
    inputs = [value_info(key, dtype, shape) for key, (dtype, shape) in graph.inputs.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, name, inputs, outputs, initializers),
        opset_imports=[
            helper.make_opsetid(domain, 1 if domain else OPSET) for domain in {node.domain for node in graph.nodes}
        ],
        ir_version=10,
        producer_name="clipref",
    )
    return model, outside


# A protobuf can't be larger; the towers of the nine published models are below it in float32.
MAX_BYTES = 2**31 - 1


def complete(record: Record, name: str, notes: Mapping[str, str] | None = None) -> bytes:
    """An ONNX model with its weights inside, and notes in its metadata. Raises BackendError if that is over 2 GiB."""
    from onnx import helper, numpy_helper

    model, weights = build(record, name)
    size = sum(value.nbytes for value in weights.values()) + len(model.SerializeToString())
    if size > MAX_BYTES:
        raise BackendError(f"The graph {name!r} would be {size} bytes; one ONNX file holds at most {MAX_BYTES}.")
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            initializer.CopyFrom(numpy_helper.from_array(weights.pop(initializer.name), initializer.name))
    helper.set_model_props(model, dict(notes or {}))
    encoded: bytes = model.SerializeToString()
    return encoded


@dataclass(frozen=True)
class Settings:
    """How ONNX Runtime runs sessions.

    `spinning` lets threads wait busily for the next call, which takes a core from whatever runs beside and makes the
    next call start sooner. `arena` keeps the memory of the largest call so far for the next ones; without it, memory
    is given back after every call.
    """

    threads: int
    providers: Sequence[Any] = (CPU,)
    spinning: bool = False
    arena: bool = True


class OnnxEngine:
    """ONNX Runtime sessions, made when they are first used: one a tower, and one for batches of images.

    A batch is shared out to as many threads as there are, each with whole items of its own: that needs no waiting for
    each other at every operation, and leaves none of them to one thread. Few items go through at a time, so that their
    activations stay in the cache. Measured, ViT-B-32 gains 5 % by it, ViT-L-14 9 %, ResNets nothing; so only ViTs are
    given the second session, which has weights of its own.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        visual: Callable[[], Record],
        text: Callable[[], Record],
        settings: Settings,
    ) -> None:
        """`visual` and `text` give what records the image tower, and the text tower for trees of tokens."""

        def lazily(
            record: Callable[[], Record], name: str, settings: Settings = settings, taps: bool = False
        ) -> Callable[[], Any]:
            def make() -> Any:
                checkpoint.file.check_unchanged()
                made = session(record(), name, settings, taps, checkpoint.file)
                checkpoint.file.check_unchanged()  # which ONNX Runtime has opened by its path meanwhile
                checkpoint.file.release()  # what the session needs it has by now
                return made

            # One without threads of its own outlives a fork, and its weights are shared with the parent.
            return (once if settings.threads == 1 else once_a_process)(make)

        self._visual, self._text = lazily(visual, "visual"), lazily(text, "textual")
        self._visual_of_one_thread = lazily(visual, "visual, of one thread", replace(settings, threads=1))
        self._traced_visual = lazily(visual, "visual, traced", taps=True)
        self._traced_text = lazily(text, "textual, traced", taps=True)
        vision = checkpoint.config.vision
        on_cpu = list(settings.providers) == [CPU]
        self._threads = settings.threads if on_cpu and isinstance(vision, ViTConfig) else 1
        self._at_a_time = images_at_a_time(vision, 1)
        # Elsewhere than on a CPU, large batches are what is fast; whoever asks for that chooses their size.
        self._images = images_at_a_time(vision, settings.threads) if on_cpu else None
        self._positions = POSITIONS * settings.threads if on_cpu else None
        self._pool = once_a_process(lambda: ThreadPoolExecutor(self._threads, thread_name_prefix="onnx"))

    def encode_image(self, pixels: Array) -> Array:
        """Preprocessed pixels [N, 3, R, R] float32 -> embeddings [N, E] float32."""
        if self._threads == 1 or len(pixels) < self._threads:
            whole = self._visual()
            return in_parts(lambda part: run(whole, {"pixels": part})["embeddings"], pixels, self._images)
        turns = -(-len(pixels) // (self._threads * self._at_a_time))
        made, parts = self._visual_of_one_thread(), np.array_split(pixels, turns * self._threads)
        return np.concatenate(list(self._pool().map(lambda part: run(made, {"pixels": part})["embeddings"], parts)))

    def encode_text(self, ids: Array) -> Array:
        """Token ids [N, T] -> embeddings [N, E] float32."""
        made = self._text()
        return texts_in_parts(lambda part: run(made, text_inputs(part))["embeddings"][:, 0], ids, self._positions)

    def encode_tree(self, ids: Array, positions: Array, visible: Array, ends: Array) -> Array:
        """Trees of tokens, as text_transformer.encode_tree has them -> embeddings [N, S, E] float32."""
        return run(self._text(), {"ids": ids, "positions": positions, "visible": visible, "ends": ends})["embeddings"]

    def trace_image(self, pixels: Array) -> dict[str, Array]:
        """Every named activation of the image tower, and `embeddings`. Takes a session, and its weights, of its own."""
        return run(self._traced_visual(), {"pixels": pixels})

    def trace_text(self, ids: Array) -> dict[str, Array]:
        """Every named activation of the text tower, and `embeddings` [N, 1, E], from a session of its own."""
        return run(self._traced_text(), text_inputs(ids))


def images_at_a_time(vision: ViTConfig | ResNetConfig, threads: int) -> int:
    """How many images go through a tower together, so that a batch of any size needs the memory of a few."""
    return threads * max(1, POSITIONS // (vision.grid**2 + 1)) if isinstance(vision, ViTConfig) else RESNET_ITEMS


def in_parts(encode: Callable[[Array], Array], items: Array, at_a_time: int | None) -> Array:
    """Items [N, ...] -> embeddings [N, E], at most so many at a time, or all of them."""
    step = at_a_time or len(items)
    return np.concatenate([encode(items[i : i + step]) for i in range(0, len(items), step)])


def texts_in_parts(encode: Callable[[Array], Array], ids: Array, positions: int | None) -> Array:
    """Token ids [N, T] -> embeddings [N, E], texts of at most so many positions at a time, or all of them."""
    ids, _ = ops.find_end_of_text(ids)
    return in_parts(encode, ids, positions and max(1, positions // ids.shape[1]))


def text_inputs(ids: Array) -> dict[str, Array]:
    """Texts as trees of one each."""
    ids, end = ops.find_end_of_text(ids.astype(np.int64))
    positions = np.broadcast_to(np.arange(ids.shape[1]), ids.shape)
    return {"ids": ids, "positions": positions, "visible": ops.causal(ids), "ends": end}


def run(session: Any, inputs: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a session by name."""
    names = [output.name for output in session.get_outputs()]
    given = {name: np.ascontiguousarray(value) for name, value in inputs.items()}
    return dict(zip(names, session.run(names, given), strict=True))


def session(
    record: Record,
    name: str,
    settings: Settings,
    taps: bool = False,
    file: SafetensorsFile | None = None,
) -> Any:
    """An ONNX Runtime session of what is recorded; `file` as in `build`."""
    import onnxruntime as ort

    if file is not None and not is_utf8(file.path.resolve()):
        file = None  # ONNX Runtime takes no other paths, so the weights are handed over in memory
    model, weights = build(record, name, taps, file)
    ort.disable_telemetry_events()
    options = ort.SessionOptions()
    options.intra_op_num_threads = settings.threads
    options.enable_cpu_mem_arena = settings.arena
    options.log_severity_level = 3
    # They spin within a call, where the next operation is never far.
    options.add_session_config_entry("session.force_spinning_stop", "0" if settings.spinning else "1")
    if file is not None:
        folder = str(file.path.resolve().parent)
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
    # Copied into the session (C API, AddExternalInitializers), so nothing of these need live on.
    values = {key: ort.OrtValue.ortvalue_from_numpy(value) for key, value in weights.items()}
    options.add_external_initializers(list(values), list(values.values()))
    try:
        # Without its own fallback, which says on standard output that it leaves out what was asked for.
        made = ort.InferenceSession(
            model.SerializeToString(), options, providers=list(settings.providers), enable_fallback=False
        )
    except Exception as error:  # ONNX Runtime's have no base of their own
        raise BackendError(f"ONNX Runtime can't run the tower {name!r}: {error}") from error
    _sessions.add(made)
    return made


def is_utf8(path: Path) -> bool:
    """Whether a path is UTF-8, as its name on Linux need not be."""
    try:
        str(path).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


_sessions: WeakSet[Any] = WeakSet()


def _keep_for_ever() -> None:
    # In the child of a fork, a session's end would wait for threads that only the parent has; the child never exited.
    for made in _sessions:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_keep_for_ever)


def available() -> None:
    """Raise BackendError where ONNX Runtime or onnx is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise BackendError(f"It needs onnx and onnxruntime ({error}): pip install onnx onnxruntime.") from error


def check_options(backend: str, dtype: DType, threads: int | None, **switches: bool) -> None:
    """Raise BackendError for a dtype, a number of threads or a switch that no backend of recorded graphs can have."""
    if dtype != "float32":
        raise BackendError(f"Backend {backend!r} takes and gives float32, not {dtype}; use backend='reference'.")
    if threads is not None and not is_count(threads):
        raise BackendError(f"threads is {threads!r}; expected a whole number, at least 1.")
    for name, value in switches.items():
        if not isinstance(value, bool):
            raise BackendError(f"{name} is {value!r}; expected True or False.")


def check_providers(providers: Any) -> None:
    """Raise BackendError unless these are execution providers that ONNX Runtime has here."""
    import onnxruntime as ort

    def is_provider(item: Any) -> bool:
        if isinstance(item, tuple) and len(item) == 2:
            return isinstance(item[0], str) and isinstance(item[1], dict)
        return isinstance(item, str)

    if not isinstance(providers, list | tuple) or not providers or not all(map(is_provider, providers)):
        raise BackendError(
            f"providers are {providers!r}; expected a list of at least one name, such as [{CPU!r}], or of pairs of a "
            f"name and a dict of its options."
        )
    there = ort.get_available_providers()
    missing = [name for p in providers if (name := p if isinstance(p, str) else p[0]) not in there]
    if missing:
        raise BackendError(f"ONNX Runtime has no {missing[0]} here; there are: {', '.join(there)}.")


def engine(
    checkpoint: Checkpoint,
    dtype: DType,
    *,
    threads: int | None = None,
    providers: Sequence[Any] = (CPU,),
    spinning: bool = False,
    arena: bool = True,
) -> OnnxEngine:
    """The engine of the backend `onnx`.

    `threads`: as many as the process may use, unless given. `providers`: ONNX Runtime's execution providers, in order
    of preference. `spinning`, `arena`: see Settings. Raises BackendError where ONNX Runtime lacks a provider,
    float64 is asked for, or an option is of another kind.
    """
    check_options("onnx", dtype, threads, spinning=spinning, arena=arena)
    check_providers(providers)
    config = checkpoint.config
    return OnnxEngine(
        checkpoint,
        lambda: record_image(config, checkpoint.visual("float32"), OnnxRuntimeOps()),
        lambda: record_tree(config, checkpoint.text("float32"), OnnxRuntimeOps()),
        Settings(threads or available_threads(), providers, spinning, arena),
    )
