"""The native library built otherwise: by a compiler's sanitizers, and where there is no compiler."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .native import PROCESSORS, needs_library

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "kernels" / "native"
COMPILER = shutil.which("gcc")
FLAGS = ["-std=gnu11", "-O1", "-fvisibility=hidden", "-fPIC"]
# Where no processor has them, instructions of AMX are functions in C.
AMX_IN_C = ["-include", str(Path(__file__).with_name("amx_in_c.h"))]
SANITIZERS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]


def build(out: Path, *flags: str, sources: Path = SOURCES, processors: tuple[str, ...] = ()) -> Path:
    """The library, or its kernels for some processors alone, compiled with more flags, files side by side."""
    assert COMPILER is not None
    names = (*processors, "processor", "helping") if processors else sorted(path.stem for path in sources.glob("*.c"))
    objects = [out.with_name(f"{out.stem}-{name}.o") for name in names]

    def compiled(name: str, to: Path) -> None:
        subprocess.run([str(COMPILER), *FLAGS, *flags, "-c", str(sources / f"{name}.c"), "-o", str(to)], check=True)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compiled, names, objects))
    linked = [flag for flag in flags if flag.startswith("-fsanitize")]
    subprocess.run([COMPILER, "-shared", *linked, *map(str, objects), "-o", str(out), "-lm"], check=True)
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


def fuzz(path: Path, *processor: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """The fuzzed tests with another build of the library, or those of one processor's kernels alone."""
    environment = {**os.environ, **more}
    command = [sys.executable, "-m", "tests.fuzz_native", str(path), *processor]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1200)


on_gcc = pytest.mark.skipif(COMPILER is None, reason="no gcc here")


@needs_library
@pytest.mark.slow
@on_gcc
def test_memory_and_arithmetic_are_clean(tmp_path: Path) -> None:
    path = build(tmp_path / "checked.so", "-g", *SANITIZERS, *AMX_IN_C)
    for processor in ((), ("amx",)):
        found = fuzz(path, *processor, **sanitized())
        assert found.returncode == 0, found.stdout[-4000:] + found.stderr[-4000:]


@needs_library
@pytest.mark.slow
@on_gcc
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("vectors.h", "if (n >= LANES) return load(p);", "return load(p);"),  # reads beyond a row's end
        ("vectors.h", "if (n >= LANES) store(p, v);", "if (n >= 1) store(p, v);"),  # writes beyond it
        ("attention.h", "size * sizeof(float)", "size * 2"),  # has room for half of it
        ("windows.h", "down >= x->height", "down > x->height"),  # reads a row more than there is
        ("product.h", "room * (words * sizeof(word)", "room * (words * 3"),  # has room for three quarters of it
    ],
)
def test_what_is_not_clean_is_caught(file: str, right: str, wrong: str, tmp_path: Path) -> None:
    sources = changed(tmp_path / "native", file, right, wrong)
    widest = PROCESSORS[0]  # whose vectors reach beyond the end of a row, not into the next one
    path = build(tmp_path / "wrong.so", *SANITIZERS, sources=sources, processors=(widest,))
    found = fuzz(path, widest, **sanitized())
    assert found.returncode != 0 and "AddressSanitizer" in found.stdout + found.stderr


@needs_library
@pytest.mark.slow
@on_gcc
@pytest.mark.parametrize(
    ("file", "right", "wrong"),
    [
        ("bfloat16.h", "0x7fffu + even", "0"),  # cuts off instead of rounding
        ("bfloat16.h", "0x7fffu + even", "0x8000u"),  # rounds what is halfway up
        ("bfloat16.h", "(vec)(w << 16)", "(vec)(w)"),  # takes a word for its lower half
        ("bfloat16.h", "(2 * words - i) * sizeof *half", "0"),  # leaves what was there behind a row
        ("int8.h", "(uint32_t)scale->zero * load_bits(head + PANEL)", "0u"),  # takes 0 for 0
        ("int8.h", "choose(whole < shift + 255.0f, whole,", "choose(whole < shift + 250.0f, whole,"),  # clips
        ("int8.h", "w << (24 - shift)) >> 24", "w << (24 - shift)) >> 25"),  # halves weights
        ("product.h", "scales + row + r", "scales + r"),  # takes the first rows' steps for all
        ("product.h", "residual + row * residual_stride : NULL", "residual : NULL"),  # adds the first rows to all
        ("tile_amx.h", "a + 16 * stride + k", "a + 15 * stride + k"),  # multiplies a row twice
        ("tile_amx.h", "panel + 16, across", "panel + 8, across"),  # multiplies columns twice
        ("tile_amx.h", "[55] = 16", "[55] = 8"),  # has tiles of half the height
    ],
)
def test_what_is_wrong_is_caught(file: str, right: str, wrong: str, tmp_path: Path) -> None:
    processors = ("amx", "avx512") if file == "tile_amx.h" else ("plain",)
    sources = changed(tmp_path / "native", file, right, wrong)
    path = build(tmp_path / "wrong.so", "-O2", *AMX_IN_C, sources=sources, processors=processors)
    found = fuzz(path, processors[0])
    assert found.returncode != 0 and ("AssertionError" in found.stderr or found.returncode == -signal.SIGABRT)


@pytest.mark.slow
@on_gcc
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("", ""),
        ("__ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE", "__ATOMIC_RELAXED, __ATOMIC_RELAXED"),  # what was given isn't seen
        ("if (mine[i]->result) result = mine[i]->result;", ""),  # forgets what failed
        ("    vacate(occupied, where);\n    return result;", "    return result;"),  # is counted for ever
    ],
)
def test_who_shares_and_who_helps_race_for_nothing(right: str, wrong: str, tmp_path: Path) -> None:
    assert COMPILER is not None
    sources = changed(tmp_path / "native", "helping.c", right, wrong) if right else SOURCES
    files = [Path(__file__).with_name("helping_threads.c"), sources / "helping.c"]
    built = tmp_path / "threads"
    flags = ["-std=gnu11", "-O1", "-g", "-fsanitize=thread", f"-I{sources}", "-pthread"]
    subprocess.run([COMPILER, *flags, *map(str, files), "-o", str(built)], check=True)
    done = subprocess.run([built], capture_output=True, text=True, timeout=120)
    assert (done.returncode == 0 and not done.stdout + done.stderr) == (not right)
