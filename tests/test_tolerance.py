"""The tolerance "as torchvision": what it is for passes and is told, and what is near it doesn't."""

import dataclasses
from typing import Any

import numpy as np
import pytest

from clipref.cli import main
from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Case, Outputs, Question, Unsupported
from clipref.conformance.questions import pipeline
from clipref.conformance.reports.words import line, summary
from clipref.conformance.restated import preprocessing
from clipref.conformance.restated.preprocessing import PROFILES, Steps

from .test_torchvision import Processor

TORCH = Steps(resampler="torch", rgb="first")
SMALL = [q for q in levels.questions(["preprocess"]) if q.id.startswith(("preprocess/RGB 5", "preprocess/RGB 9"))]
SMALL = [q for q in SMALL if q.id.endswith("to 24")]


def graded(steps: Steps, pixels: str = "as-torchvision", asked: list[Question] = SMALL, **options: Any) -> Report:
    return suite.run(Processor(steps), asked, pixels=pixels, diagnose=False, **options)


def test_torchs_resize_passes_who_asks_for_it_and_is_told() -> None:
    assert not graded(TORCH, "exact").passed
    report = graded(TORCH)
    assert report.passed and report.grade == "exact"
    told = [r for r in report.results if r.picture is not None]
    assert told and all("within 1 level, " in line(r) for r in told)
    assert f"with pixels as torchvision: {len(told)} pictures are a level off" in summary(report)
    assert graded(Steps()).grade == "exact" and "0 pictures" in summary(graded(Steps()))


@pytest.mark.slow
@pytest.mark.parametrize("profile", [name for name in PROFILES if name.endswith("-torchvision")])
def test_it_is_enough_for_torchvision_in_every_picture(profile: str) -> None:
    of = profile.removesuffix("-torchvision")
    asked = [q for q in levels.questions(["preprocess"], profile=of) if "to 224" not in q.id and "1400" not in q.id]
    report = graded(PROFILES[profile], asked=asked, profile=of)
    assert report.passed and any(r.picture for r in report.results)


@pytest.mark.parametrize(
    "changed",
    [{"filter": "BILINEAR"}, {"antialias": False}, {"offset": preprocessing.floor_half}, {"bgr": True},
     {"floats": "throughout"}, {"std": (0.26, 0.26, 0.27)}, {"squash": True}],
)  # fmt: skip
def test_what_is_otherwise_fails_as_before(changed: dict[str, Any]) -> None:
    wrong = dataclasses.replace(TORCH, **changed)
    assert not graded(wrong).passed
    if "offset" not in changed:  # which is the same in half of the pictures
        exact = {r.case for r in graded(wrong, "exact").results if r.verdict == "FAIL"}
        assert {r.case for r in graded(wrong).results if r.verdict == "FAIL"} >= exact - {
            r.case for r in graded(TORCH, "exact").results
        }


def test_too_many_pixels_or_too_far_are_not_tolerated() -> None:
    question = next(q for q in SMALL if "50x40" in q.id)

    class Off:
        def __init__(self, values: int, levels: float) -> None:
            self.values, self.levels = values, levels

        def answer(self, case: Case) -> Outputs:
            pixels = question.exact(case).bits["pixels"].copy()
            pixels[0].flat[: self.values] += np.float32(self.levels / 255 / Steps.std[0])
            return {"pixels": pixels}

    def passed(values: int, levels: float) -> bool:
        return suite.run(Off(values, levels), [question], pixels="as-torchvision", diagnose=False).passed

    most = int(3 * 24 * 24 * 0.02)
    assert passed(most, 1) and passed(most, -2) and not passed(most + 1, 1) and not passed(1, 3)


@pytest.mark.slow
def test_embeddings_of_files_may_be_moved_as_far() -> None:
    asked = [q for q in levels.questions(["pipeline"]) if "shapes-vit/image RGB 97x64" in q.id]

    class Embeds:
        def __init__(self, steps: Steps) -> None:
            self.steps = steps

        def answer(self, case: Case) -> Outputs:
            if case.verb != "embed_image":
                raise Unsupported
            return {name: x.astype(np.float32) for name, x in pipeline.right(self.steps, case).items()}

    def report(steps: Steps, pixels: str) -> Report:
        return suite.run(Embeds(steps), asked, pixels=pixels, diagnose=False)

    assert not report(TORCH, "exact").passed and report(TORCH, "as-torchvision").passed
    assert report(Steps(), "as-torchvision").grade == "float32"
    assert not report(dataclasses.replace(TORCH, filter="BILINEAR"), "as-torchvision").passed


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--levels", "preprocess", "--only", "RGB 50x40", "--pixels", "as-torchvision", "--json"]
    assert main(["conformance", "run", "backend:reference", *asked]) == 0
    assert '"pixels": "as-torchvision"' in capsys.readouterr().out
