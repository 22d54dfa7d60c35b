"""The other dialects: OpenAI's route with images in every spelling, immich, Weaviate, classification."""

import base64
import json
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel

from .live_server import Live, form, live, picture

pytestmark = pytest.mark.extra

MODEL = "clipref/shapes-vit"
PICTURES = [picture(0), picture(1, (40, 90))]
TEXTS = ["a red circle", "two small blue stars"]
URIS = ["data:image/png;base64," + base64.b64encode(data).decode() for data in PICTURES]
LONG = "a red circle and " * 40


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModel.from_pretrained(MODEL, backend="reference", upright=True)


@pytest.fixture(scope="module")
def images(model: Any) -> Any:
    return model.embed_images(PICTURES, normalize=True)


@pytest.fixture(scope="module")
def texts(model: Any) -> Any:
    return model.embed_text(TEXTS, normalize=True)


def vectors(reply: Any) -> Any:
    data = reply.json["data"]
    assert [entry["index"] for entry in data] == list(range(len(data)))
    return np.array([entry["embedding"] for entry in data], np.float32)


def test_openai_texts(server: Live, texts: Any) -> None:
    reply = server.post("/v1/embeddings", {"model": MODEL, "input": TEXTS})
    assert list(reply.json) == ["object", "data", "model", "usage"] and reply.json["model"] == MODEL
    assert (vectors(reply) == texts).all()
    assert reply.json["usage"] == {"prompt_tokens": 11, "total_tokens": 11}  # 5 and 6, start and end included
    one = server.post("/v1/embeddings", {"input": TEXTS[1], "encoding_format": "base64", "dimensions": 96})
    (entry,) = one.json["data"]
    assert (np.frombuffer(base64.b64decode(entry["embedding"]), "<f4") == texts[1]).all()


def test_openai_images_in_every_spelling(server: Live, images: Any, texts: Any) -> None:
    bare = URIS[0].partition(",")[2]
    url = {"type": "image_url", "image_url": {"url": URIS[1]}}
    for body, expected in (
        ({"input": URIS}, images),
        ({"input": URIS[0], "modality": "image"}, images[:1]),
        ({"input": [{"image": bare}, {"text": TEXTS[0]}, {"image": URIS[1]}]}, [images[0], texts[0], images[1]]),
        ({"input": [TEXTS[1], URIS[0]]}, [texts[1], images[0]]),
        ({"messages": [{"role": "user", "content": [url]}]}, images[1:]),
        ({"messages": [{"role": "user", "content": TEXTS[0]}]}, texts[:1]),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": TEXTS[0]}]}]}, texts[:1]),
    ):
        assert (vectors(server.post("/v1/embeddings", body)) == np.stack(expected)).all()


