"""What a run finds out: a verdict for every case, what explains the failures, and the report of both."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np

from ..protocol import Array

Verdict: TypeAlias = Literal["PASS", "FAIL", "SKIP", "XFAIL"]
NOT_CLAIMED = "not claimed"
# What the last activation of a tower is called, which are the embeddings.
EMBEDDINGS = ("visual", "text_projection")

# Grades from the finest to the coarsest. "exact" is for what has no rounding: ids, and pixels where they have the same
# bits.
GRADES = ("exact", "float64", "float32", "float16", "tf32", "bfloat16", "int8")


@dataclass(frozen=True)
class Tap:
    """An activation of an engine beside the right one: by how many units of the precision claimed it is off."""

    name: str
    units: float
    grade: str | None  # None: no precision explains it
    input_known: bool = False  # the activation before it was graded, too


@dataclass(frozen=True)
class Picture:
    """Pixels that are wrong, for people to look at: what was found, what is right, [3, R, R], and the worst place."""

    found: Array
    exact: Array
    worst: tuple[int, int, int]  # channel, row, column
    difference: float  # there, in levels of 0 to 255

    @property
    def told(self) -> str:
        """In words: "within 1 level, 0.6 % of values"."""
        percent = 100 * float((np.abs(self.found - self.exact) > 1e-5).mean())
        share = (
            f"{percent:.0f}" if percent >= 10 else f"{percent:.1f}" if percent >= 0.1 else f"{max(percent, 0.01):.2f}"
        )
        levels = f"{self.difference:.3g}"
        return f"within {levels} level{'' if levels == '1' else 's'}, {share} % of values"


@dataclass(frozen=True)
class Result:
    """The verdict of one case.

    `units` is the error as a multiple of what a correct engine of the precision claimed errs, `units_of` the same of
    every precision; `grade` is the precision that it looks like, None where it looks like none. `problem` says what is
    wrong beside the values, or why there are none; of a SKIP and an XFAIL, why. `instead` says what was found, and what
    was expected, of whole numbers.
    """

    case: str
    level: str
    claims: tuple[str, ...]
    verdict: Verdict
    grade: str | None = None
    error: float = math.nan  # the largest difference, relative to the root mean square of what is right
    units: float = math.nan
    problem: str | None = None
    instead: str | None = None
    seconds: float = 0.0
    units_of: Mapping[str, float] = field(default_factory=dict)
    taps: tuple[Tap, ...] = ()
    picture: Picture | None = None

    @property
    def departure(self) -> Tap | None:
        """The first activation that is further off than what the engine claims."""
        return next((tap for tap in self.taps if not tap.units <= MARGIN), None)

    @property
    def first_out_of_band(self) -> str | None:
        """The name of `departure`."""
        return None if self.departure is None else self.departure.name


@dataclass(frozen=True)
class Diagnosis:
    """What reproduces an engine's wrong answers: one known fault, or several at once."""

    faults: tuple[str, ...]  # ids
    claims: tuple[str, ...]
    says: str  # "your pixels equal the reference with the crop offset floored (IMG-5)"
    units: float  # how exactly, in units of the precision claimed
    cases: tuple[str, ...]  # which it explains
    leans: bool = False  # the cases pass one by one, and fail together
    of: int = 0  # how many cases fail where it was searched
    cost: str = ""  # whether it matters: "everyday, cosines of 0.91 to 0.97" on a trained model, or "rare"

    @property
    def explains(self) -> str:
        """How much of what fails it explains, in words; nothing of what passes one by one."""
        return f"explains {len(self.cases)} of {self.of}" if self.of else ""

    @property
    def sentence(self) -> str:
        """With a capital letter and a full stop."""
        known = "; ".join(filter(None, (self.explains, self.cost)))
        return f"{self.says[0].upper()}{self.says[1:]}{': ' if known else ''}{known}."


