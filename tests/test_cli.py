"""The command line as its user meets it: what it prints, what it writes, and the one line it gives when it can't."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

import clipref
from clipref import CLIP, AutoModel
from clipref.cli import embed, main
from clipref.image_batches import embedded_batches

from .conftest import pictures
from .tolerances import UNIT


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with two images, one in a folder below, and a text file."""
    (tmp_path / "in" / "deep").mkdir(parents=True)
    for name, picture in zip(("b.png", "deep/a.PNG"), pictures(2), strict=True):
        Image.fromarray(picture).save(tmp_path / "in" / name)
    (tmp_path / "in" / "notes.txt").write_text("no image")
    return tmp_path / "in"


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and captured.err.startswith("clipref: error: ")
    return captured.err


@pytest.mark.fast_cases("[vit]")
def test_compare(tiny: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, model = images / "b.png", AutoModel.from_pretrained(tiny)
    expected = model.compare(path, ["a cat", "red"])
    assert run("compare", path, "a cat", "red", "--model", tiny, "--json") == 0
    assert json.loads(capsys.readouterr().out) == [
        {"prompt": "a cat", "cosine": expected[0]},
        {"prompt": "red", "cosine": expected[1]},
    ]
    assert run("compare", path, "a cat", "red", "--model", tiny) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cosine", "prompt"] and [float(line.split()[0]) for line in lines[1:]] == sorted(
        (round(c, 4) for c in expected), reverse=True
    )
    assert run("compare", "a cat", "a cat", "--model", tiny, "--subject-type", "text", "--json") == 0
    assert json.loads(capsys.readouterr().out)[0]["cosine"] == pytest.approx(1)


