"""Engines in an environment of their own, where clipref isn't: `python:PYTHON:FILE:NAME`."""

import sys
from pathlib import Path

import pytest

from clipref import InputError
from clipref.conformance.engines import open_engine

from .engine_questions import questions, run, verdicts

ADAPTER = """
import os
import signal
import sys

import numpy as np

assert not any(name.partition(".")[0] == "clipref" for name in sys.modules)

class Engine:
    def __init__(self, folder):
        self.folder = folder

    def describe(self):
        if "vit-a" in self.folder.name:
            return {"embed_dim": 22, "resolution": 30, "context_length": 19, "vocab_size": 521}
        if "vit-b" in self.folder.name:
            raise NotImplementedError("no vit-b")
        if "vit-c" in self.folder.name:
            return [1, 2]
        if "vit-mlp" in self.folder.name:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("what it says")

    def similarity(self, image, text, logit_scale):
        return {"cosines": np.float32([[1]]), "logits": "no array"}

    def tokenize(self, texts, context_length, truncate):
        raise RuntimeError("too long")
"""


def test_it_answers_as_in_this_process(tmp_path: Path) -> None:
    (tmp_path / "onnx.py").write_text(ADAPTER)  # a name that the engines of the suite have, too
    engine = open_engine(f"python:{sys.executable}:{tmp_path / 'onnx.py'}:Engine")
    report = run(engine, "describe/", "similarity/", "tokenize/refused", "properties/")
    found = {result.case: (result.verdict, result.problem) for result in report.results}
    assert found["describe/vit-a"][0] == "PASS"
    assert found["describe/vit-b"] == ("SKIP", "no vit-b")
    assert found["describe/vit-c"][0] == "FAIL" and "can't be written" in str(found["describe/vit-c"][1])
    assert found["describe/vit-mlp"] == ("FAIL", "crashed: ended by SIGKILL")
    assert found["describe/vit-gelu"] == ("FAIL", "raised ValueError: what it says")
    assert found["tokenize/refused"] == ("PASS", None)
    assert {v for case, v in verdicts(report).items() if case.startswith("properties/")} == {"SKIP"}
    assert {v for case, v in verdicts(report).items() if case.startswith("similarity/")} == {"FAIL"}


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("python:no-such-python:ADAPTER:Engine", "an interpreter that can be run"),
        ("python:PYTHON:no-such-file.py:Engine", "a file in Python"),
        ("python:PYTHON:ADAPTER", "the name in it"),
        ("python:PYTHON:ADAPTER:Motor", "can't be imported: AttributeError"),
    ],
)
def test_what_is_not_there_is_told(spec: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "adapter.py").write_text(ADAPTER)
    named = spec.replace("PYTHON", sys.executable).replace("ADAPTER", str(tmp_path / "adapter.py"))
    with pytest.raises(InputError, match=says):
        open_engine(named)


@pytest.mark.slow
def test_all_verbs_reach_it(tmp_path: Path) -> None:
    """Whatever the verb, the answer is that of the example of the guide: the reference's, in another process."""
    (tmp_path / "adapter.py").write_text(
        f"import sys; sys.path[:] = {sys.path!r}\n"
        "from clipref.conformance.engines.python import Reference, ReferenceModel\n"
        "Engine = lambda folder: Reference() if folder is None else ReferenceModel('reference', folder)\n"
    )
    engine = open_engine(f"python:{sys.executable}:{tmp_path / 'adapter.py'}:Engine")
    parts = ("vit-a", "similarity/", "tokenize/words", "RGB 50x40 to", "operations/softmax", "image and texts",
             "texts", "shapes-vit/image L")  # fmt: skip
    report = run(engine, *parts)
    assert {result.verdict for result in report.results} == {"PASS"}
    assert {question.verb for question in questions(*parts)} >= {
        "describe", "tokenize", "preprocess", "operation", "encode_image", "encode_text", "trace_image", "trace_text",
        "similarity", "embed_image", "embed_text", "compare",
    }  # fmt: skip
