"""The C that is compiled along where there is a compiler, and left out where not; pyproject.toml has the rest."""

from setuptools import Extension, setup

PIXELS = Extension("clipref.kernels._pixels", ["kernels/pixels.c"], extra_compile_args=["-O3"], optional=True)

setup(ext_modules=[PIXELS])
