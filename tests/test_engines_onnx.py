"""Engines that are ONNX files, under the names and with the inputs that others give them."""

import shutil
import time
from pathlib import Path
from typing import Any

import onnx
import pytest

from clipref import InputError
from clipref.conformance import suite
from clipref.conformance.engines import open_engine, open_here
from clipref.conformance.engines.onnx import find
from clipref.weights_tools.export_onnx import export_onnx

from .engine_questions import TINY_VIT, questions, run, verdicts


@pytest.fixture(scope="module")
def onnx_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX files of one tiny checkpoint, in a folder of its name."""
    folder = tmp_path_factory.mktemp("onnx")
    case = questions(f"towers/{TINY_VIT}/image")[0].make(folder)
    assert case.checkpoint is not None
    assert len(list(export_onnx(case.checkpoint, folder / "root" / case.checkpoint.name, ids="int64"))) == 2
    return folder / "root"


# `open_here` opens in this process what `open_engine` opens apart, which two of the tests and the last one show.


# --- ONNX files -------------------------------------------------------------------------------------------------------


def test_onnx_files_answer_for_their_checkpoint_and_for_no_other(onnx_root: Path) -> None:
    report = run(open_engine(f"onnx:{onnx_root}"), "towers/vit-a", "similarity/3")
    assert verdicts(report) == {
        f"towers/{TINY_VIT}/image": "PASS",
        f"towers/{TINY_VIT}/text": "PASS",
        "towers/vit-a trained/image": "SKIP",
        "towers/vit-a trained/text": "SKIP",
        "similarity/3 images 5 texts of 11": "SKIP",
    }
    assert report.passed and report.grade == "float32"


@pytest.mark.slow
def test_onnx_files_are_named_with_their_checkpoint(onnx_root: Path) -> None:
    folder = onnx_root / "vit-a-plain"
    pair = f"{folder / 'visual.onnx'},{folder / 'textual.onnx'}"
    for spec in (f"onnx:{pair}@vit-a-plain", f"onnx:{folder}@vit-a-plain"):
        report = run(open_engine(spec), "towers/vit-a")
        assert (report.count("PASS"), report.count("SKIP")) == (2, 2)
    for spec in (f"onnx:{pair}", f"onnx:{folder}"):
        with pytest.raises(InputError, match="say which checkpoint"):
            open_engine(spec)


@pytest.mark.parametrize(
    "names",
    [
        ("clip_image_model_vitb32.onnx", "clip_text_model_vitb32.onnx"),
        ("vision_model.onnx", "text_model.onnx"),
        ("onnx/vision_model.onnx", "onnx/text_model.onnx"),
    ],
)
def test_onnx_files_have_the_names_that_others_give_them(
    names: tuple[str, str], onnx_root: Path, tmp_path: Path
) -> None:
    for name, ours in zip(names, ("visual.onnx", "textual.onnx"), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(onnx_root / "vit-a-plain" / ours, tmp_path / name)
        quantized = (tmp_path / name).with_stem(f"{Path(name).stem}_quantized")
        quantized.write_bytes(b"is not looked at")
    assert [find(tmp_path, kind) for kind in ("visual", "textual")] == [tmp_path / name for name in names]
    report = run(open_here(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}")
    assert report.count("PASS") == 2


def test_a_folder_without_files_of_a_tower_is_skipped(onnx_root: Path, tmp_path: Path) -> None:
    shutil.copyfile(onnx_root / "vit-a-plain" / "textual.onnx", tmp_path / "textual.onnx")
    report = run(open_here(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}")
    assert verdicts(report) == {f"towers/{TINY_VIT}/image": "SKIP", f"towers/{TINY_VIT}/text": "PASS"}
    assert "no file of the usual names for the visual tower" in (report.results[0].problem or "")


def fixed_batch(model: Any, columns: int | None = None) -> None:
    """A graph as tracing leaves it, for one item at a time."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    if columns:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = columns


