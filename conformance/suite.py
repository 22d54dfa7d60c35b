"""Ask an engine question after question, and report what comes of it."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from clipref.files import scratch_folder

from . import packages
from .asking import CheckpointChanged, ask
from .expectations import expected_result
from .faults.diagnosis import diagnose, find_unsearched
from .faults.evidence import Answered
from .faults.leans import find_leans
from .faults.pixels import find_steps
from .faults.shared import find_shared
from .grading.judge import has_other_shape, judge
from .grading.rounding import PRECISIONS
from .grading.verdicts import NOT_CLAIMED, Diagnosis, Report, Result
from .protocol import Case, EngineUnderTest, Outputs, Question
from .tolerance import tolerate

# The most promising faults, so many, are tried in pairs in a full size, where every trial takes a second and more.
_PROMISING = 2


# Questions of a verb that all end in the same way, without an answer: after so many, no more are asked.
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
        pixels: str = "exact",
        reasons: Mapping[str, str] | None = None,
        diagnose: bool = True,
        among: int = 0,
    ) -> None:
        """`pixels`: how near they have to be, one of PIXELS. `reasons`: for each case that is expected to fail, why.

        `among`: see Report. Raises InputError if pixels are to be measured, and there is no Pillow.
        """
        self._engine, self._name, self._precision, self._profile = engine, name, precision, profile
        self._pixels, self._among = pixels, among
        if pixels != "exact":
            packages.require("How far pixels are off is measured", "pillow", otherwise="")
        self._reasons, self._diagnose = reasons or {}, diagnose
        self._stack = ExitStack()
        self._scratch = self._stack.enter_context(scratch_folder())
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
        self._stack.close()

    def ask(self, question: Question) -> Result:
        """Ask, judge, and remember."""
        case = question.make(self._scratch)
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
            self._full += diagnose(evidence.failed, (), self._precision, self._profile, _PROMISING)
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
        earlier, tolerated = self._repeated.get(case.attributes.get("repeats", "")), None
        if self._pixels == "as-torchvision" and isinstance(answer, Mapping):
            exact, answer, tolerated = tolerate(case, exact, answer, self._profile)
        result = judge(case, exact, answer, self._precision, earlier, seconds)
        if result.verdict == "PASS" and tolerated is not None:
            result = dataclasses.replace(result, picture=tolerated)
        if len(first := self._first.setdefault(case.verb, [])) < _GIVE_UP:
            failed = isinstance(answer, Exception) and result.verdict == "FAIL"
            first.append(result.problem if failed else None)
        if isinstance(answer, Mapping):
            if case.level == "properties":
                self._repeated[case.id] = answer
            known = Answered(case, exact, answer)
            if result.verdict == "PASS":
                evidence.passed.append(known)
            elif result.problem is None or has_other_shape(exact, answer):
                evidence.failed.append(known)
        return result

    def explain(self) -> Sequence[Diagnosis]:
        """What explains the answers that are wrong, and what is wrong with answers that pass one by one."""
        if self._explained is None:
            self._explained = []
            if self._diagnose:
                failed, passed = self._evidence.failed, self._evidence.passed
                given = failed, passed, self._precision, self._profile
                self._explained = [*diagnose(*given), *find_leans(*given)]
                grade = Report(self._name, self._precision, self._profile, list(self._results.values())).grade
                if failed and not self._explained and grade in PRECISIONS:  # is it that precision, as it is?
                    self._explained = list(find_leans((), [*failed, *passed], grade, self._profile))
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
        shared, unsearched = list(self._find_shared(diagnoses)) if self._diagnose else [], set[str]()
        for said, cases in find_unsearched(self._evidence.failed) if self._diagnose else ():
            shared.append(said)
            unsearched.update(cases)
        seconds = time.perf_counter() - self._started
        return Report(
            self._name, self._precision, self._profile, found, diagnoses, seconds, tuple(shared), self._pixels,
            unsearched, self._among,
        )  # fmt: skip

    def _find_shared(self, diagnoses: Sequence[Diagnosis]) -> Iterator[str]:
        """What failures have in common; of pixels that nothing explains, the step that is wrong."""
        failed = self._evidence.failed
        yield from find_shared(failed, self._evidence.passed, self._results, self._precision)
        explained = {case for diagnosis in diagnoses for case in diagnosis.cases}
        if packages.missing(*packages.TO_EXPLAIN["preprocess"]):
            return
        pixels = [a for a in failed if a.case.verb == "preprocess" and a.case.id not in explained]
        yield from find_steps([a for a in pixels if not has_other_shape(a.exact, a.outputs)], self._profile)


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
