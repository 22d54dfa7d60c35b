"""Reports say what was found, are sound, and need nothing else; expected failures are strict."""

import base64
import dataclasses
import io
import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from clipref import InputError
from clipref.conformance import expectations, suite
from clipref.conformance import questions as levels
from clipref.conformance.faults import BY_ID, FaultyEngine
from clipref.conformance.grading.verdicts import Report
from clipref.conformance.protocol import Case, Outputs, Unsupported
from clipref.conformance.reports import files, html, words
from clipref.weights_tools.published import PUBLISHED_VALUES

ASKED = ("preprocess/", "taps/vit-a plain", "towers/vit-a plain", "operations/gelu", "similarity/3")


class Wrong:
    """The exact GELU and a floored crop; and one answer that fails with what no report can print."""

    def __init__(self) -> None:
        self._faulty = FaultyEngine(BY_ID["gelu-exact"], BY_ID["crop-floor"])

    def answer(self, case: Case) -> Outputs:
        if case.verb == "similarity":
            raise RuntimeError("\x00\x1b[31m<b>&\ud800 no device")
        if case.verb == "operation":
            raise Unsupported("has <no> operations")
        return self._faulty.answer(case)


@pytest.fixture(scope="module")
def report() -> Report:
    asked = [q for q in levels.questions() if any(part in q.id for part in ASKED)]
    return suite.run(Wrong(), asked, name='a "wrong" <engine>')


def test_the_report_is_what_the_others_show(report: Report) -> None:
    assert not report.passed and report.diagnoses
    assert min(report.count("PASS"), report.count("FAIL"), report.count("SKIP")) > 0
    assert any(result.picture for result in report.results) and any(result.taps for result in report.results)


def test_json(report: Report) -> None:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    written = json.dumps(files.as_json(dataclasses.replace(report, engine="an engine")))
    read = json.loads(written, parse_constant=refuse)
    assert read["passed"] is False and read["engine"] == "an engine"
    assert len(read["results"]) == len(report.results) == sum(read["counts"].values())
    assert {d["faults"][0] for d in read["diagnoses"]} == {"gelu-exact", "crop-floor"}
    traced = next(r for r in read["results"] if r["case"] == "taps/vit-a plain/image")
    assert traced["first_out_of_band"] == "visual.transformer.resblocks.0.mlp"
    assert next(t for t in traced["taps"] if t["name"] == "visual.conv1")["grade"] == "float32"


def test_junit(report: Report) -> None:
    suite_ = ElementTree.fromstring(files.as_junit(report)).find("testsuite")
    assert suite_ is not None
    cases = {case.get("name"): case for case in suite_.iter("testcase")}
    assert int(suite_.get("tests", "")) == len(cases) == len(report.results)
    failed = {name for name, case in cases.items() if case.find("failure") is not None}
    skipped = {name for name, case in cases.items() if case.find("skipped") is not None}
    assert failed == {r.case for r in report.results if r.verdict == "FAIL"}
    assert skipped == {r.case for r in report.results if r.verdict == "SKIP"}
    assert (len(failed), len(skipped)) == (int(suite_.get("failures", "")), int(suite_.get("skipped", "")))
    failure = cases["taps/vit-a plain/image"].find("failure")
    assert failure is not None and "first off at visual.transformer.resblocks.0.mlp" in (failure.get("message") or "")


