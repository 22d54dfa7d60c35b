"""What the suite says of wrong activations, pixels and numbers."""

from types import SimpleNamespace

import numpy as np
import pytest

from clipref.backends import overlay
from clipref.conformance import faults, suite
from clipref.conformance import questions as levels
from clipref.conformance.faults import FaultyEngine
from clipref.conformance.grading.verdicts import MARGIN
from clipref.conformance.protocol import Case, Outputs, Unsupported
from clipref.conformance.reports import words
from clipref.conformance.restated import preprocessing
from clipref.engine import NumpyEngine
from clipref.weights import Checkpoint

from .conformance_engines import Spoilt, failing, ran


def test_a_softmax_that_overflows_is_caught() -> None:
    def softmax(x: np.ndarray) -> np.ndarray:
        e = np.exp(x)
        return np.asarray(e / e.sum(axis=-1, keepdims=True))

    def attention(q: np.ndarray, k: np.ndarray, v: np.ndarray, visible: np.ndarray | None = None) -> np.ndarray:
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]).astype(q.dtype)
        seen = scores if visible is None else np.where(visible[:, None], scores, -np.inf).astype(q.dtype)
        return np.asarray(softmax(seen) @ v)

    class Naive:
        def answer(self, case: Case) -> Outputs:
            assert case.checkpoint is not None
            ops = overlay(SimpleNamespace(attention=attention))
            engine = NumpyEngine(Checkpoint(case.checkpoint), "float32", ops)
            return {"embeddings": getattr(engine, case.verb)(*case.inputs.values())}

    asked = [q for q in levels.questions(["towers", "properties"]) if "vit-a plain" in q.id or "large scores" in q.id]
    with np.errstate(all="ignore"):
        report = suite.run(Naive(), asked)
    failed = {r.case: r.problem for r in report.results if r.verdict == "FAIL"}
    assert failed.keys() == {f"properties/vit-a large scores/{tower}" for tower in ("image", "text")}
    assert all("not finite" in str(problem) for problem in failed.values())
    assert suite.run(FaultyEngine(), asked).passed


def test_the_activation_that_is_off_first_is_told() -> None:
    report = ran(FaultyEngine(faults.BY_ID["qkv-kqv"]), "taps", diagnose=False)
    found = {r.case: r.first_out_of_band for r in report.results}
    assert found["taps/vit-c plain/image"] == "visual.transformer.resblocks.0.attn"
    assert found["taps/rn-a plain/image"] is None
    result = next(r for r in report.results if r.case == "taps/vit-c plain/image")
    assert result.verdict == "FAIL" and [tap.name for tap in result.taps][:2] == ["visual.conv1", "visual.ln_pre"]
    assert all(tap.units <= MARGIN for tap in result.taps[:3]) and result.taps[-1].name == "visual"


def test_the_last_activations_may_be_pooled_already() -> None:
    def pooled(case: Case, taps: Outputs) -> Outputs:
        tower, norm = ("visual", "visual.ln_post") if "image" in case.verb else ("text_projection", "ln_final")
        return {"embeddings": taps[tower].reshape(len(taps[tower]), -1), norm: taps[norm].reshape(len(taps[norm]), -1)}

    asked = [q for q in levels.questions(["taps"]) if "vit-a plain" in q.id]
    report = suite.run(Spoilt(pooled), asked)
    assert report.passed and report.count("PASS") == 2, failing(report)


def test_activations_that_there_are_not_are_refused() -> None:
    question = next(q for q in levels.questions(["taps"]) if q.id == "taps/vit-a plain/image")
    (result,) = suite.run(Spoilt(lambda case, taps: {"visual.ln_prae": taps["visual.ln_pre"]}), [question]).results
    assert "did you mean 'visual.ln_pre'" in str(result.problem)
    (result,) = suite.run(Spoilt(lambda case, taps: {}), [question]).results
    assert result.problem == "gave no activation"


