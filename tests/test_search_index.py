"""An index of a folder: what is embedded when, what is found, and what the commands print and return."""

import csv
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref import CLIP, AutoModel, InputError, files
from clipref.cli import main
from clipref.search import Index, StoreError, Term, reading, scan, update
from clipref.search.index import as_unit_vectors
from clipref.search.scan import scores_of
from clipref.similarity import cosines_with_rows
from clipref.weights_tools.shapes import world

from .conftest import make_tiny

SCENES = 9


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> CLIP:
    return AutoModel.from_pretrained(make_tiny(tmp_path_factory.mktemp("model"), "vit"), backend="blas")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with drawn scenes, in two levels, a damaged picture and what is none."""
    top = tmp_path / "pictures"
    (top / "deep").mkdir(parents=True)
    for i in range(SCENES):
        world.scene(i).draw(64).save(top / ("deep" if i % 3 == 0 else "") / f"{i}.png")
    (top / "damaged.jpg").write_bytes(b"\xff\xd8\xff\xe0 and no more")
    (top / "notes.txt").write_text("no picture")
    age(top)
    return top


def age(folder: Path, by: int = 0) -> None:
    """Make files old enough that their time says whether they changed."""
    for path in folder.rglob("*.*"):
        if path.is_file() and ".clipref" not in path.parts:
            os.utime(path, (1e9 + by, 1e9 + by))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of the files that an index reads."""
    names: list[str] = []
    before = files.open_regular

    def counted(path: Any) -> Any:
        names.append(os.path.basename(path))
        return before(path)

    monkeypatch.setattr(reading, "open_regular", counted)
    yield names


def test_only_what_is_new_or_changed_is_read(folder: Path, model: CLIP, opened: list[str]) -> None:
    with Index(folder, model) as index:
        first = index.update(batch_size=4)
        assert (first.embedded, len(first.failed), len(index)) == (SCENES, 1, SCENES)
        assert sorted(opened) == sorted([*(f"{i}.png" for i in range(SCENES)), "damaged.jpg"])
        assert first.found.describe_left_out() == "1 with other suffixes (1 .txt)" and not first.is_whole
        opened.clear()
        second = index.update()
        assert opened == [] and (second.unchanged, second.unchanged_errors) == (SCENES, 1)
        (folder / "1.png").write_bytes((folder / "2.png").read_bytes())
        (folder / "4.png").unlink()
        world.scene(77).draw(64).save(folder / "new.png")
        age(folder / "..", by=5)
        third = index.update()
        assert (third.embedded, third.removed) == (1, 1) and third.known == SCENES - 1
        assert index.paths[index.paths.index("1.png")] == "1.png"
        np.testing.assert_array_equal(vector(index, "1.png"), vector(index, "2.png"))


def vector(index: Index, path: str) -> np.ndarray:
    row: np.ndarray = index.vectors[index.paths.index(path)]
    return row


def test_vectors_are_those_of_the_model(folder: Path, model: CLIP) -> None:
    with Index(folder, model) as index:
        index.update(batch_size=4)
        assert isinstance(index.vectors, np.memmap) and index.vectors.dtype == np.float16
        expected = model.embed_images([folder / path for path in index.paths], normalize=True)
        np.testing.assert_allclose(index.vectors.astype(np.float32), expected, atol=5e-4)
        paths, rows = index.snapshot()
        assert paths == index.paths and np.array_equal(rows, index.vectors)


