"""Whether a cause gives an engine's answers: the reference with a fault or several, in a profile of preprocessing.

It is compared with the engine as the right answers were, in the same units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from clipref.numerics import rms, rms_error, unit_rows

from .. import faults
from ..grading.pixels import are_rounded, in_levels
from ..grading.units import key, table
from ..grading.verdicts import MARGIN
from ..protocol import Array, Case, Exact, Outputs
from . import Fault
from .changes import normalise

# How near a result has to be, relative to its root mean square, for a fault's own rounding to be looked at.
_NEAR = 0.05
# How much of what is wrong a fault may leave unexplained, by root mean square. Measured: up to 0.71 where sums are kept
# in float16, which no two engines round alike; the rest of the faults leave next to nothing.
_LEFT = 0.75
# The same of pixels in a coarse precision, which has room for a level.
_LEFT_OF_PIXELS = 0.5
# Pixels that a cause doesn't give may be off by one level, in so many of all values, and in so many of the wrong ones.
_A_LEVEL = 1.01
_FEW = 0.02
_FEW_OF_WRONG = 0.25
# Verbs whose answers are embeddings, and nothing else.
_EMBEDDING = ("encode_image", "encode_text", "embed_image", "embed_text")


@dataclass(frozen=True)
class Answered:
    """What an engine answered to a case, and what the answer is compared with."""

    case: Case
    exact: Exact
    outputs: Outputs


@dataclass(frozen=True)
class Cause:
    """What may be wrong: faults, one or more, and another profile than the one that is claimed, or both."""

    faults: tuple[Fault, ...]
    profile: str

    @property
    def id(self) -> tuple[str, ...]:
        return self.profile, *(fault.id for fault in self.faults)


@dataclass(frozen=True)
class Fit:
    """How well a cause gives an answer: how far off in units, and the share of pixels that are off by a level."""

    units: float
    share: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What causes give, computed once, and how it compares with answers of an engine that claims a precision."""

    precision: str
    profile: str
    _faulty: dict[tuple[str, tuple[str, ...]], Outputs | None] = field(default_factory=dict)
    _fits: dict[tuple[str, tuple[str, ...]], Fit | None] = field(default_factory=dict)

    def not_asked(self, case: Case, cause: Cause) -> bool:
        """Whether a case isn't asked in the profile of a cause, so that it says nothing of it."""
        return cause.profile != self.profile and key(case.id, cause.profile) not in table()

    def faulty(self, case: Case, cause: Cause) -> Outputs | None:
        """What the reference with a cause answers; None if it can't."""
        known = case.id, cause.id
        if known not in self._faulty:
            try:
                self._faulty[known] = self._answer(case, cause)
            except (ValueError, KeyError, IndexError):  # the faults can't be together, or not in this case
                self._faulty[known] = None
        return self._faulty[known]

    def _answer(self, case: Case, cause: Cause) -> Outputs | None:
        """What `faults.answer` gives; lengths of 1 come last, so what they are made of is computed once."""
        others = tuple(fault for fault in cause.faults if fault.change is not normalise)
        if len(others) == len(cause.faults) or case.verb not in _EMBEDDING:
            return faults.answer(case, cause.faults, profile=cause.profile)
        without = self.faulty(case, Cause(others, cause.profile))
        return None if without is None else {"embeddings": unit_rows(without["embeddings"])}

    def fit(self, answer: Answered, cause: Cause) -> Fit | None:
        """How well a cause gives an answer; None if it doesn't. Passed answers have to be given, too."""
        known = answer.case.id, cause.id
        if known not in self._fits:
            self._fits[known] = self._compare(answer, cause)
        return self._fits[known]

    def _compare(self, answer: Answered, cause: Cause) -> Fit | None:
        if self.not_asked(answer.case, cause):
            return Fit(0.0)
        faulty = self.faulty(answer.case, cause)
        if faulty is None:
            return None
        worst = Fit(0.0)
        for name in answer.exact.outputs:
            fit = self._compare_output(answer, cause, name, faulty[name])
            if fit is None:
                return None
            worst = Fit(max(worst.units, fit.units), max(worst.share, fit.share))
        return worst

    def _compare_output(self, answer: Answered, cause: Cause, name: str, faulty: Array) -> Fit | None:
        found, exact = answer.outputs[name], answer.exact.outputs[name]
        if name not in answer.exact.units:
            return Fit(0.0) if np.array_equal(found, faulty) else None
        # The error doesn't shrink with a result that a fault makes smaller.
        unit = answer.exact.units[name][self.precision] * max(1.0, rms(exact) / (rms(faulty) or 1.0))
        off = rms_error(found, faulty)
        allowed = unit
        if MARGIN * unit < off < _NEAR and answer.case.verb != "preprocess":
            # Faulty towers may err more than right ones do.
            single = faults.answer(answer.case, cause.faults, "float32", cause.profile)[name]
            allowed = max(unit, rms_error(single, faulty))
        pixels = answer.case.verb == "preprocess"
        if not off <= MARGIN * allowed or (pixels and not are_rounded(found, faulty, answer.exact.units)):
            return _but_few_pixels(found, faulty, exact) if pixels else None
        if pixels and not are_rounded(found, exact, answer.exact.units):
            return Fit(off / unit) if remainder(found, faulty, exact) <= _LEFT_OF_PIXELS else None
        if rms_error(found, exact) > MARGIN * unit and remainder(found, faulty, exact) > _LEFT:
            return None
        return Fit(off / unit)

    def remainder(self, answers: Sequence[Answered], cause: Cause) -> float:
        """How much of what is wrong a cause leaves unexplained, in the answer of which it leaves most."""
        parts = []
        for answer in answers:
            faulty = self.faulty(answer.case, cause)
            for name, exact in answer.exact.outputs.items():
                found = answer.outputs[name]
                same = faulty is not None and faulty[name].shape == found.shape
                parts.append(remainder(found, faulty[name], exact) if faulty is not None and same else float("inf"))
        return max(parts)


def remainder(found: Array, faulty: Array, exact: Array) -> float:
    """How much of what is wrong a fault leaves unexplained, by root mean square."""
    return rms(found - faulty) / (rms(found - exact) or 1.0) if found.shape == exact.shape else 0.0


def _but_few_pixels(found: Array, faulty: Array, exact: Array) -> Fit | None:
    """Pixels that a cause gives but for a few, which are one level off, as another way of rounding has them."""
    if found.shape != faulty.shape:
        return None
    off = in_levels(found - faulty)
    few = off > 0.01
    wrong = float((in_levels(found - exact) > 0.01).mean()) if found.shape == exact.shape else 1.0
    share = float(few.mean())
    if (
        off.max() > _A_LEVEL
        or share > min(_FEW, _FEW_OF_WRONG * wrong)
        or remainder(found, faulty, exact) > _FEW_OF_WRONG
    ):
        return None
    return Fit(0.0, share)
