"""What the commands read: which files of a folder, lines of texts, and names of any bytes."""

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import clipref
from clipref import AutoModel
from clipref.backends import backends, describe
from clipref.cli import embed, main, texts, walk

NOT_UTF8 = os.fsdecode(b"caf\xe9")


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def picture(path: str | Path) -> None:
    """A small image of the kind that its suffix says."""
    Image.new("RGB", (9, 8), "red").save(path)


def bytes_folder(parent: Path) -> Path:
    """A folder whose name is not UTF-8."""
    folder = parent / NOT_UTF8
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("names of files are UTF-8 here")
    return folder


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model is opened: what is found is found before the work."""

    def opened(args: object) -> None:
        raise AssertionError("a model was opened")

    monkeypatch.setattr(embed, "open_model", opened)


# Folders


def names(found: walk.Found, folder: Path) -> list[str]:
    return [str(path.relative_to(folder)) for path in found.images]


def test_a_folder_s_images(tmp_path: Path) -> None:
    folder, elsewhere = tmp_path / "in", tmp_path / "elsewhere"
    for path in (folder / "sub", folder / ".hidden", elsewhere):
        path.mkdir(parents=True)
    taken = ["a.JPG", "b.jfif", "c.tga", "sub/d.png", "e.mpo"]
    for name in (*taken, ".dot.png", "._a.jpg", ".hidden/x.png", "notes.txt", "more.txt", "README", "p.eps", "v.mpg"):
        (folder / name).touch()
    picture(elsewhere / "x.png")
    (folder / "link.png").symlink_to(elsewhere / "x.png")
    (folder / "linked").symlink_to(elsewhere)
    (folder / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (folder / "gone").symlink_to(tmp_path / "gone")
    (folder / "circle").symlink_to("circle")
    (folder / "sub" / "up").symlink_to(folder)
    (folder / "a-sub").symlink_to(folder / "sub")  # sorted before it, and found after it all the same
    os.mkfifo(folder / "pipe.png")
    found = walk.images_in(folder)
    assert names(found, folder) == sorted([*taken, "link.png", "linked/x.png"])
    assert found.left_out == {
        "hidden": 3, "links that lead nowhere": 3, "folders searched already": 2, "neither file nor folder": 1,
    }  # fmt: skip
    assert found.others == {".txt": 2, "": 1, ".eps": 1, ".mpg": 1} and not found.failures
    assert found.describe_left_out().endswith("5 with other suffixes (2 .txt, 1 without one, 1 .eps, 1 .mpg)")


def test_links_to_folders_in_a_web_are_searched_once(tmp_path: Path) -> None:
    for i in range(20):
        (tmp_path / f"{i:02}").mkdir()
        (tmp_path / f"{i:02}" / "x.png").touch()
        for way in "ab":
            (tmp_path / f"{i:02}" / way).symlink_to(tmp_path / f"{(i + 1) % 20:02}")
    assert names(walk.images_in(tmp_path), tmp_path) == [f"{i:02}/x.png" for i in range(20)]


def test_what_may_not_be_read_and_what_vanishes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("forbidden", "vanished", "there"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.png").touch()
    scandir = os.scandir

    def refused(path: Path) -> Any:
        if path.name == "forbidden":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        if path.name == "vanished":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", str(path))
        return scandir(path)

    monkeypatch.setattr("os.scandir", refused)
    found = walk.images_in(tmp_path)
    assert names(found, tmp_path) == ["there/x.png"] and found.left_out == {"vanished": 1}
    assert found.failures == [f"'{tmp_path / 'forbidden'}': Permission denied"]


def test_embed_says_what_was_left_out(tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.png", "b.bmp"):
        picture(folder / name)
    for name in ("notes.txt", "._a.png"):
        (folder / name).write_bytes(b"no image")
    (folder / "gone.png").symlink_to("nowhere")
    out = tmp_path / "e.npy"
    assert run("embed", folder, "--model", tiny_vit, "--out", out) == 0
    assert capsys.readouterr().err == (
        f"clipref: 2 embedded, in {out}, their names in {tmp_path / 'e.names.json'}; left out: 1 hidden, "
        "1 links that lead nowhere, 1 with other suffixes (1 .txt).\n"
    )
    for name in ("a.png", "b.bmp"):
        (folder / name).unlink()
    assert run("embed", folder, "--model", tiny_vit, "--out", out) == 1
    assert "holds no images; left out: 1 hidden, 1 links that lead nowhere" in capsys.readouterr().err


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("given", ["", "no.png", "no", "dangling.png"])
def test_what_is_named_must_be_there(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture("there.png")
    Path("dangling.png").symlink_to("no")
    assert run("embed", "there.png", given) == 1
    assert f"{given!r}: No such file or directory" in (err := capsys.readouterr().err) and "--keep-going" in err


# Lines


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\r\nb", ["a", "b"]),
        (b"a\r\n\r\nb\n\n", ["a", "", "b", ""]),
        ("a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i\n".encode(), ["a\x0bb\x0cc\x1cd\x1de\x1ef\x85g\u2028h\u2029i"]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        (b"a\rb\n", ["a\rb"]),
        (b"", []),
        (b"\xef\xbb\xbf", []),
        (b"\n", [""]),
    ],
)
def test_a_line_ends_where_the_file_s_lines_end(
    data: bytes, lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lines").write_bytes(data)
    assert texts.lines_of(str(tmp_path / "lines"), "--texts-file") == lines
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), encoding="ascii"))
    assert texts.lines_of("-", "--texts-file") == lines


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"caf\xe9\n", "line 1, is not UTF-8 (byte 0xe9)"),
        (b"\xef\xbb\xbfa\n\nb\xff", "line 3, is not UTF-8 (byte 0xff)"),
        ("a\n".encode("utf-16"), "line 1, is not UTF-8 (byte 0xff)"),
        (None, "No such file"),
    ],
)
@pytest.mark.usefixtures("untouched")
def test_files_of_texts_are_utf8(
    data: bytes | None, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "texts"
    if data is not None:
        path.write_bytes(data)
    assert run("embed", "--texts-file", path) == 1
    assert message in (err := capsys.readouterr().err) and str(path) in err and err.count("\n") == 1
    assert run("classify", "x.png", "--labels-file", path) == 1
    assert message in capsys.readouterr().err


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_what_is_no_file_of_texts(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path if kind == "folder" else tmp_path / kind if kind == "pipe" else Path("/dev/zero")
    if kind == "pipe":
        os.mkfifo(path)
    assert run("embed", "--texts-file", path) == 1
    assert f"it is a {'named ' * (kind == 'pipe')}{kind}" in (err := capsys.readouterr().err) and "- stands for" in err


def test_commands_read_lines_alike(
    tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = "\ufeffa cat\r\na\x0cdog\u2028red\r\n".encode()
    (tmp_path / "lines").write_bytes(data)
    picture(tmp_path / "x.png")
    expected = ["a cat", "a\x0cdog\u2028red"]
    assert run("embed", "--texts-file", tmp_path / "lines", "--model", tiny_vit) == 0
    assert [json.loads(line)["name"] for line in capsys.readouterr().out.split("\n")[:-1]] == expected
    arguments = ("--labels-file", tmp_path / "lines", "--model", tiny_vit, "--json")
    assert run("classify", tmp_path / "x.png", *arguments) == 0
    assert {row["label"] for row in json.loads(capsys.readouterr().out)["labels"]} == set(expected)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    assert run("tokenize", "-", "--json") == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.split("\n")[:-1]] == expected


# Names


def test_names_of_any_bytes_round_trip(tiny_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bytes_folder(tmp_path)
    for name in (NOT_UTF8 + ".png", "\u00e9\U0001f600.png", "new\nline.png"):
        picture(folder / name)
    paths = sorted(str(path) for path in folder.iterdir())
    assert run("embed", folder, "--model", tiny_vit) == 0
    lines = capsys.readouterr().out.splitlines()
    assert sorted(json.loads(line)["name"] for line in lines) == paths
    assert "caf\\udce9" in lines[0]  # an escape of JSON, in pure UTF-8
    for out in (folder / "e.npy", folder / "e.safetensors"):
        assert run("embed", folder, "--model", tiny_vit, "--out", out) == 0
    with safe_open(folder / "e.safetensors", framework="numpy") as file:
        assert sorted(json.loads(file.metadata()["names"])) == paths
    found = json.loads((folder / "e.names.json").read_text(encoding="utf-8"))
    assert sorted(found) == paths and all(os.path.exists(os.fsencode(name)) for name in found)
    assert np.load(folder / "e.npy").shape[0] == 3
    capsys.readouterr()
    assert run("classify", paths[0], "--labels", "cat,dog", "--model", tiny_vit, "--json") == 0
    assert json.loads(capsys.readouterr().out)["image"] == paths[0]
    assert run("compare", paths[0], paths[0], "--prompt-type", "image", "--model", tiny_vit, "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["prompt"] == paths[0]


def test_texts_are_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (
        ("tokenize", NOT_UTF8), ("embed", "--text", NOT_UTF8), ("classify", "x.png", "--labels", NOT_UTF8),
        ("classify", "x.png", "--labels", "a", "--template", NOT_UTF8),
    ):  # fmt: skip
        assert run(*arguments) == 2
        assert "'caf\\udce9' is not UTF-8" in capsys.readouterr().err
    assert run("compare", "x.png", NOT_UTF8) == 1
    assert "'caf\\udce9' is not UTF-8" in capsys.readouterr().err
    # What an ASCII locale makes of the command line.
    assert run("tokenize", "\udcc3\udca9", "--json") == 0
    assert json.loads(capsys.readouterr().out)["text"] == "\u00e9"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="locales are other ones")
def test_an_ascii_locale(tiny_vit: Path, tmp_path: Path) -> None:
    name = "\u00e9\U0001f600"
    picture(tmp_path / f"{name}.png")
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    code = f"""import sys; from clipref.cli import main
model = ["--model", {str(tiny_vit)!r}]
for command in (["embed", ".", "--out", "e.npy", "--text", sys.argv[1]], ["embed", "."], ["tokenize", sys.argv[1]]):
    assert main([*command, *model]) == 0
