"""clipref's own server under the conformance suite, in all of its dialects; and servers that contradict themselves."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref.conformance.engines import open_engine
from clipref.conformance.engines.failures import Contradiction
from clipref.server.calls import Call
from clipref.server.dialects import immich, openai, weaviate

from .engine_questions import questions, run
from .live_server import Live, live

pytestmark = pytest.mark.extra

IMAGE, TEXTS = "pipeline/shapes-vit/image RGB 97x64", "pipeline/vit-words-plain/texts"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the model that texts are asked of."""
    folder = questions(TEXTS)[0].make(tmp_path_factory.mktemp("words")).checkpoint
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def server(words: Path) -> Iterator[Live]:
    with live("--model", "clipref/shapes-vit", "--model", "clipref/shapes-rn", "--model", str(words)) as running:
        yield running


def asked(server: Live) -> set[str]:
    return {
        part for line in server.lines for part in line.split('"') if part.startswith("/") and '"status": 200' in line
    }


def test_it_is_clip_in_every_dialect(server: Live, words: Path) -> None:
    report = run(open_engine(server.url), "pipeline/")
    assert report.count("PASS") == 8 and report.passed and report.grade == "float32"
    assert {"/clip/embed_image", "/clip/embed_text", "/v1/embeddings", "/predict", "/vectorize"} <= asked(server)
    with live("--as-openai", "--model", str(words), "--model", "clipref/shapes-vit", "--backend", "reference") as other:
        report = run(open_engine(other.url), "pipeline/vit-words", IMAGE)
        assert report.count("PASS") == 3 and report.passed


def spoiled(vectors: Any) -> Any:
    """Almost right: two numbers of each vector exchanged."""
    array = np.array(vectors, np.float64)
    array[..., [0, 1]] = array[..., [1, 0]]
    return array.tolist()


def test_another_dialect_that_answers_otherwise_is_told(
    server: Live, words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def wrong_openai(call: Call) -> Any:
        answer = await openai.embeddings(call)
        for entry in answer["data"]:
            entry["embedding"] = spoiled(entry["embedding"])
        return answer

    async def wrong_immich(call: Call) -> Any:
        import json

        answer = await immich.predict(call)
        return {**answer, "clip": json.dumps(spoiled(json.loads(answer["clip"])))}

    async def wrong_weaviate(call: Call) -> Any:
        answer = await weaviate.vectorize(call)
        return {key: spoiled(rows) if rows else rows for key, rows in answer.items()}

    for module, table, route, handler in (
        (openai, "POSTS", "/v1/embeddings", wrong_openai),
        (immich, "FORMS", "/predict", wrong_immich),
        (weaviate, "POSTS", "/vectorize", wrong_weaviate),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(module, table, {route: handler})
            with live("--model", "clipref/shapes-vit") as wrong:
                case = questions(IMAGE)[0].make(words.parent)
                with pytest.raises(Contradiction, match=f"{route} answers otherwise than /clip/"):
                    open_engine(wrong.url).answer(case)
    (result,) = run(open_engine(server.url), TEXTS).results
    assert result.verdict == "PASS"


@pytest.mark.parametrize("arguments", [(), ("--as-openai",)])
def test_a_server_is_held_to_the_orientation_that_it_states(arguments: tuple[str, ...], words: Path) -> None:
    case = questions(IMAGE)[0].make(words.parent)
    with live("--model", "clipref/shapes-vit", *arguments) as server:
        open_engine(server.url).answer(case)
        model = server.server._models.served[0]
        stated = model.as_json()
        model.as_json = lambda: {**stated, "upright": not stated["upright"]}
        with pytest.raises(Contradiction, match="/info states that"):
            open_engine(server.url).answer(case)


def test_a_dialect_that_fails_where_another_answers_is_told(words: Path) -> None:
    case = questions(IMAGE)[0].make(words.parent)
    with live("--model", "clipref/shapes-vit") as server:
        models = server.server._models
        server.server.core.models = models

        def broken(call: Any, name: Any, param: str) -> Any:
            raise ValueError(name)

        find = models.find
        models.find = lambda name, param: broken(None, name, param) if param == "modelName" else find(name, param)
        with pytest.raises(Contradiction, match="HTTP 500 from /predict"):
            open_engine(server.url).answer(case)
