"""The towers by a small C library of this package's own: products on packed weights, and all that surrounds them.

The C files say what they do, common.h how a weight lies in memory. Products take bias, residual and activation into the
same pass (`pending.py`), weights are packed once (`packing.py`), a batch's items are shared out to Python's threads
(`sharing.py`). The library lies in wheels, or is compiled when clipref is installed, if there is a C compiler. It holds
kernels for AVX-512, for AVX2 with FMA, for ARM's NEON, and for any processor in vectors of 128 bits, and products of
less than float32 besides for the instructions of AVX-512 and of ARM for bfloat16 and int8, and for AMX; which of them
run here is found out at run time.

Below float32 it is products that are computed otherwise, of linear layers and convolutions: what an operation takes and
gives, sums, biases, residuals, activations, LayerNorm, attention and the last projection stay in float32. In bfloat16
(bfloat16.h) both factors are rounded to it; in int8 (int8.h) a row is measured out anew at each product, a weight once
for each output, and channels that stand out are made like the rest beforehand (quantisation.py).
"""

from __future__ import annotations

from clipref.backends import Traits
from clipref.engine import check_threads
from clipref.lazy import available_threads, no_fork

from . import library
from .operations import NativeOps

__all__ = ["TRAITS", "NativeOps", "available", "operations"]

_ZEN_5 = {"avx512_bf16", "avx_vnni", "clzero"}  # AMD's processors from Zen 5 on; the last is an instruction of AMD's


def _speed(precision: str, kind: str, features: frozenset[str]) -> float:
    """The speed, as compared on a quiet Zen 5 by images and texts together.

    In float32 it is before OpenVINO and `onnx`, which are slower for one image and one text, and alike in batches; in
    bfloat16 behind OpenVINO, and in int8 behind `onnx-int8`, for their texts and ResNets. In float32 other processors,
    and ResNets, are left to those that were compared there.
    """
    if precision == "float32":
        return 2.4 if kind == "vit" and features >= _ZEN_5 else 0.0
    if precision == "bfloat16":
        return 3.9 if "avx512_bf16" in features else 0.5
    return 5.0


TRAITS = Traits(
    {
        "float32": "graded float32",
        "bfloat16": "cosine 0.9998 with exact embeddings; images of RN50x64 0.999",
        "int8": "cosine 0.999 with exact embeddings; images of RN101 0.998, of RN50x64 0.99",
    },
    dtypes=("float32",),
    speed=_speed,
    same_bits_in_any_batch=True,
)


def available() -> None:
    """Raise BackendError where the library wasn't built."""
    library.library()


def operations(*, threads: int | None = None, precision: str = "float32") -> NativeOps:
    """The kernel set of the backend `native`.

    `threads`: as many as the process may use, unless given. `precision`: see TRAITS.
    """
    check_threads(threads)
    if precision == "int8":
        with no_fork:
            import numpy.random  # noqa: F401  (which calibration asks for, and numpy imports only then)
    processor = next(filter(library.runs, library.PROCESSORS[precision]))
    return NativeOps(processor, threads or available_threads(), precision)
