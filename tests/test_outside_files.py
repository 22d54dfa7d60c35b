"""Files and options of people who know nothing of clipref: read with bounds, refused before the work, written whole."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clipref import ImageError, InputError, preprocess
from clipref.cli import main
from clipref.conformance import expectations
from clipref.conformance import questions as levels
from clipref.conformance.engines import open_engine
from clipref.conformance.engines.failures import Crashed, Garbage
from clipref.conformance.engines.files import write_arrays
from clipref.conformance.engines.worker import Isolated
from clipref.conformance.exchange import ANSWER, export, folder_name, read_export
from clipref.files import home, parse_json, text_lines, write_whole
from clipref.weights_tools.sources import sha256

CASE = "similarity/3 images 5 texts of 11"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_ends_at_the_end_of_a_line_only(end: str, tmp_path: Path) -> None:
    inside = "\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029\r"
    assert text_lines(f"\ufeffa{inside}b{end}{end}c".encode()) == [f"a{inside}b", "", "c"]
    file = tmp_path / "expected.txt"
    file.write_bytes(f"\ufefffirst  # why{inside}, and more{end}{end}second  # because{end}".encode())
    found = expectations.read(file, ["first", "second"])
    assert list(found) == ["first", "second"] and found["first"].startswith("why") and found["first"].endswith("more")


@pytest.mark.parametrize("option", ["--junit", "--html"])
@pytest.mark.parametrize("where", ["none/report", "folder", "", "\0"])
def test_a_report_that_cannot_be_written_is_told_before_the_engine_is_opened(
    option: str, where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()

    def opened(*arguments: object) -> None:
        raise AssertionError("the engine was opened")

    monkeypatch.setattr("clipref.conformance.engines.open_engine", opened)
    given = ["conformance", "run", "backend:reference", "--only", CASE, f"{option}={where}"]
    assert main(given) == 1
    assert f"error: {option} " in capsys.readouterr().err and os.listdir(tmp_path) == ["folder"]


def test_reports_are_there_when_the_run_is_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["conformance", "run", "backend:reference", "--only", CASE]
    given += ["--junit", str(tmp_path / "a.xml"), "--html", str(tmp_path / "a.html")]
    assert main(given) == 0 and "float32-conformant" in capsys.readouterr().out
    assert (tmp_path / "a.xml").read_text(encoding="utf-8").startswith("<?xml version='1.0' encoding='utf-8'?>")
    assert "float32-conformant" in (tmp_path / "a.html").read_text(encoding="utf-8")
    assert sorted(os.listdir(tmp_path)) == ["a.html", "a.xml"]


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf"), 1e300])
def test_a_time_limit_is_a_time(seconds: float) -> None:
    with pytest.raises(InputError, match=r"The time limit is .* expected more than 0, and at most 86400"):
        open_engine("exec:true", seconds)


@pytest.mark.parametrize(
    "address",
    ["http://127.0.0.1:99999", "http://127.0.0.1:0", "http://127.0.0.1:-1", "http://127.0.0.1:x", "http://:80", "http://",
     "http:///path", "http://[::1", "http://a b", "https://h\u00f6st"],
)  # fmt: skip
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match=r"expected .*such as http://127.0.0.1:9001|expected one of these"):
        open_engine(address)


@pytest.fixture
def answered(tmp_path: Path) -> Path:
    """An exported folder with the answer of its one case."""
    (question,) = [q for q in levels.questions(["similarity"]) if q.id.startswith("similarity/3")]
    case = question.make(tmp_path)
    export([case], tmp_path / "out")
    write_arrays(tmp_path / "out" / folder_name(case) / ANSWER, question.exact(case).outputs)
    return tmp_path / "out"


DEEP = b"[" * 100_000
WRONG_JSON = [b"[]", b"null", b'"x"', DEEP, b'{"id": 1' + b"0" * 5000 + b"}", b'{"id": 1, "id": 2}', b"\xff", b"{", b""]


@pytest.mark.parametrize("data", WRONG_JSON, ids=range(len(WRONG_JSON)))
def test_a_case_or_an_export_that_is_other_json_is_told(data: bytes, answered: Path) -> None:
    (question,) = [q for q in levels.questions(["similarity"]) if q.id.startswith("similarity/3")]
    case = question.make(answered)
    engine = open_engine(f"results:{answered}")
    path = answered / folder_name(case) / "case.json"
    before = sha256(path)
    path.write_bytes(data)
    exported = answered / "export.json"
    exported.write_text(exported.read_text().replace(before, sha256(path)))  # as somebody who knows would
    engine = open_engine(f"results:{answered}")
    with pytest.raises(Garbage, match="case.json is not as it was exported|exported with other inputs"):
        engine.answer(case)
    exported.write_bytes(data)
    with pytest.raises(InputError, match=r"export.json is not as this version"):
        read_export(answered)


def test_an_engine_that_writes_into_the_suites_pipe_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import contextlib, os

for descriptor in range(3, 9):
    with contextlib.suppress(OSError):
        os.write(descriptor, b"[1]\\n")
make = object
"""
    (tmp_path / "talkative.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises((InputError, Crashed), match="no reply|ends its process"):
        Isolated("talkative:make", 30.0)


def test_a_home_that_there_is_not_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CLIPREF_HOME", "~nobody-of-that-name/x")
    with pytest.raises(InputError, match=r"CLIPREF_HOME is '~nobody-of-that-name/x', and that user has no home"):
        home()
    assert main(["embed", "--text", "a", "--model", "clip/RN50"]) == 1
    assert "CLIPREF_HOME is" in capsys.readouterr().err


def test_commands_have_the_options_that_their_errors_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "image.png")
    with pytest.raises(ImageError, match=r"raise max_pixels= \(of a command: --max-pixels\)"):
        preprocess(tmp_path / "image.png", 24, max_pixels=599)
    from importlib.metadata import entry_points

    from clipref.cli import GROUP

    without = {"conformance", "demo", "kernels", "learn", "models"}  # which open no checkpoint that people bring
    for name in {entry.name for entry in entry_points(group=GROUP)} - without:
        assert main([name, "--help"]) == 0
        assert "--activation" in capsys.readouterr().out, name


