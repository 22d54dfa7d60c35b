"""Every tolerance of the tests, in one table, and the one way to compare arrays.

A budget is in units of the dtype's epsilon times the expected tensor's root mean square, for the largest difference.
The figure measured is what a correct build showed; a budget leaves room for another BLAS to add in another order.
"""

import numpy as np

BUDGETS = {
    # One operation against a second statement of it: measured up to 3.2 in float64, up to 7 in float32.
    "operation": 32.0,
    # A float32 tower of the tiny checkpoints against float64: measured up to 10.
    "reference float32": 100.0,
    # A float32 tower, tiny or embedded, under ONNX Runtime: measured up to 42, in the embedded ViT.
    "onnx": 100.0,
    # A float32 tower, tiny or embedded, with the operations of kernels/blas.py: measured up to 12.
    "blas": 100.0,
    # A float32 tower, tiny or embedded, with the kernels of kernels/native: measured up to 24.
    "native": 100.0,
    # The same in the nine full sizes, against the reference in float64: measured up to 120 with the kernels for
    # AVX-512 and AVX2 and 159 with the plain ones, in RN50x64, where the float32 reference errs by 109 to 294 as the
    # BLAS has it.
    "native full size": 200.0,
    # The float64 reference against the oracle's float64, which may differ by 1e-10 of the RMS: measured up to 2e-14
    # in the tiny towers.
    "oracle float64": 1e-10 / np.finfo(np.float64).eps,
}

# For single numbers, absolute. Cosines and parts of unit vectors are up to 1: a few roundings in float32 (epsilon
# 1.2e-7), or one in float16 (9.8e-4). Probabilities come from logits, which are up to 100 times cosines.
UNIT = 1e-6
UNIT_FLOAT16 = 1e-3
PROBABILITY = 1e-4
# The same in float64 (epsilon 2.2e-16), after a tower of a few layers.
UNIT_FLOAT64 = 1e-10
# Errors of an exported graph relative to the RMS of the reference's float32; export_onnx refuses ten times as much.
EXPORTED = 1e-4

# How much more than the oracle's own float32 run the float32 reference may err: measured up to 2.2.
FLOAT32_MARGIN = 4.0

# The least cosine of the native backend's embeddings below float32 with exact ones, also where weights have outliers.
# Measured of images: in bfloat16 from 0.99992 (RN101) on but for the deepest ResNet, 0.9993; in int8 from 0.9995 on but
# for RN101, 0.9987, and RN50x64, 0.9955. Of texts: 0.99998 and 0.9997.
NATIVE_COSINE = {"bfloat16": 0.9999, "int8": 0.999}
NATIVE_COSINE_OF = {
    ("bfloat16", "clip/RN50x64"): 0.999,
    ("int8", "clip/RN101"): 0.998,
    ("int8", "clip/RN50x64"): 0.99,
}

# The least cosine of embeddings in 8-bit integers with exact ones, also where weights have outliers: measured 0.999,
# but for the images of the two deepest ResNets, through which rounding adds up: 0.987 and 0.962.
INT8_COSINE = 0.99
INT8_COSINE_OF = {"clip/RN50x16": 0.98, "clip/RN50x64": 0.95}


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The cosine of each row of a with that of b."""
    return np.asarray((a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def error(actual: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference in units of epsilon times RMS; shape, dtype and finiteness are compared first."""
    assert actual.shape == expected.shape, f"shape {actual.shape}, expected {expected.shape}"
    assert actual.dtype == expected.dtype, f"dtype {actual.dtype}, expected {expected.dtype}"
    assert np.isfinite(expected).all(), "what is expected is not finite"
    rms = float(np.sqrt(np.square(expected, dtype=np.float64).mean()))
    difference = float(np.abs(actual.astype(np.float64) - expected).max())
    return difference / (rms * float(np.finfo(expected.dtype).eps)) if difference else 0.0


def assert_close(actual: np.ndarray, expected: np.ndarray, budget: str) -> None:
    """Raise AssertionError unless `actual` is `expected` within a budget of the table. NaN is never within."""
    units = error(actual, expected)
    if not (units <= BUDGETS[budget]):
        raise AssertionError(f"off by {units:.3g} eps of the RMS; {budget!r} allows {BUDGETS[budget]:.3g}")
