"""Ask an engine, judge its answers, and report.

The error of an answer is stated as a multiple of what a correct engine of each precision would err (emulation.py). It
passes if it is at most MARGIN units of the precision that the engine claims; its grade is the precision whose unit it
is nearest to. What an engine doesn't do, or doesn't claim, is skipped, and never passes.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import shutil
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .case import Array, Case, EngineUnderTest, Exact, Outputs, Question, Unsupported
from .cases import sample
from .diagnosis import Answered, diagnosed, leaning
from .emulation import PRECISIONS, error
from .engines.failures import Failure, Garbage, Hung, Killed
from .levels import tap_shapes
from .recipe import Recipe
from .verdicts import GRADES, MARGIN, NOT_CLAIMED, Diagnosis, Picture, Report, Result, Tap, Verdict, nearest

# Of how many faults pairs are made in a full size, where every trial takes a second and more.
_PROMISING = 2


# After so many questions of a verb that all end in the same way, without an answer, no more are asked.
_GIVE_UP = 10


class Misbehaved(Exception):
    """What an engine did wrong beside its values."""


class CheckpointChanged(Misbehaved):
    """The files of the checkpoint are not as they were; the next question needs them made again."""


def run(
    engine: EngineUnderTest,
    questions: Iterable[Question],
    *,
    name: str = "the engine",
    precision: str = "float32",
    profile: str = "openai",
    unclaimed: Iterable[Question] = (),
    diagnose: bool = True,
    progress: Callable[[Result], None] = lambda result: None,
) -> Report:
    """Ask all questions and judge the answers; those of `unclaimed` are skipped.

    Questions about one model are asked together, so that an engine opens each model once. Of the full sizes, one is on
    disk at a time.
    """
    started = time.perf_counter()
    questions = list(questions)
    small = [question for question in questions if question.level != "full"]
    results: dict[str, Result] = {}
    diagnoses: list[Diagnosis] = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        session = Session(engine, precision)
        cases = [(question.make(folder), question) for question in small]
        for case, question in sorted(cases, key=lambda pair: str(pair[0].checkpoint or "")):
            results[case.id] = session.ask(case, question)
            progress(results[case.id])
        if diagnose:
            diagnoses += diagnosed(session.failed, session.passed, precision, profile)
            for lean in leaning(session.failed, session.passed, precision, profile):
                diagnoses.append(lean)
                for id in lean.cases:
                    results[id] = dataclasses.replace(results[id], verdict="FAIL", problem=lean.says)
        explained = bool(session.failed)
        last: Path | None = None
        for question in questions:
            if question.level == "full":
                case = question.make(folder)
                if last is not None and last != case.checkpoint:
                    shutil.rmtree(last)
                last = case.checkpoint
                session.failed, session.passed = [], []
                results[case.id] = session.ask(case, question)
                progress(results[case.id])
                if diagnose and not explained:
                    diagnoses += diagnosed(session.failed, (), precision, profile, _PROMISING)
    ordered = [results[question.id] for question in questions]
    ordered += [Result(q.id, q.level, q.claims, "SKIP", problem=NOT_CLAIMED) for q in unclaimed]
    return Report(name, precision, profile, ordered, diagnoses, time.perf_counter() - started)


class Session:
    """One engine, what it answered that later questions repeat, and what it got wrong."""

    def __init__(self, engine: EngineUnderTest, precision: str) -> None:
        self.engine, self.precision = engine, precision
        self.failed: list[Answered] = []
        self.passed: list[Answered] = []
        self._answers: dict[str, Outputs] = {}
        self._first: dict[str, list[str | None]] = {}  # by verb, how the first questions ended; None with an answer

    def hopeless(self, verb: str) -> bool:
        """Whether the engine has never answered to a verb, and always ended in the same way."""
        first = self._first.get(verb, [])
        return len(first) == _GIVE_UP and len(set(first)) == 1 and first[0] is not None

    def ask(self, case: Case, question: Question) -> Result:
        """Ask, judge, and remember."""
        if self.hopeless(case.verb):
            problem = f"not asked: the first {_GIVE_UP} questions of {case.verb} all ended in the same way"
            return Result(case.id, case.level, case.claims, "FAIL", problem=problem)
        started = time.perf_counter()
        answer = answered(self.engine, case)
        seconds = time.perf_counter() - started
        if isinstance(answer, CheckpointChanged) and case.checkpoint is not None:
            shutil.rmtree(case.checkpoint)
            question.make(case.checkpoint.parent)
        exact = question.exact(case)
        earlier = self._answers.get(case.attributes.get("repeats", ""))
        result = judged(case, exact, answer, self.precision, earlier, seconds)
        if len(first := self._first.setdefault(case.verb, [])) < _GIVE_UP:
            failed = isinstance(answer, Exception) and result.verdict == "FAIL"
            first.append(result.problem if failed else None)
        if isinstance(answer, Mapping):
            if case.level == "properties":
                self._answers[case.id] = answer
            known = Answered(case, exact, answer)
            if result.verdict == "PASS":
                self.passed.append(known)
            elif result.problem is None or _of_other_shape(exact, answer):
                self.failed.append(known)
        return result


def answered(engine: EngineUnderTest, case: Case) -> Outputs | BaseException:
    """What an engine answers, as plain arrays, or what it raised; what else it did wrong counts as that.

    It is given copies, and whatever it does to the settings of numpy, of warnings or of the process is undone.
    """
    given = dataclasses.replace(
        case, inputs={name: x.copy() for name, x in case.inputs.items()}, attributes=dict(case.attributes)
    )
    files, here = _files(case.checkpoint), os.getcwd()
    try:
        with np.errstate(), warnings.catch_warnings():
            outputs = _plain(engine.answer(given))
        for name, x in case.inputs.items():
            if name not in given.inputs or not np.array_equal(given.inputs[name], x):
                raise Misbehaved(f"changed its input {name!r}")
        if files != _files(case.checkpoint):
            raise CheckpointChanged("changed the files of the checkpoint")
    except KeyboardInterrupt:
        raise
    except BaseException as problem:  # whatever somebody's engine raises is the verdict, SystemExit too
        return problem
    finally:
        os.chdir(here)
    return outputs


def _plain(outputs: Any) -> Outputs:
    """Copies of what an engine gave, without its classes: an engine may use its memory again."""
    if not isinstance(outputs, Mapping):
        raise Misbehaved(f"gave a {type(outputs).__name__}, expected arrays by name")
    plain = {}
    for name, x in outputs.items():
        if not isinstance(name, str):
            raise Misbehaved(f"gave an output by the name of {name!r}, expected a string")
        if isinstance(x, np.ma.MaskedArray) or not isinstance(x, np.ndarray | np.generic):
            raise Misbehaved(f"gave a {type(x).__name__} as {name!r}, expected arrays by name")
        array = np.array(x, subok=False)
        if array.dtype.kind not in "biufc":
            raise Misbehaved(f"gave {name!r} in {array.dtype}, expected numbers")
        plain[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
    return plain


def _files(checkpoint: Path | None) -> dict[str, tuple[int, int]]:
    """Size and time of a checkpoint's files, by which a change shows; what an engine puts beside them is its own."""
    files = {} if checkpoint is None else {name: checkpoint / name for name in ("model.safetensors", "config.json")}
    return {
        name: (file.stat().st_size, file.stat().st_mtime_ns) if file.is_file() else (0, 0)
        for name, file in files.items()
    }


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
        return result("FAIL", f"{what}: {_said(answer)}")
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


def _said(problem: BaseException) -> str:
    try:
        return " ".join(str(problem).split())[:300]
    except Exception:  # of an exception that can't even be shown
        return "(which can't be shown)"


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
