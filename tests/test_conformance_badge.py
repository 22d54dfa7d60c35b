"""A badge says what was asked, and how much of it is right; it is sound, needs nothing else, and can be read by all."""

import dataclasses
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from clipref import __version__
from clipref.cli import main
from clipref.conformance.grading.verdicts import NOT_CLAIMED, Report, Result, Verdict
from clipref.conformance.questions import questions
from clipref.conformance.reports import badge

SVG = "{http://www.w3.org/2000/svg}"


def results(
    level: str, verdicts: dict[str, Verdict], rest: Verdict = "PASS", problem: str | None = None
) -> list[Result]:
    """A result of each question of a level in transformers' profile: those that `verdicts` names, and the rest."""
    ids = [question.id for question in questions([level], profile="transformers-4")]
    assert verdicts.keys() <= set(ids)
    return [Result(id, level, (), verdicts.get(id, rest), problem=problem) for id in ids]


def report(*several: list[Result]) -> Report:
    return Report("an <engine>", "float32", "transformers-4", [result for some in several for result in some])


WHOLE = report(
    results("tokenize", {}), results("preprocess", {}), results("towers", {}, rest="SKIP", problem=NOT_CLAIMED)
)
SMALL = {q.id for q in questions(["preprocess"], profile="transformers-4") if not q.id.endswith(" 224")}
PARTIAL = report(
    results("tokenize", {"tokenize/words": "XFAIL", "tokenize/numbers": "XFAIL"}),
    results("preprocess", dict.fromkeys(SMALL, "SKIP")),
    results("towers", {})[:5],
    [Result("full/ViT-B-32 plain/image", "full", (), "PASS"), Result("full/RN50 plain/text", "full", (), "PASS")],
)
WRONG = report(results("tokenize", {"tokenize/words": "FAIL"}), results("similarity", {}, rest="FAIL"))


def test_what_is_right_is_counted_and_what_is_not_claimed_is_said() -> None:
    of = sum(1 for _ in questions(["preprocess"], profile="transformers-4"))
    assert badge.message(WHOLE) == f"tokenize 16/16 · preprocess (transformers-4) {of}/{of} · towers not claimed"


def test_what_failed_as_expected_was_declined_or_not_asked_is_said() -> None:
    assert badge.message(PARTIAL).split(" · ") == [
        "tokenize 14/16, 2 fail as expected",
        "preprocess (transformers-4) 13/43, 30 declined",
        "towers (float32) 5/32, 27 not asked",
        "full (ViT-B-32, RN50, float32) 2/2",
    ]


def test_what_fails_is_said() -> None:
    assert badge.message(WRONG).split(" · ") == [
        "tokenize 15/16, 1 fails",
        "preprocess, towers not asked",
        "similarity (float32) 0/5, 5 fail",
    ]


def test_the_claim_is_part_of_it() -> None:
    claimed = dataclasses.replace(WHOLE, precision="bfloat16", results=[*results("towers", {}), *WHOLE.results[:20]])
    assert "towers (bfloat16) 32/32" in badge.message(claimed)
    assert "preprocess (transformers-4, bfloat16) 4/" in badge.message(claimed)
    tolerated = dataclasses.replace(WHOLE, pixels="as-torchvision")
    assert "preprocess (transformers-4, pixels as torchvision) 43/43" in badge.message(tolerated)


@pytest.mark.parametrize(
    ("found", "colour"), [(WHOLE, "brightgreen"), (PARTIAL, "yellow"), (WRONG, "red"), (report(), "red")]
)
def test_json_of_shields(found: Report, colour: str) -> None:
    """https://shields.io/badges/endpoint-badge has the names and the types."""
    read = json.loads(badge.as_shields(found))
    types = {"schemaVersion": int, "label": str, "message": str, "color": str, "isError": bool}
    assert {name: type(value) for name, value in read.items()} == types
    assert read["schemaVersion"] == 1 and read["label"] == f"clipref {__version__}"
    assert read["message"] == badge.message(found) and read["message"]
    assert (read["color"], read["isError"]) == (colour, colour == "red")


