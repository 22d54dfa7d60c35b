"""The C library of kernels/native, built where there is a C compiler and left out where there is none.

All else is in pyproject.toml. The library is loaded by ctypes and knows nothing of Python, so a wheel that has it is
one for any Python 3 of a platform; a wheel without it is one for any platform.
"""

from __future__ import annotations

import os
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

SOURCES = Path("kernels/native")


class BuildLibrary(build_ext):
    """Builds a shared library under a name that has nothing of a Python's version in it."""

    def get_ext_filename(self, fullname: str) -> str:
        return os.path.join(*fullname.split(".")) + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class TaggedWheel(bdist_wheel):
    """Tags a wheel by whether it has the library."""

    def get_tag(self) -> tuple[str, str, str]:
        built = self.get_finalized_command("build_ext").get_outputs()
        self.root_is_pure = not all(map(os.path.exists, built))
        return ("py3", "none", super().get_tag()[2])


setup(
    ext_modules=[
        Extension(
            "clipref.kernels.native.kernels",
            sources=sorted(map(str, SOURCES.glob("*.c"))),
            depends=sorted(map(str, SOURCES.glob("*.h"))),
            extra_compile_args=["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-ffp-contract=fast"],
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": TaggedWheel},
)
