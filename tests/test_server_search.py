"""Folders that are searched through the server: its own routes and clip-retrieval's, held to the index itself."""

import base64
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref import AutoModel
from clipref.cli import main
from clipref.search import Index, Term
from clipref.weights_tools.shapes import world

from .live_server import Live, live, picture

pytestmark = pytest.mark.extra

MODEL = "clipref/shapes-vit"
COUNT = 12
TEXT = "a red circle"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("search") / "drawn"
    (folder / "a").mkdir(parents=True)
    for i in range(COUNT):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"{2015 + i}:05:01 12:00:00"
        world.scene(i).draw(64).save(folder / "a" / f"{i}.jpg", exif=exif, quality=95)
    (folder / "twin.jpg").write_bytes((folder / "a" / "3.jpg").read_bytes())
    with Index(folder, AutoModel.from_pretrained(MODEL, backend="blas")) as index:
        index.update()
        assert len(index) == COUNT + 1 == len(index.store.contents()) + 1
    return folder


@pytest.fixture(scope="module")
def index(folder: Path) -> Iterator[Index]:
    with Index(folder, AutoModel.from_pretrained(MODEL, backend="blas")) as index:
        yield index


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[Live]:
    with live("--search", str(folder), "--backend", "blas") as running:
        yield running


def search(server: Live, *terms: Any, **more: Any) -> Any:
    return server.post("/v1/search", {"terms": list(terms), **more}).json


def test_hits_are_those_of_the_index(server: Live, index: Index) -> None:
    uri = "data:image/png;base64," + base64.b64encode(picture(0)).decode()
    first = index.search(TEXT, top_k=1)[0]
    vector = index.vectors[index.paths.index(first.path)]
    for terms, expected in (
        ([{"text": TEXT}], [Term(TEXT)]),
        ([{"text": TEXT}, {"text": "blue", "weight": -0.5}], [Term(TEXT), Term("blue", -0.5)]),
        ([{"image": uri}, {"text": TEXT, "weight": 2}], [Term(image=picture(0)), Term(TEXT, 2)]),
        ([{"text": TEXT}, {"id": first.id}], [Term(TEXT), Term(vector=vector)]),
    ):
        found = search(server, *terms, top_k=7)
        assert (found["object"], found["folder"], found["model"], found["pictures"]) == (
            "search",
            "drawn",
            MODEL,
            COUNT + 1,
        )
        hits = index.search(expected, top_k=7)
        assert [(hit["id"], hit["path"], hit["taken"], hit["width"], hit["height"]) for hit in found["hits"]] == [
            (hit.id, hit.path, hit.taken, 64, 64) for hit in hits
        ]
        np.testing.assert_allclose([hit["score"] for hit in found["hits"]], [hit.score for hit in hits], atol=1e-6)
        np.testing.assert_allclose([hit["cosines"] for hit in found["hits"]], [hit.cosines for hit in hits], atol=1e-6)


def test_filters(server: Live, index: Index) -> None:
    filters: tuple[dict[str, Any], ...] = (
        {"after": "2018", "before": "2021-05-01"},
        {"path": "a/1*"},
        {"within": 0.05},
        {"min_score": index.search(TEXT)[4].score + 1e-6, "top_k": 100},
    )
    for more in filters:
        expected: Any = index.search(TEXT, **{"top_k": 20, **more})
        assert [hit["path"] for hit in search(server, {"text": TEXT}, **more)["hits"]] == [hit.path for hit in expected]
        assert 0 < len(expected) < COUNT + 1


def test_more_like_a_picture_finds_it_and_its_twin_first(server: Live, index: Index) -> None:
    (hit,) = (h for h in index.search(TEXT, top_k=50) if h.path == "twin.jpg")
    paths = [found["path"] for found in search(server, {"id": hit.id})["hits"]]
    assert set(paths[:2]) == {"a/3.jpg", "twin.jpg"}


def test_pictures_that_are_indexed_while_it_runs_are_found(server: Live, folder: Path) -> None:
    late = folder / "late.png"
    late.write_bytes(picture(7))
    try:
        with Index(folder, AutoModel.from_pretrained(MODEL, backend="blas")) as index:
            index.update()
            uri = base64.b64encode(picture(7)).decode()
            assert search(server, {"image": uri}, top_k=1)["hits"][0]["path"] == "late.png"
            late.unlink()
            index.update()
            assert search(server, {"image": uri}, top_k=1)["hits"][0]["path"] != "late.png"
    finally:
        late.unlink(missing_ok=True)


