"""Ask an engine, judge its answers, and report.

The error of an answer is stated as a multiple of what a correct engine of each precision would err (emulation.py). It
passes if it is at most MARGIN units of the precision that the engine claims; its grade is the precision whose unit it
is nearest to. What an engine doesn't do, or doesn't claim, is skipped, and never passes.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .asking import CheckpointChanged, Misbehaved, ask, words
from .case import Array, Case, EngineUnderTest, Exact, Outputs, Question, Unsupported
from .cases import sample
from .diagnosis import Answered, diagnosed, leaning
from .emulation import PRECISIONS, error
from .engines.failures import Failure, Garbage, Hung, Killed
from .expectations import expected_result
from .levels import tap_shapes
from .recipe import Recipe
from .verdicts import GRADES, MARGIN, NOT_CLAIMED, Diagnosis, Picture, Report, Result, Tap, Verdict, nearest

# Of how many faults pairs are made in a full size, where every trial takes a second and more.
_PROMISING = 2


# After so many questions of a verb that all end in the same way, without an answer, no more are asked.
_GIVE_UP = 10


class Run:
    """One engine, asked question after question, and what comes of it; the command line and pytest both go through it.

    Questions of full sizes come last. Of their checkpoints one is on disk at a time, so that what such an answer shows
    is looked into before the next one.
    """

    def __init__(
        self,
        engine: EngineUnderTest,
        *,
        name: str = "the engine",
        precision: str = "float32",
        profile: str = "openai",
        reasons: Mapping[str, str] | None = None,
        diagnose: bool = True,
    ) -> None:
        """`reasons`: for each case that is expected to fail, why."""
        self._engine, self._name, self._precision, self._profile = engine, name, precision, profile
        self._reasons, self._diagnose = reasons or {}, diagnose
        self._scratch = tempfile.TemporaryDirectory()
        self._started = time.perf_counter()
        self._results: dict[str, Result] = {}
        self._evidence = _Evidence()
        self._explained: list[Diagnosis] | None = None  # of all but full sizes, since the last of these was asked
        self._full: list[Diagnosis] = []
        self._full_checkpoint: Path | None = None
        self._repeated: dict[str, Outputs] = {}
        self._first: dict[str, list[str | None]] = {}  # by verb, how the first questions ended; None with an answer

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the checkpoints."""
        self._scratch.cleanup()

    def ask(self, question: Question) -> Result:
        """Ask, judge, and remember."""
        case = question.make(Path(self._scratch.name))
        if question.level == "full":
            return self._ask_in_full(case, question)
        self._explained = None
        return self._record(self._answer(case, question, self._evidence))

    def _ask_in_full(self, case: Case, question: Question) -> Result:
        if self._full_checkpoint is not None and self._full_checkpoint != case.checkpoint:
            shutil.rmtree(self._full_checkpoint)
        self._full_checkpoint = case.checkpoint
        evidence = _Evidence()
        result = self._record(self._answer(case, question, evidence))
        if self._diagnose and not self._evidence.failed:
            self._full += diagnosed(evidence.failed, (), self._precision, self._profile, _PROMISING)
        return result

    def _record(self, result: Result) -> Result:
        self._results[result.case] = result
        return expected_result(result, self._reasons)

    def _hopeless(self, verb: str) -> bool:
        """Whether the engine has never answered to a verb, and always ended in the same way."""
        first = self._first.get(verb, [])
        return len(first) == _GIVE_UP and len(set(first)) == 1 and first[0] is not None

    def _answer(self, case: Case, question: Question, evidence: _Evidence) -> Result:
        if self._hopeless(case.verb):
            problem = f"not asked: the first {_GIVE_UP} questions of {case.verb} all ended in the same way"
            return Result(case.id, case.level, case.claims, "FAIL", problem=problem)
        started = time.perf_counter()
        answer = ask(self._engine, case)
        seconds = time.perf_counter() - started
        if isinstance(answer, CheckpointChanged) and case.checkpoint is not None:
            shutil.rmtree(case.checkpoint)
            question.make(case.checkpoint.parent)
        exact = question.exact(case)
        earlier = self._repeated.get(case.attributes.get("repeats", ""))
        result = judged(case, exact, answer, self._precision, earlier, seconds)
        if len(first := self._first.setdefault(case.verb, [])) < _GIVE_UP:
            failed = isinstance(answer, Exception) and result.verdict == "FAIL"
            first.append(result.problem if failed else None)
        if isinstance(answer, Mapping):
            if case.level == "properties":
                self._repeated[case.id] = answer
            known = Answered(case, exact, answer)
            if result.verdict == "PASS":
                evidence.passed.append(known)
            elif result.problem is None or _of_other_shape(exact, answer):
                evidence.failed.append(known)
        return result

    def explain(self) -> Sequence[Diagnosis]:
        """What explains the answers that are wrong, and what is wrong with answers that pass one by one."""
        if self._explained is None:
            self._explained = []
            if self._diagnose:
                given = self._evidence.failed, self._evidence.passed, self._precision, self._profile
                self._explained = [*diagnosed(*given), *leaning(*given)]
        return [*self._explained, *self._full]

    def report(self, order: Iterable[str] = (), unclaimed: Iterable[Question] = ()) -> Report:
        """All that was found. `order`: ids of cases, first those that come first; `unclaimed` counts as skipped."""
        diagnoses = self.explain()
        results = {id: self._results[id] for id in order} | self._results
        for diagnosis in diagnoses:
            for id in diagnosis.cases if diagnosis.leans else ():
                results[id] = dataclasses.replace(results[id], verdict="FAIL", problem=diagnosis.says)
        found = [expected_result(result, self._reasons) for result in results.values()]
        found += [Result(q.id, q.level, q.claims, "SKIP", problem=NOT_CLAIMED) for q in unclaimed]
        seconds = time.perf_counter() - self._started
        return Report(self._name, self._precision, self._profile, found, diagnoses, seconds)


