"""Checkpoints in the layouts of others: what is written reads back to the bit, and is what others write themselves."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file

from clipref import AutoModel, ConfigError, InputError
from clipref.cli import main
from clipref.config import NO_TEXT_TOWER, ClipConfig, PreprocessConfig, TextConfig, ViTConfig
from clipref.conformance import questions as levels
from clipref.conformance import suite
from clipref.conformance.engines.laid_out import LaidOut
from clipref.conformance.engines.python import PythonEngine
from clipref.conformance.exchange import export
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Case
from clipref.weights import Checkpoint
from clipref.weights_tools import synthetic
from clipref.weights_tools.convert import convert
from clipref.weights_tools.sources import Options

from . import cases, clipa, layouts
from .conftest import MERGES

OTHERS = ("transformers", "open_clip")
TINY_VIT, TINY_RESNET = cases.TINY["vit-a"], cases.TINY["rn-a"]
# A vocabulary that grew behind its end of text.
GROWN = dataclasses.replace(TINY_VIT, text=dataclasses.replace(TINY_VIT.text, eos_token_id=518))


@pytest.mark.parametrize(("to", "dtype"), [("transformers", None), ("open_clip", None), ("transformers", "bfloat16")])
def test_there_and_back(to: str, dtype: str | None, trained_vit: Path, tmp_path: Path) -> None:
    theirs = convert(trained_vit, tmp_path / "theirs", to=to, dtype=dtype)
    assert not (theirs / "merges.txt").exists()  # of 547 tokens, no vocabulary is known
    expected = trained_vit if dtype is None else convert(trained_vit, tmp_path / "cast", dtype=dtype)
    back = convert(theirs, tmp_path / "back")
    if dtype is None:
        layouts.assert_same(back, expected)
    assert Checkpoint(back).digest == Checkpoint(expected).digest
    provenance = json.loads((theirs / "provenance.json").read_text())
    assert provenance["layout"] == to and provenance["digest"] == Checkpoint(expected).digest


def test_what_only_open_clip_has_goes_there_and_back(trained_resnet: Path, tmp_path: Path) -> None:
    for i, source in enumerate((trained_resnet, synthetic.write(tmp_path / "clipa", clipa.CONFIG, cases.SEED))):
        back = convert(convert(source, tmp_path / f"theirs {i}", to="open_clip"), tmp_path / f"back {i}")
        layouts.assert_same(back, source)


def test_no_ratio_of_widths_is_rounded_off(tmp_path: Path) -> None:
    """15 / 11 * 11 is below 15 in floats, and open_clip drops the fraction."""
    config = ClipConfig(8, ViTConfig(8, 4, 11, 1, 1, 15), TextConfig(9, 40, 22, 1, 1, 49))
    source = synthetic.write(tmp_path / "source", config, cases.SEED)
    theirs = convert(source, tmp_path / "theirs", Options(config), to="open_clip")
    assert Checkpoint(convert(theirs, tmp_path / "back")).config == config


@pytest.mark.parametrize("to", OTHERS)
def test_an_end_of_text_that_is_not_the_last_goes_along(to: str, tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "grown", GROWN, cases.SEED)
    assert Checkpoint(convert(convert(source, tmp_path / "theirs", to=to), tmp_path / "back")).config == GROWN


def test_transformers_tensors_are_those_of_another_writer(trained_vit: Path, tmp_path: Path) -> None:
    """tests/layouts.py has names of its own."""
    found = load_file(convert(trained_vit, tmp_path / "found", to="transformers") / "model.safetensors")
    files = layouts.as_transformers(trained_vit, Checkpoint(trained_vit).config)
    expected = load_file(layouts.put(tmp_path / "expected", files) / "model.safetensors")
    expected.pop("text_model.embeddings.position_ids")
    assert found.keys() == expected.keys()
    assert all(found[name].dtype == x.dtype and np.array_equal(found[name], x) for name, x in expected.items())


def test_a_vocabulary_goes_along(tmp_path: Path) -> None:
    source = synthetic.write(tmp_path / "source", TINY_VIT, cases.SEED)
    (source / "merges.txt").write_text(MERGES)
    theirs = convert(source, tmp_path / "theirs", to="transformers")
    ids = json.loads((theirs / "vocab.json").read_text(encoding="utf-8"))
    assert ids["<|endoftext|>"] == 520 == len(ids) - 1 and ids["cat</w>"] == 513
    assert (convert(theirs, tmp_path / "back") / "merges.txt").read_text() == MERGES
    with pytest.raises(ConfigError, match="open_clip has OpenAI's vocabulary built in, and this model has another"):
        convert(source, tmp_path / "other", to="open_clip")
    assert not (tmp_path / "other").exists()


def changed(config: ClipConfig, **settings: Any) -> ClipConfig:
    return dataclasses.replace(config, **settings)


REFUSED: Mapping[str, tuple[str, ClipConfig, str]] = {
    "a ResNet": ("transformers", TINY_RESNET, "has no image tower of the kind 'resnet'"),
    "a CLIPA": ("transformers", clipa.CONFIG, "has no image tower of the kind 'clipa'"),
    "one tower": ("open_clip", changed(TINY_VIT, text=NO_TEXT_TOWER), "There is no text tower"),
    "two activations": (
        "open_clip", changed(TINY_VIT, vision=changed(TINY_VIT.vision, activation="gelu")),  # type: ignore[arg-type]
        "one activation for both towers",
    ),
    "upright": ("transformers", changed(TINY_VIT, preprocess=PreprocessConfig(upright=True)), "upright"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_layout_cannot_express_is_refused(what: str, tmp_path: Path) -> None:
    to, config, told = REFUSED[what]
    source = synthetic.write(tmp_path / "source", config, cases.SEED)
    with pytest.raises(ConfigError, match=told):
        convert(source, tmp_path / "out", to=to)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_the_command(trained_vit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", str(trained_vit), str(tmp_path / "out"), "--to", "transformers"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}\n"
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "clip"
    with pytest.raises(InputError, match="to is 'timm'; expected one of clipref, transformers, open_clip"):
        convert(trained_vit, tmp_path / "o", to="timm")


class Theirs:
    """An engine that has nothing but transformers' layout, or open_clip's."""

    def __init__(self, folder: Path) -> None:
        assert {path.name for path in folder.iterdir()} & {"preprocessor_config.json", "open_clip_config.json"}
        self.folder, model = folder, AutoModel.from_pretrained(folder, backend="reference")
        self.encode_image, self.encode_text = model.encode_image, model.encode_text


def graded(engine: Any, layout: str, *only: str) -> Report:
    asked = [q for q in levels.questions(["towers"]) if any(part in q.id for part in only)]
    return suite.run(LaidOut(engine, layout), asked, diagnose=False)


@pytest.mark.parametrize(("layout", "skipped"), [("transformers", 1), ("open_clip", 0)])
def test_an_engine_is_given_the_layout_that_it_reads(layout: str, skipped: int) -> None:
    report = graded(PythonEngine(Theirs), layout, "vit-a plain", "rn-b plain/image")  # type: ignore[arg-type]
    assert report.passed and report.count("PASS") == 3 - skipped and report.count("SKIP") == skipped
    assert not skipped or "has no image tower of the kind 'resnet'" in str(report.results[-1].problem)


def test_a_checkpoint_in_another_layout_may_not_be_changed() -> None:
    changes = iter([True, False])

    class Changes:
        def __init__(self, folder: Path) -> None:
            self.folder, self.model = folder, AutoModel.from_pretrained(folder, backend="reference")

        def encode_image(self, pixels: Any) -> Any:
            found = self.model.encode_image(pixels)
            if next(changes):
                (self.folder / "config.json").write_text("{}")
            return found

    report = graded(PythonEngine(Changes), "transformers", "vit-a plain/image", "vit-a trained/image")  # type: ignore[arg-type]
    assert [r.verdict for r in report.results] == ["FAIL", "PASS"]
    assert report.results[0].problem == "changed the files of the checkpoint"


def test_exported_cases_name_the_layout(tmp_path: Path) -> None:
    asked = [q for q in levels.questions(["towers"]) if "a plain/image" in q.id]
    made: list[Case] = [question.make(tmp_path / "made") for question in asked]
    count, left_out = export(made, tmp_path / "out", layout="transformers")
    assert (count, list(left_out.values())) == (1, [1]) and "resnet" in str(left_out)
    (case,) = (tmp_path / "out").glob("cases/**/case.json")
    folder = case.parent / json.loads(case.read_text())["checkpoint"]
    assert (folder / "preprocessor_config.json").is_file() and folder.parent.name == "transformers"
    files = json.loads((tmp_path / "out" / "export.json").read_text())["files"]
    assert {"checkpoints/vit-a-plain/config.json", "transformers/vit-a-plain/config.json"} <= files.keys()
    with pytest.raises(InputError, match="no cases to export; .* has no image tower of the kind 'resnet'"):
        export([case for case in made if "rn-a" in case.id], tmp_path / "none", layout="transformers")