def test_thumbnails(server: Live, index: Index, folder: Path) -> None:
    (hit, *_) = index.search(TEXT, path="a/5.jpg")
    found = server.post("/v1/thumbnail", {"id": hit.id}).json
    assert list(found) == ["object", "image"] and found["image"].startswith("data:image/jpeg;base64,")
    small = Image.open(io.BytesIO(base64.b64decode(found["image"].partition(",")[2])))
    original = Image.open(folder / "a" / "5.jpg")
    assert small.size == (64, 64)
    assert np.abs(np.asarray(small, np.int16) - np.asarray(original, np.int16)).mean() < 6
    away = folder / "a" / "5.away"
    os.rename(folder / "a" / "5.jpg", away)
    try:
        gone = server.post("/v1/thumbnail", {"id": hit.id})
        assert gone.status == 404 and str(folder) not in gone.json["error"]["message"]
    finally:
        os.rename(away, folder / "a" / "5.jpg")


def test_what_is_wrong_is_named(server: Live) -> None:
    secret = "a word of the request"
    asked: tuple[tuple[dict[str, Any], int, str], ...] = (
        ({}, 400, "terms is missing"),
        ({"terms": TEXT}, 400, "terms is a text"),
        ({"terms": []}, 400, "terms is empty"),
        ({"terms": ["a"]}, 400, "terms[0]"),
        ({"terms": [{"text": TEXT, "id": 1}]}, 400, "terms[0]"),
        ({"terms": [{"text": 5}]}, 400, "terms[0].text is a number"),
        ({"terms": [{"text": TEXT}, {"text": ""}]}, 400, "terms[1]"),
        ({"terms": [{"id": 1}, {"text": TEXT}, {"image": "!" + secret}]}, 400, "terms[2]"),
        ({"terms": [{"text": TEXT, "weight": 0}]}, 400, "terms[0].weight"),
        ({"terms": [{"text": TEXT, "weight": 1e300}]}, 400, "terms[0].weight"),
        ({"terms": [{"text": TEXT, "weight": True}]}, 400, "terms[0].weight"),
        ({"terms": [{"text": TEXT}, {"text": TEXT, "weight": -1}]}, 400, "cancel each other out"),
        ({"terms": [{"id": 10**9}]}, 404, "no picture 1000000000"),
        ({"terms": [{"id": -1}]}, 400, "terms[0]"),
        ({"terms": [{"id": 2**70}]}, 400, ""),
        ({"terms": [{"text": TEXT}] * 257}, 413, "257"),
        ({"terms": [{"text": TEXT}], "top_k": 0}, 400, "top_k"),
        ({"terms": [{"text": TEXT}], "top_k": 3001}, 400, "3000"),
        ({"terms": [{"text": TEXT}], "after": secret}, 400, "dates such as"),
        ({"terms": [{"text": TEXT}], "path": "*" * 257}, 400, "path"),
        ({"terms": [{"text": TEXT}], "within": "x"}, 400, "within"),
        ({"terms": [{"text": TEXT}], "folder": "../" + secret}, 404, "drawn"),
    )
    for body, status, words in asked:
        reply = server.post("/v1/search", body)
        message = reply.json["error"]["message"]
        assert reply.status == status and words in message and secret not in message, (body, reply.json)
    for number in ("../../etc/passwd", True, 1.5):
        assert server.post("/v1/thumbnail", {"id": number}).status == 400
    assert not any(secret in line for line in server.lines)


def test_clip_retrieval(server: Live, index: Index) -> None:
    assert server.get("/indices-list").json == ["drawn"]
    query = {"text": TEXT, "image": None, "image_url": None, "embedding_input": None, "modality": "image",
             "indice_name": "drawn", "num_images": 3, "num_result_ids": 6, "use_mclip": False, "aesthetic_score": 9,
             "aesthetic_weight": 0.5, "use_safety_model": True, "deduplicate": False}  # fmt: skip
    expected = index.search(TEXT, top_k=6)
    found = server.post("/knn-service", query).json
    assert [(hit["id"], round(hit["similarity"], 5)) for hit in found] == [
        (hit.id, round(hit.score, 5)) for hit in expected
    ]
    assert [hit.get("image_path") for hit in found] == [*(hit.path for hit in expected[:3]), None, None, None]
    assert all(Image.open(io.BytesIO(base64.b64decode(hit["image"]))).format == "JPEG" for hit in found[:3])
    assert [set(hit) for hit in found[3:]] == [{"id", "similarity"}] * 3
    image = server.post("/knn-service", {**query, "text": "", "image": base64.b64encode(picture(1)).decode()}).json
    assert [hit["id"] for hit in image] == [hit.id for hit in index.search(Term(image=picture(1)), top_k=6)]
    vector = (7 * index.vectors[0].astype(np.float32)).tolist()  # of any length
    near = server.post("/knn-service", {**query, "text": None, "embedding_input": vector}).json
    assert near[0]["image_path"] == index.paths[0] and near[0]["similarity"] == pytest.approx(1, abs=1e-3)
    ids = [hit["id"] for hit in found[3:]]
    known = server.post("/metadata", {"ids": ids, "indice_name": "drawn"}).json
    assert [entry["id"] for entry in known] == ids
    assert [entry["metadata"]["image_path"] for entry in known] == [hit.path for hit in expected[3:]]
    assert server.post("/metadata", {"ids": [], "indice_name": "drawn"}).json == []
    for body, status, words in (
        ({**query, "indice_name": "laion5B"}, 404, "drawn"),
        ({**query, "modality": "text"}, 400, "modality"),
        ({**query, "text": None}, 400, "embedding_input is missing"),
        ({**query, "text": None, "embedding_input": [1.0, 2.0]}, 400, "embedding_input: expected 96 numbers"),
        ({**query, "text": None, "embedding_input": ["x"]}, 400, "embedding_input"),
        ({**query, "text": None, "image_url": "https://example.com/x.jpg"}, 400, "image_url is a URL"),
        ({**query, "text": 5}, 400, "text is a number"),
        ({**query, "num_images": 257, "num_result_ids": None}, 413, "257"),
        ({**query, "num_result_ids": 10**6}, 400, "num_result_ids"),
    ):
        reply = server.post("/knn-service", body)
        assert reply.status == status and words in reply.json["message"], (body, reply.json)


