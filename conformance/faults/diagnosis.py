"""What is wrong with an engine: which known faults give its wrong answers, group by group.

Every fault is tried, in pixels in every profile; where none explains all failures of a place, every pair that can be
together. From an image's file or a text on, pairs and other profiles are tried with embeddings of length 1 alone: that
is what engines that take files return on purpose, and the other levels show the rest. What explains only some failures
is told as that, and the search goes on with the rest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from .. import faults, packages
from ..grading.verdicts import Diagnosis
from ..restated.preprocessing import PROFILES
from . import Fault
from .costs import cost
from .evidence import Answered, Cause, Evidence
from .fault import WHOLE

# Failing cases of the towers that a cause is searched with; what it explains beside them is counted when it is found.
_CASES = 3
# Failing cases, one after another, of which a cause of their own is searched where no cause explains all; and among
# pairs of faults.
_SEEDS, _SEEDS_OF_PAIRS = 4, 1
# Causes that explain what was searched with, of which that is taken which explains most.
_CANDIDATES = 6
_TOWERS = ("vit", "resnet", "text")

SUBJECT = {
    "vit": "image embeddings of a ViT", "resnet": "image embeddings of a ResNet", "text": "text embeddings",
    "preprocess": "pixels", "tokenize": "ids", "similarity": "similarities",
    "embed_image": "embeddings of image files", "embed_text": "embeddings of texts",
    "compare": "cosines of images and texts",
}  # fmt: skip
Causes: TypeAlias = Callable[[], Iterable[Cause]]


def diagnose(
    failed: Sequence[Answered],
    passed: Sequence[Answered],
    precision: str,
    profile: str = "openai",
    promising: int | None = None,
) -> Iterator[Diagnosis]:
    """For each place, the cause that explains its failures, or several that each explain some.

    What explains failures but would have spoilt what passed is not it. `promising`: pairs are made of so many faults,
    those that alone leave the least, and any other; None: of all.
    """
    failures, witnesses = by_place(failed), by_place(passed)
    for where, found in failures.items():
        if packages.missing(*packages.TO_EXPLAIN.get(where, ())):
            continue  # which find_unsearched tells
        search = _Search(Evidence(precision, profile), where, witnesses.get(where, ()), promising)
        remaining = sorted(found, key=_cost)
        causes: list[Cause] = []
        while remaining and (cause := search.cause(remaining) or search.together(causes, remaining)) is not None:
            causes.append(cause)
            explained = [answer for answer in remaining if search.evidence.fit(answer, cause) is not None]
            yield _diagnosis(search, where, cause, explained, len(found))
            ids = {answer.case.id for answer in explained}
            remaining = [answer for answer in remaining if answer.case.id not in ids]


def find_unsearched(failed: Sequence[Answered]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For each place whose causes can't be searched for want of a package, a sentence that says so, and the cases."""
    for where, found in by_place(failed).items():
        if lacking := packages.missing(*packages.TO_EXPLAIN.get(where, ())):
            what = "one failure" if len(found) == 1 else f"{len(found)} failures"
            said = f"The cause of {what} of {where} was not searched: that takes {' and '.join(lacking)}"
            yield f"{said} (pip install {' '.join(lacking)}).", tuple(answer.case.id for answer in found)


