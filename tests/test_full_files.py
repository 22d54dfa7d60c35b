"""Files and texts of a model in its published size, for engines that have one size and take files."""

import pytest

from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.engines import open_engine
from clipref.conformance.engines.python import PythonEngine
from clipref.conformance.protocol import Question
from clipref.model import CLIP
from clipref.weights import Checkpoint


def asked(*models: str) -> dict[str, Question]:
    return {q.id: q for q in levels.questions(["full"], models) if q.verb.startswith("embed_")}


def test_one_published_size_is_asked_about_files() -> None:
    found = asked("clip/RN50", "clip/ViT-B-32", "clip/ViT-L-14")
    assert {id: q.verb for id, q in found.items()} == {
        "full/ViT-B-32 trained/file": "embed_image",
        "full/ViT-B-32 trained/words": "embed_text",
    }
    # The same checkpoint as the towers' questions, so that an engine opens it once.
    towers = {q.model for q in levels.questions(["full"], ["clip/ViT-B-32"]) if q.verb.startswith("encode_")}
    assert {q.model for q in found.values()} <= towers and not asked("clip/RN50")


@pytest.mark.slow
def test_an_engine_of_one_size_is_graded_by_files() -> None:
    report = suite.run(open_engine("backend:onnx"), asked("clip/ViT-B-32").values())
    assert report.passed and report.grade == "float32" and report.count("PASS") == 2
    assert report.embedded == {"images", "texts"}

    class Louder:
        def __init__(self, folder: str) -> None:
            self.model = CLIP(Checkpoint(folder), "onnx")

        def embed_image(self, image: bytes) -> object:
            return self.model.embed_image(image)

        def embed_text(self, texts: list[str]) -> object:
            return self.model.embed_text([text.upper() + "!" for text in texts])

    report = suite.run(PythonEngine(Louder), asked("clip/ViT-B-32").values(), diagnose=False)  # type: ignore[arg-type]
    assert [r.verdict for r in report.results] == ["PASS", "FAIL"]
