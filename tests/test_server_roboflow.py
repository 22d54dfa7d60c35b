"""Roboflow's routes: what its clients need, and each row of what its own server (inference 1.8.3) gets wrong."""

import base64
import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref import AutoModel

from .live_server import Live, live, picture

pytestmark = pytest.mark.extra

MODEL = "clipref/shapes-vit"
PICTURES = [picture(0), picture(1, (40, 90)), picture(2, (120, 61), "JPEG")]  # of different sizes
TEXTS = ["a red circle", "two small blue stars", "a green ring"]


@pytest.fixture(scope="module")
def model() -> Any:
    return AutoModel.from_pretrained(MODEL, backend="reference", upright=True)


def image(data: bytes, head: str = "") -> dict[str, str]:
    return {"type": "base64", "value": head + base64.b64encode(data).decode()}


def floats(values: Any) -> np.ndarray:
    return np.array(values, np.float32)


def test_embeddings_are_the_models_own_bits(server: Live, model: Any) -> None:
    one = server.post("/clip/embed_image", {"image": image(PICTURES[0])}).json
    assert list(one) == ["inference_id", "frame_id", "time", "resolved_model", "embeddings"]
    assert one["inference_id"] is None and one["frame_id"] is None and one["time"] > 0
    assert one["resolved_model"] == {
        "model_id": MODEL,
        "model_package_id": None,
        "backend": "reference",
        "quantization": "float32",
    }
    assert (floats(one["embeddings"]) == model.embed_image(PICTURES[0])).all()
    for text in (TEXTS[0], TEXTS):
        found = server.post("/clip/embed_text", {"text": text}).json
        assert list(found) == list(one)
        assert (floats(found["embeddings"]) == model.embed_text(text)).all()


def test_two_images_in_one_request_give_two_embeddings_whatever_their_sizes(server: Live, model: Any) -> None:
    reply = server.post("/clip/embed_image", {"image": [image(p) for p in PICTURES]})
    assert (floats(reply.json["embeddings"]) == model.embed_images(PICTURES)).all()


@pytest.mark.parametrize("head", ["data:image/png;base64,", "data:image/jpeg;BASE64,"])
def test_data_uris_and_broken_lines_are_base64_too(server: Live, model: Any, head: str) -> None:
    given = image(PICTURES[0], head)
    given["value"] = given["value"][:100] + "\n" + given["value"][100:].rstrip("=")
    assert (
        floats(server.post("/clip/embed_image", {"image": given}).json["embeddings"]) == model.embed_image(PICTURES[0])
    ).all()


def test_compare_takes_every_shape_of_prompts(server: Live, model: Any) -> None:
    subject = image(PICTURES[0])
    images = [image(p) for p in PICTURES]
    many = [f"{n} red circles" for n in range(20)]  # its own server takes eight
    bare = base64.b64encode(PICTURES[0]).decode()
    for body, expected in (
        ({"subject": subject, "prompt": TEXTS}, model.compare(PICTURES[0], TEXTS)),
        ({"subject": bare, "prompt": TEXTS[0]}, model.compare(PICTURES[0], TEXTS[:1])),
        ({"subject": subject, "prompt": many}, model.compare(PICTURES[0], many)),
        (
            {"subject": subject, "prompt": dict(zip("abc", TEXTS, strict=True))},
            dict(zip("abc", model.compare(PICTURES[0], TEXTS), strict=True)),
        ),
        ({"subject": subject, "prompt": images, "prompt_type": "image"},
         model.compare(PICTURES[0], PICTURES, prompt_type="image")),
        ({"subject": subject, "prompt": images[1], "prompt_type": "image"},
         model.compare(PICTURES[0], PICTURES[1:2], prompt_type="image")),
        ({"subject": subject, "prompt": {"x": images[1], "y": images[2]}, "prompt_type": "image"},
         dict(zip("xy", model.compare(PICTURES[0], PICTURES[1:], prompt_type="image"), strict=True))),
        ({"subject": TEXTS[0], "subject_type": "text", "prompt": images, "prompt_type": "image"},
         model.compare(TEXTS[0], PICTURES, "text", "image")),
        ({"subject": TEXTS[0], "subject_type": "text", "prompt": TEXTS}, model.compare(TEXTS[0], TEXTS, "text")),
    ):  # fmt: skip
        found = server.post("/clip/compare", body).json
        assert list(found) == ["inference_id", "frame_id", "time", "resolved_model", "similarity", "parent_id"]
        assert found["similarity"] == expected