@dataclass(frozen=True)
class _Evidence:
    """Answers that were wrong by their values, and answers that were right."""

    failed: list[Answered] = field(default_factory=list)
    passed: list[Answered] = field(default_factory=list)


def run(
    engine: EngineUnderTest,
    questions: Iterable[Question],
    *,
    unclaimed: Iterable[Question] = (),
    progress: Callable[[Result], None] = lambda result: None,
    **options: Any,
) -> Report:
    """Ask all questions and judge the answers; those of `unclaimed` are skipped. `options` are those of Run.

    Questions about one model are asked together, so that an engine opens each model once.
    """
    questions = list(questions)
    with Run(engine, **options) as asked:
        for question in sorted(questions, key=lambda question: (question.level == "full", question.model)):
            progress(asked.ask(question))
        return asked.report((question.id for question in questions), unclaimed)


def judged(
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
    trace = case.verb.startswith("trace")
    if trace:
        answer = {_LAST[case.verb] if name == "embeddings" else name: x for name, x in answer.items()}
    problem = _wrong_taps(case, answer) if trace else _wrong_names(exact, answer)
    for name in () if problem else answer:
        if name in exact.outputs or trace:
            problem = problem or _wrong_kind(case, name, answer[name], exact, precision)
    if problem is not None:
        return result("FAIL", problem)
    if earlier is not None and not all(np.array_equal(answer[name], earlier.get(name, [])) for name in exact.outputs):
        return result("FAIL", "gave other bits than to the same question before")
    found = {name: _sampled(case, name, x) if trace else x for name, x in answer.items()}
    graded = [
        _graded(name, found[name], x, exact.units.get(name), precision)
        for name, x in exact.outputs.items() if name in found
    ]  # fmt: skip
    if exact.bits and all(np.array_equal(found[name], x) for name, x in exact.bits.items()):
        graded = [dataclasses.replace(output, grade="exact") for output in graded]
    if not graded:
        return result("SKIP", f"there are no golden values of {', '.join(found)}")
    worst = max(graded, key=lambda output: (not output.passed, output.rank, output.units))
    passed = worst.passed
    known: dict[str, Any] = {
        "grade": worst.grade, "error": worst.error, "units": worst.units, "units_of": worst.units_of,
    }  # fmt: skip
    if trace:
        order = list(tap_shapes(case))
        graded.sort(key=lambda output: order.index(output.name))
        known["taps"] = tuple(Tap(output.name, output.units, output.grade) for output in graded)
    if case.verb == "preprocess" and not passed:
        known["picture"] = _picture(answer["pixels"], exact.outputs["pixels"])
    if not passed and not exact.units:
        known["instead"] = _other_numbers(answer, exact)
    if not passed and "embeddings" in exact.outputs:
        allowed = MARGIN * exact.units["embeddings"][precision]
        problem = _out_of_order(answer["embeddings"], exact.outputs["embeddings"], allowed)
    return result("PASS" if passed else "FAIL", problem, **known)


# What the last activation is called, which an engine may know as its embeddings.
_LAST = {"trace_image": "visual", "trace_text": "text_projection"}


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


def _graded(name: str, found: Array, exact: Array, units: Mapping[str, float] | None, precision: str) -> _Graded:
    if units is None:
        same = np.array_equal(found, exact)
        off = 0.0 if same else math.inf
        return _Graded(name, off, off, "exact" if same else None, same)
    off = error(found, exact)
    by = {p: off / unit if off else 0.0 for p, unit in units.items()}
    passed = any(by[p] <= MARGIN for p in PRECISIONS[: PRECISIONS.index(precision) + 1])
    return _Graded(name, off, by[precision], nearest([by]), passed, by)


def _wrong_names(exact: Exact, answer: Outputs) -> str | None:
    missing = sorted(exact.outputs.keys() - answer.keys())
    return f"gave no {missing[0]!r}, but {sorted(answer) or 'nothing'}" if missing else None


def _wrong_taps(case: Case, answer: Outputs) -> str | None:
    known = tap_shapes(case)
    unknown = sorted(answer.keys() - known.keys())
    if unknown:
        return f"gave an activation {unknown[0]!r}, which there is not{_near(unknown[0], known)}"
    return None if answer else "gave no activation"


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known)}"