def test_renamed_moved_and_copied_files_are_not_embedded_again(
    folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Index(folder, model) as index:
        index.update()
        before = vector(index, "deep/0.png").copy()
    (folder / "deep").rename(folder / "deeper")
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    moved = folder.rename(folder.with_name("elsewhere"))
    monkeypatch.setattr(CLIP, "encode_image", None)
    with Index(moved, model) as index:
        summary = index.update()
        assert (summary.embedded, summary.known, summary.removed) == (0, 4, 3)
        np.testing.assert_array_equal(vector(index, "deeper/0.png"), before)
        assert len(index) == SCENES + 1 and len(index.vectors) == SCENES + 1


def test_a_file_that_was_written_just_now_is_looked_at_again(folder: Path, model: CLIP, opened: list[str]) -> None:
    with Index(folder, model) as index:
        index.update()
        path = folder / "1.png"
        path.write_bytes((folder / "2.png").read_bytes())
        now = path.stat().st_mtime_ns
        index.update()
        path.write_bytes((folder / "5.png").read_bytes())
        size = max((folder / name).stat().st_size for name in ("2.png", "5.png"))
        for name in ("2.png", "5.png"):  # of one size, and of one time
            data = (folder / name).read_bytes()
            (folder / f"same-{name}").write_bytes(data + bytes(size - len(data)))
        path.write_bytes((folder / "same-2.png").read_bytes())
        os.utime(path, ns=(now, now))
        index.update()
        path.write_bytes((folder / "same-5.png").read_bytes())
        os.utime(path, ns=(now, now))
        index.update()
        np.testing.assert_array_equal(vector(index, "1.png"), vector(index, "same-5.png"))


def test_a_damaged_picture_is_remembered_until_it_changes(folder: Path, model: CLIP, opened: list[str]) -> None:
    with Index(folder, model) as index:
        index.update()
        assert [path for path, _ in index.errors()] == ["damaged.jpg"] and "damaged.jpg" not in index.errors()[0][1]
        opened.clear()
        index.update(retry=True)
        assert opened == ["damaged.jpg"]
        world.scene(50).draw(64).save(folder / "damaged.jpg")
        assert index.update().embedded == 1 and index.errors() == []


def test_upright_is_the_default_and_recorded(folder: Path, model: CLIP) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x0132] = "2023:05:06 07:08:09"
    world.scene(3).draw(64).save(folder / "turned.jpg", exif=exif)
    image = Image.open(folder / "turned.jpg")
    with Index(folder, model) as index, Index(folder, model, store=folder / ".other", upright=False) as as_openai:
        for each in (index, as_openai):
            each.update()
        expected = model.embed_image(image.transpose(Image.Transpose.ROTATE_270), normalize=True)[0]
        np.testing.assert_allclose(vector(index, "turned.jpg"), expected, atol=5e-4)
        np.testing.assert_allclose(
            vector(as_openai, "turned.jpg"), model.embed_image(image, normalize=True)[0], atol=5e-4
        )
        assert not np.allclose(vector(as_openai, "turned.jpg"), expected, atol=5e-3)
        hit = index.search(Term(image=folder / "turned.jpg"), top_k=1)[0]
        assert hit.path == "turned.jpg" and hit.score > 0.9999
        assert (hit.width, hit.height, hit.taken) == (64, 64, "2023-05-06 07:08:09")
    with pytest.raises(StoreError, match="preprocessing .*--index PATH"):
        Index(folder, model, upright=False)


def test_a_search_is_exact(folder: Path, model: CLIP) -> None:
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())
    query: list[str | Term] = ["red cat", Term("dog", 0.5), Term("blue", -0.25), Term(image=folder / "2.png", weight=2)]
    with Index(folder, model) as index:
        index.update()
        texts = model.embed_text(["red cat", "dog", "blue"], normalize=True)
        units = np.concatenate([texts, model.embed_image(folder / "2.png", normalize=True)]).astype(np.float64)
        total = np.array([1, 0.5, -0.25, 2]) @ units
        rows = index.vectors.astype(np.float64)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        expected = dict(zip(index.paths, rows @ total / np.linalg.norm(total), strict=True))
        each = dict(zip(index.paths, rows @ units.T, strict=True))
        for hot in (False, True):
            index.hot = hot
            hits = index.search(query, top_k=100)
            assert {hit.path for hit in hits} == set(expected) and len(hits) == SCENES + 1
            scores = [hit.score for hit in hits]
            assert scores == sorted(scores, reverse=True)
            np.testing.assert_allclose(scores, [expected[hit.path] for hit in hits], atol=1e-5)
            np.testing.assert_allclose([h.cosines for h in hits], [each[h.path] for h in hits], atol=1e-5)
            assert index.search(query, top_k=4) == hits[:4]
            least = hits[3].score
            assert index.search(query, top_k=100, min_score=least) == hits[:4]
            assert index.search(query, top_k=100, within=hits[0].score - least) == hits[:4]
            assert index.search(["red cat", Term("dog", 0.5), query[3]], minus="blue", top_k=1)[0].cosines[3] != 0
            deep = index.search(query, path="deep/*", top_k=2)
            assert deep == [hit for hit in hits if hit.path.startswith("deep/")][:2]
            listed = [hits[5].path, hits[2].path, "nowhere.png"]
            assert [h.path for h in index.search(query, paths=listed)] == [hits[2].path, hits[5].path]


