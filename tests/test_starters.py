"""Starters: what `init` writes compiles and answers as it stands, and an engine that is put into it is graded."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from http.server import ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from clipref.cli import main
from clipref.conformance import suite
from clipref.conformance.engines import open_engine
from clipref.conformance.engines.python import PythonEngine
from clipref.conformance.starting import languages, write_starter

from .engine_questions import TINY_VIT, questions, run, verdicts

ROOM = Path(suite.__file__).parent
# By language: the file, what it is compiled or run with, how it is started, and a step of it that can go wrong.
PROGRAMS: Mapping[str, tuple[str, str, str, tuple[str, str]]] = {
    "cpp": ("engine.cpp", "g++", "./engine", ("t / grid * patch", "t % grid * patch")),
    "rust": ("engine.rs", "rustc", "./engine", ("t / grid * patch", "t % grid * patch")),
    "js": ("engine.mjs", "node", "node engine.mjs", ("Math.floor(t / grid)", "(t % grid)")),
    "python": (
        "my_clip.py",
        sys.executable,
        f"{sys.executable} my_clip.py",
        ("(0, 2, 4, 1, 3, 5)", "(0, 4, 2, 1, 3, 5)"),
    ),
}
# How a tower is written that knows the right answers, in the place of the starter's TODO.
FILLED = {
    "rust": ("Ok(None) // TODO", 'Ok(Some(tensor(&read_tensors(Path::new("{right}"))?, "{tower}")?.clone())) // TODO'),
    "js": ("return null; // TODO", 'return readTensors("{right}").{tower}; // TODO'),
    "cpp": ("return std::nullopt;  // TODO", 'return read_tensors("{right}").at("{tower}");  // TODO'),
    "python": (
        'raise NotImplementedError("the {tower} tower")  # TODO', 'return read_tensors("{right}")["{tower}"]  # TODO'
    ),
}  # fmt: skip
FIRST = ("describe/rn-a", f"taps/{TINY_VIT}", "similarity/3")


def starter(language: str, folder: Path) -> Path:
    write_starter(language, folder)
    return folder


def commands(folder: Path) -> list[str]:
    return re.findall(r"^\d\. `(.*?)`", (folder / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def compile_it(language: str, folder: Path) -> str:
    """The engine's name, once it is compiled as the README says; skips the test where there is no compiler."""
    _, tool, start, _ = PROGRAMS[language]
    if shutil.which(tool) is None:
        pytest.skip(f"no {tool}")
    if language in ("cpp", "rust"):
        strict = " -Wall -Wextra -Werror" if language == "cpp" else " -D warnings"
        subprocess.run(commands(folder)[0] + strict, shell=True, cwd=folder, check=True)
    return "exec:" + " ".join(str(folder / word) if (folder / word).exists() else word for word in start.split())


def replaced(folder: Path, language: str, old: str, new: str) -> None:
    file = folder / PROGRAMS[language][0]
    code = file.read_text(encoding="utf-8")
    assert old in code
    file.write_text(code.replace(old, new), encoding="utf-8")


@pytest.mark.parametrize("language", ["cpp", "http", "js", "python", "rust"])
def test_init_writes_a_starter_and_overwrites_nothing(
    language: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["conformance", "init", language, str(tmp_path / "mine")]) == 0
    out = capsys.readouterr().out
    assert len(re.findall(r"^\d\. .*`clipref conformance", out, flags=re.MULTILINE)) >= 2 and out.count("\n") == 7
    written = {path.name: path.read_bytes() for path in (tmp_path / "mine").iterdir()}
    assert len(written) == 2 and any(b"yours begins" in content for content in written.values())
    (tmp_path / "mine" / "README.md").unlink()
    assert main(["conformance", "init", language, str(tmp_path / "mine")]) == 1
    assert "exists already; remove it, or choose another folder" in capsys.readouterr().err
    assert not (tmp_path / "mine" / "README.md").exists()
    (tmp_path / "file").touch()
    assert main(["conformance", "init", language, str(tmp_path / "file" / "mine")]) == 1
    assert "can't be written to: Not a directory" in capsys.readouterr().err


def test_every_starter_is_tested_and_in_the_guide() -> None:
    assert languages() == sorted([*PROGRAMS, "http"])
    guide = (ROOM / "GUIDE.md").read_text(encoding="utf-8")
    assert all(
        re.search(rf"conformance init cpp my_clip .*\b({language})\b|init cpp", guide) for language in languages()
    )


def test_the_example_is_the_starter_filled_in() -> None:
    def around(path: Path) -> list[str]:
        code = path.read_text(encoding="utf-8")
        code = code[code.index("#include") :]
        return re.split(r"// --- yours (?:begins|ends) -+\n", code)[::2]

    starter, example = (around(ROOM / place / "engine.cpp") for place in ("starters/cpp", "examples"))
    assert starter == example and len(starter) == 2


