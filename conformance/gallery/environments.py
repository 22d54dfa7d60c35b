"""Virtual environments of pinned packages, one at a time, each removed when its outsiders were asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from clipref.files import scratch_folder

from .table import Environment

# torchvision's operators don't load beside a build of torch for CPUs only, and without them it can't be imported. The
# processors call none of them: their names are enough. Python imports a module of this name when it starts.
_OPERATORS = '''\
"""The names of torchvision's operators, of which this torch has no build."""

import torch

library = torch.library.Library("torchvision", "DEF")
for name in ("nms", "qnms"):
    library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
'''
_NAMES = "sitecustomize.py"
_COMPLETE = "complete"  # a file that is in an environment when everything is installed


class NotInstalled(Exception):
    """Packages that can't be installed, and what pip said."""


@dataclass(frozen=True)
class Installed:
    """An environment that is there: its interpreter, and the versions of its packages."""

    python: Path
    packages: dict[str, str]
    megabytes: int

    @property
    def site_packages(self) -> Path:
        """Where its packages are."""
        return next(self.python.parent.parent.glob("lib/python3*/site-packages"))

    @property
    def version(self) -> str:
        """Python's, "3.11.7"."""
        lines = (self.python.parent.parent / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
        return next(line.partition("=")[2].strip() for line in lines if line.startswith("version"))

    @property
    def operators_named(self) -> bool:
        """Whether torchvision's operators are only names."""
        return (self.site_packages / _NAMES).exists()


@contextmanager
def install(environment: Environment, keep: Path | None = None) -> Iterator[Installed]:
    """Make an environment, and remove it at the end. Raises NotInstalled.

    `keep`: a folder of environments that stay; one that is there already is taken as it is, and completed first if its
    making was broken off.
    """
    with scratch_folder() as scratch:
        folder = scratch if keep is None else keep / environment.name
        python = folder / "bin" / "python"
        if not (folder / _COMPLETE).exists():
            interpreter = shutil.which(environment.python)
            if interpreter is None:
                raise NotInstalled(f"needs {environment.python}, which isn't on the PATH")
            if not python.exists():
                _run(interpreter, "-m", "venv", "--without-pip", str(folder))
            for words in environment.requirements:
                _run(*_pip(python), "install", "--quiet", "--no-compile", "--only-binary", ":all:", *words)
            _name_operators(python, folder)
            (folder / _COMPLETE).touch()
        listed = json.loads(_run(*_pip(python), "list", "--format", "json"))
        packages = {entry["name"]: entry["version"] for entry in listed}
        size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
        yield Installed(python, packages, round(size / 1e6))


def _name_operators(python: Path, folder: Path) -> None:
    site = next(folder.glob("lib/python3*/site-packages"))
    command = [str(python), "-c", "import torchvision"]
    if (site / "torchvision").is_dir() and subprocess.run(command, capture_output=True).returncode:
        (site / _NAMES).write_text(_OPERATORS, encoding="ascii")
        _run(*command)


def _pip(python: Path) -> tuple[str, ...]:
    """This environment's pip, working on another."""
    return sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)


def _run(*command: str) -> str:
    """The output of a command. Raises NotInstalled with the last of what it says where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, env=_environment())
    if done.returncode:
        lines: Sequence[str] = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotInstalled(next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "failed"))
    return done.stdout


def _environment() -> dict[str, str]:
    """Without what would lead the interpreter to packages that aren't in its own environment."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
