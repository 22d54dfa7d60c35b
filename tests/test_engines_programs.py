"""Engines that are programs: the examples, and programs that fail, hang, or leave something behind."""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.engines import open_engine
from clipref.conformance.engines.failures import Crashed, Garbage, Hung
from clipref.conformance.protocol import Case, EngineUnderTest, Unsupported

from .engine_questions import EXAMPLE, TINY_VIT, program, python_engine, questions, run, verdicts


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


@pytest.mark.fast_cases("shape mismatch", "SIGABRT", "loading", "[pass-", "mkfifo")
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


@pytest.mark.slow
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


@pytest.mark.slow_cases("sleep")
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


@pytest.mark.fast_cases("nan", "float64")
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