@pytest.mark.parametrize("found", [WHOLE, PARTIAL, WRONG])
def test_svg_is_sound_and_says_the_same(found: Report) -> None:
    source = badge.as_svg(found)
    assert not re.search(r"(?<!xmlns=\")https?://|@import|url\(|href|<script|<style", source)
    root = ElementTree.fromstring(source)
    title = root.find(f"{SVG}title")
    assert root.tag == f"{SVG}svg" and root.get("role") == "img" and title is not None
    assert root.get("aria-label") == title.text and (title.text or "").startswith(f"clipref {__version__}: ")
    texts, fields = list(root.iter(f"{SVG}text")), list(root.iter(f"{SVG}rect"))
    shown = [text.text for text in texts]
    assert shown == [f"clipref {__version__}", *badge.message(found).split(" · ")]
    told = {part.level: part.says for part in badge.parts(found)}
    assert all(said in (title.text or "") for said in told.values()) and "operations not asked" in (title.text or "")
    assert all(said in told.values() or all(name in told for name in levels_of(said)) for said in shown[1:] if said)
    left = 0
    for text, field in zip(texts, fields, strict=True):  # side by side, each text inside of its own
        assert int(field.get("x", "")) == left
        assert left < int(text.get("x", "")) and int(text.get("textLength", "")) > 0
        assert int(text.get("x", "")) + int(text.get("textLength", "")) < left + int(field.get("width", ""))
        left += int(field.get("width", "")) + 1
    assert root.get("width") == str(left - 1) and root.get("viewBox") == f"0 0 {left - 1} {root.get('height')}"


def levels_of(said: str) -> list[str]:
    """Of "preprocess, towers and 2 more declined", the levels that are named."""
    return re.sub(r"( and \d+ more)? (not asked|not claimed|declined)$", "", said or "").split(", ")


def test_levels_without_an_answer_share_their_words() -> None:
    declined = ("describe", "tokenize", "preprocess", "towers", "taps")
    found = report(*(results(level, {}, rest="SKIP") for level in declined), results("similarity", {}))
    assert badge.message(found) == "tokenize, preprocess, towers and 2 more declined · similarity (float32) 5/5"
    assert "taps (float32) 0/32, 32 declined" in badge.as_svg(found)  # its title has all of it
    assert json.loads(badge.as_shields(found))["color"] == "yellow"
    full = report([Result(f"full/{name} plain/text", "full", (), "PASS") for name in ("RN50", "RN101", "RN50x4")])
    assert badge.message(full).endswith("full (3 models, float32) 3/3")


def test_fields_have_the_colour_of_their_state_and_white_can_be_read_on_each() -> None:
    def colours(found: Report) -> list[str]:
        return [field.get("fill", "") for field in ElementTree.fromstring(badge.as_svg(found)).iter(f"{SVG}rect")]

    label, whole, also, unasked = colours(WHOLE)
    _, partial, declined, some, also_whole = colours(PARTIAL)
    _, wrong, _, all_wrong = colours(WRONG)
    assert whole == also == also_whole and partial == declined == some and wrong == all_wrong
    assert len({label, whole, unasked, partial, wrong}) == 5
    for colour in (label, whole, unasked, partial, wrong):
        assert contrast_with_white(colour) >= 4.5, colour


def contrast_with_white(colour: str) -> float:
    """https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio"""
    levels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in levels]
    return 1.05 / (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] + 0.05)


def test_badges_are_written_from_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg, shields = tmp_path / "a.svg", tmp_path / "b.json"
    asked = ["conformance", "run", "backend:reference", "--levels", "similarity"]
    assert main([*asked, "--badge", str(svg), "--badge", str(shields)]) == 0
    message = json.loads(shields.read_text(encoding="utf-8"))["message"]
    assert message == "tokenize, preprocess, towers not claimed · similarity (float32) 5/5"
    assert "similarity (float32) 5/5" in svg.read_text(encoding="utf-8")
    capsys.readouterr()
    assert main([*asked, "--badge", str(tmp_path / "badge.png")]) == 1
    assert "badge.png: expected a name that ends in .svg or .json" in capsys.readouterr().err
    assert not (tmp_path / "badge.png").exists()