@dataclass(frozen=True)
class Report:
    """Everything that a run found."""

    engine: str
    precision: str  # what the engine claims
    profile: str  # of preprocessing
    results: Sequence[Result] = field(default_factory=list)
    diagnoses: Sequence[Diagnosis] = field(default_factory=list)
    seconds: float = 0.0
    shared: Sequence[str] = ()  # what failures have in common, a sentence each
    pixels: str = "exact"  # or "as-torchvision", a tolerance that was asked for
    unsearched: Collection[str] = ()  # cases that fail, and whose cause couldn't be searched for want of a package
    among: int = 0  # of how many questions the minute's were asked; 0 where it wasn't the minute

    @property
    def passed(self) -> bool:
        """Whether something was answered, and nothing failed that wasn't expected to."""
        verdicts = {result.verdict for result in self.results}
        return "FAIL" not in verdicts and bool(verdicts & {"PASS", "XFAIL"})

    @property
    def embedded(self) -> set[str]:
        """Of what there are right embeddings: "images", "texts", or both."""
        passed = [r for r in self.results if r.verdict == "PASS" and "OUT-1" in r.claims]
        claims = [set(r.claims) for r in passed if not r.taps or r.taps[-1].name in EMBEDDINGS]
        towers = {"images": {"VIT-5", "RN-4", "IMG-5"}, "texts": {"TXT-3"}}
        return {what for what, own in towers.items() if any(own & known for known in claims)}

    @property
    def unexplained(self) -> Sequence[Result]:
        """What is wrong by its values, and no cause is known of. Traces have none: they say where, not why."""
        explained = {case for diagnosis in self.diagnoses for case in diagnosis.cases}
        wrong = [r for r in self.results if r.verdict == "FAIL" and r.problem is None and not r.taps]
        return [r for r in wrong if r.case not in explained and r.case not in self.unsearched]

    @property
    def advice(self) -> str | None:
        """What to do about failures that nothing explains; None if there are none."""
        levels = dict.fromkeys(result.level for result in self.unexplained)
        if not levels:
            return None
        towers = bool({"towers", "full", "properties"} & levels.keys())
        known = [
            "answer trace_image and trace_text too, and run --levels taps: it says where you first leave the band"
            if towers and not any(r.taps for r in self.results)
            else "look at the first activation that leaves the band, whose input is right"
            if towers
            else "",
            "--html draws the worst pixels" if "preprocess" in levels else "",
            "compare the ids of the text that is shown, one by one" if "tokenize" in levels else "",
            "work from an image's pixels and a text's ids first: --levels preprocess tokenize towers"
            if "pipeline" in levels
            else "",
            "compare with the definition (clipref conformance explain CLAIM)"
            if {"operations", "similarity", "describe"} & levels.keys()
            else "",
        ]
        count = len(self.unexplained)
        what = "one failure" if count == 1 else f"{count} failures"
        return f"No known fault explains {what}, of {', '.join(levels)}: {'; '.join(filter(None, known))}."

    @property
    def grade(self) -> str | None:
        """The precision that all answers together look like; None if something has none."""
        answered = [result for result in self.results if result.verdict in ("PASS", "FAIL")]
        if not answered or any(result.grade is None for result in answered):
            return None
        rounded = [result.units_of for result in answered if result.grade != "exact" and result.units_of]
        return nearest(rounded) if rounded else "exact"

    @property
    def grade_if_passed(self) -> str | None:
        """None also where answers fail: what is wrong isn't a matter of precision."""
        return self.grade if self.passed else None

    @property
    def worst(self) -> float:
        """The largest error in units; NaN without one."""
        return max((r.units for r in self.results if math.isfinite(r.units)), default=math.nan)

    def by_level(self) -> dict[str, Report]:
        """The results of each level of which anything was asked."""
        asked = dict.fromkeys(r.level for r in self.results if r.problem != NOT_CLAIMED)
        return {
            level: replace(self, results=[r for r in self.results if r.level == level], diagnoses=(), shared=())
            for level in asked
        }

    def count(self, verdict: Verdict) -> int:
        """How many cases have this verdict."""
        return sum(result.verdict == verdict for result in self.results)

    @property
    def asked(self) -> int:
        """How many cases were asked: all but those that the engine doesn't claim."""
        return sum(result.problem != NOT_CLAIMED for result in self.results)


def nearest(answers: Sequence[Mapping[str, float]]) -> str | None:
    """Of the precisions that explain the errors of all answers, the one of which they are nearest to one unit.

    Not TF32, unless nothing else does: it has float16's digits, and rounds fewer numbers.
    """
    explaining = [p for p in answers[0] if all(units[p] <= MARGIN for units in answers)]
    candidates = [precision for precision in explaining if precision != "tf32"] or explaining

    def distance(precision: str) -> float:
        logarithms = [math.log(units[precision]) for units in answers if units[precision]]
        return abs(sum(logarithms) / len(logarithms)) if logarithms else 0.0

    return min(candidates, key=distance, default=None)


# An engine that is right errs at most so many units. Measured of engines that are: the reference errs up to 1.5 units
# in float32, ONNX Runtime 1.6, OpenAI's code under torch 1.9, transformers 1.3, OpenVINO 3.6 (a single image); torch in
# float16 and bfloat16 up to 3.3 of theirs. Between float32 and the next precision there are 8192.
MARGIN = 6.0
