"""The command line of the suite."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from clipref.cli import main


def test_the_verdict_is_the_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "run", "backend:reference", "--levels", "similarity", "describe", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["passed"] and found["counts"]["PASS"] == 13 and found["counts"]["SKIP"] > 100
    wrong = ["conformance", "run", "tests.test_conformance_command:wrong", "--levels", "similarity"]
    assert main(wrong) == 1
    out = capsys.readouterr().out
    assert "Your similarities equal the reference with no logit scale (SIM-2): explains 5 of 5." in out
    assert "Not float32-conformant: 5 of 5 answers fail" in out


class Wrong:
    def similarity(self, image: np.ndarray, text: np.ndarray, logit_scale: np.ndarray) -> Mapping[str, np.ndarray]:
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        return {"cosines": a @ b.T, "logits": a @ b.T}


def wrong(folder: Path | None) -> Wrong:
    return Wrong()


def test_list_and_explain(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "list"]) == 0
    out = capsys.readouterr().out
    assert "towers/vit-a plain/image" in out and "full/RN50 trained/text" in out and "gelu-tanh" in out
    for identity, told in (
        ("IMG-5", "halves to even"),
        ("crop-floor", "the crop offset floored. It breaks IMG-5: The crop"),
        ("towers", "tiny models"),
        ("preprocess/RGB 50x40 to 24", "- IMG-5: The crop"),
    ):
        assert main(["conformance", "explain", identity]) == 0
        assert told in capsys.readouterr().out
    assert main(["conformance", "explain", "IMG-99"]) == 1
    assert "see clipref conformance list" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["backend:none"], "No backend 'none'"),
        (["nonsense"], "expected"),
        (["backend:onnx", "--levels", "tower"], "No level 'tower'"),
        (["backend:onnx", "--full", "RN50"], "No model 'RN50'; there are: clip/RN50"),
        (["backend:onnx", "--profile", "torch"], "No profile 'torch'"),
        (["backend:onnx", "--precision", "half"], "No precision 'half'"),
        (["backend:onnx", "--only", "nothing like it"], "No case has 'nothing like it'"),
    ],
)
def test_wrong_arguments_are_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["conformance", "run", *arguments]) == 1
    assert told in capsys.readouterr().err


def test_options_of_a_backend_can_be_graded(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--levels", "towers", "--only", "vit-b plain"]
    assert main(["conformance", "run", "backend:reference?dtype=float64", *asked, "--precision", "float64"]) == 0
    assert "CLIP, float64-conformant" in capsys.readouterr().out
    for given, told in (
        ("backend:onnx?thread=2", "Backend 'onnx' has no option 'thread'"),
        ("backend:onnx?precision=half", "precision is 'half'"),
        ("backend:onnx?threads", "expected backend:NAME?OPTION=VALUE"),
        ("backend:none?threads=1", "No backend 'none'"),
    ):
        assert main(["conformance", "run", given, *asked]) == 1
        assert told in capsys.readouterr().err


def test_only_takes_several_texts_and_leaves_out_others(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--levels", "describe", "--only", "/vit-a", "/rn-", "!rn-b", "--json"]
    assert main(["conformance", "run", "backend:reference", *asked]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [r["case"] for r in results if r["verdict"] == "PASS"] == [
        f"describe/{m}" for m in ("vit-a", "rn-a", "rn-c")
    ]
    assert not any("rn-b" in r["case"] for r in results) and any(r["case"] == "towers/rn-a plain/text" for r in results)
    assert main(["conformance", "run", "backend:reference", "--levels", "describe", "--only", "!describe"]) == 1
    assert "No case has '!describe' in its id" in capsys.readouterr().err