def test_a_fixed_batch_is_fed_item_by_item(onnx_root: Path, tmp_path: Path) -> None:
    for name, columns in (("visual.onnx", None), ("textual.onnx", 19)):
        model = onnx.load(onnx_root / "vit-a-plain" / name)
        fixed_batch(model, columns)
        onnx.save(model, tmp_path / name)
    assert run(open_here(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}").count("PASS") == 2


def wrapped(
    file: Path, inputs: list[Any], outputs: list[Any], before: list[Any] | None = None, after: list[Any] | None = None
) -> None:
    """The graph of a file with nodes before and after it, and other inputs and outputs."""
    model = onnx.load(file)
    nodes = [*(before or []), *model.graph.node, *(after or [])]
    graph = onnx.helper.make_graph(nodes, "wrapped", inputs, outputs, model.graph.initializer)
    onnx.save(onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), file)


@pytest.mark.parametrize("shape", [["batch", "columns"], [1, "columns"], ["columns"]])
def test_positions_are_counted(shape: list[Any], onnx_root: Path, tmp_path: Path) -> None:
    """The ids go in through a detour that only the positions 0, 1, 2, ... leave as they are."""
    file = Path(shutil.copyfile(onnx_root / "vit-a-plain" / "textual.onnx", tmp_path / "textual.onnx"))
    helper, model = onnx.helper, onnx.load(file)
    (given,) = model.graph.input
    ids, positions = (
        helper.make_tensor_value_info(name, onnx.TensorProto.INT64, dims)
        for name, dims in (("input_ids", ["batch", "columns"]), ("position_ids", shape))
    )
    one = helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
    before = [
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Constant", [], ["axis"], value=helper.make_tensor("", onnx.TensorProto.INT64, [], [-1])),
        helper.make_node("Shape", ["input_ids"], ["size"]),
        helper.make_node("Expand", ["position_ids", "size"], ["where"]),
        helper.make_node("GatherElements", ["input_ids", "where"], [given.name], axis=1),
    ]
    wrapped(file, [ids, positions], [*model.graph.output], before=before)
    report = run(open_here(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}/text")
    assert report.count("PASS") == 1, report.results


def test_inputs_of_the_other_tower_are_zeros(onnx_root: Path, tmp_path: Path) -> None:
    file = Path(shutil.copyfile(onnx_root / "vit-a-plain" / "visual.onnx", tmp_path / "model.onnx"))
    helper, model = onnx.helper, onnx.load(file)
    (given,), (found,) = model.graph.input, model.graph.output
    ids = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "columns"])
    after = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["floats"], ["most"], keepdims=0),
        helper.make_node("Add", [found.name, "most"], ["image_embeds"]),
    ]
    output = helper.make_tensor_value_info("image_embeds", onnx.TensorProto.FLOAT, ["batch", "width"])
    wrapped(file, [given, ids], [output], after=after)
    report = run(open_here(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}/image")
    assert report.count("PASS") == 1, report.results


def test_a_graph_in_float16_is_graded_by_its_values(onnx_root: Path, tmp_path: Path) -> None:
    file = Path(shutil.copyfile(onnx_root / "vit-a-plain" / "visual.onnx", tmp_path / "visual.onnx"))
    helper, kind, model = onnx.helper, onnx.TensorProto, onnx.load(file)
    (given,), (found,) = model.graph.input, model.graph.output
    pixels = helper.make_tensor_value_info("pixel_values", kind.FLOAT16, ["batch", 3, *given_side(given)])
    before = [helper.make_node("Cast", ["pixel_values"], [given.name], to=kind.FLOAT)]
    after = [helper.make_node("Cast", [found.name], ["image_embeds"], to=kind.FLOAT16)]
    output = helper.make_tensor_value_info("image_embeds", kind.FLOAT16, ["batch", "width"])
    wrapped(file, [pixels], [output], before, after)
    engine = open_here(f"onnx:{tmp_path}@vit-a-plain")
    report = suite.run(engine, questions(f"towers/{TINY_VIT}/image"), precision="float16", diagnose=False)
    assert report.passed and report.grade == "float16", report.results


def given_side(given: Any) -> list[int]:
    """The height and width of the pixels that an ONNX graph takes."""
    return [dim.dim_value for dim in given.type.tensor_type.shape.dim[2:]]


def test_optimums_inputs_and_outputs_are_found_in_one_file(onnx_root: Path, tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    models = []
    for name, given, found in (("visual", "pixel_values", "image_embeds"), ("textual", "input_ids", "text_embeds")):
        model = onnx.compose.add_prefix(onnx.load(onnx_root / "vit-a-plain" / f"{name}.onnx"), f"{name} ")
        for value, other in ((model.graph.input[0], given), (model.graph.output[0], found)):
            for node in model.graph.node:
                for names in (node.input, node.output):
                    names[:] = [other if name == value.name else name for name in names]
            value.name = other
        models.append(model)
    visual, textual = models
    mask = helper.make_tensor_value_info("attention_mask", kind.INT64, ["batch", "columns"])
    logits = helper.make_tensor_value_info("logits_per_image", kind.FLOAT, ["images", "texts"])
    turned = helper.make_node("Transpose", ["text_embeds"], ["text_embeds_t"])
    product = helper.make_node("MatMul", ["image_embeds", "text_embeds_t"], ["logits_per_image"])
    graph = helper.make_graph(
        [*visual.graph.node, *textual.graph.node, turned, product],
        "both",
        [*textual.graph.input, *visual.graph.input, mask],
        [logits, *textual.graph.output, *visual.graph.output],
        [*visual.graph.initializer, *textual.graph.initializer],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=visual.opset_import, ir_version=visual.ir_version),
        tmp_path / "model.onnx",
    )
    assert run(open_here(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}").count("PASS") == 2


def test_a_graph_of_another_kind_says_what_it_has(tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    ends = [helper.make_tensor_value_info(name, kind.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [ends[0]], [ends[1]])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "model.onnx"
    )
    report = run(open_engine(f"onnx:{tmp_path / 'model.onnx'}@vit-a-plain"), f"towers/{TINY_VIT}/image")
    assert "0 could be it, expected one; the graph has x" in (report.results[0].problem or "")


def endless(inner: list[Any], name: str, dims: list[Any]) -> Any:
    """A graph that runs a loop without an end before it gives what it is given; `inner`: nodes of the body."""
    helper, kind = onnx.helper, onnx.TensorProto
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"]), *inner],
        "body",
        [
            helper.make_tensor_value_info("i", kind.INT64, []), helper.make_tensor_value_info("go", kind.BOOL, []),
            helper.make_tensor_value_info("x", kind.FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", kind.BOOL, []), helper.make_tensor_value_info("y", kind.FLOAT, None)],
    )  # fmt: skip
    given = helper.make_tensor_value_info(name, kind.FLOAT, dims)
    found = helper.make_tensor_value_info("embeddings", kind.FLOAT, ["n", "e"])
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("", kind.BOOL, [], [True]))
    loop = helper.make_node("Loop", ["", "yes", name], ["looped"], body=body)
    flat = helper.make_node("Flatten", ["looped"], ["embeddings"])
    graph = helper.make_graph([yes, loop, flat], "endless", [given], [found])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


@pytest.mark.slow
def test_a_graph_without_an_end_is_stopped(tmp_path: Path) -> None:
    onnx.save(endless([], "pixels", ["n", 3, 30, 30]), tmp_path / "visual.onnx")
    started = time.monotonic()
    report = run(open_engine(f"onnx:{tmp_path}@vit-a-plain", 0.7), f"towers/{TINY_VIT}/image")
    assert [r.problem for r in report.results] == ["hung: stopped after 0.7 s"]
    assert time.monotonic() - started < 10
