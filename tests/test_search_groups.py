"""Duplicates, labels and clusters of an index: what is one group, whose the numbers are, and what is written where."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from clipref import InputError
from clipref.cli import main
from clipref.preprocessing import preprocess
from clipref.search import Index
from clipref.search.clusters import clusters, names_of
from clipref.search.duplicates import groups
from clipref.search.hashes import MIRRORED, distances, perceptual_hashes
from clipref.search.labels import moves, picture_labels, sort_into
from clipref.weights_tools.shapes import world

VIT = "clipref/shapes-vit"


def scene(seed: int) -> Image.Image:
    return world.scene(seed).draw(96)


def test_the_hash_is_the_sign_of_a_dct() -> None:
    """Against the transform written out, a coefficient at a time."""
    pixels = np.random.default_rng(0).normal(size=(2, 3, 24, 24)).astype(np.float32)
    std = (0.2, 0.3, 0.4)
    for picture, found in zip(pixels, perceptual_hashes(pixels, std).tolist(), strict=True):
        grey = sum(w * s * channel for w, s, channel in zip((0.299, 0.587, 0.114), std, picture, strict=True))
        bits = ""
        for u in range(8):
            for v in range(1, 9):
                total = sum(
                    grey[y, x] * np.cos(np.pi * u * (2 * y + 1) / 48) * np.cos(np.pi * v * (2 * x + 1) / 48)
                    for y in range(24)
                    for x in range(24)
                )
                bits += str(int(total > 0))
        assert found == int(bits, 2)


def test_a_mirrored_picture_has_the_mirrored_hash() -> None:
    pixels = np.random.default_rng(1).normal(size=(5, 3, 30, 30)).astype(np.float32)
    straight, mirrored = perceptual_hashes(pixels, (1, 1, 1)), perceptual_hashes(pixels[..., ::-1], (1, 1, 1))
    np.testing.assert_array_equal(mirrored, straight ^ MIRRORED)
    assert distances(mirrored, straight[0])[0] == 0 and distances(straight[:1] ^ np.uint64(7), straight[0])[0] == 3


def test_a_flat_picture_has_no_waves() -> None:
    flat = preprocess(Image.new("RGB", (50, 40), (200, 30, 90)), 32)[None]
    assert perceptual_hashes(flat, (0.3, 0.3, 0.3)).tolist() == [0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in" / "deep").mkdir(parents=True)
    return tmp_path / "in"


def test_near_duplicates_are_found_and_never_chained(folder: Path) -> None:
    for i in range(4):
        scene(i).save(folder / f"{i}.png")
    scene(0).resize((64, 64)).save(folder / "deep" / "resized.png")
    scene(0).resize((80, 80)).save(folder / "deep" / "recompressed.jpg", quality=60)
    ImageOps.mirror(scene(1)).resize((90, 90)).save(folder / "deep" / "mirrored.png")
    (folder / "deep" / "equal.png").write_bytes((folder / "2.png").read_bytes())
    with Index(folder, VIT) as index:
        index.update()
        found, without = groups(index, cosine=0.8)
        assert without == 0
        members = {group.path: {member.path for member in group.members} for group in found}
        assert members == {
            "0.png": {"deep/resized.png", "deep/recompressed.jpg"},
            "1.png": {"deep/mirrored.png"},
            "2.png": {"deep/equal.png"},
        }
        exact, _ = groups(index, exact=True)
        assert [(g.path, [tuple(m) for m in g.members]) for g in exact] == [
            ("2.png", [("deep/equal.png", True, 1.0, 0)])
        ]
        for group in found:
            for member in group.members:
                assert member.is_equal or (member.cosine >= 0.8 and member.distance <= 10)
        with pytest.raises(InputError, match="0 to 64 bits"):
            groups(index, distance=65)


@pytest.mark.parametrize("sides", [(90, 80, 70), (90, 70, 80)])
def test_a_chain_is_not_a_group(folder: Path, sides: tuple[int, ...]) -> None:
    """a - b - c, each near the next: the largest, a, takes b alone, and c stays by itself, larger than b or smaller."""
    for name, side in zip("abc", sides, strict=True):
        scene(5).resize((side, side)).save(folder / f"{name}.png")
    with Index(folder, VIT) as index:
        index.update()
        bits = {"a.png": 0, "b.png": 0xFF, "c.png": 0xFFFF}
        with index.store.reading() as db:
            for name, phash in bits.items():
                db.execute(
                    "UPDATE content SET phash = ? WHERE slot = (SELECT slot FROM image WHERE path = ?)",
                    (phash, name.encode()),
                )
        found, _ = groups(index, cosine=0.5, distance=8)
        assert [(group.path, [member.path for member in group.members]) for group in found] == [("a.png", ["b.png"])]


def test_labels_are_those_of_classify(folder: Path) -> None:
    for i in range(6):
        scene(i).save(folder / f"{i}.png")
    labels = ["a red circle", "a blue star", "a green square"]
    with Index(folder, VIT) as index:
        index.update()
        for entry in picture_labels(index, labels, ["{}"]):
            expected = index.model.classify(folder / entry.path, labels, ["{}"])
            assert [label for label, _ in entry.probabilities] == [label for label, _ in expected]
            np.testing.assert_allclose([p for _, p in entry.probabilities], [p for _, p in expected], atol=5e-3)
            assert entry.label == expected[0][0]
        strict = list(picture_labels(index, labels, ["{}"], margin=1))
        assert {entry.label for entry in strict if entry.probabilities[0][1] < 0.99} <= {"none"}
        with pytest.raises(InputError, match="0 to 1"):
            next(picture_labels(index, labels, margin=2))


def test_pictures_are_sorted_by_links_and_nothing_is_replaced(folder: Path, tmp_path: Path) -> None:
    scene(1).save(folder / "deep" / "1.png")
    scene(2).save(folder / "2.png")
    out = tmp_path / "sorted"
    with Index(folder, VIT) as index:
        index.update()
        found = list(picture_labels(index, ["a/b", "c"]))
        planned = moves(index, found, out)
        assert sort_into(planned) == 2 and sort_into(planned) == 0
        for move in planned:
            assert move.target.stat().st_ino == move.source.stat().st_ino and move.source.exists()
            assert move.target.relative_to(out).parts[0] in {"a_b", "c"}
        planned[0].target.unlink()
        planned[0].target.write_bytes(b"something else")
        with pytest.raises(InputError, match="nothing is replaced"):
            sort_into(planned)
        copies = moves(index, found, tmp_path / "copies")
        assert sort_into(copies, copy=True) == 2
        assert all(m.target.stat().st_ino != m.source.stat().st_ino for m in copies)
        assert all(m.target.read_bytes() == m.source.read_bytes() for m in copies)
        with pytest.raises(InputError, match="would be found twice"):
            moves(index, found, folder / "deep")
        alike = [entry._replace(label=label) for entry, label in zip(found, ("a/b", "a:b"), strict=True)]
        with pytest.raises(InputError, match="would have one folder"):
            moves(index, alike, out)


def test_clusters_are_those_that_the_rows_came_from() -> None:
    generator = np.random.default_rng(0)
    centres = np.linalg.qr(generator.normal(size=(7, 7)))[0][:4]
    truth = generator.integers(0, 4, 300)
    rows = centres[truth] + 0.1 * generator.normal(size=(300, 7))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = clusters(rows.astype(np.float16), 4)
    pairs = set(zip(truth.tolist(), found.members.tolist(), strict=True))
    assert len(pairs) == 4
    assert all(after >= before - 1e-3 for before, after in zip(found.totals, found.totals[1:], strict=False))
    own = (rows * found.centres[found.members]).sum(axis=1)
    np.testing.assert_allclose(found.cosines, own, atol=2e-3)
    np.testing.assert_allclose(np.linalg.norm(found.centres, axis=1), 1, atol=1e-6)
    assert names_of(found.centres, ["p", "q", "r", "s"], centres) == [
        "pqrs"[next(t for t, k in pairs if k == cluster)] for cluster in range(4)
    ]


def test_no_cluster_is_empty() -> None:
    rows = np.repeat(np.eye(3, 5, dtype=np.float16), 4, axis=0)
    for count in (1, 3, 7, 12):
        assert set(clusters(rows, count).members.tolist()) == set(range(count))
    for count in (0, 13):
        with pytest.raises(InputError, match="of 12 pictures"):
            clusters(rows, count)


def test_the_commands(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(6):
        scene(i).save(folder / f"{i}.png")
    scene(0).resize((80, 80)).save(folder / "deep" / "0.jpg", quality=80)
    classes = tmp_path / "classes"
    classes.write_text("a red circle\na blue star\n")

    def run(*arguments: object) -> list[dict[str, Any]]:
        assert main([str(argument) for argument in (*arguments, "--json")]) == 0
        return [json.loads(line) for line in capsys.readouterr().out.splitlines()]

    page = tmp_path / "page.html"
    found = run("duplicates", folder, "--model", VIT, "--cosine", 0.8, "--html", page)
    assert [(group["path"], group["near"][0]["path"]) for group in found] == [("0.png", "deep/0.jpg")]
    assert page.read_text().count("<img ") == 2
    assert {line["path"] for line in run("label", folder, "--classes", classes)} == {
        *(f"{i}.png" for i in range(6)),
        "deep/0.jpg",
    }
    lines = run("cluster", folder, "-k", 3, "--words", classes, "--outliers", 1, "--html", page)
    assert {line["cluster"] for line in lines} == {1, 2, 3} and sum("outlier" in line for line in lines) == 1
    assert {line["name"] for line in lines} <= {"a red circle", "a blue star"}
    assert page.read_text().count("<section>") == 4
    sort = ["label", str(folder), "--classes", str(classes), "--sort-into", str(tmp_path / "sorted")]
    assert main([*sort, "--dry-run"]) == 0 and not (tmp_path / "sorted").exists()
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert main(sort) == 0 and sum(len(files) for _, _, files in os.walk(tmp_path / "sorted")) == 7
