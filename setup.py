"""The C of kernels, built where there is a C compiler and left out where there is none.

All else is in pyproject.toml. The libraries are loaded by ctypes and know nothing of Python, so a wheel that has them
is one for any Python 3 of a platform; a wheel without them is one for any platform.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

NATIVE = Path("kernels/native")
FLAGS = ["-std=gnu11", "-O3", "-g0"]


class BuildLibrary(build_ext):
    """Builds shared libraries under names that have nothing of a Python's version in them."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class TaggedWheel(bdist_wheel):
    """Tags a wheel by whether it has any library."""

    def get_tag(self) -> tuple[str, str, str]:
        built = self.get_finalized_command("build_ext").get_outputs()
        self.root_is_pure = not any(map(os.path.exists, built))
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[
        Extension(
            "clipref.kernels.native.kernels",
            sources=sorted(map(str, NATIVE.glob("*.c"))),
            depends=sorted(map(str, NATIVE.glob("*.h"))),
            extra_compile_args=[*FLAGS, "-fvisibility=hidden", "-ffp-contract=fast"],
            optional=True,
        ),
        Extension("clipref.kernels._pixels", ["kernels/pixels.c"], extra_compile_args=FLAGS, optional=True),
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": TaggedWheel},
)
