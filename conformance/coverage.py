"""Which known faults the minute catches, and how it is chosen: `python -m clipref.conformance.coverage`.

Prints a table of the faults by where they are: how many are known, and how many of them all questions and the minute's
catch. `--choose` prints the questions of a minute that is chosen anew.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from clipref.files import scratch_folder

from . import faults
from .asking import ask
from .grading.judge import judge
from .minute import MINUTE
from .protocol import Case, EngineUnderTest, Outputs, Question
from .questions import questions
from .questions.images import PICTURES_AT_224
from .restated.preprocessing import PROFILES, Steps

# A target: where something is, and what (a fault, a profile that is taken for another, or a claim of SPEC.md).
Target: TypeAlias = tuple[str, str]
# Levels whose right answers take numpy and safetensors alone, and that an engine answers without showing its inside.
LEVELS = ("describe", "tokenize", "preprocess", "operations", "towers", "similarity", "properties")
# Questions that catch each target, where the whole suite has so many.
_TIMES = 2
_AT_224 = f" to {PICTURES_AT_224[0][-1]}"
WINGS = ("vit", "resnet", "text", "preprocess", f"preprocess{_AT_224}", "tokenize", "similarity")


class _InProfile:
    """An engine that is the reference in a profile of preprocessing, with a fault or without."""

    def __init__(self, profile: str, *known: faults.Fault) -> None:
        self._profile, self._faults = profile, known

    def answer(self, case: Case) -> Outputs:
        return faults.answer(case, self._faults, "float32", self._profile)


def engines(where: str, profile: str = "openai") -> dict[str, EngineUnderTest]:
    """The engines that are wrong in one place, by what is wrong: each known fault, and each other profile."""
    known: dict[str, EngineUnderTest] = {}
    right = PROFILES[profile]
    for fault in faults.FAULTS:
        if where in fault.places and not (isinstance(fault.change, Mapping) and _is_no_change(right, fault.change)):
            known[fault.id] = _InProfile(profile, fault)
    if where == "preprocess":
        known |= {f"the profile {other}": _InProfile(other) for other in PROFILES if other != profile}
    return known


def _is_no_change(right: Steps, change: Mapping[str, object]) -> bool:
    """Whether a profile of preprocessing has these steps anyway."""
    return change.keys() <= right.__dict__.keys() and replace(right, **change) == right  # type: ignore[arg-type]


def fails(engine: EngineUnderTest, question: Question, folder: Path) -> bool:
    """Whether an engine's answer to a question is wrong, with its checkpoint in a folder."""
    case = question.make(folder)
    return judge(case, question.exact(case), ask(engine, case)).verdict == "FAIL"


def wings(question: Question, case: Case) -> Sequence[str]:
    """Where the faults are that a question shows; of pixels at 224, the only size of many engines, that as well."""
    where = faults.place(case)
    if where not in WINGS or question.level == "properties":
        return ()
    return (where, f"{where}{_AT_224}") if where == "preprocess" and question.id.endswith(_AT_224) else (where,)


def catches(asked: Sequence[Question], profile: str = "openai") -> Iterator[tuple[str, frozenset[Target]]]:
    """Each question's id, with the faults that it catches and its claims."""
    with scratch_folder() as scratch:
        for question in asked:
            where = wings(question, question.make(scratch))
            found = {(question.level if where else "properties", claim) for claim in question.claims}
            for what, engine in engines(where[0], profile).items() if where else ():
                if fails(engine, question, scratch):
                    found |= {(wing, what) for wing in where}
            yield question.id, frozenset(found)


def choose(found: Mapping[str, frozenset[Target]]) -> list[str]:
    """A few questions that together catch each target so many times: each time that which catches most."""
    times = Counter(target for known in found.values() for target in known)
    left = {target: min(_TIMES, n) for target, n in times.items()}
    chosen: list[str] = []
    while left:
        best = max((id for id in found if id not in chosen), key=lambda id: len(found[id] & left.keys()))
        chosen.append(best)
        for target in found[best] & left.keys():
            left[target] -= 1
        left = {target: n for target, n in left.items() if n}
    return [id for id in found if id in chosen]


def table(asked: Collection[str] = MINUTE, profile: str = "openai", places: Sequence[str] = WINGS) -> str:
    """Markdown: of each place, how many faults are known, caught by the whole suite, and caught by what is `asked`."""
    head = ("where", "known faults", "caught by all questions", "caught in the minute", "missed there")
    rows = [head, ("---",) * len(head)]
    with scratch_folder() as scratch:
        by_wing: dict[str, list[Question]] = {}
        # The questions of the minute come first: mostly they catch all, and the others needn't be asked.
        for question in sorted(questions(LEVELS, profile=profile), key=lambda question: question.id not in asked):
            for wing in wings(question, question.make(scratch)):
                by_wing.setdefault(wing, []).append(question)
        for wing in places:
            wrong = engines(wing.removesuffix(_AT_224), profile)
            caught_by = {
                what: next((q.id for q in by_wing[wing] if fails(engine, q, scratch)), None)
                for what, engine in wrong.items()
            }
            every = [what for what, id in caught_by.items() if id is not None]
            missed = [what for what in every if caught_by[what] not in asked]
            counts = (str(len(some)) for some in (wrong, every))
            rows.append((wing, *counts, str(len(every) - len(missed)), ", ".join(missed) or "-"))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Print the table, or the choice."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--choose", action="store_true", help="print a minute that is chosen anew, instead of the table"
    )
    parser.add_argument("--profile", default="openai", choices=list(PROFILES), help="of preprocessing (openai)")
    args = parser.parse_args()
    if args.choose:
        print("\n".join(choose(dict(catches(list(questions(LEVELS, profile=args.profile)), args.profile)))))
    else:
        print(table(profile=args.profile))


if __name__ == "__main__":
    main()
