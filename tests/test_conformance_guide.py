"""The guide is run: each of its commands, with the example as the program, and with a fault where it shows one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clipref.conformance import questions as levels

ROOM = Path(levels.__file__).parent.parent
GUIDE = (ROOM / "GUIDE.md").read_text(encoding="utf-8")
EXAMPLE = (ROOM / "examples" / "engine.py").read_text(encoding="utf-8")
RIGHT = "return x / (1 + np.exp(-1.702 * x))"


def commands() -> list[str]:
    return "".join(re.findall(r"```bash\n(.*?)```", GUIDE, flags=re.DOTALL)).splitlines()


def run(command: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    return subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)


def my_clip(folder: Path, code: str) -> None:
    (folder / "engine.py").write_text(code, encoding="utf-8")
    program = folder / "my_clip"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{folder / "engine.py"}" "$@"\n')
    program.chmod(0o755)


# Those that take longer are as the others are.
SLOW = ("--html", "--junit", "pytest", "!")


@pytest.mark.slow_cases("conformance run", "gelu-exact")
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(c, marks=pytest.mark.slow if any(part in c for part in SLOW) else ())
        for c in commands()
        if " questions" not in c
    ],
)
def test_each_command_does_what_the_guide_says(command: str, tmp_path: Path) -> None:
    my_clip(tmp_path, EXAMPLE)
    (tmp_path / "expected.txt").write_text("# nothing\n")
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    if "--html" in command:
        assert "exec:./my_clip" in (tmp_path / "report.html").read_text(encoding="utf-8")
    if command.startswith("clipref conformance run"):
        right = r"every answer is within [\d.]+ units of float32; "
        last = rf"exec:\./my_clip: CLIP, float32-conformant: {right}\d+ of \d+ questions answered\.\n"
        assert re.search(last, GUIDE)
        if "towers" not in command and "full" not in command:
            embedded = "no images or texts were embedded, as CLIP does"
            last = rf"exec:\./my_clip: float32-conformant in describe, similarity: {right}{embedded}; .*\n"
        assert re.search(f"{last}$", done.stdout), done.stdout


@pytest.mark.slow
def test_the_fault_is_found_as_the_guide_shows(tmp_path: Path) -> None:
    assert RIGHT in EXAMPLE
    my_clip(tmp_path, EXAMPLE.replace(RIGHT, 'kind = "gelu"'))
    done = run(commands()[0], tmp_path)
    assert done.returncode == 1
    shown = re.search(r"## 3\. Read the verdict\n\n```\n(.*?)```", GUIDE, flags=re.DOTALL)
    assert shown is not None
    for line in shown[1].splitlines():
        assert line in done.stdout


@pytest.mark.slow
def test_files_are_answered_and_checked(tmp_path: Path) -> None:
    my_clip(tmp_path, EXAMPLE)
    asked = [command for command in commands() if " questions" in command]
    assert len(asked) == 3
    for command in asked:
        done = run(command, tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert "float32-conformant" in done.stdout


def test_links_lead_somewhere_and_levels_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", GUIDE)
    assert links and all(link.startswith("https://") or (ROOM / link).exists() for link in links)
    named = re.findall(r"--levels ((?:[a-z]+ ?)+)", GUIDE)
    assert named and all(level in levels.LEVELS for names in named for level in names.split())