@pytest.mark.fast_cases("[vit]")
def test_classify(tiny: Path, images: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = images / "b.png"
    expected = AutoModel.from_pretrained(tiny).classify(path, ["cat", "dog"], ["a {}"])
    assert run("classify", path, "--labels", "cat, dog,", "--template", "a {}", "--model", tiny, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["image"] == str(path)
    assert [(row["label"], row["probability"]) for row in found["labels"]] == expected
    (tmp_path / "labels.txt").write_text("cat\n\ndog\n")
    assert run("classify", path, "--labels-file", tmp_path / "labels.txt", "--model", tiny, "--top-k", 1) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert run("classify", path, "--labels", " , ", "--model", tiny) == 1
    assert "no labels" in one_line(capsys)


def test_embed_to_lines(tiny: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("embed", images, "--text", "a cat", "--model", tiny) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines] == [str(images / "b.png"), str(images / "deep" / "a.PNG"), "a cat"]
    model = AutoModel.from_pretrained(tiny)
    expected = np.concatenate(
        [model.embed_images([images / "b.png", images / "deep/a.PNG"]), model.embed_text("a cat")]
    )
    assert np.allclose([line["embedding"] for line in lines], expected, atol=UNIT)


@pytest.mark.parametrize("suffix", ["npy", "safetensors"])
def test_embed_to_a_file(
    tiny: Path, images: Path, tmp_path: Path, suffix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / f"e.{suffix}"
    (tmp_path / "texts").write_text("a cat\nred\n")
    assert run("embed", "--texts-file", tmp_path / "texts", "--out", out, "--model", tiny, "--normalize") == 0
    assert capsys.readouterr().out == ""
    if suffix == "npy":
        found, names = np.load(out), json.loads((tmp_path / "e.names.json").read_text())
    else:
        with safe_open(out, framework="numpy") as file:
            found, names = file.get_tensor("embeddings"), json.loads(file.metadata()["names"])
    assert names == ["a cat", "red"] and found.dtype == np.float32
    assert np.allclose(found, AutoModel.from_pretrained(tiny).embed_text(names, normalize=True), atol=UNIT)
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def counted_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """How many images each batch has, of each time that the command begins to read images."""
    counts: list[list[int]] = []

    def counted(*arguments: Any, **options: Any) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
        counts.append([])
        for numbers, rows in embedded_batches(*arguments, **options):
            counts[-1].append(len(rows))
            yield numbers, rows

    monkeypatch.setattr(embed, "embedded_batches", counted)
    return counts


def test_embed_fills_its_batches(
    tiny_vit: Path, images: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All images are one stream to the engine, whatever is left out of it."""
    counts = counted_batches(monkeypatch)
    paths = [images / name for name in ["b.png", "notes.txt", *["deep/a.PNG", "b.png"] * 9, "b.png", "notes.txt"]]
    assert run("embed", *paths, "--model", tiny_vit, "--batch-size", 2, "--keep-going") == 3
    captured = capsys.readouterr()
    assert counts == [[2] * 10]
    names = [json.loads(line)["name"] for line in captured.out.splitlines()]
    assert names == [str(path) for path in paths if path.name != "notes.txt"]
    assert [line.split(": ")[3] for line in captured.err.splitlines()[:-1]] == ["image 1", "image 21"]


def test_embed_keeps_going(
    tiny: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "aa.png").write_bytes(b"broken")
    assert run("embed", images, "--model", tiny, "--out", tmp_path / "x.npy") == 1
    told = one_line(capsys)
    assert "aa.png" in told and "--keep-going" in told and not (tmp_path / "x.npy").exists()
    counts = counted_batches(monkeypatch)
    assert run("embed", images, "--model", tiny, "--keep-going") == 3
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 2 and counts == [[2]]  # once
    warning, last = captured.err.splitlines()
    assert warning.startswith(f"clipref: warning: left out: image 0: '{images / 'aa.png'}'")
    assert last == "clipref: 2 embedded; left out: 1 that can't be read, 1 with other suffixes (1 .txt)."
    assert run("embed", images / "aa.png", "--model", tiny, "--keep-going", "--out", tmp_path / "x.npy") == 1
    assert "no image could be read" in capsys.readouterr().err and not (tmp_path / "x.npy").exists()


def test_the_bar_counts_what_is_embedded(
    tiny_vit: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "aa.png").write_bytes(b"broken")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert run("embed", images, "--model", tiny_vit, "--keep-going", "--out", tmp_path / "x.npy") == 3
    bars = capsys.readouterr().err
    assert " 2/2 " in bars and " 1/" not in bars and "3/3" not in bars


def test_numbers_are_over_the_whole(tiny_vit: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = [images / "b.png"] * 9 + [images / "notes.txt", images / "b.png"]
    assert run("embed", *paths, "--model", tiny_vit, "--batch-size", 1, "--keep-going") == 3
    captured = capsys.readouterr()
    assert "left out: image 9: " in captured.err and len(captured.out.splitlines()) == 10
    (images / "texts").write_text("cat\n" * 300 + "\n" + "cat " * 99 + "\n")
    assert run("embed", "--texts-file", images / "texts", "--model", tiny_vit, "--truncate") == 1
    assert "text 300 is empty" in one_line(capsys)
    assert run("embed", "--texts-file", images / "texts", "--model", tiny_vit) == 1
    assert "text 301: " in one_line(capsys)


def test_classify_and_compare_keep_going(tiny_vit: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, bad = images / "b.png", images / "notes.txt"
    for command in (("classify", good, bad, good, "--labels", "cat,dog"), ("compare", good, good, bad, good)):
        arguments = (*command, "--model", tiny_vit, *["--prompt-type", "image"] * (command[0] == "compare"))
        assert run(*arguments) == 1
        captured = capsys.readouterr()
        assert f"error: image 1: '{bad}'" in captured.err and "--keep-going" in captured.err
        assert run(*arguments, "--keep-going", "--json") == 3
        captured = capsys.readouterr()
        assert f"warning: left out: image 1: '{bad}'" in captured.err
        found = [json.loads(line) for line in captured.out.splitlines()]
        assert len(found if command[0] == "classify" else found[0]) == 2
    assert run("classify", bad, bad, "--labels", "cat", "--model", tiny_vit, "--keep-going") == 1
    assert "no image could be read" in capsys.readouterr().err


def test_the_model_that_answers_where_none_was_named(images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = (
        ("classify", images / "b.png", "--labels", "cat"),
        ("embed", "--text", "cat"),
        ("compare", images / "b.png", "cat"),
    )
    for command in commands:
        assert run(*command) == 0
        first = capsys.readouterr().err.splitlines()[0]
        assert first.startswith(
            "clipref: no --model was given, so clipref/scenes-vit answers, which knows drawn shapes"
        )
        assert run(*command, "--model", "clipref/shapes-vit") == 0
        assert "no --model" not in capsys.readouterr().err


def test_options_of_the_model(tiny_vit: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []
    model = AutoModel.from_pretrained(tiny_vit)

    def from_pretrained(*names: Any, **options: Any) -> CLIP:
        given.append(options)
        return model

    monkeypatch.setattr(AutoModel, "from_pretrained", from_pretrained)
    assert run("embed", "--text", "cat", "--model", tiny_vit) == 0
    every = ("--activation", "gelu", "--upright", "--max-pixels", 99, "--revision", "abc", "--digest", "0f")
    for command in (("embed", "--text", "cat"), ("classify", images / "b.png", "--labels", "cat"),
                    ("compare", images / "b.png", "cat")):  # fmt: skip
        assert run(*command, "--model", tiny_vit, *every) == 0
    assert given[0] == {"backend": "auto"}
    assert given[1] == given[2] == given[3] == {
        "backend": "auto", "activation": "gelu", "upright": True, "max_pixels": 99, "revision": "abc", "digest": "0f",
    }  # fmt: skip


def test_embed_refuses(tiny: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, message in (
        ([], "nothing to embed"),
        ([tmp_path / "empty"], "holds no images"),
        ([images, "--out", tmp_path / "e.csv"], "ends in .npy or .safetensors"),
        ([images, "--out", tmp_path / "no" / "e.npy"], "there is no folder"),
        ([images, "--batch-size", 0], "--batch-size is 0"),
        ([tmp_path / "none.png"], "none.png"),
        (["--text", ""], "text 0 is empty"),
        (["--texts-file", tmp_path / "none"], "No such file"),
    ):
        assert run("embed", *arguments, "--model", tiny) == 1
        assert message in one_line(capsys)


def test_tokenize(tiny: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("tokenize", "a photo of a cat", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["ids"] == [49406, 320, 1125, 539, 320, 2368, 49407]
    assert found["pieces"] == ["<|startoftext|>", "a", "photo", "of", "a", "cat", "<|endoftext|>"]
    monkeypatch.setattr(sys, "stdin", io.StringIO("Hello World!\ncat\n"))
    assert run("tokenize", "-") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "49406 3306 1002 256 49407" and len(lines) == 4
    assert run("tokenize", "cat", "--model", tiny) == 0
    assert capsys.readouterr().out.splitlines()[0] == "519 513 520"


def test_models(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLIPREF_HOME", str(tmp_path))
    assert run("models", "--json") == 0
    found = {model["id"]: model for model in json.loads(capsys.readouterr().out)}
    assert len(found) == 13 and found["clipref/shapes-vit"]["path"]
    assert found["clip/ViT-B-32"]["image_parameters"] == 87_849_216
    assert found["clip/RN50"]["repository"] == "timm/resnet50_clip.openai" and found["clip/RN50"]["path"] is None
    assert run("models") == 0
    out = capsys.readouterr().out
    assert "420.38 + 202.88 M" in out and "76.56%" in out and str(tmp_path) in out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0 and capsys.readouterr().out == f"clipref {clipref.__version__}\n"
    assert run("--help") == 0
    out = capsys.readouterr().out
    for command in ("demo", "embed", "compare", "classify", "tokenize", "models"):
        assert f"  {command} " in out
        assert run(command, "--help") == 0
        assert f"usage: clipref {command}" in capsys.readouterr().out
    assert run() == 2


def test_wrong_usage(capsys: pytest.CaptureFixture[str], tiny: Path) -> None:
    assert run("clasify") == 2
    assert "no command 'clasify'; did you mean 'classify'?" in one_line(capsys)
    assert run("compare", "x.png") == 2
    assert "the following arguments are required: prompt" in capsys.readouterr().err
    assert run("compare", "x.png", "a", "--model", "clip/ViT-B32") == 1
    assert "did you mean clip/ViT-B-32" in one_line(capsys)
    assert run("compare", "x.png", "a", "--model", tiny, "--backend", "fast") == 1
    assert "No backend 'fast'" in one_line(capsys)
    with pytest.raises(clipref.ModelNotFound):
        run("compare", "x.png", "a", "--model", "clip/ViT-B32", "--debug")


@pytest.mark.slow
def test_as_a_program() -> None:
    code = "import sys; from clipref.cli import main; sys.exit(main())"
    shown = subprocess.run([sys.executable, "-c", f"{code}", "tokenize", *["a"] * 5_000], capture_output=True)
    assert shown.returncode == 0
    cut = subprocess.run(
        f"'{sys.executable}' -c '{code}' tokenize $(yes a | head -5000) | head -1", shell=True, capture_output=True
    )
    assert cut.stdout == b"49406 320 49407\n" and cut.stderr == b""


def test_help_loads_little() -> None:
    code = "import sys; from clipref.cli import main; main(['--help']); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in out for name in ("onnxruntime", "onnx", "PIL", "ftfy", "safetensors"))
