"""`python -m tests.fuzz_native LIBRARY`: the fuzzed tests of the native backend with another build of its library.

test_native_build.py has one made that stops where memory is read or written that isn't its own, and wrong ones.
"""

import sys
from functools import partial
from pathlib import Path

from clipref.kernels.compiled import open_library
from clipref.kernels.native import library
from clipref.lazy import once

if __name__ == "__main__":
    library.library = once(partial(open_library, Path(sys.argv[1])))
    from . import test_native_fuzz as fuzz
    from . import test_native_narrow as narrow

    fuzz.test_products()
    fuzz.test_rows()
    fuzz.test_attention()
    fuzz.test_convolutions()
    narrow.test_products()
    narrow.test_convolutions()
    narrow.test_more_rows_than_have_room_at_a_time()
