"""What is wrong with an engine: which known fault, or which two, give its wrong answers.

The reference with a fault is compared with the engine as the right answers were, in the same units. Every fault is
tried; where none explains the failures, every pair that can be together.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from clipref.numerics import rms, rms_error

from .. import faults
from ..grading.units import key, table
from ..grading.verdicts import MARGIN, Diagnosis
from ..protocol import Array, Case, Exact, Outputs
from ..questions.images import pixels_of
from ..restated.preprocessing import PROFILES
from . import Fault

# Failing cases that are looked at for each place; the others would only repeat it.
_CASES = 3
# How near a result has to be, relative to its root mean square, for a fault's own rounding to be looked at.
_NEAR = 0.05
# How much of what is wrong a fault may leave unexplained, by root mean square. Measured: up to 0.71 where sums are kept
# in float16, which no two engines round alike; the rest of the faults leave next to nothing.
_LEFT = 0.75

SUBJECT = {
    "vit": "image embeddings of a ViT", "resnet": "image embeddings of a ResNet", "text": "text embeddings",
    "preprocess": "pixels", "tokenize": "ids", "similarity": "similarities",
}  # fmt: skip


@dataclass(frozen=True)
class Answered:
    """What an engine answered to a case, and what the answer is compared with."""

    case: Case
    exact: Exact
    outputs: Outputs


def diagnose(
    failed: Sequence[Answered],
    passed: Sequence[Answered],
    precision: str,
    profile: str = "openai",
    promising: int | None = None,
) -> Iterator[Diagnosis]:
    """For each place, the fault that explains its failures that are looked at, or the pair that does.

    What explains the failures but would have spoilt what passed is not it. `promising`: see _Evidence.explain.
    """
    failures, witnesses = by_place(failed), by_place(passed)
    for where, found in failures.items():
        if where == "preprocess" and (other := _other_profile(found)) is not None:
            yield other
            continue
        evidence = _Evidence(_chosen(found, where), _chosen(witnesses.get(where, []), where), precision, profile)
        if (explained := evidence.explain(promising)) is not None:
            units, known = explained
            subject = f"your {SUBJECT.get(where, f'results of {where}')} equal the reference"
            yield Diagnosis(
                tuple(fault.id for fault in known),
                tuple(fault.claim for fault in known),
                f"{subject} with {' and '.join(f'{fault.title} ({fault.claim})' for fault in known)}",
                units,
                tuple(failure.case.id for failure in evidence.failed),
            )


def by_place(answers: Sequence[Answered]) -> dict[str, list[Answered]]:
    """Answers by where in CLIP their faults would be, or by the operation, without traces and others without faults."""
    found: dict[str, list[Answered]] = {}
    for answer in answers:
        where = faults.place(answer.case)
        if where == "operation":
            found.setdefault(answer.case.attributes["name"], []).append(answer)
        elif where is not None and not answer.case.verb.startswith("trace"):
            found.setdefault(where, []).append(answer)
    return found


def _chosen(answers: Sequence[Answered], where: str) -> Sequence[Answered]:
    """In the towers, the cheapest to recompute, of as many models as there are; elsewhere all, because each shows
    something else.
    """
    if where not in ("vit", "resnet", "text"):
        return answers

    def cost(answer: Answered) -> int:
        assert answer.case.checkpoint is not None
        (x,) = answer.case.inputs.values()
        return x.size * (answer.case.checkpoint / "model.safetensors").stat().st_size

    models: dict[str, list[Answered]] = {}
    for answer in sorted(answers, key=cost):
        models.setdefault(answer.case.id.rpartition(" ")[0], []).append(answer)
    in_turn = [answer for each in itertools.zip_longest(*models.values()) for answer in each if answer is not None]
    return in_turn[:_CASES]


@dataclass(frozen=True)
class _Evidence:
    """The answers that a cause has to give: those that are wrong and those that are right."""

    failed: Sequence[Answered]
    passed: Sequence[Answered]
    precision: str
    profile: str
    _faulty: dict[tuple[str, tuple[str, ...]], Outputs | None] = field(default_factory=dict)

    def explain(self, promising: int | None) -> tuple[float, tuple[Fault, ...]] | None:
        """The best of the faults that explain all, or of the pairs, and how far off it is in units.

        `promising`: pairs are made of so many faults, those that alone leave the least, and any other; None: of all.
        """
        known = faults.of(faults.place(self.failed[0].case))
        if (found := self.best([(fault,) for fault in known])) is not None:
            return found
        chosen = known if promising is None else sorted(known, key=self.left)[:promising]
        return self.best([pair for pair in itertools.combinations(known, 2) if any(fault in chosen for fault in pair)])

    def best(self, causes: Sequence[tuple[Fault, ...]]) -> tuple[float, tuple[Fault, ...]] | None:
        """The cause that comes nearest, of those that explain all."""
        found = [(self.distance(several), several) for several in causes]
        explaining = [(units, several) for units, several in found if units is not None]
        for units, several in sorted(explaining, key=lambda pair: pair[0]):
            if all(self.compatible(answer, several) for answer in self.passed):
                return units, several
        return None

    def left(self, fault: Fault) -> float:
        """How much of what is wrong a fault leaves unexplained, in the answer of which it leaves most."""
        parts = []
        for answer in self.failed:
            faulty = self.faulty(answer.case, (fault,))
            for name, exact in answer.exact.outputs.items():
                found = answer.outputs[name]
                same = faulty is not None and faulty[name].shape == found.shape
                parts.append(_left(found, faulty[name], exact) if faulty is not None and same else math.inf)
        return max(parts)

    def distance(self, several: Sequence[Fault]) -> float | None:
        """How far the reference with these faults is from what was wrong, in units; None if it explains nothing."""
        worst = 0.0
        for answer in self.failed:
            units = self.off(answer, several)
            if units is None:
                return None
            worst = max(worst, units)
        return worst

    def compatible(self, answer: Answered, several: Sequence[Fault]) -> bool:
        """Whether what passed could have been answered with these faults."""
        return self.off(answer, several) is not None

    def faulty(self, case: Case, several: Sequence[Fault]) -> Outputs | None:
        """What the reference with these faults answers, computed once; None if it can't."""
        key = case.id, tuple(fault.id for fault in several)
        if key not in self._faulty:
            try:
                self._faulty[key] = faults.answer(case, several, profile=self.profile)
            except (ValueError, KeyError, IndexError):  # they can't be together, or not in this case
                self._faulty[key] = None
        return self._faulty[key]

    def off(self, answer: Answered, several: Sequence[Fault]) -> float | None:
        """How far the reference with these faults is from one answer, in units; None if it doesn't explain it."""
        faulty = self.faulty(answer.case, several)
        if faulty is None:
            return None
        worst = 0.0
        for name, exact in answer.exact.outputs.items():
            found = answer.outputs[name]
            if name not in answer.exact.units:
                if not np.array_equal(found, faulty[name]):
                    return None
                continue
            # Where a fault makes the result smaller, its error doesn't shrink with it.
            unit = answer.exact.units[name][self.precision] * max(1.0, rms(exact) / (rms(faulty[name]) or 1.0))
            off = rms_error(found, faulty[name])
            allowed = unit
            if MARGIN * unit < off < _NEAR:  # some faults make the towers err more than right ones do
                single = faults.answer(answer.case, several, "float32", self.profile)[name]
                allowed = max(unit, rms_error(single, faulty[name]))
            if not off <= MARGIN * allowed:
                return None
            if rms_error(found, exact) > MARGIN * unit and _left(found, faulty[name], exact) > _LEFT:
                return None
            worst = max(worst, off / unit)
        return worst


def _left(found: Array, faulty: Array, exact: Array) -> float:
    """How much of what is wrong a fault leaves unexplained, by root mean square."""
    return rms(found - faulty) / (rms(found - exact) or 1.0) if found.shape == exact.shape else 0.0


def _other_profile(failures: Sequence[Answered]) -> Diagnosis | None:
    """Whether all wrong pixels are those that another way of preprocessing, used on purpose, gives."""
    for profile in PROFILES:
        named = [(failure.case.id.partition("/")[2], failure) for failure in failures]
        known = [(name, failure) for name, failure in named if key(f"preprocess/{name}", profile) in table()]
        for name, failure in known:
            exact = pixels_of(name, profile)
            off = rms_error(np.asarray(failure.outputs["pixels"]), exact.outputs["pixels"])
            if not off <= MARGIN * exact.units["pixels"]["float32"]:
                break
        else:
            if not known:
                continue
            says = f"your pixels are those of the profile {profile!r}; claim it with --profile {profile}"
            return Diagnosis((), ("IMG-4", "IMG-5"), says, 0.0, tuple(failure.case.id for failure in failures))
    return None
