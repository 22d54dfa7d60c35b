"""The parts of benchmarks/ that figures hang on: intervals, limits, kinds of work, charts."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import backends
from clipref.hub import locate
from clipref.numerics import rms_error
from clipref.weights import Checkpoint

# benchmarks/ is a folder of scripts, which import each other by their names.
sys.path.append(str(Path(__file__).parent.parent / "benchmarks"))

import charts
import curves
import flops
import kinds
import limits
import measuring
import profilers
from candidates import parts_of
from flops import Product

MODEL = "clipref/shapes-vit"


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    return Checkpoint(locate(MODEL)[0])


def test_a_medians_interval() -> None:
    assert measuring.lower_end([1.0, 2.0, 3.0, 4.0, 5.0]) is None  # 2 / 2**5 is more than 5 %
    assert measuring.lower_end([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 1.0
    assert measuring.lower_end([float(i) for i in range(1, 10)]) == 2.0


def test_calls_take_turns_and_the_first_round_is_left_out() -> None:
    order: list[str] = []
    ticks = iter(range(100))
    calls = {name: lambda name=name: order.append(name) for name in "ab"}
    taken = measuring.alternate(calls, 2, pause=0.0, clock=lambda: float(next(ticks)))
    assert order == ["a", "b"] * 3
    assert taken == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_cosines_are_of_rows_and_the_least_counts() -> None:
    truth = np.array([[1.0, 0.0], [0.0, 2.0]])
    assert measuring.cosine_of(np.array([[3.0, 0.0], [2.0, 2.0]]), truth) == pytest.approx(0.5**0.5)
    with pytest.raises(SystemExit, match=r"shape \(1, 2\); expected \(2, 2\)"):
        measuring.cosine_of(truth[:1], truth)


def test_pixels_are_of_whole_shades(checkpoint: Checkpoint) -> None:
    pixels, _ = measuring.inputs(checkpoint, 2)
    recipe = checkpoint.config.preprocess
    mean, std = (np.array(x)[:, None, None] for x in (recipe.mean, recipe.std))
    shades = (pixels * std + mean) * 255
    assert np.abs(shades - np.rint(shades)).max() < 1e-3
    assert shades.min() < 1 and shades.max() > 254


def test_products_are_counted_with_their_shapes(checkpoint: Checkpoint) -> None:
    vision: Any = checkpoint.config.vision
    counter = flops.count(checkpoint, pixels=measuring.inputs(checkpoint, 3)[0])
    positions, width, last = vision.grid**2 + 1, vision.width, 1
    expected = Counter({Product(vision.grid**2, 3 * vision.patch_size**2, width): 1})
    for rows in [positions] * (vision.layers - 1) + [last]:
        expected[Product(rows, width, width)] += 1  # out_proj
        expected[Product(rows, width, vision.mlp_width)] += 1
        expected[Product(rows, vision.mlp_width, width)] += 1
    expected[Product(positions, width, 3 * width)] += vision.layers - 1
    expected[Product(last, width, width)] += 1  # the last block's queries
    expected[Product(positions, width, 2 * width)] += 1
    assert counter.products == expected
    attention = 4 * positions * width * ((vision.layers - 1) * positions + last)
    assert counter.flop == sum(p.flop * n for p, n in expected.items()) + attention


def test_the_limit_is_the_time_that_all_products_take() -> None:
    large, small = Product(100, 10, 10), Product(10, 10, 10)
    shapes = Counter({large: 1, small: 10})
    limit = limits.combined(shapes, {large: ("numpy", 100.0), small: ("torch", 50.0)})
    assert limit.gflops == pytest.approx(2 / (1 / 100 + 1 / 50))
    assert limit.seconds(limit.gflops) == pytest.approx(1.0)
    assert limits.at_batch(shapes, 3) == {Product(300, 10, 10): 1, Product(30, 10, 10): 10}
    assert limits.largest(Counter({large: 1, small: 1}), 0.9) == {large: 1}
    assert limits.largest(Counter({large: 1, small: 1}), 0.95) == {large: 1, small: 1}


@pytest.mark.parametrize(
    "library",
    [
        "numpy",
        "native",
        "onnxruntime",
        pytest.param("openvino", marks=pytest.mark.extra),
        pytest.param("torch", marks=pytest.mark.oracle),
    ],
)
def test_every_product_that_the_limit_times_is_one(library: str) -> None:
    """Whole numbers to the last, float32 to its rounding, and what rounds its factors to theirs."""
    product = Product(5, 32, 64)
    rows, weight = (x.astype(np.float64) for x in limits.factors(product))
    whole_rows, whole_weight = limits.whole_factors(product)
    signed = whole_rows.view(np.int8) if library == "torch" else whole_rows
    makers = {precision: make for (name, precision), make in limits.makers().items() if name == library}
    assert makers or library == "native"  # it isn't built everywhere
    for precision, make in makers.items():
        found = make(product)()
        found = next(iter(found.values())) if library in ("onnxruntime", "openvino") else found
        exact, bound = rows @ weight.T, {"float32": 1e-6, "bfloat16": 1e-2, "int8": 2e-2}[precision]
        if precision == "int8" and library != "native":
            exact, bound = signed.astype(np.float64) @ whole_weight.T.astype(np.float64), 1e-9
            if library == "openvino":  # in steps of 0.01, which it takes for float32 and rounds once more
                exact, bound = exact * 1e-4, 2e-2
        found = np.asarray(found.float() if library == "torch" else found, np.float64)
        assert rms_error(found, exact) <= bound, (library, precision, rms_error(found, exact))


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["aten::addmm", "aten::linear"], "products"),
        (["aten::copy_"], "copies"),
        (["aten::copy_", "aten::_to_copy", "aten::to"], "conversion"),
        (["aten::copy_", "aten::clone", "aten::layer_norm"], "normalisation"),
        (["aten::bmm", "aten::scaled_dot_product_attention"], "attention"),
        (["aten::addmm", "aten::_native_multi_head_attention"], "products"),
        (["graph_0_cpp_fused_native_layer_norm_3"], "normalisation"),
        (["aten::nonesuch"], "unsorted"),
    ],
)
def test_kinds_of_torch(names: list[str], kind: str) -> None:
    assert kinds.torch_kind(names) == kind


def test_kinds_of_onnx_runtime_and_openvino() -> None:
    assert kinds.onnx_kind("FusedMatMul", [[8, 50, 768], [2304, 768]]) == "products"
    assert kinds.onnx_kind("FusedMatMul", [[8, 12, 50, 64], [8, 12, 64, 50]]) == "attention"
    assert kinds.onnx_kind("Nonesuch", []) == kinds.openvino_kind("Nonesuch") == "unsorted"
    assert kinds.openvino_kind("Subgraph", "MatMul_23,Softmax_24") == "attention"
    assert kinds.openvino_kind("Subgraph", "Add_1,Multiply_2") == "element-wise"
    for table in (kinds.ONNX, kinds.OPENVINO, kinds.TORCH, kinds.OPERATIONS):
        assert set(table.values()) <= set(kinds.KINDS)
    assert set(backends.operation_names()) <= set(kinds.OPERATIONS)


def test_threads_side_by_side_take_less_than_their_sum() -> None:
    operators = [profilers.Operator("a", "products", 3.0), profilers.Operator("b", "unsorted", 1.0)]
    alone = profilers.sorted_profile(5.0, operators, busy=4.5)
    assert (alone.kinds, alone.unsorted, alone.other) == ({"products": 3.0, "unsorted": 1.0}, {"b": 1.0}, 1.0)
    two = profilers.sorted_profile(2.5, operators, busy=5.0)
    assert (two.kinds, two.other) == ({"products": 1.5, "unsorted": 0.5}, 0.5)


def test_an_operations_time_is_without_that_of_others_within(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Iterator[float] = iter([0.0, 1.0, 4.0, 10.0])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    profiler = profilers.OperationsProfiler()
    inner = profiler.timed("multiply", lambda: "found")
    assert profiler.timed("layer_norm", inner)() == "found"
    assert [tuple(operator) for operator in profiler.operators] == [
        ("multiply", "products", 3.0),
        ("layer_norm", "normalisation", 7.0),
    ]


@pytest.mark.parametrize(
    "backend",
    [
        "reference",
        "blas",
        "native",
        "onnx",
        pytest.param("openvino", marks=pytest.mark.extra),
        pytest.param("torch", marks=pytest.mark.oracle),
    ],
)
def test_profiles_of_a_tiny_tower(checkpoint: Checkpoint, backend: str) -> None:
    if not backends.describe(backend)["runs"]:
        pytest.skip("isn't built here")
    pixels = measuring.inputs(checkpoint, 2)[0]
    plain = backends.make_engine(backend, checkpoint, "float32").engine.encode_image(pixels)
    with profilers.profiler_of(backend) as profiler:
        engine = profiler.prepared(backends.make_engine(backend, checkpoint, "float32").engine)
        found: list[Any] = []
        for _ in range(2):
            profiler.run(lambda: found.append(engine.encode_image(pixels)))
        profiles = profiler.profiles()
    np.testing.assert_allclose(found[1], plain, rtol=1e-5, atol=1e-5)
    assert len(profiles) == 2
    for profile in profiles:
        assert {"products", "attention", "normalisation"} <= {kind for kind, s in profile.kinds.items() if s > 0}
        assert not profile.unsorted
        assert profile.other > -0.1 * profile.wall
    if isinstance(profiler, profilers.OperationsProfiler) and backend == "native":
        # Its products are computed after `linear` has returned.
        assert "multiply" in {operator.name for operators, _ in profiler.found for operator in operators}


def test_names_of_engines() -> None:
    assert parts_of("native") == ("native", None, {})
    assert parts_of("torch compiled bfloat16") == ("torch", "bfloat16", {"compile": True})
    with pytest.raises(SystemExit, match="No engine 'native fast'"):
        parts_of("native fast")


def test_charts_are_svg() -> None:
    lines = {"ms": {"a": [(1.0, 2.0), (8.0, 1.0)], "b < c": [(1.0, 3.0)]}, "MB": {"a": [(1.0, 5.0)]}}
    drawn = ElementTree.fromstring(charts.curves("title", lines, "batches"))
    points = [node.attrib["points"].split() for node in drawn.iter("{http://www.w3.org/2000/svg}polyline")]
    assert [len(each) for each in points] == [2, 1, 1]
    (x0, y0), (x1, y1) = (map(float, point.split(",")) for point in points[0])
    assert x0 < x1 and y0 < y1  # downwards is less
    bars = ElementTree.fromstring(
        charts.bars("title", {"group": [("slow", 4.0, "4 ms", True), ("fast", 1.0, "", False)]})
    )
    widths = [float(node.attrib["width"]) for node in list(bars.iter("{http://www.w3.org/2000/svg}rect"))[1:]]
    assert widths == [120.0, 480.0]


def test_a_failed_round_is_no_figure() -> None:
    done = {"ms": 2.0, "peak_mb": 10.0, "cosine": 0.9}
    assert curves.combined([done, {"ms": 4.0, "peak_mb": 12.0, "cosine": 0.8}]) == {
        "ms": 3.0,
        "peak_mb": 12.0,
        "cosine": 0.8,
    }
    assert curves.combined([done, {"failed": "why"}]) == {"failed": "why"}
