"""What other tools for folders of pictures get wrong, where no other test states the right outcome.

Read in or seen of rclip 4.0.8 and clip-retrieval 2.45: the sha256 of a file's ends alone, text beside pictures, URLs
that are fetched, no thresholds.
"""

import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref import CLIP, AutoModel, ImageError
from clipref.cli import main
from clipref.search import Index, Term, update
from clipref.weights_tools.shapes import world

VIT = "clipref/shapes-vit"


@pytest.fixture(scope="module")
def model() -> CLIP:
    return AutoModel.from_pretrained(VIT, backend="blas")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(6):
        world.scene(i).draw(64).save(folder / f"{i}.png")
    return folder


def test_pictures_that_differ_in_their_middle_alone_have_their_own_vectors(tmp_path: Path, model: CLIP) -> None:
    """Equal in size, time, the first megabyte and the last kilobyte, which is all of a file that rclip hashes."""
    top, bottom = np.full((900, 600, 3), 90, np.uint8), np.full((30, 600, 3), 200, np.uint8)
    for name, color in (("red", (250, 0, 0)), ("blue", (0, 0, 250))):
        middle = np.broadcast_to(np.array(color, np.uint8), (900, 600, 3))
        Image.fromarray(np.concatenate([bottom, middle, top])).save(tmp_path / f"{name}.bmp")  # lies upside down
    red, blue = ((tmp_path / f"{name}.bmp").read_bytes() for name in ("red", "blue"))
    assert len(red) == len(blue) and red[: 2**20] == blue[: 2**20] and red[-(2**10) :] == blue[-(2**10) :]
    with Index(tmp_path, model) as index:
        assert index.update().embedded == 2
        paths, rows = index.snapshot()
        expected = model.embed_images([tmp_path / path for path in paths], normalize=True)
        np.testing.assert_allclose(rows.astype(np.float32), expected, atol=1e-3)
        assert float(expected[0] @ expected[1]) < 0.99


def test_ctrl_c_keeps_every_batch_that_was_embedded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """32 of 40, and the next run embeds the other eight."""
    for i in range(40):
        Image.new("RGB", (20, 20), (6 * i, 100, 200)).save(tmp_path / f"{i}.png")
    before, calls = update.embed_batch, list[int]()

    def interrupted(model: Any, fresh: Any) -> None:
        if len(calls) == 4:
            raise KeyboardInterrupt
        calls.append(len(fresh))
        before(model, fresh)

    command = ["index", str(tmp_path), "--model", VIT, "--backend", "blas", "--batch-size", "8"]
    with monkeypatch.context() as patched:
        patched.setattr(update, "embed_batch", interrupted)
        patched.setattr(update, "COMMIT_SECONDS", 600)  # what is kept is kept because of the interruption
        assert main(command) == 130
    with Index(tmp_path) as index:
        assert len(index) == 32
    capsys.readouterr()
    assert main([*command, "--json"]) == 0
    counts = json.loads(capsys.readouterr().out)
    assert (counts["embedded"], counts["pictures"]) == (8, 40)


def test_pictures_with_texts_beside_them_are_all_indexed_and_the_texts_counted(folder: Path, model: CLIP) -> None:
    for i in range(6):
        (folder / f"{i}.txt").write_text("a caption")
        (folder / f"{i}.json").write_text("{}")
    with Index(folder, model) as index:
        summary = index.update()
        assert summary.is_whole and sorted(index.paths) == [f"{i}.png" for i in range(6)]
        assert "12 with other suffixes (6 .txt, 6 .json)" in summary.sentence().replace(
            "6 .json, 6 .txt", "6 .txt, 6 .json"
        )


def test_a_query_is_never_fetched(folder: Path, model: CLIP, monkeypatch: pytest.MonkeyPatch) -> None:
    def connected(*_: Any) -> None:
        raise AssertionError("a connection was made")

    monkeypatch.setattr(socket.socket, "connect", connected)
    monkeypatch.setattr(socket, "getaddrinfo", connected)
    with Index(folder, model) as index:
        index.update()
        for url in ("http://example.com/a.png", "https://example.com/a.png", "file:///etc/hostname"):
            with pytest.raises(ImageError, match="an address .*, no path; read it yourself"):
                index.search(Term(image=url))
    assert main(["search", str(folder), "--image", "http://example.com/a.png", "--backend", "blas"]) == 1


def test_thresholds_and_filters_of_the_command(folder: Path, model: CLIP, capsys: pytest.CaptureFixture[str]) -> None:
    with Index(folder, model) as index:
        index.update()
        hits = index.search("a red circle", top_k=99)

    def found(*options: object) -> list[str]:
        command = ["search", folder, "a red circle", "--no-update", "--json", "--backend", "blas", "-n", 99, *options]
        assert main([str(argument) for argument in command]) == 0
        return [json.loads(line)["path"] for line in capsys.readouterr().out.splitlines()]

    assert found() == [hit.path for hit in hits] and len(hits) == 6
    between = (hits[2].score + hits[3].score) / 2
    assert found(f"--min-score={between}") == [hit.path for hit in hits[:3]]
    assert found("--within", hits[0].score - between) == [hit.path for hit in hits[:3]]
    assert found("--path", "[0-2].*") == [hit.path for hit in hits if hit.path[0] in "012"]


def test_duplicates_and_clusters_change_no_picture(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "copy.png").write_bytes((folder / "1.png").read_bytes())

    def state() -> dict[str, tuple[bytes, int]]:
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.glob("*.png")}

    before = state()
    for command in (("duplicates",), ("cluster", "-k", "2")):
        assert (
            main([command[0], str(folder), *command[1:], *(("--model", VIT) if command[0] == "duplicates" else ())])
            == 0
        )
    assert "copy.png" in capsys.readouterr().out
    assert state() == before


def test_avif_is_indexed_as_people_see_it(folder: Path, model: CLIP) -> None:
    Image.init()
    if "AVIF" not in Image.OPEN:
        pytest.skip("this Pillow has no AVIF")
    scene = world.scene(3).draw(64).crop((0, 0, 64, 40))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored = scene.transpose(Image.Transpose.ROTATE_90)
    file = io.BytesIO()
    stored.save(file, "AVIF", exif=exif, quality=95)
    (folder / "turned.avif").write_bytes(file.getvalue())
    with Index(folder, model) as index:
        assert index.update().is_whole
        row = dict(zip(*index.snapshot(), strict=True))["turned.avif"].astype(np.float32)
        seen, lying = model.embed_images([scene, stored], normalize=True)
        assert row @ seen > 0.99 and row @ seen > row @ lying + 0.02
