"""`python -m tests.fuzz_native LIBRARY [PROCESSOR]`: the fuzzed tests of another build of the native library.

Given a processor, only the kernels made for that: all, or its products alone where this one can't run it.

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
    from . import native

    if sys.argv[2:]:
        found = [(precision, name) for precision, names in library.PROCESSORS.items() for name in names]
        native.NARROW[:] = [made for made in found if made[1] == sys.argv[2] and made[0] != "float32"]
        native.PROCESSORS[:] = [name for name in native.PROCESSORS if name == sys.argv[2]]
    from . import test_native_fuzz as fuzz
    from . import test_native_narrow as narrow

    if native.PROCESSORS:
        fuzz.test_products()
        fuzz.test_rows()
        fuzz.test_attention()
        fuzz.test_attention_of_sizes_that_models_have()
        fuzz.test_attention_of_scores_far_apart()
        fuzz.test_convolutions()
    narrow.test_products()
    narrow.test_convolutions()
    narrow.test_more_rows_than_have_room_at_a_time()
    narrow.test_rounding_is_to_nearest_even_and_keeps_nan()
