"""Packs: plain files with the golden answers, the same bytes everywhere, and a checker that catches what is wrong."""

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from clipref.cli import main
from clipref.conformance.goldens import GOLDEN
from clipref.conformance.packs.writing import write_pack
from clipref.conformance.questions import questions
from clipref.conformance.questions.images import goldens_pixels
from clipref.conformance.questions.texts import golden_tokens
from clipref.preprocessing import preprocess

SOME = ("RGB 50x40 to 24", "RGBA 9x7 to 24", "P with tRNS 50x40 to 24")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "texts"
    write_pack("tokenize", list(questions(["tokenize"])), folder)
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packs") / "images"
    every = list(questions(["preprocess"]))
    write_pack("preprocess", [q for q in every if q.id.partition("/")[2] in SOME], folder, of=len(every))
    return folder


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="ascii").splitlines()]


def write_lines(path: Path, found: list[Any]) -> Path:
    path.write_text("".join(f"{json.dumps(line)}\n" for line in found), encoding="utf-8")
    return path


def checked(pack: Path, found: Path | str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """The exit code of a pack's checker, and what it says."""
    spec = importlib.util.spec_from_file_location("check", pack / "check.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    code = module.main(str(found))
    return code, capsys.readouterr().out


# --- what is in them --------------------------------------------------------------------------------------------------


def test_texts_and_ids_are_the_golden_ones(texts: Path) -> None:
    asked, answers = lines(texts / "questions.jsonl"), lines(texts / "answers.jsonl")
    golden = golden_tokens()["groups"]
    assert [q["case"] for q in asked] == [a["case"] for a in answers] == [f"tokenize/{group}" for group in golden]
    for question, answer, group in zip(asked, answers, golden.values(), strict=True):
        assert question["texts"] == group["texts"] and question["context_length"] == group["context_length"]
        if not group["ids"]:
            assert answer["refused"] is True and "ids" not in answer
            continue
        padded = [ids + [0] * (group["context_length"] - len(ids)) for ids in group["ids"]]
        assert answer["ids"] == padded


def test_images_and_levels_are_the_golden_ones(images: Path) -> None:
    asked, answers = lines(images / "questions.jsonl"), lines(images / "answers.jsonl")
    assert [q["case"] for q in asked] == [a["case"] for a in answers]
    assert {q["case"].partition("/")[2] for q in asked} == set(SOME)
    for question, answer in zip(asked, answers, strict=True):
        right = goldens_pixels()[f"{question['case'].partition('/')[2]} openai"]
        np.testing.assert_array_equal(np.asarray(Image.open(images / answer["levels"])), right)  # a PPM of anybody's
        pixels = preprocess(Image.open(images / question["image"]), question["resolution"])
        levels = (pixels.transpose(1, 2, 0) * PIXELS_STD + PIXELS_MEAN) * 255
        assert np.abs(levels - right).max() < 1e-3 and 0 < answer["tolerance"] < 1e-3 / 255


PIXELS_MEAN, PIXELS_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def test_what_it_is_and_what_it_is_from_is_said(texts: Path, images: Path) -> None:
    for folder, level, profile, source in (
        (texts, "tokenize", None, "tokens.json"),
        (images, "preprocess", "openai", "pixels.json"),
    ):
        pack = json.loads((folder / "pack.json").read_text(encoding="utf-8"))
        sums = (folder / "SHA256SUMS").read_bytes()
        assert (pack["format"], pack["level"], pack["profile"]) == (1, level, profile)
        assert pack["digest"] == hashlib.sha256(sums).hexdigest()
        assert pack["source"]["files"][source] == hashlib.sha256((GOLDEN / source).read_bytes()).hexdigest()
        assert pack["source"]["oracle"] and pack["source"]["versions"] and pack["licence"] == "MIT"
        assert (folder / "LICENSE").read_bytes() == (GOLDEN.parents[1] / "LICENSE").read_bytes()  # the checkout's
        named = {line.split("  ")[1]: line.split("  ")[0] for line in sums.decode().splitlines()}
        files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
        assert set(named) == set(files) - {"SHA256SUMS", "pack.json", "check.py", "README.md", "LICENSE"}
        assert all(hashlib.sha256(files[name].read_bytes()).hexdigest() == digest for name, digest in named.items())
        readme = (folder / "README.md").read_text(encoding="utf-8")
        keys = {key for line in lines(folder / "questions.jsonl") for key in line}
        assert all(f"| `{key}` |" in readme for key in keys)
    assert (pack["questions"], pack["of"]) == (len(SOME), 47)


def test_a_pack_is_the_same_bytes_each_time(texts: Path, images: Path, tmp_path: Path) -> None:
    """The digests that PACKS.md states; they change with the questions, and only then."""
    digest = json.loads((texts / "pack.json").read_text(encoding="utf-8"))["digest"]
    assert digest == write_pack("tokenize", list(questions(["tokenize"])), tmp_path / "again")
    assert digest[:12] in (GOLDEN.parent / "PACKS.md").read_text(encoding="utf-8")


# --- what the checkers say --------------------------------------------------------------------------------------------


def test_right_ids_pass(texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And the checker needs nothing but Python."""
    found = lines(texts / "answers.jsonl")
    path = write_lines(tmp_path / "found.jsonl", found)
    done = subprocess.run([sys.executable, "-I", "-S", texts / "check.py", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "16 of 16 questions right, 0 wrong" in done.stdout
    code, said = checked(texts, write_lines(path, found[:3]), capsys)
    assert code == 0 and said.count("PASS") == 3 and said.count("SKIP") == 13 and "3 of 16 questions right" in said


def change_an_id(found: list[Any]) -> None:
    found[0]["ids"][3][1] += 1


def change_padding(found: list[Any]) -> None:
    found[0]["ids"][0][-1] = 49407


def float_ids(found: list[Any]) -> None:
    found[0]["ids"][0] = [float(i) for i in found[0]["ids"][0]]


def answer_what_is_refused(found: list[Any]) -> None:
    found[-1] = {"case": "tokenize/refused", "ids": [[49406, 49407]]}


def drop_a_row(found: list[Any]) -> None:
    found[1]["ids"].pop()


@pytest.mark.parametrize("spoil", [change_an_id, change_padding, float_ids, answer_what_is_refused, drop_a_row])
def test_wrong_ids_fail(
    spoil: Callable[[list[Any]], None], texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = lines(texts / "answers.jsonl")
    spoil(found)
    code, said = checked(texts, write_lines(tmp_path / "found.jsonl", found), capsys)
    assert code == 1 and said.count("FAIL") == 1 and "15 of 16 questions right, 1 wrong" in said


def test_nothing_answered_is_no_pass(texts: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    assert checked(texts, write_lines(tmp_path / "found.jsonl", []), capsys)[0] == 1
    (tmp_path / "found").mkdir()
    assert checked(images, tmp_path / "found", capsys)[0] == 1


def pixels_of(pack: Path, folder: Path) -> Path:
    """The right pixels of a pack, as an engine writes them."""
    folder.mkdir()
    for question in lines(pack / "questions.jsonl"):
        pixels = preprocess(Image.open(pack / question["image"]), question["resolution"])
        (folder / question["out"]).write_bytes(pixels.astype("<f4").tobytes())
    return folder


def test_right_pixels_pass(images: Path, tmp_path: Path) -> None:
    found = pixels_of(images, tmp_path / "found")
    done = subprocess.run([sys.executable, "-I", "-S", images / "check.py", found], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 of 47 questions right, 0 wrong" in done.stdout


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.02, "by up to 1."), (5e-6, "by up to 0.0003"), (float("nan"), "by up to nan"), (None, "bytes")],
)
def test_wrong_pixels_fail(
    value: float | None, told: str, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = pixels_of(images, tmp_path / "found")
    path = found / lines(images / "questions.jsonl")[1]["out"]
    pixels = array("f", path.read_bytes())
    if value is None:
        pixels.pop()
    else:
        pixels[700] += value
    path.write_bytes(pixels.tobytes())
    code, said = checked(images, found, capsys)
    assert code == 1 and told in said and "2 of 47 questions right, 1 wrong" in said


def test_a_pack_that_was_changed_is_refused(texts: Path, images: Path, tmp_path: Path) -> None:
    for pack, name in ((texts, "answers.jsonl"), (images, "levels/RGB-50x40-to-24.ppm")):
        copy = tmp_path / pack.name
        shutil.copytree(pack, copy)
        (copy / name).write_bytes((copy / name).read_bytes()[:-1] + b"\1")
        done = subprocess.run([sys.executable, copy / "check.py", tmp_path], capture_output=True, text=True)
        assert done.returncode == 2 and f"{name} is not as the pack has it" in done.stderr


def test_unknown_names_are_refused(texts: Path, images: Path, tmp_path: Path, capsys: Any) -> None:
    with pytest.raises(ValueError, match="no case 'tokenize/word'"):
        checked(texts, write_lines(tmp_path / "found.jsonl", [{"case": "tokenize/word", "ids": []}]), capsys)
    with pytest.raises(ValueError, match="a case is there twice"):
        checked(texts, write_lines(tmp_path / "found.jsonl", [{"case": "tokenize/words"}] * 2), capsys)
    found = pixels_of(images, tmp_path / "found")
    (found / "RGB.f32").touch()
    with pytest.raises(ValueError, match=r"no question has the answer 'RGB.f32'"):
        checked(images, found, capsys)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "pack"
    assert main(["conformance", "pack", "preprocess", str(out), "--profile", "transformers-4", "--only", "50x40"]) == 0
    pack = json.loads((out / "pack.json").read_text(encoding="utf-8"))
    assert pack["profile"] == "transformers-4" and pack["digest"] in capsys.readouterr().out
    assert pack["questions"] == len(lines(out / "answers.jsonl")) < pack["of"] == 43
    for arguments, told in (
        (["pack", "preprocess", str(out)], "exists"),
        (["pack", "tokenize", str(tmp_path / "x"), "--only", "nothing"], "no questions of tokenize to pack"),
        (["pack", "preprocess", str(tmp_path / "x"), "--profile", "torch"], "No profile 'torch'"),
    ):
        assert main(["conformance", *arguments]) == 1
        assert told in capsys.readouterr().err and not (tmp_path / "x").exists()


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["openai", "transformers-5-torchvision"])
def test_all_pictures_are_packed(profile: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digest = write_pack("preprocess", list(questions(["preprocess"], profile=profile)), tmp_path / "pack", profile)
    assert digest[:12] in (GOLDEN.parent / "PACKS.md").read_text(encoding="utf-8")
    if profile == "openai":
        code, said = checked(tmp_path / "pack", pixels_of(tmp_path / "pack", tmp_path / "found"), capsys)
        assert code == 0 and "47 of 47 questions right, 0 wrong" in said
