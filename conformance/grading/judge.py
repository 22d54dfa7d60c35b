"""Judges one answer.

The error of an answer is stated as a multiple of what a correct engine of each precision would err (units.py). It
passes if it is at most MARGIN units of the precision that the engine claims; its grade is the precision whose unit it
is nearest to. What an engine doesn't do, or doesn't claim, is skipped, and never passes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from clipref.numerics import rms_error

from ..asking import Misbehaved, words
from ..engines.failures import Failure, Garbage, Hung, Killed
from ..protocol import Array, Case, Exact, Outputs, Unsupported
from .pixels import are_rounded, in_levels, known_by_digest
from .rounding import PRECISIONS
from .taps import cut, take_sample, tap_shapes, wrong_taps
from .verdicts import EMBEDDINGS, GRADES, MARGIN, Picture, Result, Tap, Verdict, nearest


def judge(
    case: Case,
    exact: Exact,
    answer: Outputs | BaseException,
    precision: str = "float32",
    earlier: Outputs | None = None,
    seconds: float = 0.0,
) -> Result:
    """The verdict of one answer. `earlier`: the answer to the same question before, where the case repeats one."""

    def result(verdict: Verdict, problem: str | None = None, **known: Any) -> Result:
        return Result(case.id, case.level, case.claims, verdict, problem=problem, seconds=seconds, **known)

    if isinstance(answer, Unsupported):
        return result("SKIP", str(answer) or "not supported")
    if isinstance(answer, Misbehaved):
        return result("FAIL", str(answer))
    if exact.refused and not isinstance(answer, Hung | Garbage | Killed):
        if isinstance(answer, Exception):
            return result("PASS", grade="exact", error=0.0, units=0.0)
        return result("FAIL", f"answered {exact.refused}; expected a refusal")
    if isinstance(answer, BaseException):
        what = answer.told if isinstance(answer, Failure) else f"raised {type(answer).__name__}"
        return result("FAIL", f"{what}: {words(answer)}")
    by_digest = exact.digest != ""
    if by_digest:
        exact = known_by_digest(exact, np.asarray(answer.get("pixels", ())), case.attributes["resolution"])
    trace = case.verb.startswith("trace")
    if trace:
        answer = {_LAST[case.verb] if name == "embeddings" else name: x for name, x in answer.items()}
    problem = wrong_taps(case, answer) if trace else _wrong_names(exact, answer)
    for name in () if problem else answer:
        if name in exact.outputs or trace:
            problem = problem or _wrong_kind(case, name, answer[name], exact, precision)
    if problem is not None:
        return result("FAIL", problem)
    if by_digest and not exact.bits:
        return result("FAIL", "gave other pixels than the golden ones; with pillow installed it is told which")
    if earlier is not None and not all(np.array_equal(answer[name], earlier.get(name, [])) for name in exact.outputs):
        return result("FAIL", "gave other bits than to the same question before")
    found = {name: take_sample(case, name, x) if trace else x for name, x in answer.items()}
    graded = [
        _grade(name, found[name], x, exact.units.get(name), precision)
        for name, x in exact.outputs.items() if name in found
    ]  # fmt: skip
    if exact.bits and all(np.array_equal(found[name], x) for name, x in exact.bits.items()):
        graded = [dataclasses.replace(output, grade="exact") for output in graded]
    if not graded:
        return result("SKIP", f"there are no golden values of {', '.join(found)}")
    if case.verb == "preprocess":
        rounded = are_rounded(found["pixels"], exact.outputs["pixels"], exact.units)
        graded = [output if rounded else dataclasses.replace(output, grade=None, passed=False) for output in graded]
    worst = max(graded, key=lambda output: (not output.passed, output.rank, output.units))
    passed = worst.passed
    known: dict[str, Any] = {
        "grade": worst.grade, "error": worst.error, "units": worst.units, "units_of": worst.units_of,
    }  # fmt: skip
    if trace:
        order = list(tap_shapes(case))
        graded.sort(key=lambda output: order.index(output.name))
        before = dict(zip(order, [None, *order], strict=False))  # the first one's input is what was asked
        known["taps"] = tuple(
            Tap(output.name, output.units, output.grade, before[output.name] in (None, *(g.name for g in graded)))
            for output in graded
        )
    if case.verb == "preprocess" and not passed:
        known["picture"] = _picture(answer["pixels"], exact.outputs["pixels"])
    if not passed and not exact.units:
        known["instead"] = _other_numbers(case, answer, exact)
    if not passed and "embeddings" in exact.outputs:
        allowed = MARGIN * exact.units["embeddings"][precision]
        problem = _out_of_order(answer["embeddings"], exact.outputs["embeddings"], allowed)
    return result("PASS" if passed else "FAIL", problem, **known)


# What the last activation is called, which an engine may know as its embeddings.
_LAST = dict(zip(("trace_image", "trace_text"), EMBEDDINGS, strict=True))


@dataclass(frozen=True)
class _Graded:
    """One output: its error, in units of what is claimed, the precision it looks like, and whether that will do."""

    name: str
    error: float
    units: float
    grade: str | None
    passed: bool
    units_of: Mapping[str, float] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return len(GRADES) if self.grade is None else GRADES.index(self.grade)


def _grade(name: str, found: Array, exact: Array, units: Mapping[str, float] | None, precision: str) -> _Graded:
    if units is None:
        same = np.array_equal(found, exact)
        off = 0.0 if same else math.inf
        return _Graded(name, off, off, "exact" if same else None, same)
    off = rms_error(found, exact)
    by = {p: off / unit if off else 0.0 for p, unit in units.items()}
    passed = any(by[p] <= MARGIN for p in PRECISIONS[: PRECISIONS.index(precision) + 1])
    return _Graded(name, off, by[precision], nearest([by]), passed, by)


def _wrong_names(exact: Exact, answer: Outputs) -> str | None:
    missing = sorted(exact.outputs.keys() - answer.keys())
    return f"gave no {missing[0]!r}, but {sorted(answer) or 'nothing'}" if missing else None


def _wrong_kind(case: Case, name: str, found: Any, exact: Exact, precision: str) -> str | None:
    """What is wrong with an output before its values are looked at."""
    trace = case.verb.startswith("trace")
    shape = cut(case, name, found).shape if trace else np.shape(found)
    expected = tap_shapes(case)[name] if trace else exact.outputs[name].shape
    if shape != expected:
        return f"gave {name!r} of shape {list(np.shape(found))}, expected {list(expected)}"
    if name not in exact.units and not trace:
        return None if found.dtype.kind in "iu" else f"gave {name!r} in {found.dtype}, expected whole numbers"
    dtype = "float64" if precision == "float64" else "float32"
    if found.dtype != dtype:
        return f"gave {name!r} in {found.dtype}, expected {dtype}"
    wrong = int((~np.isfinite(found)).sum())
    return f"gave {name!r} with {wrong} values that are not finite" if wrong else None


def has_other_shape(exact: Exact, answer: Outputs) -> bool:
    """Whether all is there and finite, but not in the right shape: that, too, a known fault may explain."""
    there = all(name in answer and np.isfinite(answer[name]).all() for name in exact.outputs)
    return there and any(answer[name].shape != x.shape for name, x in exact.outputs.items())


def _other_numbers(case: Case, answer: Outputs, exact: Exact) -> str:
    """The first output that isn't equal to what is right: how many items, and one of them, a text with its words."""
    name = next(name for name, x in exact.outputs.items() if not np.array_equal(answer[name], x))
    found, right = answer[name], exact.outputs[name]
    if not right.ndim:
        return f"gave {name!r} {found}, expected {right}"
    rows = np.flatnonzero((found != right).any(axis=-1))
    texts = json.loads(case.inputs["texts"].tobytes()) if "texts" in case.inputs else ()
    # The shortest text shows best what is wrong with it.
    row = int(min(rows, key=lambda i: len(texts[i])) if texts else rows[0])
    of = f"{len(rows)} of {len(right)} items are wrong: " if len(right) > 1 else ""
    item = f"the text {textwrap.shorten(repr(texts[row]), _LONGEST)}" if texts else f"item {row}"
    used = int(max(np.flatnonzero(np.atleast_1d(x[row])).max(initial=0) for x in (found, right))) + 1
    return f"{of}gave {name!r} {found[row, :used].tolist()} of {item}, expected {right[row, :used].tolist()}"


_LONGEST = 80  # characters of a text that is shown


def _picture(found: Array, exact: Array) -> Picture:
    """The worst pixel is told in levels, without mean and standard deviation."""
    difference = in_levels(found - exact)
    channel, row, column = (int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    return Picture(found, exact, (channel, row, column), float(difference.max()))


def _out_of_order(found: Array, exact: Array, allowed: float) -> str | None:
    """Whether the rows are all there, but not where they belong."""
    order = np.abs(found[:, None] - exact[None]).max(axis=2).argmin(axis=1)
    if len(set(order.tolist())) == len(order) and rms_error(found, exact[order]) <= allowed:
        return f"gave the items in the order {order.tolist()}"
    return None