def test_wrong_pixels_are_shown() -> None:
    report = ran(FaultyEngine(faults.BY_ID["nearest"]), "preprocess")
    picture = next(r.picture for r in report.results if r.picture is not None)
    channel, row, column = picture.worst
    assert picture.found.shape == picture.exact.shape and picture.difference > 1
    assert picture.found[channel, row, column] != picture.exact[channel, row, column]


@pytest.mark.parametrize("precision", ["float32", "float16", "bfloat16", "int8"])
def test_pixels_that_are_a_level_off_have_no_precision(precision: str) -> None:
    """One level in 0.6 % of the values is within a few units of bfloat16; but rounding would change nearly all."""
    std = np.array(preprocessing.Steps.std, np.float32)[:, None, None]

    class Off:
        def answer(self, case: Case) -> Outputs:
            pixels = np.array(faults.answer(case, (), "float32")["pixels"])
            changed = np.random.default_rng(1).random(pixels.shape) < 0.006
            return {"pixels": pixels + np.where(changed, 1 / 255 / std, 0).astype(np.float32)}

    asked = [q for q in levels.questions() if q.id == "preprocess/RGB 500x400 to 224"]
    report = suite.run(Off(), asked, precision=precision, diagnose=False)
    assert not report.passed and report.grade is None
    assert "conformant in" not in words.summary(report) and "as it is" not in words.summary(report)
    assert words.line(report.results[0]) == "within 1 level, 0.6 % of values"


def test_pixels_in_a_coarse_precision_are_graded() -> None:
    class Half:
        def answer(self, case: Case) -> Outputs:
            pixels = faults.answer(case, (), "float32")["pixels"]
            return {"pixels": pixels.astype(np.float16).astype(np.float32)}

    asked = [q for q in levels.questions() if q.id == "preprocess/RGB 500x400 to 224"]
    assert not suite.run(Half(), asked, diagnose=False).passed
    report = suite.run(Half(), asked, precision="float16")
    assert report.passed and report.grade == "float16"


@pytest.mark.parametrize(
    ("version", "profile"),
    [("4.57.1", "transformers-4"), ("5.0.0", "transformers-4"), ("5.20.0", "transformers-4"),
     ("5.21.0", "transformers-5"), ("5.24.0.dev0", "transformers-5"), ("6.1", "transformers-5")],
)  # fmt: skip
def test_a_version_of_transformers_has_its_profile(version: str, profile: str) -> None:
    """What is transparent was put on white from 5.21 on."""
    assert preprocessing.transformers_profile(version) == profile


class Fixed(FaultyEngine):
    """Takes images at one size only, or one image only."""

    def __init__(self, *faults: faults.Fault, only: str = " to 224") -> None:
        super().__init__(*faults)
        self.only = only

    def answer(self, case: Case) -> Outputs:
        if self.only not in case.id:
            raise Unsupported("another size")
        return super().answer(case)


@pytest.mark.fast_cases("crop-floor")
@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("fault", ["crop-floor", "crop-ceil", "rgb-first", "exif-turned", "transparent-colour"])
def test_an_engine_of_one_size_is_asked_every_kind_of_picture(fault: str) -> None:
    report = ran(Fixed(faults.BY_ID[fault]), "preprocess")
    assert not report.passed and [d.faults for d in report.diagnoses] == [(fault,)], failing(report)


def test_a_word_is_withheld_of_what_was_hardly_answered() -> None:
    report = ran(Fixed(), "preprocess")
    assert report.passed and "in preprocess: every answer is within" in words.summary(report)
    report = ran(Fixed(only="RGB 500x400 to 224"), "preprocess")
    count = len(report.results)
    assert report.passed and words.summary(report) == (
        f"Right as far as it was answered, which is too little for a word: preprocess (1 of {count})"
    )


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_another_profile_is_told_apart_from_a_fault() -> None:
    both = (faults.BY_ID["crop-floor"], faults.BY_ID["rgb-first"])
    report = ran(FaultyEngine(*both), "preprocess")
    assert not report.passed and [d.says for d in report.diagnoses] == [
        "your pixels are those of the profile 'transformers-4'; claim it with --profile transformers-4"
    ]
    assert ran(FaultyEngine(*both), "preprocess", profile="transformers-4").passed
