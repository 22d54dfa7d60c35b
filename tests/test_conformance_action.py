"""The shell parts of the action for continuous integration, run as its steps say; never on GitHub."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from .test_conformance_guide import EXAMPLE, RIGHT, my_clip

yaml = pytest.importorskip("yaml")  # which huggingface_hub brings along

ROOT = Path(__file__).parent.parent
ACTION = ROOT / "conformance" / "action"
README = (ACTION / "README.md").read_text(encoding="utf-8")


def action() -> Any:
    return yaml.safe_load((ACTION / "action.yml").read_text(encoding="utf-8"))


class Runner:
    """What a runner does with steps of an action: expressions, environment and the files that steps write to."""

    def __init__(self, folder: Path, path: Path = ACTION, /, **inputs: str) -> None:
        self.path = path
        self.workspace, self.temp = folder / "workspace", folder / "temp"
        for path in (self.workspace, self.temp):
            path.mkdir()
        known = {name: str(given.get("default", "")) for name, given in action()["inputs"].items()}
        assert inputs.keys() <= known.keys()
        self.inputs = known | inputs
        self.outputs: dict[str, dict[str, str]] = {}
        self.summary = folder / "summary.md"

    def step(self, id: str) -> "subprocess.CompletedProcess[str]":
        """Run a step, as `shell: bash` says: https://docs.github.com/en/actions (jobs.<job_id>.steps[*].shell)."""
        (step,) = (step for step in action()["runs"]["steps"] if step["id"] == id)
        assert step["shell"] == "bash" and step.keys() <= {"name", "id", "shell", "run", "env"}
        script, output = self.temp / f"{id}.sh", self.temp / f"{id}.output"
        script.write_text(self.expand(step["run"]), encoding="utf-8")
        output.touch()
        environment = {
            **os.environ, **{name: self.expand(value) for name, value in step["env"].items()},
            "GITHUB_OUTPUT": str(output), "GITHUB_STEP_SUMMARY": str(self.summary), "RUNNER_TEMP": str(self.temp),
        }  # fmt: skip
        command = ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)]
        done = subprocess.run(command, cwd=self.workspace, env=environment, capture_output=True, text=True)
        written = (line.partition("=") for line in output.read_text(encoding="utf-8").splitlines())
        self.outputs[id] = {name: value for name, _, value in written}
        return done

    def expand(self, text: str) -> str:
        """The text with its expressions' values."""

        def value(match: "re.Match[str]") -> str:
            kind, *names = match[1].split(".")
            if kind == "inputs":
                return self.inputs[names[0]]
            if kind == "github":
                assert names == ["action_path"]
                return str(self.path)
            assert kind == "steps" and names[1] == "outputs"
            return self.outputs[names[0]][names[2]]

        return re.sub(r"\$\{\{ ([\w.-]+) \}\}", value, text)


def checkout(folder: Path) -> Path:
    """A copy of the sources, so that a build leaves nothing in them."""
    left_out = shutil.ignore_patterns(".git", "build", "*.egg-info", "*.so", "__pycache__", ".*_cache")
    return Path(shutil.copytree(ROOT, folder, ignore=left_out))


def installed(folder: Path, **inputs: str) -> Runner:
    """A runner behind the first step: clipref as it is installed here."""
    runner = Runner(folder, **inputs)
    runner.outputs["install"] = {"command": str(Path(sys.executable).parent / "clipref")}
    return runner


def test_the_file_is_what_github_reads() -> None:
    """By https://docs.github.com/en/actions/reference/workflows-and-actions/metadata-syntax."""
    read = action()
    assert read.keys() == {"name", "description", "inputs", "outputs", "runs"} and read["runs"]["using"] == "composite"
    assert all(given.keys() <= {"description", "required", "default"} for given in read["inputs"].values())
    assert all(isinstance(given.get("default", ""), str) for given in read["inputs"].values())
    steps = read["runs"]["steps"]
    # What somebody wrote into a workflow is never part of a script, only of its environment.
    assert not any("${{" in step["run"] for step in steps)
    used = {name for step in steps for value in step["env"].values() for name in re.findall(r"inputs\.([\w-]+)", value)}
    assert used == set(read["inputs"])
    for step in steps:
        script = (ACTION / f"{step['id']}.sh").read_text(encoding="utf-8")
        names = set(re.findall(r"\$\{?(CLIPREF_\w+)", script))
        assert names == set(step["env"]) - ({"CLIPREF_ACTION"} if step["id"] == "run" else set())
    assert "never run on GitHub" in README or "was never run on GitHub" in (ACTION / "action.yml").read_text()
    documented = set(re.findall(r"^\| `([\w-]+)` \|", README, flags=re.MULTILINE))
    assert documented == {*read["inputs"], *read["outputs"]}


