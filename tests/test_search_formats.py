"""What other programs read and write: exports and imports, tar shards, and batches of engines."""

import io
import json
import os
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipref import CLIP, AutoModel, InputError
from clipref.cli import main
from clipref.search import Embed, Index
from clipref.search.formats import export, import_rows
from clipref.search.shards import embed_tar, embed_tars, merge, part_path, shard_of
from clipref.weights_tools.shapes import world

VIT = "clipref/shapes-vit"


@pytest.fixture(scope="module")
def model() -> CLIP:
    return AutoModel.from_pretrained(VIT, backend="blas")


@pytest.fixture
def index(tmp_path: Path, model: CLIP) -> Index:
    """Five scenes, one of them twice, and one whose name is no UTF-8."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for i in range(5):
        world.scene(i).draw(64).save(tmp_path / "in" / "deep" / f"{i}.png")
    data = (tmp_path / "in" / "deep" / "1.png").read_bytes()
    (tmp_path / "in" / "copy.png").write_bytes(data)
    index = Index(tmp_path / "in", model)
    index.update()
    return index


def without_utf8(index: Index) -> None:
    with open(os.fsencode(index.folder) + b"/\xff.png", "wb") as file:
        world.scene(40).draw(64).save(file, "PNG")
    index.update()


@pytest.mark.parametrize(
    "kind", ["npy", "jsonl", *(pytest.param(k, marks=pytest.mark.extra) for k in ("parquet", "clip-retrieval"))]
)
def test_an_export_is_imported_as_it_was(index: Index, model: CLIP, tmp_path: Path, kind: str) -> None:
    if kind in ("npy", "jsonl"):
        without_utf8(index)
    out = tmp_path / ("out.npy" if kind == "npy" else "out")
    paths, rows = index.snapshot()
    assert export(index, kind, out) == len(paths)
    (index.folder / "deep" / "3.png").unlink()
    with Index(index.folder, model, store=tmp_path / "other") as other:
        counts = import_rows(other, kind, out)
        assert counts["not here"] == 1 and counts["imported"] + counts["known"] == len(paths) - 1
        found = dict(zip(*other.snapshot(), strict=True))
        expected = {path: row for path, row in zip(paths, rows, strict=True) if path != "deep/3.png"}
        assert found.keys() == expected.keys()
        for path, row in expected.items():
            np.testing.assert_allclose(found[path].astype(np.float32), row.astype(np.float32), atol=2e-4)
        assert other.update().embedded == 0
        assert other.search("red", top_k=1)[0].path == index.search("red", top_k=1)[0].path


def test_other_vectors_are_not_imported(index: Index, model: CLIP, tmp_path: Path) -> None:
    paths, rows = index.snapshot()
    shuffled = np.roll(rows, 1, axis=0)
    for name, vectors, names, message in (
        ("other", shuffled, paths, "is it another model's"),
        ("short", rows[:, :5], paths, "isn't 96 numbers"),
        ("torn", rows, paths[1:], "has 5 names"),
        ("elsewhere", rows[:1], ["/none.png"], "none of its 1 paths"),
        ("zero", rows * 0, paths, "with a direction"),
    ):
        np.save(tmp_path / f"{name}.npy", vectors)
        (tmp_path / f"{name}.names.json").write_text(json.dumps(names))
        with Index(index.folder, model, store=tmp_path / "other") as other:
            with pytest.raises(InputError, match=message):
                import_rows(other, "npy", tmp_path / f"{name}.npy")
            assert len(other) == 0
    for kind, content in (("npy", b"text"), ("jsonl", b"{}\n"), ("jsonl", b"[1\n")):
        (tmp_path / "wrong").write_bytes(content)
        with pytest.raises(InputError, match="can't be imported"):
            import_rows(index, kind, tmp_path / "wrong")


@pytest.mark.extra
def test_clip_retrieval_reads_what_is_exported(index: Index, tmp_path: Path) -> None:
    """The layout that clip-retrieval 2's readers ask for: equal row numbers, zero-padded parts, float16."""
    import pyarrow.parquet

    export(index, "clip-retrieval", tmp_path / "out")
    rows = np.load(tmp_path / "out" / "img_emb" / "img_emb_0.npy")
    table = pyarrow.parquet.read_table(tmp_path / "out" / "metadata" / "metadata_0.parquet")
    assert rows.dtype == np.float16 and rows.shape == (6, 96) and table.num_rows == 6
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float32), axis=1), 1, atol=2e-3)
    expected = index.model.embed_images(table["image_path"].to_pylist(), normalize=True)
    np.testing.assert_allclose(rows.astype(np.float32), expected, atol=1e-3)
    with pytest.raises(OSError, match="there is something already"):
        export(index, "clip-retrieval", tmp_path / "out")


