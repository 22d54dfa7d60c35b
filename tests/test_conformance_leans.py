"""Formulas that are wrong by less than a coarse precision has room for, each of a kind of its own."""

from typing import Any

import numpy as np
import pytest

from clipref import ops
from clipref.conformance import faults, suite
from clipref.conformance import questions as levels
from clipref.conformance.faults import FaultyEngine, changes, formulas
from clipref.conformance.faults.fault import Fault
from clipref.conformance.faults.leans import _Measured
from clipref.conformance.faults.tower import Tower
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Case, Outputs
from clipref.conformance.reports.words import summary

from .conformance_engines import Emulated

TOWERS = list(levels.questions(["towers"]))


class Rounded(Emulated):
    """An engine of a precision that has a fault besides."""

    def __init__(self, precision: str, fault: Fault) -> None:
        super().__init__(precision)
        self.fault = fault

    def answer(self, case: Case) -> Outputs:
        right, wrong = faults.answer(case), faults.answer(case, (self.fault,))
        return {name: (x + wrong[name] - right[name]).astype(np.float32) for name, x in super().answer(case).items()}


def said(report: Report) -> str:
    return " ".join(diagnosis.says for diagnosis in report.diagnoses)


def last_layer_norm(tower: Tower) -> Tower:
    """Another eps behind the last block of texts, and nowhere else: all answers are off, and none by much."""
    changed, last = formulas.layer_norm(1e-6), tower.params["ln_final"]["weight"]

    def layer_norm(x: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
        return (changed if weight is last else ops.layer_norm)(x, weight, bias)

    return tower.with_operations(layer_norm=layer_norm)


def values_without_bias(block: dict[str, Any], heads: int) -> dict[str, Any]:
    """Of q, k and v only the last lacks its bias: the catalogue has it of all three."""
    bias = block["attn"]["in_proj_bias"].copy()
    bias[2 * len(bias) // 3 :] = 0
    return {**block, "attn": {**block["attn"], "in_proj_bias": bias}}


def test_errors_that_differ_from_model_to_model_are_no_precision() -> None:
    fault = Fault("ours", "BLK-1", "something else", ("text",), last_layer_norm)
    report = suite.run(FaultyEngine(fault), [q for q in TOWERS if q.verb == "encode_text"], precision="float16")
    assert not report.passed and "no precision but a mixture: their errors are" in said(report)


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_two_answers_are_enough_to_lean(precision: str) -> None:
    """QuickGELU where the checkpoint has the exact GELU, which one of the models has, an image question a style."""
    asked = [q for q in TOWERS if "vit-gelu" in q.id and q.verb == "encode_image"]
    report = suite.run(Rounded(precision, faults.BY_ID["gelu-quick"]), asked, precision=precision)
    assert len(report.results) == 2 and not report.passed and "QuickGELU instead of the exact GELU" in said(report)
    assert suite.run(Emulated(precision), asked, precision=precision).passed


@pytest.mark.slow
def test_a_wrong_formula_is_no_coarser_precision() -> None:
    """What fails as float16, and whose errors int8 would have room for, is not called right in int8."""
    texts = [q for q in TOWERS if q.verb == "encode_text"]
    fault = Fault("ours", "BLK-2", "something else", ("text",), changes.blocks(values_without_bias))
    report = suite.run(Rounded("float16", fault), texts, precision="float16")
    assert report.grade == "int8" and not report.passed
    assert "as it is" not in summary(report) and "lean, within their precision, to in_proj without its bias" in said(
        report
    )
    right = suite.run(Emulated("float16"), texts[:8], precision="float32")
    assert "as it is, float16-conformant" in summary(right)


@pytest.mark.parametrize(
    ("share", "deviation", "certainty", "leans"),
    [
        (1.02, 0.01, 20.0, True),
        (0.7, 0.12, 1.2, True),  # may be the whole
        (0.6, 0.085, 1.45, False),  # as agreed as that and not the whole: rounded weights
        (0.68, 0.031, 5.5, True),  # far surer than rounding gets: a fault that has part of this one's effect
        (0.4, 0.01, 8.0, False),
    ],
)
def test_a_fault_is_in_errors_by_the_whole_of_it(share: float, deviation: float, certainty: float, leans: bool) -> None:
    measured = _Measured(faults.BY_ID["gelu-quick"], share, deviation, certainty, 0.0, 0.8, (), ())
    assert measured.is_certain is leans