@pytest.mark.slow
def test_the_engine_is_asked_and_files_are_left(tmp_path: Path) -> None:
    runner = installed(tmp_path, engine="exec:./my_clip", levels="similarity operations")
    my_clip(runner.workspace, EXAMPLE)
    done = runner.step("run")
    assert done.returncode == 0, done.stdout + done.stderr
    out = runner.workspace / "clip-conformance"
    message = json.loads((out / "badge.json").read_text(encoding="utf-8"))["message"]
    assert runner.outputs["run"] == {"passed": "true", "badge": message} and "similarity (float32) 5/5" in message
    assert ElementTree.parse(out / "badge.svg").getroot().get("role") == "img"
    assert ElementTree.parse(out / "junit.xml").getroot().find("testsuite") is not None
    said = runner.summary.read_text(encoding="utf-8")
    assert said.startswith(f"### CLIP conformance: {message}\n") and "    exec:./my_clip: float32-conformant in" in said
    shown = done.stdout.splitlines()
    stop = shown[0].removeprefix("::stop-commands::")
    assert len(stop) == 32 and shown[-1] == f"::{stop}::" and (out / "report.txt").read_text().strip() in done.stdout
    again = runner.step("run")
    assert again.returncode == 2 and "there already; name a new folder" in again.stdout


@pytest.mark.slow
def test_what_is_wrong_fails_and_what_is_expected_does_not(tmp_path: Path) -> None:
    asked = {"engine": "exec:./my_clip", "levels": "towers", "minute": "true"}
    (tmp_path / "a").mkdir()
    runner = installed(tmp_path / "a", **asked)
    my_clip(runner.workspace, EXAMPLE.replace(RIGHT, 'kind = "gelu"'))
    done = runner.step("run")
    assert done.returncode == 1 and runner.outputs["run"]["passed"] == "false"
    assert "the exact GELU instead of QuickGELU" in runner.summary.read_text(encoding="utf-8")
    failed = re.findall(
        r"name=\"(towers/[^\"]+)\"[^>]*><failure", (runner.workspace / "clip-conformance/junit.xml").read_text()
    )
    assert failed and "fail" in runner.outputs["run"]["badge"]
    (tmp_path / "b").mkdir()
    known = installed(tmp_path / "b", **asked, **{"expected-failures": "expected.txt"})
    my_clip(known.workspace, EXAMPLE.replace(RIGHT, 'kind = "gelu"'))
    (known.workspace / "expected.txt").write_text("".join(f"{case}  # GELU\n" for case in failed))
    assert known.step("run").returncode == 0, known.summary.read_text()
    assert f"{len(failed)} fail as expected" in known.outputs["run"]["badge"]


@pytest.mark.slow
def test_it_is_installed_from_its_own_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the engine's packages are seen: here pytest, of the environment that the tests run in."""
    asked = {"engine": "mine:Mine", "python": sys.executable, "minute": "true", "levels": "similarity"}
    runner = Runner(tmp_path, checkout(tmp_path / "checkout") / "conformance" / "action", **asked)
    monkeypatch.setenv("CC", str(tmp_path / "no-compiler"))  # without the native library it is there sooner
    (runner.workspace / "mine.py").write_text(ENGINE)
    done = runner.step("install")
    assert done.returncode == 0, done.stdout + done.stderr
    done = runner.step("run")
    assert done.returncode == 0 and runner.outputs["run"]["passed"] == "true", done.stdout + done.stderr
    python = Path(runner.outputs["install"]["command"]).parent / "python"
    code = "import clipref.conformance; print(clipref.conformance.__file__)"
    found = subprocess.run([python, "-c", code], check=True, capture_output=True, text=True, cwd=runner.workspace)
    assert Path(found.stdout.strip()).is_relative_to(runner.temp)  # not where the engine's packages are


ENGINE = """
import pytest
from clipref.conformance.engines.python import Reference

class Mine(Reference):
    def __init__(self, folder): ...
"""


@pytest.mark.parametrize(
    ("id", "inputs", "told"),
    [
        ("install", {"minute": "yes"}, "minute is 'yes'; expected true or false"),
        ("install", {"python": "no-such-python"}, "no-such-python is no Python of 3.10 or later"),
        ("run", {"engine": ""}, "engine is empty"),
    ],
)
def test_wrong_inputs_are_told(id: str, inputs: dict[str, str], told: str, tmp_path: Path) -> None:
    done = installed(tmp_path, **{"engine": "exec:./my_clip", **inputs}).step(id)
    assert done.returncode == 2 and done.stdout.startswith("::error::") and told in done.stdout