def test_a_search_sees_what_was_written_since(folder: Path, model: CLIP) -> None:
    with Index(folder, model, hot=True) as index, Index(folder, model) as other:
        other.update()
        assert len(index.search("cat", top_k=99)) == SCENES
        world.scene(60).draw(64).save(folder / "late.png")
        other.update()
        other.remove(["1.png"])
        found = {hit.path for hit in index.search("cat", top_k=99)}
        assert "late.png" in found and "1.png" not in found and len(found) == SCENES
        other.store.compact()
        assert {hit.path for hit in index.search("cat", top_k=99)} == found
        assert other.add(["1.png"]).embedded == 1 and len(other) == SCENES + 1
        assert other.add(["none.png"]).failed == [("none.png", "no such file")]


def test_dates_restrict(folder: Path, model: CLIP) -> None:
    for year in (2021, 2022, 2023):
        exif = Image.Exif()
        exif[0x8769] = {0x9003: f"{year}:06:15 12:00:00"}
        world.scene(year).draw(64).save(folder / f"{year}.jpg", exif=exif)
    with Index(folder, model) as index:
        index.update()

        def years(**dates: str) -> set[str]:
            return {hit.path for hit in index.search("cat", top_k=99, **dates)}  # type: ignore[arg-type]

        assert years(after="2022") == {"2022.jpg", "2023.jpg"} == years(after="2022-06-15", before="2030")
        assert years(before="2022-06-16", after="2000") == {"2021.jpg", "2022.jpg"}
        assert years(after="2022-06-15 12:00:01") == {"2023.jpg"}
        for wrong in ("yesterday", "22", "2022-6"):
            with pytest.raises(InputError, match="expected a date"):
                years(after=wrong)


def test_wrong_questions_are_refused(folder: Path, model: CLIP) -> None:
    with Index(folder, model) as index:
        assert index.search("cat") == []
        index.update()
        for query, message in (
            ([], "expected a text, a Term"),
            (["cat", Term("cat", -1)], "cancel each other out"),
            (3, "expected a text"),
        ):
            with pytest.raises(InputError, match=message):
                index.search(query)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="not in .*; expected a path in that folder"):
            index.add(["../other.png"])
    for wrong in ({"text": "a", "weight": 0}, {"text": "a", "weight": float("nan")}, {}, {"text": "a", "image": "b"}):
        with pytest.raises(InputError):
            Term(**wrong)
    with pytest.raises(InputError, match="is not a folder"):
        Index(folder / "none", model)


def test_a_folder_that_lost_all_its_pictures_keeps_its_index(folder: Path, model: CLIP) -> None:
    with Index(folder, model, store=folder / ".." / "store") as index:
        index.update()
        folder.rename(folder.with_name("unmounted"))
        folder.mkdir()
        summary = index.update()
        assert summary.kept == SCENES + 1 and len(index) == SCENES and "is a drive not mounted?" in summary.sentence()


def test_an_interrupted_run_keeps_what_was_embedded(folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []
    before = update.embed_batch

    def interrupted(*arguments: Any) -> None:
        if len(calls) == 2:
            raise KeyboardInterrupt
        calls.append(before(*arguments))

    monkeypatch.setattr(update, "embed_batch", interrupted)
    with Index(folder, model) as index:
        with pytest.raises(KeyboardInterrupt):
            index.update(batch_size=2)
        assert len(index) == 4


def test_scores_are_products_whatever_a_float16_is() -> None:
    """Every float16 that is finite, in rows; and as many rows as several threads take."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    rows = np.resize(every, (len(every) // 16, 16))
    for i in range(16):
        query = np.eye(16, dtype=np.float32)[i]
        np.testing.assert_array_equal(scores_of(query, rows), rows[:, i].astype(np.float32))
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(2 * scan.FEW + 17, 5)).astype(np.float16)
    query = generator.normal(size=5).astype(np.float32)
    np.testing.assert_allclose(scores_of(query, rows), rows.astype(np.float64) @ query, atol=1e-5)


def test_the_highest_scores_are_made_exact() -> None:
    """Rows whose lengths differ by as much as rounding leaves: the order of the products isn't that of the cosines."""
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(5000, 8)).astype(np.float32)
    rows[:, 0] += 4
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = (rows * generator.uniform(1 - 2**-11, 1 + 2**-11, (5000, 1))).astype(np.float16)
    query = rows[:9].astype(np.float32).mean(axis=0)  # no axis, along which float16 has ties
    query /= np.linalg.norm(query)
    expected = cosines_with_rows(query, rows)
    best = np.argsort(-expected, kind="stable")[:300]
    scores = scores_of(query, rows)
    assert set(np.argsort(-scores, kind="stable")[:300].tolist()) != set(best.tolist())
    slots, cosines = scan.nearest_slots(scores, query, rows, 300)
    np.testing.assert_array_equal(slots, best)
    np.testing.assert_array_equal(cosines, expected[best])
    scores[best[::2]] = -np.inf
    np.testing.assert_array_equal(scan.nearest_slots(scores, query, rows, 150)[0][:150], best[1::2])
    scores[10:] = -np.inf
    assert sorted(scan.nearest_slots(scores, query, rows, 9000)[0].tolist()) == [
        i for i in range(10) if i not in best[::2]
    ]


