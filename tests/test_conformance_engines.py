"""Engines of every kind, asked from outside: what is right passes, and each way to go wrong has its verdict."""

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import shutil
import socketserver
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import clipref
from clipref import AutoModel, InputError
from clipref.cli import main
from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.asking import Misbehaved
from clipref.conformance.engines import KINDS, open_engine, open_here, worker
from clipref.conformance.engines.failures import Crashed, Exited, Garbage, Hung, Killed, Raised
from clipref.conformance.engines.onnx import find
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Case, EngineUnderTest, Outputs, Question, Unsupported
from clipref.conformance.restated.preprocessing import transformers_profile
from clipref.numerics import cosines
from clipref.weights_tools.export_onnx import export_onnx

EXAMPLE = Path(suite.__file__).parent / "examples" / "engine.py"
TINY_VIT = "vit-a plain"


def questions(*parts: str) -> list[Question]:
    """The questions with one of these in their id."""
    chosen = [q for q in levels.questions() if any(part in q.id for part in parts)]
    assert chosen
    return chosen


def run(engine: EngineUnderTest, *parts: str) -> Report:
    return suite.run(engine, questions(*parts), diagnose=False)


def verdicts(report: Report) -> dict[str, str]:
    return {result.case: result.verdict for result in report.results}


@pytest.fixture
def image_case(tmp_path: Path) -> Case:
    """Pixels for a tiny ViT."""
    return questions(f"towers/{TINY_VIT}/image")[0].make(tmp_path)


