"""What the tests of the native backend share: whether its library is there, and which kernels run here."""

import pytest

from clipref import BackendError
from clipref.kernels.native import library


def processors() -> list[str]:
    """Fastest first; none without the library."""
    try:
        return [name for name in library.PROCESSORS if library.runs(name)]
    except BackendError:
        return []


PROCESSORS = processors()
needs_library = pytest.mark.skipif(not PROCESSORS, reason="the C library wasn't built: there was no C compiler")