def _wrong_kind(case: Case, name: str, found: Any, exact: Exact, precision: str) -> str | None:
    """What is wrong with an output before its values are looked at."""
    trace = case.verb.startswith("trace")
    shape = _cut(case, name, found).shape if trace else np.shape(found)
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


def _cut(case: Case, name: str, found: Array) -> Array:
    """An activation cut to the positions that the reference has: no padding, one position behind the last block."""
    shape = tap_shapes(case)[name]
    if len(shape) == 3 and shape[1] == 1 and found.shape == (shape[0], shape[2]):  # pooled already
        return found[:, None]
    if found.shape == shape or found.ndim != 3 or len(found) != shape[0]:
        return found
    ends = case.inputs["ids"].argmax(1) if case.verb == "trace_text" else np.zeros(shape[0], int)
    if found.shape[1] <= ends.max():
        return found
    pooled: Array = found[np.arange(len(found)), ends]
    if len(shape) == 2:
        return pooled
    return pooled[:, None] if shape[1] == 1 else found[:, : shape[1]]


def _sampled(case: Case, name: str, found: Array) -> Array:
    return sample(_cut(case, name, found))


def _of_other_shape(exact: Exact, answer: Outputs) -> bool:
    """Whether all is there and finite, but not in the right shape: that, too, a known fault may explain."""
    there = all(name in answer and np.isfinite(answer[name]).all() for name in exact.outputs)
    return there and any(answer[name].shape != x.shape for name, x in exact.outputs.items())


def _other_numbers(answer: Outputs, exact: Exact) -> str:
    """The first output that isn't equal to what is right, and where."""
    name = next(name for name, x in exact.outputs.items() if not np.array_equal(answer[name], x))
    found, right = answer[name], exact.outputs[name]
    if not right.ndim:
        return f"gave {name!r} {found}, expected {right}"
    row = int(np.argwhere((found != right).any(axis=-1))[0, 0])
    used = int(max(np.flatnonzero(np.atleast_1d(x[row])).max(initial=0) for x in (found, right))) + 1
    return f"gave {name!r} {found[row, :used].tolist()} of item {row}, expected {right[row, :used].tolist()}"


def _picture(found: Array, exact: Array) -> Picture:
    """The worst pixel is told in levels, without mean and standard deviation."""
    std = np.array(Recipe.std)[:, None, None]
    difference = np.abs(found - exact) * std * 255
    channel, row, column = (int(i) for i in np.unravel_index(difference.argmax(), difference.shape))
    return Picture(found, exact, (channel, row, column), float(difference.max()))


def _out_of_order(found: Array, exact: Array, allowed: float) -> str | None:
    """Whether the rows are all there, but not where they belong."""
    order = np.abs(found[:, None] - exact[None]).max(axis=2).argmin(axis=1)
    if len(set(order.tolist())) == len(order) and error(found, exact[order]) <= allowed:
        return f"gave the items in the order {order.tolist()}"
    return None