class Page(HTMLParser):
    """Raises where tags don't match; collects text, pictures and what is referred to."""

    VOID = frozenset({"meta", "img", "br", "link"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: list[str] = []
        self.pictures: list[str] = []
        self.shapes: dict[str, int] = {}
        self.feed(page)
        self.close()
        assert not self.open, f"left open: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        assert not named.keys() & {"href", "onclick", "action"} and tag not in ("script", "link", "iframe")
        self.pictures += [named["src"] or ""] if "src" in named else []
        self.shapes[tag] = self.shapes.get(tag, 0) + 1
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes what isn't open"

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_html_is_one_sound_page(report: Report) -> None:
    source = words.printable(html.as_html(report))
    assert not re.search(r"https?://|@import|url\(", source)
    page = Page(source)
    text = "".join(page.text)
    for said in (
        'a "wrong" <engine>',
        "the crop offset floored (IMG-5)",
        "first off at visual.transformer.resblocks.0.mlp",
    ):
        assert said in text, said
    assert all(result.case in text for result in report.results)
    # Two traces in the overview, and each of them by itself.
    assert (page.shapes["svg"], page.shapes["polyline"]) == (3, 4)
    assert len(page.pictures) == 9
    pictures = [np.asarray(Image.open(io.BytesIO(base64.b64decode(p.partition(",")[2])))) for p in page.pictures]
    for found, right, difference in zip(*[iter(pictures)] * 3, strict=True):
        assert found.shape == right.shape == difference.shape and (found != right).any()
        assert ((found != right) == (difference > 0)).all()


def test_what_is_right_needs_no_pictures(tmp_path: Path) -> None:
    asked = [q for q in levels.questions() if q.id.startswith(("taps/vit-a plain", "similarity/3"))]
    right = suite.run(FaultyEngine(), asked, name="right")
    page = Page(html.as_html(right))
    assert "CLIP, float32-conformant" in "".join(page.text) and not page.pictures and page.shapes["svg"] == 1


def test_numbers_as_people_write_them() -> None:
    assert [words.number(x) for x in (0.0, 1.0, 0.4567, 12345.6, 31000.0, 1e-7, float("nan"), float("inf"))] == [
        "0", "1", "0.457", "1.2·10⁴", "3.1·10⁴", "1.0·10⁻⁷", "-", "-",
    ]  # fmt: skip


def test_claims_of_a_kind_are_written_together() -> None:
    assert words.ranges(["BLK-1", "BLK-2", "BLK-3", "OUT-1", "OUT-3", "TXT-4"]) == "BLK-1..3, OUT-1, OUT-3, TXT-4"
    assert words.ranges([]) == ""


# --- expected failures ------------------------------------------------------------------------------------------------


def expected(report: Report, reasons: dict[str, str]) -> Report:
    return dataclasses.replace(report, results=[expectations.expected_result(r, reasons) for r in report.results])


def test_expected_failures_are_strict(report: Report) -> None:
    passes = next(r.case for r in report.results if r.verdict == "PASS")
    skipped = next(r.case for r in report.results if r.verdict == "SKIP")
    reasons = {r.case: "known" for r in report.results if r.verdict == "FAIL"}
    known = expected(report, reasons)
    assert known.passed and known.count("XFAIL") == report.count("FAIL")
    strict = expected(report, {**reasons, passes: "was wrong once", skipped: "isn't asked"})
    assert not strict.passed and strict.count("FAIL") == 1 and strict.count("SKIP") == report.count("SKIP")
    (failed,) = (r for r in strict.results if r.verdict == "FAIL")
    assert failed.case == passes and "is expected to fail (was wrong once)" in (failed.problem or "")


def test_failures_that_are_all_expected_are_said_to_be(report: Report) -> None:
    failed = [r for r in report.results if r.verdict == "FAIL"]
    known = expected(dataclasses.replace(report, results=failed), {r.case: "known" for r in failed})
    assert known.passed and words.summary(known) == f"No answer is right: {len(failed)} fail, as expected"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("taps/vit-b plain/imag  # why", "line 2: no case 'taps/vit-b plain/imag'; did you mean 'taps/vit-b plain/im"),
        ("towers/vit-a plain/image", "line 2: no reason"),
        ("towers/vit-a plain/image #", "line 2: no reason"),
        ("taps/vit-a plain/image  # again", "line 2: 'taps/vit-a plain/image' is there twice"),
    ],
)  # fmt: skip
def test_a_wrong_line_is_explained(line: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "expected.txt"
    file.write_text(f"taps/vit-a plain/image  # a reason\n{line}\n\n# a remark\n")
    with pytest.raises(InputError, match=re.escape(says)):
        expectations.read(file, {q.id for q in levels.questions()})


def test_a_file_that_is_not_utf_8_is_told(tmp_path: Path) -> None:
    (tmp_path / "expected.txt").write_bytes("preprocess/LA 50x40 to 24  # für uns\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"expected\.txt is not text in UTF-8"):
        expectations.read(tmp_path / "expected.txt", {"preprocess/LA 50x40 to 24"})


def test_a_list_of_failures_is_a_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="can't be read"):
            expectations.read(path, set())


def test_published_values_can_be_expected_to_fail(tmp_path: Path) -> None:
    file = tmp_path / "expected.txt"
    lines = [f"released/{p.model.removeprefix('clip/')}/{p.what}" for p in PUBLISHED_VALUES]
    lines += ["full/RN50 plain/image", "tokenize/words"]
    file.write_text("".join(f"{line}  # our own weights\n" for line in lines), encoding="utf-8")
    assert list(expectations.read(file, expectations.all_ids())) == lines


def test_reasons_are_read(tmp_path: Path) -> None:
    file = tmp_path / "expected.txt"
    file.write_text("# of our engine\n\npreprocess/LA 50x40 to 24   # RGB first (#12)\n")
    found = expectations.read(file, {q.id for q in levels.questions()})
    assert found == {"preprocess/LA 50x40 to 24": "RGB first (#12)"}