def test_a_rotated_photograph_is_turned_unless_the_original_is_asked_for(server: Live, model: Any) -> None:
    file = io.BytesIO()
    opened = Image.open(io.BytesIO(picture(3, (90, 50))))
    exif = Image.Exif()
    exif[0x0112] = 6
    opened.save(file, "JPEG", exif=exif)
    request = {"image": image(file.getvalue())}
    found = floats(server.post("/clip/embed_image", request).json["embeddings"])
    assert (found == model.embed_image(file.getvalue())).all()
    original = AutoModel.from_pretrained(MODEL, backend="reference").embed_image(file.getvalue())
    assert not np.array_equal(found, original)
    with live("--model", MODEL, "--backend", "reference", "--as-openai") as as_openai:
        assert (floats(as_openai.post("/clip/embed_image", request).json["embeddings"]) == original).all()
        assert as_openai.get("/info").json["models"][0]["upright"] is False
    assert server.get("/info").json["models"][0]["upright"] is True


def test_the_model_is_chosen_by_any_of_its_names_and_an_unknown_one_is_404(server: Live) -> None:
    for field in ("clip_version_id", "model_id"):
        for name in (MODEL, "shapes-vit", "clipref/SHAPES-VIT", None):
            assert server.post("/clip/embed_text", {"text": "a", field: name}).status == 200
        reply = server.post("/clip/embed_text", {"text": "a", field: "ViT-B-16"})
        assert reply.status == 404 and MODEL in reply.json["message"] and "ViT-B-16" in reply.json["message"]


def test_files_and_pickles_are_never_read(server: Live, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(PICTURES[0])
    path = str(tmp_path / "x.png")
    array = base64.b64encode(pickle.dumps(np.zeros((9, 9, 3), np.uint8))).decode()
    for given, word in (
        ({"type": "file", "value": path}, "disk"),
        ({"type": "numpy", "value": array}, "pickle"),
        ({"type": "base64", "value": array}, "not an image"),
        (path, "path"),
        ({"type": "base64", "value": path}, "path"),
        ({"type": "url", "value": f"file://{path}"}, "fetches none"),
        ({"type": "url", "value": "https://example.org/x.png"}, "--allow-image-urls"),
        ("http://example.org/x.png", "--allow-image-urls"),
    ):
        reply = server.post("/clip/embed_image", {"image": given})
        assert reply.status == 400 and word in reply.json["message"], reply.json
        assert reply.json["message"].startswith("image")
        assert server.post("/clip/compare", {"subject": given, "prompt": "a"}).status == 400


def test_errors_name_the_item_and_repeat_nothing(server: Live) -> None:
    secret = "S3CRET" * 20
    hidden = base64.b64encode(secret.encode()).decode()
    images = [image(PICTURES[0]), {"type": "base64", "value": hidden}]
    for path, body, begins in (
        ("/clip/embed_image", {"image": images}, "image[1]: not an image but text"),
        ("/clip/embed_image", {"image": {"type": "base64", "value": f"{secret}!"}}, "image is not base64"),
        ("/clip/embed_image", {"image": {"type": "base64", "value": ""}}, "image is empty"),
        ("/clip/embed_image", {"image": {"type": secret, "value": secret}}, "image: expected the type"),
        ("/clip/embed_image", {"image": [secret, 5]}, "image[1] is a number"),
        ("/clip/embed_image", {"image": []}, "image is empty"),
        ("/clip/embed_image", {"text": secret}, "image is missing"),
        ("/clip/embed_text", {"text": ["a", f"{secret} " * 50]}, "text[1]: "),
        ("/clip/embed_text", {"text": ["a", " "]}, "text[1] is empty"),
        ("/clip/embed_text", {"text": [secret, 5]}, "text[1] is a number"),
        ("/clip/embed_text", {"text": {"a": secret}}, "text is an object"),
        ("/clip/compare", {"subject": [secret], "prompt": "a"}, "subject is a list"),
        ("/clip/compare", {"subject": secret, "subject_type": secret, "prompt": "a"}, "subject_type is a text"),
        ("/clip/compare", {"subject": images[0], "prompt": {"x": secret, "y": None}}, "prompt[1] is null"),
    ):
        reply = server.post(path, body)
        assert reply.status == 400 and list(reply.json) == ["message"]
        assert reply.json["message"].startswith(begins), reply.json
        assert secret[:9] not in reply.json["message"] and hidden[:9] not in reply.json["message"]
    assert not any(secret[:9] in line or hidden[:9] in line for line in server.lines)


def test_health_info_and_registry(server: Live) -> None:
    assert server.get("/healthz").json == {"status": "healthy"}
    assert server.get("/readiness").json == {"status": "ready"}
    assert {"name", "version", "uuid"} <= server.get("/info").json.keys()
    (entry,) = server.get("/model/registry").json["models"]
    assert entry["model_id"] == MODEL and entry["task_type"] == "embed"


def test_answers_say_where_they_come_from(server: Live, model: Any) -> None:
    headers = server.post("/clip/embed_text", {"text": "a"}, {"X-Request-Id": "mine-1"}).headers
    assert headers["x-clipref-model"] == MODEL and headers["x-clipref-weights"] == model.digest
    assert headers["x-clipref-backend"] == "reference; precision=float32"
    assert headers["x-request-id"] == "mine-1"
    assert server.post("/clip/embed_text", {"text": "a"}, {"X-Request-Id": "a b"}).headers["x-request-id"] != "a b"
