"""What is no rounding, though a coarse precision has room for it: other levels, and right numbers times a factor."""

from typing import Any

import numpy as np
import pytest

from clipref.conformance import faults, suite
from clipref.conformance import questions as levels
from clipref.conformance.faults import FaultyEngine, constants
from clipref.conformance.faults.changes import operations
from clipref.conformance.faults.fault import Fault
from clipref.conformance.grading import rounding
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Case, Outputs
from clipref.conformance.reports.words import line
from clipref.conformance.restated.preprocessing import Steps

from .conformance_engines import Emulated, Spoilt

pytestmark = pytest.mark.usefixtures("kept")
COARSE = ("float16", "tf32", "bfloat16", "int8")
STD = np.array(Steps.std, np.float32)[:, None, None]


def asked(engine: Any, level: str, only: str, precision: str) -> Report:
    return suite.run(engine, [q for q in levels.questions([level]) if only in q.id], precision=precision)


# --- pixels -----------------------------------------------------------------------------------------------------------


def a_level_more(case: Case, outputs: Outputs) -> Outputs:
    return {"pixels": (outputs["pixels"] + 1 / 255 / STD).astype(np.float32)}


def half_of_them_more(case: Case, outputs: Outputs) -> Outputs:
    """As where a resize's result is cut off and not rounded."""
    chosen = np.arange(outputs["pixels"].size).reshape(outputs["pixels"].shape) % 5 < 3
    return {"pixels": (outputs["pixels"] + chosen / 255 / STD).astype(np.float32)}


def rounded(precision: str) -> Spoilt:
    to = rounding.rounding(precision)
    return Spoilt(lambda case, outputs: {"pixels": np.asarray(to(outputs["pixels"]), np.float32)})


@pytest.mark.parametrize("precision", COARSE)
@pytest.mark.parametrize("spoil", [a_level_more, half_of_them_more])
def test_other_levels_are_no_rounding(spoil: Any, precision: str) -> None:
    report = asked(Spoilt(spoil), "preprocess", "RGB 50x40 ", precision)
    (result,) = report.results
    assert result.verdict == "FAIL" and result.grade is None
    share = "100" if spoil is a_level_more else "60"
    assert line(result) == f"within 1 level, {share} % of values"
    assert not report.diagnoses


@pytest.mark.parametrize("precision", COARSE)
def test_rounded_pixels_are_right(precision: str) -> None:
    report = asked(rounded(precision), "preprocess", " 50x40 ", precision)
    assert report.passed and report.count("PASS") == 10
    assert not asked(rounded(precision), "preprocess", "RGB 50x40 ", "float32").passed


@pytest.mark.slow
@pytest.mark.parametrize("order", range(3))
@pytest.mark.parametrize("precision", COARSE)
def test_rounded_pixels_of_all_pictures_are_right(precision: str, order: int) -> None:
    """Whatever is rounded: the constants, each step, or what is put together first."""
    to = rounding.rounding(precision)
    mean = np.array(Steps.mean, np.float32)[:, None, None]

    def round_again(case: Case, outputs: Outputs) -> Outputs:
        u = np.rint((outputs["pixels"].astype(np.float64) * STD + mean) * 255).astype(np.float32)
        m, s = to(mean), to(STD)
        first = to(u / np.float32(255)) if order == 0 else to(to(u) * to(np.float32(1 / 255)))
        y = to(to(to(u) * to(1 / (255 * s))) - to(m / s)) if order == 2 else to(to(first - m) / s)
        return {"pixels": np.asarray(y, np.float32)}

    report = asked(Spoilt(round_again), "preprocess", "", precision)
    assert report.passed, [(r.case, line(r)) for r in report.results if r.verdict != "PASS"]


# --- factors ----------------------------------------------------------------------------------------------------------


def warmer(case: Case, outputs: Outputs) -> Outputs:
    return {**outputs, "logits": (outputs["logits"] * 1.002).astype(np.float32)}


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_another_temperature_is_no_rounding(precision: str) -> None:
    report = asked(Spoilt(warmer), "similarity", "", precision)
    assert report.count("FAIL") == 5
    (diagnosis,) = report.diagnoses
    assert diagnosis.says == "your similarities are exact but for a factor of 1.002, which no rounding gives"


@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_a_rounded_logit_scale_is_rounding(precision: str) -> None:
    to = rounding.rounding(precision)

    def scaled(case: Case, outputs: Outputs) -> Outputs:
        scale = np.exp(np.float32(to(case.inputs["logit_scale"])))
        return {**outputs, "logits": (outputs["cosines"] * scale).astype(np.float32)}

    report = asked(Spoilt(scaled), "similarity", "", precision)
    assert report.passed
    assert not asked(Spoilt(scaled), "similarity", "", "float32").passed


def test_a_softmax_of_another_sum_is_no_rounding() -> None:
    wrong = faults.BY_ID["softmax-sum-1.001"]

    class Operations:
        def answer(self, case: Case) -> Outputs:
            known = [wrong] if case.attributes["name"] in ("softmax", "attention") else []
            return faults.answer(case, known, "float32")

    report = asked(Operations(), "operations", "", "bfloat16")
    failed = [r.case for r in report.results if r.verdict == "FAIL"]
    assert failed == [
        "operations/softmax", "operations/softmax large", "operations/attention", "operations/attention causal"
    ]  # fmt: skip
    right = {r.case: r.verdict for r in asked(RoundedOperations(), "operations", "", "bfloat16").results}
    assert set(right.values()) == {"PASS"}


class RoundedOperations:
    def answer(self, case: Case) -> Outputs:
        """Operations whose results are rounded, and nothing else."""
        right = faults.answer(case, (), "float32")
        return {name: np.asarray(rounding.rounding("bfloat16")(x), np.float32) for name, x in right.items()}


# --- towers -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("total", [1.001, 0.9996, 1.004])
@pytest.mark.parametrize("where", ["image", "text"])
def test_a_softmax_of_another_sum_leans_whatever_the_sum(total: float, where: str) -> None:
    """An engine in float32 that claims bfloat16: next to nothing in its errors is anything else."""
    fault = Fault("ours", "OPS-2", "something", ("vit", "text"), operations(**constants.softmax_of_sum(total)))
    report = asked(FaultyEngine(fault), "towers", where, "bfloat16")
    said = " ".join(d.says for d in report.diagnoses)
    assert not report.passed
    assert "a softmax whose sum is 1.001 (OPS-2)" in said or "no precision but a mixture" in said, said


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "tf32", "int8"])
def test_what_rounds_leans_to_nothing(precision: str) -> None:
    report = suite.run(Emulated(precision), list(levels.questions(["towers"])), precision=precision)
    assert report.passed, [d.says for d in report.diagnoses]
