"""Virtual environments of pinned packages, one at a time, each removed when its outsiders were asked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
_PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


class NotInstalled(Exception):
    """Packages that can't be installed, and what pip said."""


@dataclass(frozen=True)
class Installed:
    """An environment that is there: its interpreter, its packages, and whether torchvision has only names."""

    python: Path
    packages: dict[str, str]
    megabytes: int
    operators_named: bool

    @property
    def site_packages(self) -> Path:
        return next(self.python.parent.parent.glob("lib/python3*/site-packages"))


@contextmanager
def installed(environment: Environment) -> Iterator[Installed]:
    """Make an environment, and remove it at the end. Raises NotInstalled."""
    with tempfile.TemporaryDirectory(prefix=f"gallery-{environment.name}-") as folder:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        python = Path(folder, "bin", "python")
        for words in environment.requirements:
            _run(python, *_PIP, "install", "--only-binary", ":all:", *words)
        named = _name_operators(python, folder)
        listed = json.loads(_run(python, *_PIP, "list", "--format", "json"))
        packages = {entry["name"]: entry["version"] for entry in listed}
        size = sum(path.lstat().st_size for path in Path(folder).rglob("*") if path.is_file())
        yield Installed(python, packages, round(size / 1e6), named)


def _name_operators(python: Path, folder: str) -> bool:
    site = next(Path(folder).glob("lib/python3*/site-packages"))
    if not (site / "torchvision").is_dir() or not subprocess.run([python, "-c", "import torchvision"]).returncode:
        return False
    (site / "sitecustomize.py").write_text(_OPERATORS, encoding="ascii")
    _run(python, "-c", "import torchvision")
    return True


def _run(python: Path, *words: str) -> str:
    """What a command prints. Raises NotInstalled with the last of what it says where it fails."""
    done = subprocess.run([python, *words], capture_output=True, text=True, env=_environment())
    if done.returncode:
        lines: Sequence[str] = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotInstalled(next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else "failed"))
    return done.stdout


def _environment() -> dict[str, str]:
    """Without what would lead the interpreter to packages that aren't in its own environment."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
