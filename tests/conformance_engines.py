"""Engines that are right, wrong or ill-behaved in a known way, and how the suite is run on them."""

from collections.abc import Callable
from typing import Any

import numpy as np

from clipref.conformance import faults, suite
from clipref.conformance import questions as levels
from clipref.conformance.grading import rounding
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Case, Outputs
from clipref.weights import Checkpoint

LEVEL = {"vit": "towers", "resnet": "towers", "text": "towers"}


def ran(engine: Any, *which: str, **options: Any) -> Report:
    return suite.run(
        engine, levels.questions(which or levels.DEFAULT, profile=options.get("profile", "openai")), **options
    )


def failing(report: Report) -> list[tuple[str, Any, Any]]:
    return [(r.case, r.units, r.problem) for r in report.results if r.verdict == "FAIL"]


class Emulated:
    """An engine of a precision, whose sums are in an order that no unit was measured with."""

    def __init__(self, precision: str) -> None:
        self.precision = precision

    def answer(self, case: Case) -> Outputs:
        assert case.checkpoint is not None
        (x,) = case.inputs.values()
        found = rounding.emulate(Checkpoint(case.checkpoint), case.verb, x, self.precision, order=7)
        return {"embeddings": found["embeddings"].astype(np.float32)}


# --- engines that misbehave -------------------------------------------------------------------------------------------


class Spoilt:
    """The reference, with something done to its answers."""

    def __init__(self, spoil: Callable[[Case, Outputs], Any]) -> None:
        self.spoil = spoil

    def answer(self, case: Case) -> Any:
        return self.spoil(case, faults.answer(case, (), "float32"))


def embeddings(change: Callable[[np.ndarray], Any]) -> Callable[[Case, Outputs], Any]:
    return lambda case, outputs: {"embeddings": change(outputs["embeddings"])}


def zeroed(case: Case, outputs: Outputs) -> Outputs:
    """The checkpoint's own weights become the engine's, which gives 0 whatever it is asked."""
    assert case.checkpoint is not None
    file = case.checkpoint / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1000:] = bytes(1000)
    file.write_bytes(data)
    return outputs
