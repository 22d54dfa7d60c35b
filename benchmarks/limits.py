"""The limit of this machine per precision, at the shapes of a model: the best rate of any library that is here.

Of each shape that a tower multiplies at a batch size, every library's best time counts: numpy (float32), torch, ONNX
Runtime, OpenVINO and the backend `native`, each with its weights laid out beforehand as its own engine has them. The
limit is the time that the whole would take if each product took the best of these times. In int8 the factors are
whole numbers already where a library takes such (OpenVINO, ONNX Runtime, torch); `native` rounds them in the product.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from candidates import PRECISIONS
from flops import Product

from clipref import backends
from clipref.errors import BackendError
from clipref.kernels.onnx import Settings, run, session
from clipref.kernels.openvino import core
from clipref.kernels.recording import Graph, Symbol
from clipref.kernels.runtime import openvino
from clipref.lazy import available_threads
from clipref.transformer import Tap

COVERED = 0.95  # of the operations: the shapes that are measured; the others count at the mean rate of these
SECONDS = 0.06  # that a product is repeated for, at least three times, in each of TURNS turns
TURNS = 2


@dataclass(frozen=True)
class Limit:
    """The limit of a precision: the rate in GFLOP/s over all shapes, and which library was the best at each."""

    gflops: float
    best: dict[Product, tuple[str, float]]  # the library, and its GFLOP/s

    def seconds(self, gflop: float) -> float:
        """How long so many operations take at the limit."""
        return gflop / self.gflops

    def __str__(self) -> str:
        shapes = ", ".join(
            f"{p.rows}x{p.inputs}x{p.outputs} {rate:.0f} ({library})" for p, (library, rate) in self.best.items()
        )
        return f"{self.gflops:.0f} GFLOP/s: {shapes}"


def at_batch(products: Counter[Product], n: int) -> Counter[Product]:
    """The products of one item, those of a batch of n: its rows together."""
    return Counter({product._replace(rows=product.rows * n): count for product, count in products.items()})


def largest(products: Counter[Product], covered: float = COVERED) -> Counter[Product]:
    """The shapes that have most of the operations, until so large a share of them is covered."""
    ordered = sorted(products, key=lambda p: -p.flop * products[p])
    whole, done, chosen = sum(p.flop * count for p, count in products.items()), 0, Counter[Product]()
    for product in ordered:
        if done >= covered * whole:
            break
        chosen[product] = products[product]
        done += product.flop * products[product]
    return chosen


def measure(products: Counter[Product], precisions: tuple[str, ...] = PRECISIONS) -> dict[str, Limit]:
    """The limit of each precision that some library multiplies in here, for a batch's products."""
    shapes = largest(products)
    best: dict[str, dict[Product, tuple[str, float]]] = {precision: {} for precision in precisions}
    for product in shapes:
        calls = {key: make(product) for key, make in makers().items() if key[1] in precisions}
        seconds = dict.fromkeys(calls, float("inf"))
        for _ in range(TURNS):
            for key, call in calls.items():
                seconds[key] = min(seconds[key], fastest(call))
        for (library, precision), taken in seconds.items():
            rate = product.flop / taken / 1e9
            if rate > best[precision].get(product, ("", 0.0))[1]:
                best[precision][product] = library, rate
    return {precision: combined(shapes, found) for precision, found in best.items() if found}


def combined(shapes: Counter[Product], best: dict[Product, tuple[str, float]]) -> Limit:
    """The rate at which all these products are done, each at its own best rate."""
    flop = sum(product.flop * count for product, count in shapes.items())
    seconds = sum(product.flop * count / best[product][1] for product, count in shapes.items())
    return Limit(flop / seconds, best)


def fastest(call: Callable[[], Any], seconds: float = SECONDS) -> float:
    """The shortest time of a call that is repeated for so long, and three times at least, after one not counted."""
    time.sleep(0.02)  # until the threads of another library have stopped spinning
    call()
    shortest, times, until = float("inf"), 0, time.perf_counter() + seconds
    while times < 3 or time.perf_counter() < until:
        start = time.perf_counter()
        call()
        shortest, times = min(shortest, time.perf_counter() - start), times + 1
    return shortest


Key = tuple[str, str]  # library and precision
Maker = Callable[[Product], Callable[[], Any]]


def makers() -> dict[Key, Maker]:
    """The libraries that multiply here, by precision, and how a call of each is made for a shape."""
    return dict(_makers())


