"""The suite misses no known fault, and names it. Figures measured are beside the tests that hold them."""

import random
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from clipref.conformance import asking, faults, suite
from clipref.conformance import questions as levels
from clipref.conformance.faults import FAULTS, FaultyEngine, diagnosis, evidence
from clipref.conformance.grading.judge import judge
from clipref.conformance.grading.verdicts import Report

from .conformance_engines import LEVEL
from .fault_answers import kept_answers

TOWER_FAULTS = [fault for fault in FAULTS if fault.places[0] in LEVEL]
OTHER_FAULTS = [fault for fault in FAULTS if fault.places[0] not in LEVEL]
OTHERS = list(enumerate(OTHER_FAULTS))
EVERY = {"preprocess": 12}  # every how manieth isn't slow
# One of each kind of change; the rest of them is slow.
SOME_TOWER_FAULTS = ("gelu-tanh", "qkv-kqv", "ln-pre-missing", "conv2-strided")


@pytest.fixture(scope="module", autouse=True)
def kept() -> Iterator[None]:
    """Answers of faults that searches have in common are computed once."""
    with kept_answers({}):
        yield


# --- no miss ----------------------------------------------------------------------------------------------------------


def caught(fault: faults.Fault) -> Report:
    """The report of an engine with this fault, asked all that the fault can show in."""
    which = sorted({LEVEL.get(place, place) for place in fault.places})
    asked = [q for q in levels.questions(which) if any(shows(q.id, place) for place in fault.places)]
    report = suite.run(FaultyEngine(fault), asked)
    assert not report.passed, f"{fault.id} passes"
    return report


@pytest.mark.slow_cases("torch-no-antialias", "conv2-strided")
@pytest.mark.parametrize(
    "fault",
    [
        *(pytest.param(f, marks=pytest.mark.slow if i % EVERY.get(f.places[0], 6) else ()) for i, f in OTHERS),
        *(pytest.param(f, marks=() if f.id in SOME_TOWER_FAULTS else pytest.mark.slow) for f in TOWER_FAULTS),
    ],
    ids=lambda fault: fault.id,
)
def test_a_fault_is_caught_in_both_styles_and_named(fault: faults.Fault) -> None:
    """All are named, in every place that they can be in."""
    report = caught(fault)
    if fault.places[0] in LEVEL:
        failed = {tuple(result.case.split("/")[1:]) for result in report.results if result.verdict == "FAIL"}
        for place in fault.places:
            tower = "text" if place == "text" else "image"
            for style in ("plain", "trained"):
                assert any(what.endswith(style) and where == tower for what, where in failed), (place, style)
        assert len(report.diagnoses) == len(fault.places)
    assert report.diagnoses and all(diagnosis.faults == (fault.id,) for diagnosis in report.diagnoses)
    assert all(fault.claim in diagnosis.says and fault.title in diagnosis.says for diagnosis in report.diagnoses)


PAIRS = 40  # of each place, from a seed


@pytest.mark.slow
@pytest.mark.parametrize("place", ["vit", "resnet", "text", "preprocess", "tokenize", "similarity"])
def test_pairs_of_faults_are_caught_and_most_are_named(place: str) -> None:
    """Measured: all caught, named 39 of 40 in ViTs, 38 of 40 in ResNets, 37 of 40 in texts, 33 of 40 in pixels, 37 of
    40 in tokens, 19 of 20 in similarities. In most of those that are not, one fault hides the other.
    """
    pool = [fault for fault in FAULTS if place in fault.places]
    rng = random.Random(f"pairs {place}")
    caught_pairs, named = 0, 0
    while caught_pairs < min(PAIRS, len(pool) * 2):
        pair = rng.sample(pool, 2)
        asked = [q for q in levels.questions([LEVEL.get(place, place)]) if shows(q.id, place)]
        report = suite.run(FaultyEngine(*pair), asked)
        failed = [result for result in report.results if result.verdict == "FAIL"]
        if failed and all((result.problem or "").startswith("raised ValueError") for result in failed):
            continue  # both change the same step
        assert not report.passed, [fault.id for fault in pair]
        caught_pairs += 1
        named += [set(d.faults) for d in report.diagnoses] == [{fault.id for fault in pair}]
    print(f"{place}: {named} of {caught_pairs}")
    assert named >= 0.7 * caught_pairs


def test_a_pair_is_found_among_the_most_promising_faults(tmp_path: Path) -> None:
    """As in full sizes, where only pairs with the two faults that alone leave least are tried."""
    pair = (faults.BY_ID["pool-padding"], faults.BY_ID["gelu-tanh"])
    (question,) = (q for q in levels.questions(["towers"]) if q.id == "towers/vit-a plain/text")
    case = question.make(tmp_path)
    answer = asking.ask(FaultyEngine(*pair), case)
    assert isinstance(answer, Mapping)
    failed = evidence.Answered(case, question.exact(case), answer)
    (found,) = diagnosis.diagnose([failed], (), "float32", promising=2)
    assert set(found.faults) == {fault.id for fault in pair}


def shows(case: str, place: str) -> bool:
    """Whether a case of the towers is about a place."""
    if place not in LEVEL:
        return True
    return (
        case.endswith("text") if place == "text" else case.endswith("image") and ("/rn" in case) == (place == "resnet")
    )


# The published models have no exact GELU to be wrong about; and where activations are as large as theirs, an eps in one
# LayerNorm alone moves the result by 1.5 to 3 units, within rounding's 6. In tiny models all are caught.
NOT_IN_FULL_SIZE = {
    "plain": {"gelu-quick", "gelu-exact-by-tanh", "ln-post-eps-1e-6", "ln-final-eps-1e-6"},
    "trained": {"gelu-quick", "gelu-exact-by-tanh", "ln-post-eps-1e-6"},
}


@pytest.mark.slow
@pytest.mark.parametrize("style", ["plain", "trained"])
@pytest.mark.parametrize("name", ["clip/ViT-B-32", "clip/RN50"])
def test_every_fault_is_caught_in_full_size(name: str, style: str, tmp_path: Path) -> None:
    missed = []
    for question in levels.questions((), full=[name]):
        if f" {style}/" not in question.id:
            continue
        case = question.make(tmp_path)
        if not case.verb.startswith("encode_"):  # the faulty engine has towers alone
            continue
        exact = question.exact(case)
        right = judge(case, exact, asking.ask(FaultyEngine(), case))
        assert right.verdict == "PASS" and right.grade == "float32", (question.id, right.units)
        for fault in faults.of(faults.place(case)):
            if fault.id not in NOT_IN_FULL_SIZE[style]:
                result = judge(case, exact, asking.ask(FaultyEngine(fault), case))
                print(question.id, fault.id, result.verdict, result.grade, f"{result.units:.3g}", result.problem or "")
                missed += [(question.id, fault.id, result.units)] if result.verdict != "FAIL" else []
    assert not missed