def test_deduplicated_hits_are_each_the_first_of_their_kind(server: Live, index: Index) -> None:
    query = {"text": TEXT, "num_images": 50, "indice_name": "drawn"}
    every = server.post("/knn-service", {**query, "deduplicate": False}).json
    kept = server.post("/knn-service", {**query, "deduplicate": True}).json
    assert len(every) == COUNT + 1 > len(kept) and [hit for hit in every if hit in kept] == kept
    rows = dict(zip(index.paths, index.vectors.astype(np.float32), strict=True))
    earlier: list[Any] = []
    for hit in every:
        near = max((float(rows[hit["image_path"]] @ row) for row in earlier), default=-1.0)
        assert (hit in kept) == (near < 0.94), hit["image_path"]
        if hit in kept:
            earlier.append(rows[hit["image_path"]])


def test_a_server_without_a_folder_says_so() -> None:
    with live("--backend", "blas") as server:
        reply = server.post("/v1/search", {"terms": [{"text": TEXT}]})
        assert reply.status == 404 and "--search" in reply.json["error"]["message"]
        assert server.get("/v1/folders").json["data"] == [] == server.get("/indices-list").json


def test_keys_guard_folders_and_their_pictures(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("right\n")
    with live("--search", str(folder), "--backend", "blas", "--api-key-file", str(tmp_path / "keys")) as server:
        right = {"Authorization": "Bearer right"}
        for path in ("/v1/folders", "/indices-list"):
            assert server.get(path).status == 401 and server.get(path, right).status == 200
        posts: tuple[tuple[str, Any], ...] = (
            ("/v1/search", {"terms": [{"text": TEXT}]}),
            ("/v1/thumbnail", {"id": 1}),
            ("/knn-service", {"text": TEXT}),
            ("/metadata", {"ids": [1]}),
        )
        for path, body in posts:
            refused = server.post(path, body)
            assert refused.status == 401 and "circle" not in json.dumps(refused.json)
            assert server.post(path, body, right).status == 200


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model", "clipref/shapes-rn"], "was made with"),
        (["--as-openai"], "--as-openai"),
        (["--search", "DIR"], "Two folders have the name"),
        (["--model", MODEL, "--model", "clipref/shapes-rn", "--index", "nowhere"], "no index"),
    ],
)
def test_folders_that_cannot_be_served(
    folder: Path, more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(folder) if word == "DIR" else word for word in more]
    assert main(["serve", "--port", "0", "--backend", "blas", "--search", str(folder), *arguments]) != 0
    assert words in capsys.readouterr().err


def test_several_folders_each_with_its_model(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "others"
    other.mkdir()
    (other / "x.png").write_bytes(picture(3))
    with Index(other, AutoModel.from_pretrained("clipref/shapes-rn", backend="blas")) as index:
        index.update()
    with live("--search", str(folder), "--search", str(other), "--backend", "blas") as server:
        assert server.get("/v1/folders").json["data"] == [
            {"name": "drawn", "model": MODEL},
            {"name": "others", "model": "clipref/shapes-rn"},
        ]
        reply = server.post("/v1/search", {"terms": [{"text": TEXT}], "folder": "others"})
        assert [hit["path"] for hit in reply.json["hits"]] == ["x.png"]
        assert reply.headers["x-clipref-model"] == "clipref/shapes-rn"