@pytest.fixture(scope="module")
def onnx_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX files of one tiny checkpoint, in a folder of its name."""
    folder = tmp_path_factory.mktemp("onnx")
    case = questions(f"towers/{TINY_VIT}/image")[0].make(folder)
    assert case.checkpoint is not None
    assert len(list(export_onnx(case.checkpoint, folder / "root" / case.checkpoint.name, ids="int64"))) == 2
    return folder / "root"


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("onnx", "expected one of these"),
        ("onnx:", "expected one of these"),
        ("backend:fastest", "No backend 'fastest'"),
        ("exec:./no-such-program", "can't be run"),
        ("onnx:no-such-folder", "does not exist"),
        ("results:no-such-folder", "has no export.json"),
        ("no_such_module:engine", "can't be imported"),
        ("json:no_such_name", "can't be imported"),
        ("json:__name__", "expected a function"),
    ],
)
def test_a_wrong_name_is_explained(spec: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        open_engine(spec)


def test_every_kind_is_listed() -> None:
    assert [line.split(":")[0].strip() for line in KINDS.splitlines()] == [
        "module", "backend", "exec", "onnx", "onnx", "results", "http", "openai", "transformers",
    ]  # fmt: skip


# --- Python objects ---------------------------------------------------------------------------------------------------


def test_a_python_engine_is_found_in_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_clip.py").write_text(
        "from clipref import AutoModel\n"
        "class Towers:\n"
        "    def __init__(self, folder): self.encode_text = AutoModel.from_pretrained(folder).encode_text\n"
        "def make(folder): return Towers(folder) if folder else object()\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    report = run(open_engine("my_clip:make"), TINY_VIT, "tokenize/words")
    assert verdicts(report) == {
        "tokenize/words": "SKIP",
        f"towers/{TINY_VIT}/image": "SKIP",
        f"towers/{TINY_VIT}/text": "PASS",
        f"taps/{TINY_VIT}/image": "SKIP",
        f"taps/{TINY_VIT}/text": "SKIP",
    }


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("raise RuntimeError('no GPU')", "RuntimeError: no GPU"),
        ("def make(", "SyntaxError"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("class make:\n def answer(self, case): ...\n def __init__(self): raise OSError('no weights')", "no weights"),
    ],
)
def test_a_module_that_fails_is_explained(
    code: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fails.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "fails", raising=False)
    with pytest.raises(InputError, match=f"The engine fails:make can't be imported: .*{says}"):
        open_engine("fails:make")


NOISY = """
import ctypes, os
import numpy as np
os.chdir("/")
print("loading")
class Engine:
    def __init__(self, folder): print("made")
    def similarity(self, image, text, logit_scale):
        print("asked")
        os.write(1, b"from below\\n")
        ctypes.CDLL(None).puts(b"from C")
        a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text))
        return {"cosines": a @ b.T, "logits": np.exp(logit_scale) * (a @ b.T)}
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no C library of that name")
def test_an_engine_may_print_and_change_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "noisy.py").write_text(NOISY)
    (tmp_path / "expected.txt").write_text("tokenize/words  # not yet\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    asked = ["conformance", "run", "noisy:Engine", "--levels", "similarity", "--json", "--junit", "junit.xml"]
    assert main([*asked, "--html", "report.html", "--expected-failures", "expected.txt"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["counts"]["PASS"] == 5
    assert all(said in err for said in ("loading", "made", "asked", "from below", "from C"))
    assert (tmp_path / "junit.xml").is_file() and (tmp_path / "report.html").is_file()


def test_what_never_answers_is_not_asked_everything() -> None:
    asked = []

    class Dead:
        def answer(self, case: Case) -> Outputs:
            asked.append(case.verb)
            if case.verb == "similarity":
                raise Unsupported
            raise OSError("no such file: model.bin")

    report = suite.run(Dead(), levels.questions(), diagnose=False)
    assert max(Counter(asked).values()) == 10 and asked.count("similarity") == report.count("SKIP") == 5
    assert "not asked" in str(next(r.problem for r in report.results[::-1] if r.level == "preprocess"))


def test_the_end_of_the_process_is_no_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "ends.py").write_text("import sys\nclass Engine:\n def answer(self, case): sys.exit(0)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert main(["conformance", "run", "ends:Engine", "--levels", "similarity"]) == 1
    assert "raised SystemExit: 0" in capsys.readouterr().out


class Answers:
    def answer(self, case: Case) -> dict[str, np.ndarray]:
        return {"length": np.array(len(case.id))}


ANSWERS = Answers()


@pytest.mark.parametrize("name", ["Answers", "ANSWERS"])
def test_an_object_may_answer_for_itself(name: str, image_case: Case) -> None:
    assert open_here(f"{__name__}:{name}").answer(image_case)["length"] == len(image_case.id)


ENDLESS = """
import ctypes, itertools, os, signal, subprocess, sys, time
import numpy as np
class Engine:
    def describe(self): return dict(embed_dim=np.longdouble(1))
    def similarity(self, **inputs): DO
"""


def python_engine(folder: Path, body: str, monkeypatch: pytest.MonkeyPatch, time_limit: float = 30.0) -> Any:
    name = f"ends_{abs(hash(body))}"
    (folder / f"{name}.py").write_text(ENDLESS.replace("DO", body) + "def make(folder): return Engine()\n")
    monkeypatch.syspath_prepend(folder)
    return open_engine(f"{name}:make", time_limit)


@pytest.mark.skipif(sys.platform == "win32", reason="pipes that can be waited for")
@pytest.mark.parametrize(
    ("body", "problem", "says"),
    [
        ("[None for _ in itertools.count()]", Hung, "stopped after 0.5 s"),
        ("sum(itertools.repeat(0))", Hung, "stopped after 0.5 s"),  # which never comes back to Python
        ("ctypes.string_at(0)", Killed, "ended by SIGSEGV"),
        ("os._exit(0)", Crashed, "exit code 0"),
        ("sys.exit(5)", Exited, "5"),
        ("raise ValueError('no such scale')", Raised, "no such scale"),
        ("raise NotImplementedError", Unsupported, "not implemented"),
        ("return {'cosines': [1.0]}", Misbehaved, "a list as 'cosines'"),
        ("return {'cosines': np.ones(3, np.longdouble)}", Garbage, "can't be written to a file"),
    ],
)
def test_an_engine_in_python_is_stopped_and_outlived(
    body: str, problem: type[Exception], says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = python_engine(tmp_path, body, monkeypatch, 0.5 if problem is Hung else 30.0)
    (question, again), started = questions("similarity/3", "similarity/4"), time.monotonic()
    for asked in (question, again):
        with pytest.raises(problem, match=says):
            engine.answer(asked.make(tmp_path))
    assert time.monotonic() - started < 10
    report = suite.run(engine, [question] * (problem is not Hung), diagnose=False)
    assert problem is Hung or report.results[0].verdict == ("SKIP" if problem is Unsupported else "FAIL")


@pytest.mark.parametrize(("verdict", "body"), [("FAIL", "sys.exit(0)"), ("PASS", "raise ValueError('too long')")])
def test_an_exit_is_no_refusal(verdict: str, body: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "unused", None)
    code = f"import sys\nclass Engine:\n    def answer(self, case): {body}\n"
    (tmp_path / f"refuses_{verdict.lower()}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    report = run(open_engine(f"refuses_{verdict.lower()}:Engine"), "tokenize/refused")
    assert report.results[0].verdict == verdict


def test_an_engine_that_does_not_open_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "never.py").write_text("while True: pass\n")
    (tmp_path / "gone.py").write_text("import os; os._exit(7)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(worker, "_TO_OPEN", 0.5)
    with pytest.raises(InputError, match="never:x doesn't open: stopped after 0.5 s"):
        open_engine("never:x", 0.1)
    with pytest.raises(InputError, match="gone:x ends its process when it is opened: exit code 7"):
        open_engine("gone:x", 30)


@pytest.mark.parametrize("name", [pytest.param("reference", marks=pytest.mark.slow), "onnx"])
def test_the_backends_are_right_from_files_to_cosines(name: str) -> None:
    report = run(open_engine(f"backend:{name}"), "pipeline/", "describe/rn", "tokenize/words", "preprocess/LA")
    assert report.passed and report.count("SKIP") == 0


def test_a_vocabulary_that_is_built_in_is_the_published_one() -> None:
    """As most engines have it: no question about texts is of a model with another."""

    class BuiltIn:
        def answer(self, case: Case) -> Outputs:
            if case.verb not in ("embed_text", "compare") or case.checkpoint is None:
                raise Unsupported
            model = AutoModel.from_pretrained(case.checkpoint)
            ids = clipref.tokenize(json.loads(case.inputs["texts"].tobytes()))
            text = model.encode_text(ids)
            if case.verb == "embed_text":
                return {"embeddings": text}
            image = model.embed_image(case.inputs["image"].tobytes())
            return {"similarity": cosines(image, text)[0]}

    report = run(BuiltIn(), "pipeline/")
    assert report.passed and report.count("PASS") == 2


# --- programs ---------------------------------------------------------------------------------------------------------


def test_the_example_is_right_as_far_as_it_goes() -> None:
    engine = open_engine(f"exec:{sys.executable} {EXAMPLE}")
    report = run(engine, "towers/vit-gelu trained", "describe/rn-a", "similarity/3", "towers/rn-a plain/image")
    assert verdicts(report).pop("towers/rn-a plain/image") == "SKIP"
    assert report.count("PASS") == 4 and report.passed and report.grade == "float32"


@pytest.mark.slow
def test_the_example_is_right_in_all_that_it_claims() -> None:
    report = suite.run(open_engine(f"exec:{sys.executable} {EXAMPLE}"), levels.questions(), diagnose=False)
    assert report.passed and report.grade == "float32"
    passed = {result.level for result in report.results if result.verdict == "PASS"}
    assert passed == {"describe", "towers", "similarity", "properties"}


def test_the_example_imports_nothing_of_the_project() -> None:
    assert not [line for line in EXAMPLE.read_text().splitlines() if "import" in line and "clipref" in line]


CXX = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")


@pytest.mark.slow
@pytest.mark.skipif(CXX is None, reason="no C++ compiler")
def test_the_example_in_cpp_is_clip_and_its_faults_are_named(tmp_path: Path) -> None:
    """Measured: the worst of its answers is 1.8 units off."""
    source = EXAMPLE.with_suffix(".cpp").read_text()
    asked = questions("describe/", "towers/", "similarity/")

    def built(code: str, name: str) -> EngineUnderTest:
        (tmp_path / f"{name}.cpp").write_text(code)
        flags = ["-O2", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
        subprocess.run([str(CXX), *flags, f"{name}.cpp", "-o", name], cwd=tmp_path, check=True)
        return open_engine(f"exec:{tmp_path / name}")

    report = suite.run(built(source, "right"), asked)
    assert report.passed and report.grade == "float32", report.results
    assert report.count("SKIP") == 6 and all("/rn-" in r.case for r in report.results if r.verdict == "SKIP")
    named = suite.run(built(source.replace('kind == "quick_gelu"', "kind.empty()"), "wrong"), asked).diagnoses
    assert [diagnosis.faults for diagnosis in named] == [("gelu-exact",)] * 2


def program(path: Path, body: str) -> str:
    """A program, as the name of an engine. `out` is where its answer belongs."""
    path.write_text(f"import os, struct, sys, time\nverb, case, out = sys.argv[1:]\n{body}\n")
    return f"exec:{sys.executable} {path}"


@pytest.mark.parametrize(
    ("body", "problem", "says"),
    [
        ("sys.exit(3)", Unsupported, "exit code 3"),
        ("print('no GPU found', file=sys.stderr); sys.exit(7)", Crashed, "exit code 7; its last words: no GPU found"),
        ("print('weights: bad magic'); sys.exit(1)", Crashed, "exit code 1; its last words: weights: bad magic"),
        ("raise RuntimeError('shape mismatch')", Crashed, "RuntimeError: shape mismatch"),
        ("os.abort()", Crashed, "ended by SIGABRT"),
        ("print('loading'); sys.stdout.flush(); time.sleep(60)", Hung, "stopped after 0.5 s; its last words: loading"),
        ("pass", Garbage, "nothing was written"),
        ("open(out, 'wb').write(b'1.0 2.0 3.0')", Garbage, "not a safetensors file"),
        ("open(out, 'wb').write(b'')", Garbage, "not a safetensors file"),
        ("open(out, 'wb').write(struct.pack('<Q', 2) + b'{}')", Garbage, "has no tensors"),
        ("os.mkdir(out)", Garbage, "not a regular file"),
        ("os.mkfifo(out)", Garbage, "not a regular file"),
        ("os.symlink('/dev/zero', out)", Garbage, "not a regular file"),
    ],
)
def test_a_program_that_fails_has_its_verdict(
    body: str, problem: type[Exception], says: str, tmp_path: Path, image_case: Case
) -> None:
    engine = open_engine(program(tmp_path / "engine.py", body), time_limit=0.5 if problem is Hung else 30.0)
    with pytest.raises(problem, match=says):
        engine.answer(image_case)


def test_a_program_that_hangs_is_stopped_with_all_that_it_started(tmp_path: Path, image_case: Case) -> None:
    started = time.monotonic()
    with pytest.raises(Hung):
        open_engine(program(tmp_path / "engine.py", leaves_children(tmp_path) + "time.sleep(60)"), 1.0).answer(
            image_case
        )
    assert time.monotonic() - started < 10
    assert_none_is_left(tmp_path)


@pytest.mark.parametrize("ending", ["sys.exit(9)", "os.abort()"])
def test_a_program_that_ends_takes_all_that_it_started_along(ending: str, tmp_path: Path, image_case: Case) -> None:
    with pytest.raises(Crashed):
        open_engine(program(tmp_path / "engine.py", leaves_children(tmp_path) + ending), 30.0).answer(image_case)
    assert_none_is_left(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_an_engine_in_python_takes_its_children_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = f"exec({leaves_children(tmp_path) + 'time.sleep(60)'!r})"
    engine = python_engine(tmp_path, body, monkeypatch, 1.0)
    with pytest.raises(Hung):
        engine.answer(questions("similarity/3")[0].make(tmp_path))
    assert_none_is_left(tmp_path)


def leaves_children(folder: Path) -> str:
    """Code that starts children, one in a session of its own, one of it a daemon as daemons are made."""
    child = f"import os, time; open(f'{folder}/child-{{os.getpid()}}', 'w'); time.sleep(60)"
    alone = "sys.platform == 'linux'"
    return (
        "import os, subprocess, sys, time\n"
        f"child = [sys.executable, '-S', '-c', {child!r}]\n"
        f"subprocess.Popen(child); subprocess.Popen(child, start_new_session={alone})\n"
        f"if {alone} and not os.fork():\n"
        "    os.setsid()\n"
        "    if not os.fork(): os.execv(child[0], child)\n"
        "    os._exit(0)\n"
        f"while sum(name.startswith('child-') for name in os.listdir({str(folder)!r})) < (3 if {alone} else 2):\n"
        "    time.sleep(0.01)\n"
    )


def assert_none_is_left(folder: Path) -> None:
    """Raise AssertionError if a child that has said that it runs still does."""
    children = [int(path.name.partition("-")[2]) for path in folder.glob("child-*")]
    assert len(children) >= 2
    for pid in children:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_program_is_stopped_when_the_suite_is_killed(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys; from clipref.conformance.engines.processes import Program\n"
        f"child = [sys.executable, '-c', {leaves_children(tmp_path) + 'time.sleep(60)'!r}]\n"
        "Program(child, subprocess.DEVNULL, subprocess.DEVNULL, None)\n"
        f"import os, time\nwhile sum('child' in name for name in os.listdir({str(tmp_path)!r})) < 2:\n"
        "    time.sleep(0.01)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code], timeout=30)
    for _ in range(100):
        with contextlib.suppress(pytest.fail.Exception):
            assert_none_is_left(tmp_path)
            break
        time.sleep(0.05)
    else:
        assert_none_is_left(tmp_path)


def test_much_output_neither_stops_a_program_nor_fills_the_disk(tmp_path: Path, image_case: Case) -> None:
    body = "print('x' * 10**7, flush=True); print(os.fstat(1).st_size); sys.exit(9)"
    with pytest.raises(Crashed, match="exit code 9; its last words: x+ 0$"):
        open_engine(program(tmp_path / "engine.py", body), time_limit=30).answer(image_case)


def test_a_child_that_keeps_the_output_open_keeps_nobody_waiting(tmp_path: Path, image_case: Case) -> None:
    child = "import subprocess; subprocess.Popen(['sleep', '8'], start_new_session={}); print('bye'); sys.exit(9)"
    for left in (False, True):
        started = time.monotonic()
        with pytest.raises(Crashed, match="exit code 9; its last words: bye"):
            open_engine(program(tmp_path / "engine.py", child.format(left)), time_limit=30).answer(image_case)
        assert time.monotonic() - started < 6


def test_failures_of_a_program_are_verdicts_of_the_suite(tmp_path: Path) -> None:
    report = run(open_engine(program(tmp_path / "engine.py", "sys.exit(7)")), f"towers/{TINY_VIT}")
    assert [(r.verdict, r.problem) for r in report.results] == [("FAIL", "crashed: exit code 7")] * 2
    assert not report.passed and report.grade is None


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        ("sys.exit(1)", "PASS"), ("sys.exit(3)", "SKIP"), ("time.sleep(60)", "FAIL"), ("", "FAIL"),
        ("os.kill(os.getpid(), 11)", "FAIL"),
    ],
)  # fmt: skip
def test_a_program_refuses_by_its_exit_code(body: str, verdict: str, tmp_path: Path) -> None:
    engine = open_engine(program(tmp_path / "engine.py", body), time_limit=0.5 if "sleep" in body else 30.0)
    assert verdicts(run(engine, "tokenize/refused")) == {"tokenize/refused": verdict}


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("nan", "finite"), ("float64", "float64"), ("broadcast", "shape"), ("reversed", "order"),
        ("renamed", "embeddings"),
    ],
)  # fmt: skip
def test_an_answer_of_the_wrong_kind_has_its_verdict(kind: str, says: str, tmp_path: Path) -> None:
    change = {
        "nan": "x[0, 0] = np.nan", "float64": "x = x.astype('f8')", "broadcast": "x = x[:1]", "reversed": "x = x[::-1]",
        "renamed": "name = 'output'",
    }[kind]  # fmt: skip
    body = (
        f"sys.path.insert(0, {str(EXAMPLE.parent)!r})\nimport engine, numpy as np\nfrom pathlib import Path\n"
        "from safetensors.numpy import save_file\n"
        "name, x = 'embeddings', engine.answer(verb, Path(case))['embeddings']\n"
        f"{change}\nsave_file({{name: np.ascontiguousarray(x)}}, out)"
    )
    report = run(open_engine(program(tmp_path / "other.py", body)), f"towers/{TINY_VIT}/image")
    (result,) = report.results
    assert result.verdict == "FAIL" and says in (result.problem or "")


# --- ONNX files -------------------------------------------------------------------------------------------------------


def test_onnx_files_answer_for_their_checkpoint_and_for_no_other(onnx_root: Path) -> None:
    report = run(open_engine(f"onnx:{onnx_root}"), "towers/vit-a", "similarity/3")
    assert verdicts(report) == {
        f"towers/{TINY_VIT}/image": "PASS",
        f"towers/{TINY_VIT}/text": "PASS",
        "towers/vit-a trained/image": "SKIP",
        "towers/vit-a trained/text": "SKIP",
        "similarity/3 images 5 texts of 11": "SKIP",
    }
    assert report.passed and report.grade == "float32"


def test_onnx_files_are_named_with_their_checkpoint(onnx_root: Path) -> None:
    folder = onnx_root / "vit-a-plain"
    pair = f"{folder / 'visual.onnx'},{folder / 'textual.onnx'}"
    for spec in (f"onnx:{pair}@vit-a-plain", f"onnx:{folder}@vit-a-plain"):
        report = run(open_engine(spec), "towers/vit-a")
        assert (report.count("PASS"), report.count("SKIP")) == (2, 2)
    for spec in (f"onnx:{pair}", f"onnx:{folder}"):
        with pytest.raises(InputError, match="say which checkpoint"):
            open_engine(spec)


@pytest.mark.parametrize(
    "names",
    [
        ("clip_image_model_vitb32.onnx", "clip_text_model_vitb32.onnx"),
        ("vision_model.onnx", "text_model.onnx"),
        ("onnx/vision_model.onnx", "onnx/text_model.onnx"),
    ],
)
def test_onnx_files_have_the_names_that_others_give_them(
    names: tuple[str, str], onnx_root: Path, tmp_path: Path
) -> None:
    for name, ours in zip(names, ("visual.onnx", "textual.onnx"), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(onnx_root / "vit-a-plain" / ours, tmp_path / name)
        quantized = (tmp_path / name).with_stem(f"{Path(name).stem}_quantized")
        quantized.write_bytes(b"is not looked at")
    assert [find(tmp_path, kind) for kind in ("visual", "textual")] == [tmp_path / name for name in names]
    report = run(open_engine(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}")
    assert report.count("PASS") == 2


def test_a_folder_without_files_of_a_tower_is_skipped(onnx_root: Path, tmp_path: Path) -> None:
    shutil.copyfile(onnx_root / "vit-a-plain" / "textual.onnx", tmp_path / "textual.onnx")
    report = run(open_engine(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}")
    assert verdicts(report) == {f"towers/{TINY_VIT}/image": "SKIP", f"towers/{TINY_VIT}/text": "PASS"}
    assert "no file of the usual names for the visual tower" in (report.results[0].problem or "")


def fixed_batch(model: Any, columns: int | None = None) -> None:
    """A graph as tracing leaves it, for one item at a time."""
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1
    if columns:
        model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = columns


def test_a_fixed_batch_is_fed_item_by_item(onnx_root: Path, tmp_path: Path) -> None:
    for name, columns in (("visual.onnx", None), ("textual.onnx", 19)):
        model = onnx.load(onnx_root / "vit-a-plain" / name)
        fixed_batch(model, columns)
        onnx.save(model, tmp_path / name)
    assert run(open_engine(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}").count("PASS") == 2


def wrapped(
    file: Path, inputs: list[Any], outputs: list[Any], before: list[Any] | None = None, after: list[Any] | None = None
) -> None:
    """The graph of a file with nodes before and after it, and other inputs and outputs."""
    model = onnx.load(file)
    nodes = [*(before or []), *model.graph.node, *(after or [])]
    graph = onnx.helper.make_graph(nodes, "wrapped", inputs, outputs, model.graph.initializer)
    onnx.save(onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version), file)


@pytest.mark.parametrize("shape", [["batch", "columns"], [1, "columns"], ["columns"]])
def test_positions_are_counted(shape: list[Any], onnx_root: Path, tmp_path: Path) -> None:
    """The ids go in through a detour that only the positions 0, 1, 2, ... leave as they are."""
    file = Path(shutil.copyfile(onnx_root / "vit-a-plain" / "textual.onnx", tmp_path / "textual.onnx"))
    helper, model = onnx.helper, onnx.load(file)
    (given,) = model.graph.input
    ids, positions = (
        helper.make_tensor_value_info(name, onnx.TensorProto.INT64, dims)
        for name, dims in (("input_ids", ["batch", "columns"]), ("position_ids", shape))
    )
    one = helper.make_tensor("one", onnx.TensorProto.INT64, [1], [1])
    before = [
        helper.make_node("Constant", [], ["one"], value=one),
        helper.make_node("Constant", [], ["axis"], value=helper.make_tensor("", onnx.TensorProto.INT64, [], [-1])),
        helper.make_node("Shape", ["input_ids"], ["size"]),
        helper.make_node("Expand", ["position_ids", "size"], ["where"]),
        helper.make_node("GatherElements", ["input_ids", "where"], [given.name], axis=1),
    ]
    wrapped(file, [ids, positions], [*model.graph.output], before=before)
    report = run(open_engine(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}/text")
    assert report.count("PASS") == 1, report.results


def test_inputs_of_the_other_tower_are_zeros(onnx_root: Path, tmp_path: Path) -> None:
    file = Path(shutil.copyfile(onnx_root / "vit-a-plain" / "visual.onnx", tmp_path / "model.onnx"))
    helper, model = onnx.helper, onnx.load(file)
    (given,), (found,) = model.graph.input, model.graph.output
    ids = helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "columns"])
    after = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["floats"], ["most"], keepdims=0),
        helper.make_node("Add", [found.name, "most"], ["image_embeds"]),
    ]
    output = helper.make_tensor_value_info("image_embeds", onnx.TensorProto.FLOAT, ["batch", "width"])
    wrapped(file, [given, ids], [output], after=after)
    report = run(open_engine(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}/image")
    assert report.count("PASS") == 1, report.results


def test_a_graph_in_float16_is_graded_by_its_values(onnx_root: Path, tmp_path: Path) -> None:
    file = Path(shutil.copyfile(onnx_root / "vit-a-plain" / "visual.onnx", tmp_path / "visual.onnx"))
    helper, kind, model = onnx.helper, onnx.TensorProto, onnx.load(file)
    (given,), (found,) = model.graph.input, model.graph.output
    pixels = helper.make_tensor_value_info("pixel_values", kind.FLOAT16, ["batch", 3, *given_side(given)])
    before = [helper.make_node("Cast", ["pixel_values"], [given.name], to=kind.FLOAT)]
    after = [helper.make_node("Cast", [found.name], ["image_embeds"], to=kind.FLOAT16)]
    output = helper.make_tensor_value_info("image_embeds", kind.FLOAT16, ["batch", "width"])
    wrapped(file, [pixels], [output], before, after)
    engine = open_engine(f"onnx:{tmp_path}@vit-a-plain")
    report = suite.run(engine, questions(f"towers/{TINY_VIT}/image"), precision="float16", diagnose=False)
    assert report.passed and report.grade == "float16", report.results


def given_side(given: Any) -> list[int]:
    """The height and width of the pixels that an ONNX graph takes."""
    return [dim.dim_value for dim in given.type.tensor_type.shape.dim[2:]]


def test_optimums_inputs_and_outputs_are_found_in_one_file(onnx_root: Path, tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    models = []
    for name, given, found in (("visual", "pixel_values", "image_embeds"), ("textual", "input_ids", "text_embeds")):
        model = onnx.compose.add_prefix(onnx.load(onnx_root / "vit-a-plain" / f"{name}.onnx"), f"{name} ")
        for value, other in ((model.graph.input[0], given), (model.graph.output[0], found)):
            for node in model.graph.node:
                for names in (node.input, node.output):
                    names[:] = [other if name == value.name else name for name in names]
            value.name = other
        models.append(model)
    visual, textual = models
    mask = helper.make_tensor_value_info("attention_mask", kind.INT64, ["batch", "columns"])
    logits = helper.make_tensor_value_info("logits_per_image", kind.FLOAT, ["images", "texts"])
    turned = helper.make_node("Transpose", ["text_embeds"], ["text_embeds_t"])
    product = helper.make_node("MatMul", ["image_embeds", "text_embeds_t"], ["logits_per_image"])
    graph = helper.make_graph(
        [*visual.graph.node, *textual.graph.node, turned, product],
        "both",
        [*textual.graph.input, *visual.graph.input, mask],
        [logits, *textual.graph.output, *visual.graph.output],
        [*visual.graph.initializer, *textual.graph.initializer],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=visual.opset_import, ir_version=visual.ir_version),
        tmp_path / "model.onnx",
    )
    assert run(open_engine(f"onnx:{tmp_path}@vit-a-plain"), f"towers/{TINY_VIT}").count("PASS") == 2


def test_a_graph_of_another_kind_says_what_it_has(tmp_path: Path) -> None:
    helper, kind = onnx.helper, onnx.TensorProto
    ends = [helper.make_tensor_value_info(name, kind.FLOAT, ["n", 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [ends[0]], [ends[1]])
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "model.onnx"
    )
    report = run(open_engine(f"onnx:{tmp_path / 'model.onnx'}@vit-a-plain"), f"towers/{TINY_VIT}/image")
    assert "0 could be it, expected one; the graph has x" in (report.results[0].problem or "")


def endless(inner: list[Any], name: str, dims: list[Any]) -> Any:
    """A graph that runs a loop without an end before it gives what it is given; `inner`: nodes of the body."""
    helper, kind = onnx.helper, onnx.TensorProto
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Identity", ["x"], ["y"]), *inner],
        "body",
        [
            helper.make_tensor_value_info("i", kind.INT64, []), helper.make_tensor_value_info("go", kind.BOOL, []),
            helper.make_tensor_value_info("x", kind.FLOAT, None),
        ],
        [helper.make_tensor_value_info("on", kind.BOOL, []), helper.make_tensor_value_info("y", kind.FLOAT, None)],
    )  # fmt: skip
    given = helper.make_tensor_value_info(name, kind.FLOAT, dims)
    found = helper.make_tensor_value_info("embeddings", kind.FLOAT, ["n", "e"])
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("", kind.BOOL, [], [True]))
    loop = helper.make_node("Loop", ["", "yes", name], ["looped"], body=body)
    flat = helper.make_node("Flatten", ["looped"], ["embeddings"])
    graph = helper.make_graph([yes, loop, flat], "endless", [given], [found])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def test_a_graph_without_an_end_is_stopped(tmp_path: Path) -> None:
    onnx.save(endless([], "pixels", ["n", 3, 30, 30]), tmp_path / "visual.onnx")
    started = time.monotonic()
    report = run(open_engine(f"onnx:{tmp_path}@vit-a-plain", 0.7), f"towers/{TINY_VIT}/image")
    assert [r.problem for r in report.results] == ["hung: stopped after 0.7 s"]
    assert time.monotonic() - started < 10


@pytest.mark.oracle
@pytest.mark.parametrize("batch", ["dynamic", "fixed"])
@pytest.mark.parametrize("name", ["vit-b trained", "rn-a plain"])
def test_what_torch_exports_of_openais_code_is_clip(name: str, batch: str, tmp_path: Path) -> None:
    import torch

    from clipref.weights import Checkpoint

    from .oracles import OpenAI

    asked = questions(f"towers/{name}")
    case = asked[0].make(tmp_path)
    assert case.checkpoint is not None
    oracle = OpenAI(Checkpoint(case.checkpoint), torch.float32)
    folder = tmp_path / "exported" / case.checkpoint.name
    folder.mkdir(parents=True)
    config = oracle.config
    side = config.vision.resolution
    examples = {
        "visual": ("encode_image", torch.zeros(1 if batch == "fixed" else 2, 3, side, side)),
        "textual": (
            "encode_text",
            torch.ones(1 if batch == "fixed" else 2, config.text.context_length, dtype=torch.int64),
        ),
    }
    for file, (method, example) in examples.items():
        module = torch.nn.Module()
        module.inner, module.forward = oracle.model, getattr(oracle.model, method)
        axes = {} if batch == "fixed" else {"input": {0: "batch"}, "output": {0: "batch"}}
        with torch.inference_mode(), pytest.warns():  # tracing warns of every shape that it takes for a constant
            torch.onnx.export(
                module, (example,), str(folder / f"{file}.onnx"), opset_version=18, dynamo=False,
                input_names=["input"], output_names=["output"], dynamic_axes=axes,
            )  # fmt: skip
    report = run(open_engine(f"onnx:{tmp_path / 'exported'}"), f"towers/{name}")
    assert report.count("PASS") == 2 and report.grade == "float32"


# --- servers ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def served(reply: Any) -> Iterator[str]:
    """A server on this machine; `reply(route, request)` gives a status and a body. Yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, body = reply(self.path, request)
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


SERVED = Path(tempfile.gettempdir()) / f"clipref-served-{os.getpid()}"


@pytest.fixture(scope="module")
def words_model() -> Iterator[Path]:
    """The model that texts are asked of, where the server finds it by its name."""
    question = questions("pipeline/vit-words-plain/texts")[0]
    SERVED.mkdir()
    folder = question.make(SERVED).checkpoint
    assert folder is not None
    yield folder
    shutil.rmtree(SERVED)


def clip_server(path: str, request: dict[str, Any]) -> tuple[int, Any]:
    """roboflow's three routes around clipref's models; no more than eight texts in a request, as there."""
    import base64

    name = request["clip_version_id"]
    model = AutoModel.from_pretrained(SERVED / name if (SERVED / name).is_dir() else f"clipref/{name}")
    if path == "/clip/embed_image":
        assert request["image"]["type"] == "base64"
        return 200, {"embeddings": model.embed_image(base64.b64decode(request["image"]["value"])).tolist()}
    if path == "/clip/embed_text":
        assert len(request["text"]) <= 8
        return 200, {"embeddings": model.embed_text(request["text"]).tolist(), "time": 0.1}
    if path == "/clip/compare":
        subject = base64.b64decode(request["subject"]["value"])
        kinds = request["subject_type"], request["prompt_type"]
        return 200, {"similarity": model.compare(subject, request["prompt"], *kinds)}
    return 404, {"message": "no such route"}


def test_a_server_is_right_from_files_to_cosines(words_model: Path) -> None:
    with served(clip_server) as address:
        report = run(open_engine(address), "pipeline/", f"towers/{TINY_VIT}/image")
    assert report.count("PASS") == 8 and report.count("SKIP") == 1
    assert report.passed and report.grade == "float32"


@pytest.mark.parametrize(
    ("reply", "problem", "says"),
    [
        ((404, {"message": "no such model"}), Unsupported, "HTTP 404 from /clip/embed_text: .*no such model"),
        ((500, b"out of memory"), Crashed, "HTTP 500 from /clip/embed_text: out of memory"),
        ((200, b"<html>"), Garbage, "did not reply with numbers under 'embeddings'"),
        ((200, {"embedding": [[1.0]]}), Garbage, "did not reply with numbers under 'embeddings'"),
        ((200, {"embeddings": [[1.0], [1.0, 2.0]]}), Garbage, "did not reply with numbers"),
        ((200, {"embeddings": [1.0, 2.0]}), Garbage, r"shape \[2\].*expected 2 axes"),
        ((200, {"embeddings": [["a"]]}), Garbage, "did not reply with numbers"),
        ((200, {"embeddings": [["1.5", 2.0]]}), Garbage, "a str is not a number"),
        ((200, {"embeddings": [[True, 2.0]]}), Garbage, "a bool is not a number"),
        ((200, {"embeddings": [[None, 2.0]]}), Garbage, "a NoneType is not a number"),
        ((200, b'{"embeddings": [[1' + b"0" * 400 + b"]]}"), Garbage, "did not reply with numbers"),
        ((200, b" " * (2**24 + 1)), Garbage, "replied with more than 16777216 bytes"),
    ],
)
def test_a_server_that_fails_has_its_verdict(reply: Any, problem: type[Exception], says: str, tmp_path: Path) -> None:
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    with served(lambda path, request: reply) as address, pytest.raises(problem, match=says):
        open_engine(address).answer(case)


def test_a_server_that_does_not_reply_is_left(tmp_path: Path) -> None:
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    done = threading.Event()

    def reply(path: str, request: Any) -> tuple[int, Any]:
        done.wait(10)
        return 200, {}

    with served(reply) as address, pytest.raises(Hung, match="no reply from /clip/embed_text in 0.3 s"):
        try:
            open_engine(address, time_limit=0.3).answer(case)
        finally:
            done.set()


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200 OK\\r\\nContent-Length: 999\\r\\n\\r\\n"])
def test_a_server_that_drips_is_left(begun: bytes, tmp_path: Path) -> None:
    """Byte by byte, in the head or in the body, each within the time limit."""
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    done = threading.Event()

    class Dripping(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(begun)
            with contextlib.suppress(OSError):
                while not done.wait(0.05):
                    self.request.sendall(b"H")

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Dripping) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            # The test ends also where nothing stops the server.
            stop = threading.Timer(3, done.set)
            stop.start()
            started = time.monotonic()
            with pytest.raises(Hung, match="no reply from /clip/embed_text in 0.3 s"):
                open_engine(f"http://127.0.0.1:{server.server_address[1]}", time_limit=0.3).answer(case)
            assert time.monotonic() - started < 2
        finally:
            done.set()
            stop.cancel()
            server.shutdown()
            thread.join()


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    with served(clip_server) as address:
        pass
    with pytest.raises(Crashed, match="can't be reached"):
        open_engine(address).answer(case)


def test_many_texts_go_in_several_requests(tmp_path: Path, words_model: Path) -> None:
    case = questions("pipeline/vit-words-plain/texts")[0].make(tmp_path)
    texts = [f"{i} red circles" for i in range(19)]
    many = dataclasses.replace(case, inputs={"texts": np.frombuffer(json.dumps(texts).encode(), np.uint8)})
    with served(clip_server) as address:
        found = open_engine(address).answer(many)["embeddings"]
    expected = AutoModel.from_pretrained(words_model).embed_text(texts)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


# --- under torch ------------------------------------------------------------------------------------------------------

_TOWERS = ("describe/vit-a", "towers/vit-a", "taps/vit-a", "towers/rn-b", "taps/rn-b")


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["openai", "transformers"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_originals_are_graded_as_what_they_are(kind: str, dtype: str) -> None:
    engine = open_engine(f"{kind}:{dtype}")
    report = suite.run(engine, questions(*_TOWERS), precision=dtype, diagnose=False)
    assert report.passed, [r for r in report.results if r.verdict == "FAIL"]
    resnets = {r.verdict for r in report.results if "/rn-" in r.case}
    assert resnets == {"SKIP" if kind == "transformers" else "PASS"}
    assert report.grade == dtype


@pytest.mark.oracle
def test_openais_tokenizer_and_transformers_processor() -> None:
    report = run(open_engine("openai:float32"), "tokenize/", "preprocess/LA")
    assert report.count("PASS") == len(questions("tokenize/"))
    assert report.count("SKIP") == len(questions("preprocess/LA"))
    profile = transformers_profile(importlib.metadata.version("transformers"))
    chosen = [q for q in levels.questions(["preprocess"], profile=profile) if "RGB " in q.id]
    report = suite.run(open_engine("transformers:float32"), chosen, profile=profile, diagnose=False)
    assert report.passed and report.count("PASS") == len(chosen)


@pytest.mark.oracle
@pytest.mark.parametrize("spec", ["openai:float8", "transformers:fp16"])
def test_an_unknown_precision_is_refused(spec: str) -> None:
    with pytest.raises(InputError, match="expected one of float32, float64, float16, bfloat16"):
        open_engine(spec)
