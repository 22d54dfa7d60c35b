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


def changed(folder: Path, file: str, right: str, wrong: str) -> Path:
    """The sources, with one place of one of them changed."""
    sources = shutil.copytree(SOURCES, folder, ignore=shutil.ignore_patterns("*.so", "*.py"))
    text = (sources / file).read_text(encoding="utf-8")
    assert text.count(right) == 1
    (sources / file).write_text(text.replace(right, wrong), encoding="utf-8")
    return sources


def sanitized() -> dict[str, str]:
    """What a process that loads a library with sanitizers has in its environment."""
    assert COMPILER is not None
    runtime = subprocess.run([COMPILER, "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    return {
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "PYTHONMALLOC": "malloc",  # so that arrays have their own pieces of memory, with guards around
    }


def fuzz(path: Path, **more: str) -> "subprocess.CompletedProcess[str]":
    """The fuzzed tests with another build of the library."""
    environment = {**os.environ, **more}
    command = [sys.executable, "-m", "tests.fuzz_native", str(path)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)


@needs_library
@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no gcc here")
def test_memory_and_arithmetic_are_clean(tmp_path: Path) -> None:
    found = fuzz(build(tmp_path / "checked.so", *SANITIZERS), **sanitized())
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
    sources = changed(tmp_path / "native", file, right, wrong)
    found = fuzz(build(tmp_path / "wrong.so", *SANITIZERS, sources=sources), **sanitized())
    assert found.returncode != 0 and "AddressSanitizer" in found.stdout + found.stderr


@needs_library
@pytest.mark.slow
@pytest.mark.skipif(COMPILER is None, reason="no gcc here")
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("bfloat16.h", "0x7fffu + even", "0"),  # cuts off instead of rounding
        ("bfloat16.h", "0x7fffu + even", "0x8000u"),  # rounds what is halfway up
        ("bfloat16.h", "(vec)(w << 16)", "(vec)(w)"),  # takes a word for its lower half
        ("bfloat16.h", "(2 * words - i) * sizeof *half", "0"),  # leaves what was there behind a row
        ("product.h", "residual + row * residual_stride : NULL", "residual : NULL"),  # adds the first rows to all
    ],
)
def test_what_is_wrong_is_caught(file: str, right: str, wrong: str, tmp_path: Path) -> None:
    found = fuzz(build(tmp_path / "wrong.so", "-O2", sources=changed(tmp_path / "native", file, right, wrong)))
    assert found.returncode != 0 and "AssertionError" in found.stderr
