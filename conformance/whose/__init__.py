"""Whose vectors are these: the model, the preprocessing, the tower and the storage that made stored vectors.

    from clipref.conformance.whose import whose
    finding = whose("vectors.npy", images="photos")
    finding.verdict             # "named", "one of" or "none"
    finding.candidates[0].variant

A cosine can't tell: of the known deviations, a third have a cosine above 0.999 with the right vectors. What tells is
that rounding has a bound, which is known from the store's precision and measured for the arithmetic (fitting.py).
"""

from __future__ import annotations

from .finding import Finding as Finding
from .finding import whose as whose
from .search import Candidate as Candidate
from .stamp import Drift as Drift
from .stamp import check_stamp as check_stamp
from .stamp import stamp_of as stamp_of
from .vectors import Store as Store
from .vectors import read_store as read_store
