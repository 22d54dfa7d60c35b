"""What is wrong with answers that pass one by one, because a coarse precision has room for it.

What rounds errs in any direction, and in every model by about as many units. What has a fault errs in that fault's
direction, by the whole of it (a lean), and as much as the fault has an effect: nowhere in one model, by many units in
another (a mixture), which rounding never gives.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from clipref.numerics import rms, rms_error

from .. import faults
from ..grading.rounding import PRECISIONS
from ..grading.verdicts import MARGIN, Diagnosis
from ..protocol import Array
from .diagnosis import SUBJECT, by_place
from .evidence import Answered
from .factors import find_factor
from .fault import Fault

# Answers lean to a fault if so many embeddings show that it is in their errors about once. Measured: what is right in
# float16, TF32, bfloat16 or int8 (all values rounded, or only weights, or only activations) has at most 0.6 of the
# certainty needed; one GELU for another and qkv without biases in bfloat16, 1.7 for 1.702 in float16 1.0 and more.
_ITEMS_TO_LEAN = 8
_SHARES = (0.5, 1.5)
# A fault is in errors by the whole of it: within a quarter, or within three times the share's own deviation. Rounded
# weights err alike in every item, so that the shares of what is right may agree, too, but not with 1: transformers in
# bfloat16 has 0.6 of another LayerNorm eps in its texts, with 1.5 of the certainty needed. Of another share, more of it
# is needed: biases of values left out, which have 0.7 of what those of q, k and v do in float16, have 5.5.
_WHOLE = 0.25
_DEVIATIONS = 3.0
_CERTAINTY_OF_A_PART = 3.0
# What has next to nothing in its errors but a fault's effect, so much of it as there is, has another constant or the
# like wrong. What is right leaves all of its errors.
_ALL_BUT = 0.02
# The largest error of a tower's answers in units of some precision, as so many times the smallest, at most. Measured,
# of the same engines: up to 6, and in TF32 14; of wrong formulas in float32: eps in one LayerNorm 200, 1.7 for 1.702
# 1000.
_ALIKE_WITHIN = 30.0
# Two faults can be told apart if their effects differ by so many times what the answers err at random.
_APART = 6.0
_TOWERS = ("vit", "resnet", "text")


def find_leans(
    failed: Sequence[Answered], passed: Sequence[Answered], precision: str, profile: str = "openai"
) -> Iterator[Diagnosis]:
    """For each tower, whether its answers are a mixture; if not, and if none fails, the fault that they lean to.

    For each place, a tower or not, if nothing else is found: whether answers are right but for a factor.
    """
    if PRECISIONS.index(precision) <= PRECISIONS.index("float32"):
        return
    failures = by_place(failed)
    for where, answers in by_place(passed).items():
        found = _mixture(where, answers) if where in _TOWERS else None
        if found is None and where in _TOWERS and where not in failures:
            found = _lean(where, answers, profile)
        found = found or find_factor(where, answers, precision)
        if found is not None:
            yield found


def _mixture(where: str, answers: Sequence[Answered]) -> Diagnosis | None:
    units = {answer.case.id: _units(answer) for answer in answers}
    off = {id: by["float32"] for id, by in units.items() if by["float32"] > MARGIN}
    exact = len(units) - len(off)
    if not off or (not exact and _alike_in_some_precision(list(units.values()))):
        return None
    most = max(off.values())
    found = f"their errors are {min(off.values()):.0f} to {most:.0f} of float32's units"
    if exact:
        one = f"{exact} of {len(units)} answers are exact to float32"
        found = f"{one}, and {len(off)} are off by up to {most:.0f} of its units"
    says = f"your {SUBJECT[where]} are no precision but a mixture: {found}, as where a formula is wrong"
    return Diagnosis((), ("OUT-2",), says, 0.0, tuple(off), True)


def _units(answer: Answered) -> dict[str, float]:
    """The error of an answer in units of each precision."""
    off = rms_error(answer.outputs["embeddings"], answer.exact.outputs["embeddings"])
    return {precision: off / unit for precision, unit in answer.exact.units["embeddings"].items()}


def _alike_in_some_precision(answers: Sequence[Mapping[str, float]]) -> bool:
    """Whether, in units of one of the precisions, all answers err by about as much."""
    errors = [[units[precision] for units in answers] for precision in answers[0]]
    return any(max(found) <= _ALIKE_WITHIN * min(found) for found in errors)


def _lean(where: str, answers: Sequence[Answered], profile: str) -> Diagnosis | None:
    measured = [_measure(answers, fault, profile) for fault in faults.of(faults.place(answers[0].case))]
    certain = [m for m in measured if m is not None and m.is_certain]
    if not certain:
        return None
    best = min(certain, key=lambda m: m.left / len(m.cases))
    alike = [m for m in certain if m is best or _alike(m, best)]
    known = sorted((m.fault for m in alike), key=lambda fault: fault is not best.fault)
    names = " or ".join(f"{fault.title} ({fault.claim})" for fault in known)
    times = "" if _SHARES[0] <= best.share <= _SHARES[1] else f", {best.share:.2g} times as much"
    says = f"your {SUBJECT[where]} lean, within their precision, to {names}{times}"
    claims = tuple(dict.fromkeys(fault.claim for fault in known))
    return Diagnosis(tuple(fault.id for fault in known), claims, says, 0.0, best.cases, True)


@dataclass(frozen=True)
class _Measured:
    """How many times a fault is in the errors of answers, how certainly it isn't 0 times, and what it leaves."""

    fault: Fault
    share: float
    deviation: float  # of the share
    certainty: float
    left: float  # the mean square of errors without the fault's effect, relative to what is exact; summed over cases
    unlike: float  # the share of the errors, by root mean square, that is no multiple of the fault's effect
    cases: tuple[str, ...]  # in which the fault has an effect
    effects: tuple[Array, ...]  # relative to the root mean square of what is exact

    @property
    def is_certain(self) -> bool:
        """A fault that rounding does as well is one only where next to nothing else is in the errors."""
        whole = abs(self.share - 1) <= max(_WHOLE, _DEVIATIONS * self.deviation)
        needed = 1.0 if whole else _CERTAINTY_OF_A_PART
        leans = _SHARES[0] <= self.share <= _SHARES[1] and self.certainty >= needed
        return self.unlike <= _ALL_BUT or (leans and not self.fault.as_rounding)


