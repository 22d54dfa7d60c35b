"""The towers by a small C library of this package's own: products on packed weights, and all that surrounds them.

The C files say what they do, common.h how a weight lies in memory. Products take bias, residual and activation into the
same pass (`pending.py`), weights are packed once (`packing.py`), a batch's items are shared out to Python's threads
(`sharing.py`). The library is compiled when clipref is installed, if there is a C compiler, and holds kernels for
AVX-512, for AVX2 with FMA, and for any processor in vectors of 128 bits; which of them run here is found out at run
time. bfloat16 and int8 have no kernels yet: the layout has room for them.
"""

from __future__ import annotations

from clipref.backends import Traits
from clipref.engine import check_threads
from clipref.lazy import available_threads

from . import library
from .operations import NativeOps

__all__ = ["TRAITS", "NativeOps", "available", "operations"]


TRAITS = Traits({"float32": "graded float32"}, dtypes=("float32",), same_bits_in_any_batch=True)


def available() -> None:
    """Raise BackendError where the library wasn't built."""
    library.library()


def operations(*, threads: int | None = None) -> NativeOps:
    """The kernel set of the backend `native`.

    `threads`: as many as the process may use, unless given.
    """
    check_threads(threads)
    return NativeOps(next(filter(library.runs, library.PROCESSORS)), threads or available_threads())
