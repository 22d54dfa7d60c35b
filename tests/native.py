"""What the tests of the native backend share: which kernels of its library run here, and shapes of any size."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from clipref import BackendError
from clipref.kernels.native import library


def processors(precision: str) -> list[str]:
    """Fastest first; none without the library."""
    try:
        return [name for name in library.PROCESSORS[precision] if library.runs(name)]
    except BackendError:
        return []


PROCESSORS = processors("float32")
# Kernels of products below float32, each with the processor that has them.
NARROW = [
    (precision, name) for precision in library.PROCESSORS if precision != "float32" for name in processors(precision)
]
needs_library = pytest.mark.skipif(not PROCESSORS, reason="the C library wasn't built: there was no C compiler")
EPS = float(np.finfo(np.float32).eps)

few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
sizes = st.integers(1, 70)


def normal(seed: int, *shape: int) -> np.ndarray:
    """Numbers in memory that ends with them, so that a read beyond is a read of somebody else's."""
    return np.random.Generator(np.random.PCG64(seed)).standard_normal(shape).astype(np.float32)


def wide(x: Any) -> Any:
    return None if x is None else x.astype(np.float64)


def assert_within(found: Any, expected: np.ndarray, bound: Any) -> None:
    assert found.shape == expected.shape and found.dtype == np.float32
    worst = (np.abs(found - expected) / (bound * EPS + 1e-37)).max()
    assert worst <= 1, f"{worst:.3g} times what rounding explains"