def tar_of(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def png(seed: int) -> bytes:
    file = io.BytesIO()
    world.scene(seed).draw(64).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def tars(tmp_path: Path) -> Path:
    """Three shards as img2dataset writes them; the second has a damaged picture."""
    folder = tmp_path / "tars"
    folder.mkdir()
    for shard in range(3):
        members: dict[str, bytes] = {}
        for i in range(4):
            key = f"{shard}{i:08}"
            members |= {f"{key}.png": png(10 * shard + i), f"{key}.txt": b"a text", f"{key}.json": b"{}"}
        if shard == 1:
            members["100000002.png"] = members["100000002.png"][:40]
        tar_of(folder / f"0000{shard}.tar", members)
    return folder


def test_tars_are_embedded_by_shards_and_merged(tars: Path, model: CLIP) -> None:
    with Index(tars, model) as index:
        for shard in ((1, 2), (0, 2)):
            parts = list(embed_tars(index, shard, batch_size=3))
            assert [part.tar for part in parts] == [f"0000{i}.tar" for i in range(3)][shard[0] :: shard[1]]
            assert all(part.is_new and part.left_out == 8 for part in parts)
        assert len(index) == 0 and not any(part.is_new for part in embed_tars(index))
        assert merge(index.store) == 3 and len(index) == 11
        assert [path for path, _ in index.errors()] == ["00001.tar/100000002.png"]
        assert list(embed_tars(index)) == [] and merge(index.store) == 0
        paths, rows = index.snapshot()
        seeds = [10 * int(tar[4]) + int(name[1:9]) for tar, name in (path.split("/") for path in paths)]
        expected = model.embed_images(map(png, seeds), normalize=True)
        np.testing.assert_allclose(rows.astype(np.float32), expected, atol=1e-3)
        assert index.update().removed == 0 and len(index) == 11
        tar_of(tars / "00001.tar", {"100000009.png": png(77)})
        assert [(part.tar, part.embedded) for part in embed_tars(index)] == [("00001.tar", 1)]
        merge(index.store)
        assert sorted(p for p in index.paths if p.startswith("00001")) == ["00001.tar/100000009.png"]
        (tars / "00002.tar").unlink()
        assert index.update().removed == 4


def test_a_tar_that_is_cut_short_gives_what_it_has(tars: Path, model: CLIP) -> None:
    data = (tars / "00000.tar").read_bytes()
    (tars / "00000.tar").write_bytes(data[: len(data) // 2])
    with Index(tars, model) as index:
        part = embed_tar(model, tars, index.place, True, "00000.tar")
        assert part.embedded >= 1 and part.failed == 1
        merge(index.store)
        assert index.errors()[0][0] == "00000.tar" and "cut short" in index.errors()[0][1]


def test_the_commands_for_tars(tars: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    def run(*arguments: object) -> int:
        return main([str(argument) for argument in arguments])

    assert run("index", tars, "--model", VIT, "--tars", "--shard", "0/2") == 0
    assert run("index", tars, "--model", VIT, "--tars", "--shard", "1/2") == 3
    assert run("index", tars, "--merge") == 3
    assert "3 parts merged; 11 in" in capsys.readouterr().err
    page = tmp_path / "page.html"
    assert run("search", tars, "a red circle", "--no-update", "-n", 2, "--html", page) == 0
    assert page.read_text().count("<img ") == 2 and ".tar/" in capsys.readouterr().out
    assert run("index", tars, "--shard", "0/2") == 1 and run("index", tars, "--tars", "--shard", "2/2") == 1
    part_path(tars / ".clipref", "00000.tar").parent.mkdir(exist_ok=True)
    part_path(tars / ".clipref", "00000.tar").write_bytes(b"text")
    assert run("index", tars, "--merge") == 1 and "is no part that clipref has written" in capsys.readouterr().err
    for wrong in ("1", "1/1", "a/b", "-1/2"):
        with pytest.raises(InputError, match="expected i/n"):
            shard_of(wrong)


def batch_of() -> dict[str, list[bytes]]:
    return {"bytes": [png(1), b"no picture", png(2)]}


def test_embed_is_a_function_of_batches_that_pickles(model: CLIP) -> None:
    for embed in (Embed(VIT, "blas"), Embed(model)):
        result = pickle.loads(pickle.dumps(embed))(batch_of())
        assert list(result) == ["bytes", "embedding", "error"]
        assert result["embedding"].shape == (3, 96) and result["embedding"].dtype == np.float32
        assert np.isnan(result["embedding"][1]).all() and "not an image but text" in result["error"][1]
        expected = model.embed_images([png(1), png(2)], normalize=True)
        np.testing.assert_allclose(result["embedding"][[0, 2]], expected, atol=1e-6)
        assert result["error"][0] is None
    with pytest.raises(InputError, match="expected 'bytes' or 'path'"):
        Embed(VIT)({"image": []})


def test_embed_takes_paths_and_turns_them_upright(model: CLIP, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    world.scene(3).draw(64).save(tmp_path / "a.jpg", exif=exif)
    turned = Image.open(tmp_path / "a.jpg").transpose(Image.Transpose.ROTATE_180)
    for upright, image in ((True, turned), (False, tmp_path / "a.jpg")):
        rows, errors = Embed(model, upright=upright).embed([str(tmp_path / "a.jpg")])
        assert errors == [None]
        np.testing.assert_allclose(rows, model.embed_image(image, normalize=True), atol=1e-6)


@pytest.mark.extra
def test_a_table_comes_back_with_lists_of_a_fixed_size(model: CLIP, tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    table = Embed(model)(pyarrow.table(batch_of()))
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    read = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert pyarrow.types.is_fixed_size_list(table.schema.field("embedding").type)
    assert read["embedding"].null_count == 1 and read["error"].to_pylist()[::2] == [None, None]
    expected = model.embed_image(png(2), normalize=True)[0]
    np.testing.assert_allclose(read["embedding"].to_pylist()[2], expected, atol=1e-6)
