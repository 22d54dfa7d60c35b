"""The native library built otherwise: by a compiler's sanitizers, and where there is no compiler."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .native import needs_library

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "kernels" / "native"
COMPILER = shutil.which("gcc")
FLAGS = ["-std=gnu11", "-O1", "-g", "-fvisibility=hidden", "-fPIC", "-shared"]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(out: Path, *flags: str, sources: Path = SOURCES) -> Path:
    """The library, compiled with more flags."""
    assert COMPILER is not None
    files = sorted(map(str, sources.glob("*.c")))
    subprocess.run([COMPILER, *FLAGS, *flags, *files, "-o", str(out), "-lm"], check=True)
    return out


def fuzz(path: Path) -> "subprocess.CompletedProcess[str]":
    """The tests of test_native_fuzz.py with another build of the library."""
    assert COMPILER is not None
    runtime = subprocess.run([COMPILER, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    environment = {
        **os.environ,
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONMALLOC": "malloc",  # so that arrays have their own pieces of memory, with guards around
    }
    command = [sys.executable, "-m", "tests.test_native_fuzz", str(path)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)


@needs_library
@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no gcc here")
def test_memory_and_arithmetic_are_clean(tmp_path: Path) -> None:
    found = fuzz(build(tmp_path / "checked.so", *SANITIZERS))
    assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-4000:]


@needs_library
@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no gcc here")
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("vectors.h", "if (n >= LANES) return load(p);", "return load(p);"),  # reads beyond a row's end
        ("vectors.h", "if (n >= LANES) store(p, v);", "if (n >= 1) store(p, v);"),  # writes beyond it
        ("attention.h", "QUERIES * keys) * sizeof(float)", "QUERIES * keys) * 2"),  # has room for half of it
        ("convolution.h", "down >= x->height", "down > x->height"),  # reads a row more than there is
    ],
)
def test_what_is_not_clean_is_caught(file: str, right: str, wrong: str, tmp_path: Path) -> None:
    sources = shutil.copytree(SOURCES, tmp_path / "native", ignore=shutil.ignore_patterns("*.so", "*.py"))
    text = (sources / file).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (sources / file).write_text(text.replace(right, wrong), encoding="utf-8")
    found = fuzz(build(tmp_path / "wrong.so", *SANITIZERS, sources=sources))
    assert found.returncode != 0 and "AddressSanitizer" in found.stdout + found.stderr
