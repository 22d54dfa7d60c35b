"""Right numbers times a factor, in answers that pass one by one because a coarse precision has room for it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from clipref.numerics import rms_error

from ..grading.rounding import PRECISIONS, rounding
from ..grading.verdicts import MARGIN, Diagnosis
from ..protocol import Case
from .diagnosis import SUBJECT
from .evidence import Answered

_NUMBERS = 4  # which no factor fits by chance
_SAME = 1e-5


def find_factor(where: str, answers: Sequence[Answered], precision: str) -> Diagnosis | None:
    """The answers of one place that are exact to float32 but for a factor, as a diagnosis; None if there are none.

    Rounding errs in each number differently. It is no fault where the rounding of the logit scale alone gives it.
    """
    found = {answer.case.id: factor for answer in answers for factor in _factors(answer, precision)}
    if not found:
        return None
    low, high = (f"{bound(found.values()):.6g}" for bound in (min, max))
    factors = f"a factor of {low}" if low == high else f"factors of {low} to {high}"
    says = f"your {SUBJECT.get(where, f'results of {where}')} are exact but for {factors}, which no rounding gives"
    return Diagnosis((), ("OUT-2",), says, 0.0, tuple(found), True)


def _factors(answer: Answered, precision: str) -> Iterator[float]:
    """The factor of each output that is exact but for one."""
    for name, units in answer.exact.units.items():
        found, right = answer.outputs[name], answer.exact.outputs[name]
        if not rms_error(found, right) > MARGIN * units["float32"] or np.count_nonzero(right) < _NUMBERS:
            continue
        factor = float((found * right).sum() / np.square(right).sum())
        exact = rms_error(found, factor * right) <= MARGIN * units["float32"]
        if exact and not (name == "logits" and _is_rounded_scale(answer.case, factor, precision)):
            yield factor


def _is_rounded_scale(case: Case, factor: float, precision: str) -> bool:
    """Whether a logit scale, or its exponential, in the precision claimed or a finer one gives a factor of logits."""
    scale = case.inputs["logit_scale"].astype(np.float32)
    for coarse in PRECISIONS[: PRECISIONS.index(precision) + 1]:
        to = rounding(coarse)
        for rounded in (np.exp(to(scale)), to(np.exp(scale)), to(np.exp(to(scale)))):
            if abs(float(rounded) / math.exp(float(scale)) / factor - 1) <= _SAME:
                return True
    return False