"""
    done = subprocess.run(
        [sys.executable, "-c", code, name], env=ascii_only, cwd=tmp_path, capture_output=True, check=True
    )
    assert json.loads((tmp_path / "e.names.json").read_text(encoding="utf-8")) == [f"{name}.png", name]
    first, *_, last = done.stdout.decode("ascii").splitlines()
    assert json.loads(first)["name"] == f"{name}.png" and last.startswith("<|startoftext|> | ")


@pytest.mark.parametrize("backend", sorted(backends()))
def test_a_model_in_a_folder_of_any_bytes(backend: str, tiny_vit: Path, tmp_path: Path) -> None:
    if not describe(backend)["runs"]:
        pytest.skip("can't run here")
    folder = bytes_folder(tmp_path) / "m"
    shutil.copytree(tiny_vit, folder)
    found = AutoModel.from_pretrained(folder, backend=backend).embed_text("a cat")
    assert np.array_equal(found, AutoModel.from_pretrained(tiny_vit, backend=backend).embed_text("a cat"))


def test_a_checkpoint_of_any_name_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = bytes_folder(tmp_path)
    shapes = Path(clipref.__file__).parent / "data" / "shapes-vit"
    source = folder / f"{NOT_UTF8}.safetensors"
    shutil.copy(shapes / "model.safetensors", source)
    assert run("convert", source, folder / "new", "--config", shapes / "config.json") == 0
    provenance = json.loads((folder / "new" / "provenance.json").read_text(encoding="utf-8"))
    assert source.name in provenance["source"]["files"]
    capsys.readouterr()
    assert run("inspect", source, "--config", shapes / "config.json", "--json") == 0
    assert source.name in json.loads(capsys.readouterr().out)["files"]
    assert run("verify", folder / "new") == 0


# Numbers


def test_json_has_no_nan() -> None:
    value = {"a": [float("nan"), 1.5, (float("inf"), -float("inf"))], "b": "NaN"}
    assert texts.json_text(value) == '{"a": [null, 1.5, [null, null]], "b": "NaN"}'
