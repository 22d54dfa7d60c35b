"""Runs that are killed: no result is torn, and the next run of the same command removes what they left."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from clipref import cli, files
from clipref.files import scratch_folder

from .killed_runs import RUNS

ROOT = Path(__file__).parent.parent
# These write nothing of their own, but for `download`, whose folders are made by `convert`, and `serve`.
WRITES_NOTHING = {"classify", "compare", "diff", "inspect", "kernels", "models", "tokenize", "download", "serve"}


@pytest.mark.slow  # tests/test_files.py has what they all write through
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_killed_run_tears_nothing_and_the_next_one_cleans(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.killed_runs", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [run["name"] for run in told] == list(RUNS)
    for run in told:
        assert run["steps"] >= 2 and run["most"] >= 1, run
        assert (run["wrong"], run["code"], run["left"]) == ([], 0, []), (run, done.stderr)


def test_every_command_that_writes_is_killed() -> None:
    killed = {line.split()[0] for line in RUNS.values()}
    assert killed | WRITES_NOTHING == {entry.name for entry in entry_points(group=cli.GROUP)}


def test_a_folder_for_what_nobody_keeps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    abandoned = tmp_path / f".of a killed run{files.SCRATCH_SUFFIX}"
    (abandoned / "checkpoint").mkdir(parents=True)
    with scratch_folder() as folder, scratch_folder() as other:
        (folder / "file").touch()
        assert folder.parent == other.parent == tmp_path and folder.stat().st_mode & 0o777 == 0o700
        assert not abandoned.exists()
    assert not list(tmp_path.iterdir())


def test_nothing_else_makes_folders_that_a_killed_run_would_leave() -> None:
    """But for programs that stand by themselves, to be copied."""
    copied = ("conformance/examples/", "conformance/gallery/adapters/")
    rooms = ("clipref", "kernels", "weights_tools", "conformance")
    sources = [path for room in rooms for path in (ROOT / room).rglob("*.py")]
    using = {path.relative_to(ROOT).as_posix() for path in sources if "tempfile" in path.read_text(encoding="utf-8")}
    assert {name for name in using if not name.startswith(copied)} == {"clipref/files.py"}
