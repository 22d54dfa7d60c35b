"""Recording: the towers of clipref, called with arrays that record, become ONNX graphs.

There is no second topology: `Symbol` stands for an array whose values aren't known yet, `RecordingOps` emits one ONNX
node or a few for every operation of clipref.ops, and what comes out is the graph of the very functions that are the
reference. Batch and text length are symbolic dimensions, so one graph serves all. Only standard operators are used
(opset 18). Needs the package onnx, and nothing that runs graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from clipref.config import ClipConfig, TextConfig
from clipref.errors import BackendError
from clipref.lazy import no_fork
from clipref.towers import encoder
from clipref.transformer import Tap, no_tap
from clipref.weights import SafetensorsFile

Array: TypeAlias = NDArray[Any]
Dim: TypeAlias = "int | str"  # a length, or the name of one that is known only when the graph runs

OPSET = 18


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

    def add_positions(self, x: Symbol, positional_embedding: Array, positions: Symbol | None = None) -> Symbol:
        if positions is not None:
            return x + self.embed(positions, positional_embedding)
        length = x.shape[1]
        assert isinstance(length, int)
        return x + positional_embedding[:length]

    def embed(self, ids: Symbol, weight: Array) -> Symbol:
        return ids.graph.emit("Gather", [weight, ids], (*ids.shape, weight.shape[1]), axis=0)

    def take(self, x: Symbol, positions: Symbol) -> Symbol:
        n, chosen = positions.shape
        indices = x.graph.emit("Unsqueeze", [positions, np.array([2], np.int64)], (n, chosen, 1))
        return x.graph.emit("GatherND", [x, indices], (n, chosen, x.shape[2]), batch_dims=1)


Record: TypeAlias = Callable[[Graph, Tap], Symbol]  # puts a tower into a graph; returns the embeddings


STANDARD = RecordingOps()


def record_image(config: ClipConfig, params: Mapping[str, Any], ops: RecordingOps = STANDARD) -> Record:
    """Records the image tower: `pixels` [batch, 3, R, R] float32 -> [batch, E]."""
    vision = config.vision

    def record(graph: Graph, tap: Tap) -> Symbol:
        pixels = graph.input("pixels", "float32", ("batch", 3, vision.resolution, vision.resolution))
        return cast(Symbol, encoder(vision)(ops, pixels, vision, tap, **params))

    return record


def record_text(config: ClipConfig, params: Mapping[str, Any], dtype: str = "int64") -> Record:
    """Records the text tower: `ids` [batch, columns] of a dtype -> [batch, E].

    For who has nothing but ids: the configuration's `single_texts` is part of this graph.
    """
    text = config.text
    always_whole = text.end_of_text is None

    def record(graph: Graph, tap: Tap) -> Symbol:
        ids = graph.input("ids", dtype, ("batch", text.context_length if always_whole else "columns"))
        if dtype != "int64":  # in which the operations count
            ids = graph.emit("Cast", [ids], ids.shape, to=7)  # TensorProto.INT64
        rows = record_whole_texts(ids, text) if always_whole else record_single_texts(ids, text.eos_token_id)
        return cast(Symbol, encoder(text)(STANDARD, *rows, text, tap, **params))[:, 0]

    return record


def record_single_texts(ids: Symbol, eos_token_id: int | None) -> tuple[Symbol, Symbol, Symbol, Symbol]:
    """As text_transformer.single_texts: ids [N, T] -> ids [N, L], positions [N, L], visible [N, L, L], ends [N, 1]."""
    emit, n = ids.graph.emit, ids.shape[0]
    zero, one = np.array([0], np.int64), np.array([1], np.int64)
    marks = ids
    if eos_token_id is not None:
        equal = emit("Equal", [ids, np.array(eos_token_id, np.int64)], ids.shape)
        marks = emit("Cast", [equal], ids.shape, to=7)  # TensorProto.INT64
    ends = emit("ArgMax", [marks], (n, 1), axis=1, keepdims=1)
    last = emit("Reshape", [emit("ReduceMax", [ends], (), keepdims=0), one], (1,))
    ids = emit("Slice", [ids, zero, last + one, one], (n, "length"))
    size = emit("Shape", [ids], (2,))
    length = emit("Squeeze", [last + one], ())
    columns = emit("Range", [np.array(0, np.int64), length, np.array(1, np.int64)], ("length",))
    rows = emit("Unsqueeze", [columns, one], ("length", 1))
    square = emit("Concat", [size, emit("Shape", [ids], (1,), start=1, end=2)], (3,), axis=0)
    seen = emit("LessOrEqual", [columns, rows], ("length", "length"))
    visible = emit("Expand", [seen, square], (n, "length", "length"))
    return ids, emit("Expand", [columns, size], (n, "length")), visible, ends


def record_whole_texts(ids: Symbol, text: TextConfig) -> tuple[Symbol, Symbol, Symbol, Symbol]:
    """As `single_texts` of a tower whose texts have no end: all but the ids [N, T] is the same for every text."""
    emit, (n, length) = ids.graph.emit, ids.shape
    assert isinstance(length, int)
    size = emit("Shape", [ids], (1,), start=0, end=1)

    def each(x: Array) -> Symbol:
        shape = emit("Concat", [size, np.array(x.shape[1:], np.int64)], (x.ndim,), axis=0)
        return emit("Expand", [x, shape], (n, *x.shape[1:]))

    positions, visible, ends = map(each, text.single_texts(np.zeros((1, length), np.int64))[1:])
    return ids, positions, visible, ends


def record_tree(config: ClipConfig, params: Mapping[str, Any], ops: RecordingOps = STANDARD) -> Record:
    """Records the text tower for trees of tokens, with the inputs of text_transformer.encode_tree -> [batch, S, E]."""

    def record(graph: Graph, tap: Tap) -> Symbol:
        tokens = ("batch", "length")
        ids, positions = (graph.input(name, "int64", tokens) for name in ("ids", "positions"))
        visible = graph.input("visible", "bool", (*tokens, "length"))
        ends = graph.input("ends", "int64", ("batch", "texts"))
        encode = encoder(config.text)
        return cast(Symbol, encode(ops, ids, positions, visible, ends, config.text, tap, **params))

    return record


def build(
    record: Record, name: str, taps: bool = False, file: SafetensorsFile | None = None
) -> tuple[Any, dict[str, Array]]:
    """An ONNX model whose large weights are outside of it, and those weights by name.

    Its output is `embeddings`, and with `taps` each named activation besides. Weights that lie in `file` as they are
    needed are referred to by their place in it, and not among those returned.
    """
    with no_fork:
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
    model, weights = build(record, name)
    from onnx import helper, numpy_helper

    size = sum(value.nbytes for value in weights.values()) + len(model.SerializeToString())
    if size > MAX_BYTES:
        raise BackendError(f"The graph {name!r} would be {size} bytes; one ONNX file holds at most {MAX_BYTES}.")
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            initializer.CopyFrom(numpy_helper.from_array(weights.pop(initializer.name), initializer.name))
    helper.set_model_props(model, dict(notes or {}))
    encoded: bytes = model.SerializeToString()
    return encoded
