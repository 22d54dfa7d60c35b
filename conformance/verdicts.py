"""What a run finds out: a verdict for every case, what explains the failures, and the report of both."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from .case import Array

Verdict: TypeAlias = Literal["PASS", "FAIL", "SKIP", "XFAIL"]

# From the finest to the coarsest. "exact" is for what has no rounding: ids, and pixels where they have the same bits.
GRADES = ("exact", "float64", "float32", "tf32", "float16", "bfloat16", "int8")


@dataclass(frozen=True)
class Tap:
    """An activation of an engine beside the right one: by how many units of the precision claimed it is off."""

    name: str
    units: float
    grade: str | None  # None: no precision explains it


@dataclass(frozen=True)
class Picture:
    """Pixels that are wrong, for people to look at: what was found, what is right, [3, R, R], and the worst place."""

    found: Array
    exact: Array
    worst: tuple[int, int, int]  # channel, row, column
    difference: float  # there, in levels of 0 to 255


@dataclass(frozen=True)
class Result:
    """The verdict of one case.

    `units` is the error as a multiple of what a correct engine of the precision claimed errs; `grade` is the finest
    precision that explains it, None where none does. `problem` says what is wrong beside the values, or why there are
    none; of a SKIP and an XFAIL, why.
    """

    case: str
    level: str
    claims: tuple[str, ...]
    verdict: Verdict
    grade: str | None = None
    error: float = math.nan  # the largest difference, relative to the root mean square of what is right
    units: float = math.nan
    problem: str | None = None
    seconds: float = 0.0
    taps: tuple[Tap, ...] = ()
    picture: Picture | None = None

    @property
    def first_out_of_band(self) -> str | None:
        """The first activation that is further off than what the engine claims."""
        return next((tap.name for tap in self.taps if not tap.units <= MARGIN), None)


@dataclass(frozen=True)
class Diagnosis:
    """What reproduces an engine's wrong answers: one known fault, or several at once."""

    faults: tuple[str, ...]  # ids
    claims: tuple[str, ...]
    says: str  # "your pixels equal the reference with the crop offset floored (IMG-5)"
    units: float  # how exactly, in units of the precision claimed
    cases: tuple[str, ...]  # which were looked at


@dataclass(frozen=True)
class Report:
    """Everything that a run found."""

    engine: str
    precision: str  # what the engine claims
    profile: str  # of preprocessing
    results: Sequence[Result] = field(default_factory=list)
    diagnoses: Sequence[Diagnosis] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether there is something that passed, and nothing that failed."""
        verdicts = {result.verdict for result in self.results}
        return "FAIL" not in verdicts and "PASS" in verdicts

    @property
    def grade(self) -> str | None:
        """The coarsest grade of all that was answered; None if something has none."""
        grades = [result.grade for result in self.results if result.verdict in ("PASS", "FAIL")]
        known = [GRADES.index(grade) for grade in grades if grade is not None]
        return GRADES[max(known)] if known and len(known) == len(grades) else None

    def count(self, verdict: Verdict) -> int:
        """How many cases have this verdict."""
        return sum(result.verdict == verdict for result in self.results)


# An engine that is right errs at most so many units. Measured of engines that are: the reference, ONNX Runtime,
# OpenVINO and torch err 0.3 to 1.9 units in float32, and up to 3.3 in bfloat16 and float16.
MARGIN = 4.0