def test_what_is_written_has_the_permissions_that_the_umask_leaves(tmp_path: Path) -> None:
    """Also where a library makes its files its owner's alone, as safetensors does."""
    before = os.umask(0o026)
    try:
        with write_whole(tmp_path / "file") as scratch:
            scratch.write_text("x")
            scratch.chmod(0o600)
        write_arrays(tmp_path / "arrays", {"x": np.zeros(3, np.float32)})
        out = tmp_path / "x.safetensors"
        assert main(["embed", "--text", "a", "--model", "clipref/shapes-vit", "--out", str(out)]) == 0
    finally:
        os.umask(before)
    modes = {path.name: oct(path.stat().st_mode & 0o777) for path in tmp_path.iterdir()}
    assert modes == dict.fromkeys(("file", "arrays", "x.safetensors"), oct(0o640))
    out.chmod(0o604)
    assert main(["embed", "--text", "a", "--model", "clipref/shapes-vit", "--out", str(out)]) == 0
    assert out.stat().st_mode & 0o777 == 0o604


def test_nothing_reads_json_of_others_without_bounds() -> None:
    """Where json.loads stands, what is read is the package's own, or has been proved sound; or it is a program that
    stands by itself, to be copied.
    """
    import clipref

    root = Path(clipref.__file__).parents[1]
    own = {
        "clipref/files.py", "clipref/weights.py", "conformance/goldens.py", "conformance/measure.py",
        "conformance/grading/judge.py", "conformance/grading/units.py",
        "conformance/questions/texts.py", "conformance/questions/images.py",
        "conformance/questions/pipeline.py", "conformance/faults/__init__.py", "conformance/engines/python.py",
        "conformance/engines/files.py", "conformance/engines/results.py", "conformance/engines/server.py",
        "conformance/engines/worker.py",
        "conformance/engines/elsewhere.py", "conformance/gallery/asking.py", "conformance/gallery/environments.py",
        "conformance/packs/writing.py", "conformance/packs/check_tokenize.py", "conformance/packs/check_preprocess.py",
    }  # fmt: skip
    found = {
        str(path.relative_to(root))
        for folder in ("clipref", "conformance", "kernels", "weights_tools")
        for path in (root / folder).rglob("*.py")
        if re.search(r"json\.loads?\(", path.read_text(encoding="utf-8"))
    }
    copied = ("conformance/examples/", "conformance/starters/", "conformance/gallery/adapters/")
    found = {name for name in found if not name.startswith(copied)}
    assert found <= own and parse_json(b"1") == 1