def module(path: Path, name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_starter_in_python_answers_and_takes_an_engine() -> None:
    theirs: Any = module(ROOM / "starters" / "python" / "my_clip.py", "my_clip").MyClip
    report = run(PythonEngine(theirs), *FIRST, f"towers/{TINY_VIT}/image", "taps/rn-a plain/image", "tokenize/words")
    assert report.passed and report.count("PASS") == 4 and not report.embedded
    told = {r.case: r.problem for r in report.results if r.verdict == "SKIP"}
    assert told == {
        f"towers/{TINY_VIT}/image": "the image tower",
        "taps/rn-a plain/image": "no image tower of the kind 'resnet'",
        "tokenize/words": "has no tokenize",
    }
    example: Any = module(ROOM / "examples" / "engine.py", "example_engine")

    class Filled(theirs):  # type: ignore[misc]
        def encode_text(self, ids: np.ndarray) -> Any:
            self.taps["token_embedding"] = self.weights["token_embedding.weight"][ids]
            return example.encode_text(ids, self.weights, self.config["text"])

    report = run(PythonEngine(Filled), f"taps/{TINY_VIT}/text", f"towers/{TINY_VIT}/text")
    assert report.passed and report.count("PASS") == 2 and report.embedded == {"texts"}
    assert [tap.name for r in report.results for tap in r.taps] == ["token_embedding", "text_projection"]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The starter of a server, with the model that texts are asked of."""
    questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    code = module(ROOM / "starters" / "http" / "server.py", "starter_server")
    with ThreadingHTTPServer(("127.0.0.1", 0), code.Handler) as listening:
        listening.folder = tmp_path  # type: ignore[attr-defined]
        thread = threading.Thread(target=listening.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{listening.server_port}"
        listening.shutdown()
        thread.join()


@pytest.mark.slow
def test_the_starter_of_a_server_answers_and_declines(server: str) -> None:
    report = run(open_engine(server), "pipeline/vit-words", "pipeline/shapes-vit/image L", "describe/rn-a")
    assert verdicts(report) == {
        "pipeline/vit-words-plain/texts": "PASS",
        "pipeline/vit-words-plain/image and texts": "PASS",
        "pipeline/shapes-vit/image L 31x47": "SKIP",
        "describe/rn-a": "SKIP",
    }
    assert "declined: no model shapes-vit" in str(report.results[-2].problem) + str(report.results)


@pytest.mark.slow
@pytest.mark.parametrize("language", PROGRAMS)
def test_the_readme_leads_to_a_first_verdict(language: str, tmp_path: Path) -> None:
    folder = starter(language, tmp_path / "mine")
    engine = compile_it(language, folder).removeprefix("exec:")
    called = subprocess.run(engine, shell=True, capture_output=True, text=True)
    assert called.returncode == 1 and called.stderr.startswith("usage: ") and "Traceback" not in called.stderr
    first = next(command for command in commands(folder) if command.startswith("clipref"))
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(first, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "float32-conformant in describe, taps, similarity: every answer is within 6 units" in done.stdout
    assert "no images or texts were embedded, as CLIP does; 31 of 45 questions answered." in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("language", PROGRAMS)
def test_a_step_that_is_wrong_is_told(language: str, tmp_path: Path) -> None:
    folder = starter(language, tmp_path / "mine")
    replaced(folder, language, *PROGRAMS[language][3])
    report = run(open_engine(compile_it(language, folder)), *FIRST)
    assert [(r.case, r.first_out_of_band) for r in report.results if r.verdict == "FAIL"] == [
        (f"taps/{TINY_VIT}/image", "visual.conv1")
    ]


@pytest.mark.slow
@pytest.mark.parametrize("language", FILLED)
def test_an_engine_that_is_put_in_is_graded(language: str, tmp_path: Path) -> None:
    """The towers know the right answers, of one model: so all that stands around them is right, and no more."""
    folder, right = starter(language, tmp_path / "mine"), tmp_path / "right.safetensors"
    asked = {tower: questions(f"towers/{TINY_VIT}/{tower}")[0] for tower in ("image", "text")}
    exact = {tower: q.exact(q.make(tmp_path)).outputs["embeddings"] for tower, q in asked.items()}
    save_file({tower: x.astype(np.float32) for tower, x in exact.items()}, right)
    old, new = FILLED[language]
    code = (folder / PROGRAMS[language][0]).read_text(encoding="utf-8")
    parts = re.split(r"(?=^.*(?:encode_text|encodeText)\()", code, maxsplit=1, flags=re.MULTILINE)
    for i, tower in enumerate(("image", "text")):
        before, after = (text.replace("{tower}", tower).replace("{right}", str(right)) for text in (old, new))
        assert parts[i].count(before) == 1
        parts[i] = parts[i].replace(before, after)
    (folder / PROGRAMS[language][0]).write_text("".join(parts), encoding="utf-8")
    engine = open_engine(compile_it(language, folder))
    report = run(engine, f"towers/{TINY_VIT}", f"taps/{TINY_VIT}")
    assert report.passed and report.count("PASS") == 4 and report.embedded == {"images", "texts"}
    assert [tap.name for r in report.results for tap in r.taps] == [
        "visual.conv1", "visual", "token_embedding", "text_projection",
    ]  # fmt: skip
    assert run(engine, "towers/vit-b plain").count("FAIL") == 2