def _measure(answers: Sequence[Answered], fault: Fault, profile: str) -> _Measured | None:
    """By least squares over the embeddings in which a fault has an effect; None if they are too few.

    Certain is 1 and more: then the shares of the single embeddings agree so well that noise would do it once in a few
    thousand times (Student's t, of which the bound is an approximation).
    """
    shares, weights, left, cases, effects, errors_of = [], [], 0.0, [], [], []
    for answer in answers:
        exact, units = answer.exact.outputs["embeddings"], answer.exact.units["embeddings"]
        try:
            faulty = faults.answer(answer.case, (fault,), profile=profile)["embeddings"]
        except (ValueError, KeyError, IndexError):  # not in this case
            continue
        if faulty.shape != exact.shape or not np.isfinite(faulty).all():
            return None
        if rms_error(faulty, exact) <= MARGIN * units["float32"]:
            continue
        size = rms(exact)
        off, effect = (answer.outputs["embeddings"] - exact) / size, (faulty - exact) / size  # [N, E]
        items = np.abs(effect).max(axis=1) > MARGIN * units["float32"]
        powers = np.square(effect[items]).sum(axis=1)
        errors = np.square(off[items]).sum(axis=1)
        shares += ((off * effect)[items].sum(axis=1) / powers).tolist()
        weights += (powers / np.where(errors > 0, errors, powers)).tolist()
        left += float(np.square(off - effect).mean())
        cases.append(answer.case.id)
        effects.append(effect)
        errors_of.append(off)
    if len(shares) < _ITEMS_TO_LEAN:
        return None
    w, x = np.array(weights), np.array(shares)
    share = float((w * x).sum() / w.sum())
    deviation = math.sqrt(float((w * np.square(x - share)).sum() / (len(x) - 1) / w.sum()))
    certainty = abs(share) / deviation / (3.7 + 20 / (len(x) - 1)) if deviation else math.inf
    errors, along = (np.concatenate([x.ravel() for x in parts]) for parts in (errors_of, effects))
    unlike = rms(errors - along * (errors @ along) / (along @ along)) / (rms(errors) or 1.0)
    return _Measured(fault, share, deviation, certainty, left, unlike, tuple(cases), tuple(effects))


def _alike(one: _Measured, best: _Measured) -> bool:
    """Whether two faults have effects too alike for the errors of these answers to tell which it is."""
    if one.cases != best.cases:
        return False
    apart = sum(float(np.square(a - b).sum()) for a, b in zip(one.effects, best.effects, strict=True))
    return apart < _APART**2 * best.left / len(best.cases)