def _diagnosis(search: _Search, where: str, cause: Cause, explained: Sequence[Answered], of: int) -> Diagnosis:
    evidence = search.evidence
    fits = [fit for answer in explained if (fit := evidence.fit(answer, cause)) is not None]
    subject = f"your {SUBJECT.get(where, f'results of {where}')}"
    known = " and ".join(f"{fault.title} ({fault.claim})" for fault in cause.faults)
    other = cause.profile != evidence.profile
    if not other:
        says = f"{subject} equal the reference with {known}"
    elif known:
        says = f"{subject} are those of the profile {cause.profile!r} with {known}"
    else:
        says = f"{subject} are those of the profile {cause.profile!r}; claim it with --profile {cause.profile}"
    if share := max(fit.share for fit in fits):
        says += f", but for at most {max(100 * share, 0.01):.2g} % of values, which are one level off"
    if spoilt := search.spoilt(cause):
        says += f", but not in {spoilt} that {'pass' if spoilt > 1 else 'passes'} and that this would have changed"
    return Diagnosis(
        tuple(fault.id for fault in cause.faults),
        tuple(dict.fromkeys([*(("IMG-4", "IMG-5") if other else ()), *(fault.claim for fault in cause.faults)])),
        says,
        max(fit.units for fit in fits),
        tuple(answer.case.id for answer in explained),
        of=of,
        cost=cost(cause, where, evidence.profile),
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


def _cost(answer: Answered) -> int:
    """What it takes to compute a case again, more or less."""
    size = sum(x.size for x in answer.case.inputs.values())
    if answer.case.checkpoint is not None:
        return size * (answer.case.checkpoint / "model.safetensors").stat().st_size
    return size * int(answer.case.attributes.get("resolution", 1))


@dataclass(frozen=True)
class _Search:
    """The search for a cause in one place."""

    evidence: Evidence
    where: str
    passed: Sequence[Answered]
    promising: int | None

    def cause(self, remaining: Sequence[Answered]) -> Cause | None:
        """The cause that explains most of the failures, which are in the order of their costs; None without one.

        One that explains all of them comes first, though it be a pair of faults.
        """
        chosen = self._choice(remaining)
        singles, in_profiles, pairs = self._singles, self._in_profiles, lambda: self._pairs(chosen)
        for causes in (self._profiles, singles, in_profiles, pairs):
            if (found := self._best(causes(), chosen, remaining)) is not None:
                return found
        for kinds, seeds in (((self._profiles, singles), _SEEDS), ((in_profiles, pairs), _SEEDS_OF_PAIRS)):
            for spoiling in (False, True) if kinds[-1] is singles else (False,):
                for seed in self._spread(remaining)[:seeds]:
                    for causes in kinds:
                        if (found := self._best(causes(), [seed], remaining, spoiling)) is not None:
                            return found
        return None

    def together(self, causes: Sequence[Cause], remaining: Sequence[Answered]) -> Cause | None:
        """All that was found at once, if that explains some of what remains: cases that show three faults or more."""
        found = tuple({fault.id: fault for cause in causes for fault in cause.faults}.values())
        if len(found) < 3 or len({cause.profile for cause in causes}) > 1:
            return None
        cause = Cause(found, causes[0].profile)
        return next((best for seed in remaining if (best := self._best([cause], [seed], remaining))), None)

    def _choice(self, answers: Sequence[Answered]) -> Sequence[Answered]:
        """In the towers, the cheapest, of as many models as there are; elsewhere all, because each shows something."""
        return self._spread(answers)[:_CASES] if self.where in _TOWERS else answers

    def _spread(self, answers: Sequence[Answered]) -> list[Answered]:
        """Answers in an order in which kinds take turns: models, modes of pictures."""
        kinds: dict[str, list[Answered]] = {}
        for answer in answers:
            kinds.setdefault(answer.case.id.rpartition(" ")[0], []).append(answer)
        return [answer for each in itertools.zip_longest(*kinds.values()) for answer in each if answer is not None]

    def _best(
        self, causes: Iterable[Cause], chosen: Sequence[Answered], remaining: Sequence[Answered], spoiling: bool = False
    ) -> Cause | None:
        """The cause that explains most, of those that explain all that was chosen and spoil nothing that passed.

        `spoiling`: it may have spoilt what passed, as where a part of the cases goes another way; then one case alone,
        which several faults may change alike, is too little.
        """
        found = [(units, cause) for cause in causes if (units := self._distance(chosen, cause)) is not None]
        best, most = None, int(spoiling)
        for _, cause in sorted(found, key=lambda pair: pair[0])[:_CANDIDATES]:
            explained = sum(self._explains(answer, cause) for answer in remaining)
            if explained > most and (spoiling or not self.spoilt(cause)):
                best, most = cause, explained
        return best

    def spoilt(self, cause: Cause) -> int:
        """How many answers that passed can't have been given with a cause."""
        return sum(self.evidence.fit(answer, cause) is None for answer in self.passed)

    def _explains(self, answer: Answered, cause: Cause) -> bool:
        return not self.evidence.not_asked(answer.case, cause) and self.evidence.fit(answer, cause) is not None

    def _distance(self, answers: Sequence[Answered], cause: Cause) -> tuple[float, float] | None:
        """How far a cause is from all answers: in pixels that are off, and in units; None if it explains one not."""
        worst = (0.0, 0.0)
        for answer in answers:
            fit = self.evidence.fit(answer, cause)
            if fit is None:
                return None
            worst = max(worst[0], fit.share), max(worst[1], fit.units)
        return worst

    @property
    def _faults(self) -> Sequence[Fault]:
        return faults.of(self.where if self.where in SUBJECT else "operation")  # type: ignore[arg-type]

    @property
    def _combined(self) -> Sequence[Fault]:
        """The faults that are tried together with others, and in other profiles."""
        return [faults.BY_ID["normalised"]] if self.where in WHOLE else self._faults

    def _singles(self) -> Iterator[Cause]:
        return (Cause((fault,), self.evidence.profile) for fault in self._faults)

    def _profiles(self) -> Iterator[Cause]:
        if self.where in ("preprocess", "embed_image", "compare"):
            yield from (Cause((), profile) for profile in PROFILES if profile != self.evidence.profile)

    def _in_profiles(self) -> Iterator[Cause]:
        return (Cause((fault,), cause.profile) for cause in self._profiles() for fault in self._combined)

    def _pairs(self, chosen: Sequence[Answered]) -> Iterator[Cause]:
        if self.where in WHOLE:
            others = (fault for fault in self._faults if fault not in self._combined)
            yield from (Cause((other, *self._combined), self.evidence.profile) for other in others)
            return
        singles = list(self._singles())
        if self.promising is not None:
            singles.sort(key=lambda cause: self.evidence.remainder(chosen, cause))
        promising = singles[: self.promising]
        for i, cause in enumerate(promising):
            yield from (Cause((*cause.faults, *other.faults), cause.profile) for other in singles[i + 1 :])