def test_widened_rows_are_unit_vectors() -> None:
    rows = np.random.default_rng(0).normal(size=(11, 7)).astype(np.float16)
    expected = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(as_unit_vectors(rows), expected, atol=1e-6)


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def test_the_commands(folder: Path, model: CLIP, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run("index", folder, "--model", model.source, "--backend", "blas", "--json") == 3
    captured = capsys.readouterr()
    counts = json.loads(captured.out)
    assert (counts["pictures"], counts["embedded"], counts["errors"]) == (SCENES, SCENES, 1)
    assert "warning: 'damaged.jpg': " in captured.err and f"{SCENES} embedded; 1 can't be read" in captured.err
    assert run("index", folder, "--errors") == 3 and "damaged.jpg" in capsys.readouterr().out
    page = tmp_path / "found.html"
    assert run("search", folder, "cat", "--plus", "0.5", "red", "--minus", "dog", "--html", page, "-n", 3) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["score", "cat", "red", "dog", "taken", "path"] and len(rows) == 4
    assert page.read_text().count("<img ") == 3 and "data:image/jpeg;base64," in page.read_text()
    with Index(folder, model) as index:
        hits = index.search(["cat", Term("red", 0.5)], minus="dog", top_k=3)
    for row, hit in zip(rows[1:], hits, strict=True):
        assert row[-1] == hit.path and float(row[0]) == pytest.approx(hit.score, abs=1e-4)
    arguments = [
        "search",
        folder,
        "cat",
        "--plus",
        "0.5",
        "red",
        "--minus",
        "dog",
        "-n",
        3,
        "--no-update",
        "--backend",
        "blas",
    ]
    assert run(*arguments, "--json") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected: list[Any] = [
        (hit.path, pytest.approx(hit.score, abs=1e-6)) for hit in hits
    ]  # texts' bits depend on the batch
    assert [(line["path"], line["score"]) for line in lines] == expected
    assert list(lines[0])[:2] == ["path", "score"] and lines[0]["cosines"][2]["term"] == "dog"
    assert run(*arguments, "--csv") == 0
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["path"], float(row["score"])) for row in table] == expected
    assert (
        run("search", folder, "--image", folder / "1.png", "--minus-image", 0.5, folder / "2.png", "--after", 1999) == 0
    )
    assert f"{SCENES} pictures of {SCENES} have no date, and were left out" in capsys.readouterr().err
    assert run("search", folder, "--image", folder / "1.png", "--minus-image", 0.5, folder / "2.png", "-n", 1) == 0
    pictures = [Term(image=folder / "1.png"), Term(image=folder / "2.png", weight=-0.5)]
    with Index(folder, model) as index:
        assert capsys.readouterr().out.split()[-1] == index.search(pictures, top_k=1)[0].path
    assert run("index", folder, "--forget") == 0 and not (folder / ".clipref").exists()
    assert run("search", folder, "cat", "--no-update") == 1
    assert "There is no index in" in capsys.readouterr().err


@pytest.mark.slow
def test_paths_for_xargs_and_from_standard_input(folder: Path, model: CLIP) -> None:
    odd = os.fsencode(folder) + b"/\xff odd\n.png"
    with open(odd, "wb") as file:
        file.write((folder / "1.png").read_bytes())
    listed = b"2.png\0\xff odd\n.png\0"
    program = "import sys; from clipref.cli import main; sys.exit(main())"
    options = ["-0", "--paths-from", "-", "--model", model.source, "--backend", "blas"]
    command = [sys.executable, "-c", program, "search", os.fspath(folder), "cat", *options]
    done = subprocess.run(command, input=listed, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split(b"\0")) == sorted([b"", odd, os.fsencode(folder / "2.png")])