def _makers() -> Iterator[tuple[Key, Maker]]:
    yield ("numpy", "float32"), numpy_product
    for backend, make in (("native", native_product), ("torch", torch_product), ("openvino", openvino_product)):
        try:
            kernels = backends.load(backend)
        except BackendError:
            continue
        features = backends.processor_features()
        for precision in PRECISIONS:
            if precision == "int8" or precision in backends.traits(kernels).fidelity:
                if precision == "bfloat16" and not features & {"amx_bf16", "avx512_bf16"}:
                    continue  # which the libraries compute in float32 then, or refuse
                yield (backend, precision), partial(make, precision=precision)
    try:
        backends.load("onnx")
    except BackendError:
        return
    for precision in ("float32", "int8"):
        yield ("onnxruntime", precision), partial(onnxruntime_product, precision=precision)


def factors(product: Product) -> tuple[Any, Any]:
    """Rows [M, I] and a weight [O, I] as linear layers have it, float32."""
    generator = np.random.default_rng(0)
    rows, weight = (generator.standard_normal((n, product.inputs), np.float32) for n in (product.rows, product.outputs))
    return rows, weight


def whole_factors(product: Product) -> tuple[Any, Any]:
    """Rows [M, I] uint8 and a weight [O, I] int8."""
    generator = np.random.default_rng(0)
    rows = generator.integers(0, 256, (product.rows, product.inputs), np.uint8)
    return rows, generator.integers(-127, 128, (product.outputs, product.inputs), np.int8)


def numpy_product(product: Product) -> Callable[[], Any]:
    """A call of numpy's product, which gives [M, O] float32."""
    rows, weight = factors(product)
    out = np.empty((product.rows, product.outputs), np.float32)
    return lambda: np.matmul(rows, weight.T, out=out)


def native_product(product: Product, precision: str) -> Callable[[], Any]:
    """A call of our own, which gives [M, O] float32; weights are packed once."""
    rows, weight = factors(product)
    ops = backends.load("native").operations(precision=precision)
    packed = ops.packed(weight)
    return lambda: ops.multiply(rows, packed, None, None, "none")


def torch_product(product: Product, precision: str) -> Callable[[], Any]:
    """A call of torch's, which gives [M, O] in the precision, or int32."""
    import torch

    torch.set_num_threads(available_threads())
    if precision == "int8":
        # torch multiplies signed ones with signed ones.
        whole_rows, whole_weight = whole_factors(product)
        a, b = torch.from_numpy(whole_rows.view(np.int8)), torch.from_numpy(whole_weight).t()
        return lambda: torch._int_mm(a, b)
    rows, weight = (torch.from_numpy(x).to(getattr(torch, precision)) for x in factors(product))

    def call() -> Any:
        with torch.inference_mode():
            return torch.nn.functional.linear(rows, weight)

    return call


def openvino_product(product: Product, precision: str) -> Callable[[], Any]:
    """A call of OpenVINO's, which gives its outputs: [M, O] float32, in int8 times the square of a step of 0.01."""
    ov = openvino()
    ops = ov.opset13
    if precision == "int8":
        rows, weight = whole_factors(product)
        x = ops.parameter(list(rows.shape), np.uint8)
        # A factor of whole numbers and its step, for which OpenVINO multiplies the whole numbers.
        left = ops.multiply(ops.convert(x, np.float32), np.float32(0.01))
        right = ops.multiply(ops.convert(ops.constant(weight), np.float32), np.float32(0.01))
    else:
        rows, weight = factors(product)
        x = left = ops.parameter(list(rows.shape), np.float32)
        right = ops.constant(weight)
    model = ov.Model([ops.matmul(left, right, False, True)], [x], "product")
    hint = {"float32": "f32", "bfloat16": "bf16", "int8": "f32"}[precision]
    settings = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": available_threads()}
    request = core().compile_model(model, "CPU", settings).create_infer_request()
    request.set_input_tensor(ov.Tensor(rows))
    return lambda: request.infer()


def onnxruntime_product(product: Product, precision: str) -> Callable[[], Any]:
    """A call of ONNX Runtime's, which gives [M, O] float32 by the name of "embeddings"."""
    whole = precision == "int8"
    rows, weight = (whole_factors if whole else factors)(product)
    shape = (product.rows, product.outputs)

    def record(graph: Graph, tap: Tap) -> Symbol:
        x = graph.input("x", rows.dtype.name, rows.shape)
        if not whole:
            return graph.emit("FusedMatMul", [x, weight], shape, domain="com.microsoft", transB=1)
        product_ = graph.emit("MatMulInteger", [x, np.ascontiguousarray(weight.T)], shape)
        return graph.emit("Cast", [product_], shape, to=1)  # TensorProto.FLOAT

    made = session(record, "product", Settings(available_threads()))
    return lambda: run(made, {"x": rows})
