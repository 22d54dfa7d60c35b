"""What failures have in common is said, and what to do where no known fault explains them, on every surface."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from clipref.cli import main
from clipref.conformance import faults, suite
from clipref.conformance import questions as levels
from clipref.conformance.faults import BY_ID, FaultyEngine
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Array, Case, Outputs
from clipref.conformance.reports import files, html, words
from clipref.conformance.restated import preprocessing


def asked(engine: object, *which: str, only: str = "") -> Report:
    return suite.run(engine, [q for q in levels.questions(which) if only in q.id])  # type: ignore[arg-type]


class Changed:
    """The reference, with something done to what it answers."""

    def __init__(self, change: Callable[[Case, Outputs], Outputs]) -> None:
        self.change = change

    def answer(self, case: Case) -> Outputs:
        return self.change(case, faults.answer(case, (), "float32"))


def no_search(*given: object) -> tuple[()]:
    """In the place of the search for causes, which takes seconds where there are none."""
    return ()


# --- models, items, activations ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("kept")
def test_the_kind_of_model_that_fails_is_told() -> None:
    report = asked(FaultyEngine(BY_ID["gelu-quick"]), "towers", only="vit")
    assert report.shared == (
        "Of the image embeddings of a ViT, only those of models with the exact GELU fail: 2 of 10 answers.",
        "Of the text embeddings, only those of models with the exact GELU fail: 2 of 10 answers.",
    )
    assert not asked(FaultyEngine(BY_ID["qkv-kqv"]), "towers", only="vit").shared  # all fail: nothing tells them apart


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (slice(0, 1), "only some items of each batch are wrong: the first."),
        (slice(1, None), "only some items of each batch are wrong: all but the first."),
    ],
)
def test_the_items_that_are_wrong_are_told(wrong: slice, says: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "diagnose", no_search)

    def change(case: Case, outputs: Outputs) -> Outputs:
        y = outputs["embeddings"].copy()
        y[wrong] += 1
        return {"embeddings": y}

    assert any(said.endswith(says) for said in asked(Changed(change), "towers", only="vit-a").shared)


@pytest.mark.usefixtures("kept")
def test_the_texts_that_are_wrong_are_told() -> None:
    report = asked(FaultyEngine(BY_ID["pool-last-end"]), "towers", only="vit")
    assert any(said.endswith("are wrong: texts with two end-of-text tokens.") for said in report.shared)
    report = asked(FaultyEngine(BY_ID["mask-id-0"]), "towers", only="vit")
    assert any(
        said.endswith("are wrong: texts that fill the context, or texts with an id 0 among their words.")
        for said in report.shared
    )


@pytest.mark.usefixtures("kept")
def test_where_all_traces_leave_the_band_is_told() -> None:
    report = asked(FaultyEngine(BY_ID["scale-missing"]), "taps", only="image")
    name = "visual.transformer.resblocks.0.attn"
    assert (
        f"All 10 traces of ViTs leave the band first at {name}, whose input is right (4 in its block)." in report.shared
    )
    assert "All 6 traces of ResNets leave the band first at visual, whose input is right." in report.shared


def test_an_input_that_was_not_given_is_not_said_to_be_right() -> None:
    def change(case: Case, outputs: Outputs) -> Outputs:
        return {"visual.transformer.resblocks.0.attn": outputs["visual.transformer.resblocks.0.attn"] * 2}

    report = asked(Changed(change), "taps", only="vit-a plain/image")
    assert report.shared == (
        "The trace of a ViT leaves the band first at visual.transformer.resblocks.0.attn, "
        "of whose input no activation is known.",
    )


# --- pixels -----------------------------------------------------------------------------------------------------------


def pixels(**steps: object) -> Changed:
    def change(case: Case, outputs: Outputs) -> Outputs:
        image = preprocessing.open_png(case.inputs["image"])
        known = dataclasses.replace(preprocessing.Steps(), **steps)  # type: ignore[arg-type]
        return {"pixels": preprocessing.preprocess(image, case.attributes["resolution"], known)}

    return Changed(change)


def turned(turn: Callable[[Array], Array]) -> Changed:
    return Changed(lambda case, outputs: {"pixels": np.ascontiguousarray(turn(outputs["pixels"]))})


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize(
    ("engine", "says"),
    [
        (pixels(offset=lambda margin: min(round(margin / 2) + 2, margin)),
         "the resize is right, the crop is 2 pixels too far to the right."),
        (pixels(mean=(0.4, 0.5, 0.6)), "have the mean (0.4, 0.5, 0.6) subtracted and are divided by (0.2686, "),
        (pixels(long_side=lambda side, long, short: int(side * long / short) + (long > short)),
         "the long side is a pixel longer, the crop is"),
        (turned(lambda x: x[:, :, ::-1]), "the right ones, mirrored."),
        (turned(lambda x: (x + 0.3 * np.sin(np.arange(x.size)).reshape(x.shape)).astype(np.float32)),
         "the crop is right, and the resize gives others, in more than 30 % of values, by up to "),
    ],
)  # fmt: skip
def test_the_step_that_is_wrong_is_told(engine: Changed, says: str) -> None:
    report = asked(engine, "preprocess", only="preprocess/RGB 50x40 ")
    assert not report.diagnoses
    (told,) = report.shared
    assert told.startswith("Pixels that no known fault gives, in 1 of 1 pictures: ") and says in told


# --- surfaces ---------------------------------------------------------------------------------------------------------


def noise(case: Case, outputs: Outputs) -> Outputs:
    rng = np.random.default_rng(3)
    return {name: (x + 0.1 * rng.normal(size=x.shape)).astype(np.float32) for name, x in outputs.items()}


def test_advice_is_on_every_surface(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "diagnose", no_search)
    report = asked(Changed(noise), "towers", only="vit-a plain")
    advice = report.advice
    assert advice is not None and advice.startswith("No known fault explains 2 failures, of towers: answer trace_image")
    assert list(words.explanations(report))[-1] == advice
    assert files.as_json(report)["advice"] == advice
    junit = ElementTree.fromstring(files.as_junit(report))
    assert all(advice in (failure.text or "") for failure in junit.iter("failure"))
    assert advice in (next(junit.iter("system-out")).text or "")
    assert f"<li>{advice}</li>" in html.as_html(report)


@pytest.mark.usefixtures("kept")
def test_what_is_explained_needs_no_advice() -> None:
    explained = asked(FaultyEngine(BY_ID["gelu-tanh"]), "towers", only="vit-a plain")
    assert explained.advice is None and explained.diagnoses


@pytest.mark.slow
def test_causes_come_first_and_cases_when_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    command = ["conformance", "run", f"{__name__}:wrong", "--levels", "towers", "--only", "vit-a"]
    assert main(command) == 1
    first, *_, last = capsys.readouterr().out.splitlines()
    assert first.startswith("Your image embeddings of a ViT equal the reference with in_proj read as k, q, v (BLK-2)")
    assert last == f"{__name__}:wrong: Not float32-conformant: 4 of 4 answers fail."
    assert main([*command, "--verbose"]) == 1
    assert "FAIL  towers/vit-a plain/image" in capsys.readouterr().out


class Wrong:
    """Asked for one level it fails, and for another it passes."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def _answer(self, verb: str, name: str, x: Array) -> Array:
        case = Case("towers", "towers", verb, (), {name: x}, {}, self.folder)
        return faults.answer(case, [BY_ID["qkv-kqv"]], "float32")["embeddings"]

    def encode_image(self, pixels: Array) -> Array:
        return self._answer("encode_image", "pixels", pixels)

    def encode_text(self, ids: Array) -> Array:
        return self._answer("encode_text", "ids", ids)


def wrong(folder: Path | None) -> Wrong:
    return Wrong(folder)


def test_expected_failures_stay_visible_and_counts_are_of_what_was_asked() -> None:
    questions = [q for q in levels.questions(["similarity"])]
    unclaimed = list(levels.questions(["describe"]))

    class Half(FaultyEngine):
        def answer(self, case: Case) -> Outputs:
            return {"wrong": np.zeros(1)} if case.id == questions[0].id else super().answer(case)

    reasons = {questions[0].id: "known"}
    report = suite.run(Half(), questions, reasons=reasons, unclaimed=unclaimed)
    assert report.passed
    assert words.summary(report).endswith("; 4 of 5 questions answered; 1 fail as expected")
