"""Engines under torch: the originals are graded as what they are."""

import importlib.metadata
from pathlib import Path

import pytest

from clipref import InputError
from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.engines import open_engine
from clipref.conformance.restated.preprocessing import transformers_profile

from .engine_questions import questions, run


@pytest.mark.oracle
@pytest.mark.parametrize("batch", ["dynamic", "fixed"])
@pytest.mark.parametrize("name", ["vit-b trained", "rn-a plain"])
def test_what_torch_exports_of_openais_code_is_clip(name: str, batch: str, tmp_path: Path) -> None:
    import torch

    from clipref.weights import Checkpoint

    from .oracles import OpenAI

    asked = questions(f"towers/{name}")
    case = asked[0].make(tmp_path)
    assert case.checkpoint is not None
    oracle = OpenAI(Checkpoint(case.checkpoint), torch.float32)
    folder = tmp_path / "exported" / case.checkpoint.name
    folder.mkdir(parents=True)
    config = oracle.config
    side = config.vision.resolution
    examples = {
        "visual": ("encode_image", torch.zeros(1 if batch == "fixed" else 2, 3, side, side)),
        "textual": (
            "encode_text",
            torch.ones(1 if batch == "fixed" else 2, config.text.context_length, dtype=torch.int64),
        ),
    }
    for file, (method, example) in examples.items():
        module = torch.nn.Module()
        module.inner, module.forward = oracle.model, getattr(oracle.model, method)
        axes = {} if batch == "fixed" else {"input": {0: "batch"}, "output": {0: "batch"}}
        with torch.inference_mode(), pytest.warns():  # tracing warns of every shape that it takes for a constant
            torch.onnx.export(
                module, (example,), str(folder / f"{file}.onnx"), opset_version=18, dynamo=False,
                input_names=["input"], output_names=["output"], dynamic_axes=axes,
            )  # fmt: skip
    report = run(open_engine(f"onnx:{tmp_path / 'exported'}"), f"towers/{name}")
    assert report.count("PASS") == 2 and report.grade == "float32"


# --- under torch ------------------------------------------------------------------------------------------------------


_TOWERS = ("describe/vit-a", "towers/vit-a", "taps/vit-a", "towers/rn-b", "taps/rn-b")


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["openai", "transformers"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_originals_are_graded_as_what_they_are(kind: str, dtype: str) -> None:
    engine = open_engine(f"{kind}:{dtype}")
    report = suite.run(engine, questions(*_TOWERS), precision=dtype, diagnose=False)
    assert report.passed, [r for r in report.results if r.verdict == "FAIL"]
    resnets = {r.verdict for r in report.results if "/rn-" in r.case}
    assert resnets == {"SKIP" if kind == "transformers" else "PASS"}
    assert report.grade == dtype


@pytest.mark.oracle
def test_openais_tokenizer_and_transformers_processor() -> None:
    report = run(open_engine("openai:float32"), "tokenize/", "preprocess/LA")
    assert report.count("PASS") == len(questions("tokenize/"))
    assert report.count("SKIP") == len(questions("preprocess/LA"))
    profile = transformers_profile(importlib.metadata.version("transformers"))
    chosen = [q for q in levels.questions(["preprocess"], profile=profile) if "RGB " in q.id]
    report = suite.run(open_engine("transformers:float32"), chosen, profile=profile, diagnose=False)
    assert report.passed and report.count("PASS") == len(chosen)


@pytest.mark.oracle
@pytest.mark.parametrize("spec", ["openai:float8", "transformers:fp16"])
def test_an_unknown_precision_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="expected one of float32, float64, float16, bfloat16"):
        open_engine(spec)