def test_openai_errors(server: Live) -> None:
    both = [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": URIS[0]}}]
    for body, status, code, words in (
        ({"input": "a", "model": "text-embedding-3-small"}, 404, "model_not_found", MODEL),
        ({"input": [1, 2, 3]}, 400, "invalid_request", "token ids"),
        ({"input": [[1, 2], [3]]}, 400, "invalid_request", "token ids"),
        ({"input": []}, 400, "invalid_request", "input is empty"),
        ({"input": ["a", ""]}, 400, "invalid_request", "input[1] is empty"),
        ({"input": [URIS[0], "a", ""]}, 400, "invalid_request", "input[2] is empty"),
        ({"input": ["a", LONG]}, 400, "invalid_request", "input[1]: 202 tokens"),
        ({"input": ["a", 5]}, 400, "invalid_request", "input[1] is a number"),
        ({"input": ["a", "data:image/png;base64,!"]}, 400, "invalid_request", "input[1]"),
        ({"input": "x", "modality": "image"}, 400, "invalid_request", "a data URI"),
        ({"input": "x", "modality": "audio"}, 400, "invalid_request", "modality"),
        ({"input": "a", "dimensions": 5}, 400, "invalid_request", "96"),
        ({"input": "a", "encoding_format": "int8"}, 400, "invalid_request", "encoding_format"),
        ({"messages": [{"role": "user", "content": both}]}, 400, "invalid_request", "2 parts"),
        ({"messages": 5}, 400, "invalid_request", "0 parts"),
        ({"input": ["a"] * 257}, 413, "request_too_large", "257"),
        ({}, 400, "invalid_request", "input is missing"),
    ):  # fmt: skip
        reply = server.post("/v1/embeddings", body)
        error = reply.json["error"]
        assert (reply.status, error["code"]) == (status, code), error
        assert list(error) == ["message", "type", "param", "code"] and words in error["message"], error
    assert vectors(server.post("/v1/embeddings", {"input": LONG, "truncate": True})).shape == (1, 96)


def test_openai_lists_models(server: Live) -> None:
    assert [entry["id"] for entry in server.get("/v1/models").json["data"]] == [MODEL]


def test_immich(server: Live, images: Any, texts: Any, model: Any) -> None:
    def predict(task: str, fields: dict[str, str], files: dict[str, bytes], name: str = "shapes-vit__openai") -> Any:
        entries = {"clip": {task: {"modelName": name, "options": {}}}}
        return server.post("/predict", *form({"entries": json.dumps(entries), **fields}, files))

    reply = predict("visual", {}, {"image": PICTURES[1]})
    assert reply.status == 200 and list(reply.json) == ["clip", "imageHeight", "imageWidth"]
    assert (reply.json["imageWidth"], reply.json["imageHeight"]) == (40, 90)
    assert (np.array(json.loads(reply.json["clip"]), np.float32) == images[1]).all()
    for text, expected in ((TEXTS[0], texts[0]), (LONG, model.embed_text(LONG, truncate=True, normalize=True)[0])):
        found = predict("textual", {"text": text}, {}).json
        assert list(found) == ["clip"] and (np.array(json.loads(found["clip"]), np.float32) == expected).all()
    assert server.get("/ping").content == b"pong"
    for reply, status, words in (
        (predict("visual", {}, {}), 400, "no file `image`"),
        (predict("textual", {}, {}), 400, "no field `text`"),
        (predict("textual", {"text": "a"}, {}, "ViT-B-32__openai"), 404, MODEL),
        (predict("visual", {}, {"image": b"no picture"}), 400, "image: not an image"),
        (server.post("/predict", *form({"entries": "{"}, {})), 400, "entries"),
        (server.post("/predict", *form({"entries": '{"ocr": {"detection": {"modelName": "x"}}}'}, {})), 400, "tasks"),
        (server.post("/predict", {"entries": {}}), 400, "no form"),
        (server.post("/predict", b"x", {"Content-Type": "multipart/form-data"}), 400, "can't be read"),
        (server.post("/predict", *form({str(i): "" for i in range(20)}, {})), 400, "16 parts"),
    ):
        assert reply.status == status and list(reply.json) == ["detail"] and words in reply.json["detail"], reply.json


def test_weaviate(server: Live, images: Any, texts: Any) -> None:
    bare = [uri.partition(",")[2] for uri in URIS]
    found = server.post("/vectorize", {"texts": TEXTS, "images": bare}).json
    assert list(found) == ["textVectors", "imageVectors"]
    assert (np.array(found["textVectors"], np.float32) == texts).all()
    assert (np.array(found["imageVectors"], np.float32) == images).all()
    assert server.post("/vectorize", {"texts": [TEXTS[0], LONG], "images": None}).json["imageVectors"] == []
    for body, words in (
        ({"texts": None, "images": None}, "empty"),
        ({"texts": "a"}, "texts is a text"),
        ({"images": ["", bare[0]]}, "images[0] is empty"),
        ({"images": [5]}, "images[0] is a number"),
    ):
        reply = server.post("/vectorize", body)
        assert reply.status == 400 and list(reply.json) == ["error"] and words in reply.json["error"], reply.json
    assert server.get("/.well-known/live").status == 204 and server.get("/.well-known/ready").status == 204
    assert server.get("/meta").json["models"][0]["id"] == MODEL


def test_classify(server: Live, model: Any) -> None:
    labels, templates = ["red circle", "blue star", "green ring"], ["a {}", "one {}"]
    body = {"image": URIS[0], "labels": labels, "templates": templates}
    found = server.post("/v1/classify", body).json
    expected = model.classify(PICTURES[0], labels, templates)
    assert [(entry["label"], entry["probability"]) for entry in found["labels"]] == expected
    cosines = dict(zip(labels, model.compare(PICTURES[0], [f"a {label}" for label in labels]), strict=True))
    best = server.post("/v1/classify", {**body, "templates": ["a {}"], "top_k": 1}).json["labels"]
    assert len(best) == 1 and best[0]["similarity"] == pytest.approx(cosines[best[0]["label"]], abs=1e-6)
    for change, status, words in (
        ({"labels": []}, 400, "labels"),
        ({"labels": "a"}, 400, "labels"),
        ({"templates": ["a"]}, 400, "{}"),
        ({"top_k": 0}, 400, "top_k"),
        ({"image": 5}, 400, "image"),
        ({"labels": ["x"] * 129}, 413, "258"),
        ({"labels": ["x" * 1000], "templates": ["{}" * 1000]}, 413, "characters"),
    ):
        reply = server.post("/v1/classify", {**body, **change})
        assert reply.status == status and words in reply.json["error"]["message"], reply.json


def test_several_models_by_name() -> None:
    with live("--model", MODEL, "--model", "clipref/shapes-rn") as server:
        width = {model["id"]: model["embedding_length"] for model in server.get("/info").json["models"]}
        for name, length in width.items():
            reply = server.post("/v1/embeddings", {"input": "a", "model": name})
            assert reply.json["model"] == name == reply.headers["x-clipref-model"]
            assert vectors(reply).shape == (1, length)
        assert server.post("/v1/embeddings", {"input": "a"}).json["model"] == MODEL
        message = server.post("/clip/embed_text", {"text": "a", "clip_version_id": "x"}).json["message"]
        assert MODEL in message and "clipref/shapes-rn" in message
