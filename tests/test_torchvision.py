"""The profiles of transformers' processors that stand on torchvision: told from the others and from what is near."""

import dataclasses
import importlib.metadata

import numpy as np
import pytest

from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Case, Outputs
from clipref.conformance.questions import images
from clipref.conformance.restated import preprocessing, torch_resize
from clipref.conformance.restated.preprocessing import PROFILES, Steps

PROFILE = "transformers-5-torchvision"
pytestmark = pytest.mark.usefixtures("kept")


class Processor:
    """Preprocesses with some steps."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def answer(self, case: Case) -> Outputs:
        image = preprocessing.open_png(case.inputs["image"])
        return {"pixels": preprocessing.preprocess(image, case.attributes["resolution"], self.steps)}


def graded(steps: Steps, profile: str, only: str = "x") -> Report:
    asked = [q for q in levels.questions(["preprocess"], profile=profile) if only in q.id and "to 24" in q.id]
    return suite.run(Processor(steps), asked, profile=profile)


@pytest.mark.parametrize("profile", ["transformers-4-torchvision", PROFILE])
def test_torchvisions_processor_is_named_as_its_profile(profile: str) -> None:
    report = graded(PROFILES[profile], "openai")
    assert not report.passed
    assert [d.says for d in report.diagnoses] == [
        f"your pixels are those of the profile {profile!r}; claim it with --profile {profile}"
    ]
    assert graded(PROFILES[profile], profile).passed


@pytest.mark.parametrize(
    ("changed", "fault"),
    [({"antialias": False}, "no-antialias"), ({"resampler": "pillow"}, None), ({"filter": "BILINEAR"}, "bilinear"),
     ({"vertical_first": True}, "vertical-first"), ({"rgb": "first"}, "rgb-first"),
     ({"floats": "between"}, "floats-between")],
)  # fmt: skip
def test_what_is_near_it_is_not_it(changed: dict[str, object], fault: str | None) -> None:
    steps = dataclasses.replace(PROFILES[PROFILE], **changed)  # type: ignore[arg-type]
    report = graded(steps, PROFILE)
    assert not report.passed
    if fault is None:
        assert [d.says for d in report.diagnoses] == [
            "your pixels are those of the profile 'transformers-5'; claim it with --profile transformers-5"
        ]
    elif fault == "rgb-first":
        assert "transformers-4-torchvision" in report.diagnoses[0].says
    else:
        assert [d.faults for d in report.diagnoses] == [(fault,)]
    assert not any(PROFILE in d.says and not d.faults for d in graded(steps, "openai", "RGB").diagnoses)


def test_torchs_resize_in_the_originals_steps_is_a_fault() -> None:
    for steps, fault in (
        (Steps(resampler="torch"), "torch-resize"),
        (Steps(resampler="torch", antialias=False), "torch-no-antialias"),
    ):
        assert [d.faults for d in graded(steps, "openai", "/RGB ").diagnoses] == [(fault,)]


def test_weights_are_rounded_to_16_bits() -> None:
    for before, after in ((50, 24), (9, 24), (1, 24), (1400, 32), (24, 23)):
        for antialias in (True, False):
            weights = torch_resize.weights(before, after, "BICUBIC", antialias)
            np.testing.assert_allclose(weights.sum(axis=1), 1, atol=1e-12)
            bits = torch_resize.precision(float(weights.max()))
            assert 2**14 <= weights.max() * 2**bits + 0.5 < 2**15 or bits == 22


@pytest.mark.oracle
def test_it_is_what_torchvision_computes() -> None:
    """Over all pictures; the processor too, of whichever version of transformers is installed."""
    from .torchvision_pixels import oracle_pixels

    found, _ = oracle_pixels()
    installed = preprocessing.transformers_profile(importlib.metadata.version("transformers"), torchvision=True)
    compared = 0
    for mode, width, height, side in images.PICTURES:
        if mode == "I;16":
            continue
        name = f"{mode} {width}x{height} to {side}"
        image = preprocessing.open_png(preprocessing.png(preprocessing.picture(mode, width, height)))
        for profile in ("transformers-4-torchvision", PROFILE):
            steps = PROFILES[profile]
            made = preprocessing.resize(image, side, steps)
            np.testing.assert_array_equal(made, found[f"{name} {steps.rgb}"])
            if profile == installed:
                np.testing.assert_allclose(preprocessing.normalise(made), found[f"{name} pixels"], rtol=0, atol=1e-6)
                compared += 1
    assert compared == len(images.PICTURES) - 2
