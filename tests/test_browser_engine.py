"""The exported graphs in a browser and under Node: their answers to the suite's questions, graded, and the page.

Needs npm, with a registry that it reaches, and Chromium.
"""

from __future__ import annotations

import functools
import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from clipref import AutoModel
from clipref.cli import main
from clipref.conformance import suite
from clipref.conformance.engines.files import read_answer
from clipref.conformance.exchange import ANSWER, export, folder_name
from clipref.conformance.protocol import Case
from clipref.weights_tools.scenes.world import one_kind

from . import chromium
from .chromium import PROGRAM, Page
from .test_tokenizer import known_texts

EXAMPLE = Path(suite.__file__).parent / "examples" / "browser"
SECONDS = 120  # after which something hangs
NODE, NPM = shutil.which("node"), shutil.which("npm")
# All that the engine claims, of two tiny models, and of the embedded ones.
ASKED = (
    "describe/vit-b",
    "tokenize/",
    "preprocess/",
    "towers/vit-b plain",
    "towers/rn-b plain",
    "similarity/",
    "pipeline/",
    "embedded/",
)

pytestmark = [
    pytest.mark.extra,
    pytest.mark.skipif(None in (PROGRAM, NODE, NPM), reason="no chromium, node or npm on this machine"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the example, with the runtime that it pins, and what prepare.py writes."""
    copy = tmp_path_factory.mktemp("web") / "browser"
    shutil.copytree(EXAMPLE, copy, ignore=shutil.ignore_patterns("node_modules", "prepared"))
    assert NPM is not None
    command = [NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--prefer-offline"]
    try:
        subprocess.run(command, cwd=copy, check=True, capture_output=True, text=True, timeout=SECONDS)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as problem:
        pytest.skip(f"npm ci: {problem} {problem.stderr!r}")
    subprocess.run([sys.executable, "prepare.py", "--only", *ASKED], cwd=copy, check=True, timeout=SECONDS)
    return copy


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """The folder on a port of loopback, by the server that README.md names."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chromium, "SECONDS", SECONDS)
        with chromium.browser(tmp_path_factory.mktemp("chromium")) as opened:
            yield opened


def answer(folder: Path, questions: Path | None = None) -> str:
    """What answer.js says, under Node; of questions elsewhere, if they are."""
    assert NODE is not None
    command = [NODE, "answer.js", *([] if questions is None else [str(questions)])]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def graded(folder: Path, capsys: pytest.CaptureFixture[str], *options: str) -> Any:
    """The suite's report of the answers in a folder."""
    main(["conformance", "check", str(folder / "prepared" / "questions"), "--json", *options])
    return json.loads(capsys.readouterr().out)


def assert_right(report: Any) -> None:
    """All is answered but the text that is refused, and within a few units of float32."""
    left = [(result["case"], result["problem"]) for result in report["results"] if result["verdict"] != "PASS"]
    assert [case for case, _ in left] == ["tokenize/refused"] and report["grade"] == "float32", left


def test_node_answers_in_float32(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = answer(folder)
    assert "onnxruntime-web" in said and "1 refused, 0 skipped, 0 failed" in said
    assert_right(graded(folder, capsys))


def test_a_browser_answers_in_float32(
    folder: Path, address: str, page: Page, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for old in (folder / "prepared" / "questions").rglob(ANSWER):
        old.unlink()
    page.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    page.open(f"{address}/answer.html")
    page.value("document.getElementById('answer').click()")
    page.until("!document.getElementById('download').hidden || document.getElementById('error').textContent")
    assert "1 refused, 0 skipped, 0 failed" in page.value("document.getElementById('counts').textContent")
    page.value("document.getElementById('download').click()")
    archive = tmp_path / "answers.tar"
    end = time.monotonic() + SECONDS
    while not archive.exists():  # under its name once it is complete
        assert time.monotonic() < end
        time.sleep(0.05)
    subprocess.run(["tar", "xf", str(archive), "-C", str(folder / "prepared" / "questions")], check=True)
    assert_right(graded(folder, capsys))
    assert not page.problems


def test_a_wrong_weight_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "prepared" / "graphs" / "vit-b-plain" / "textual.onnx"
    original = path.read_bytes()
    model = onnx.load_from_string(original)
    projection = [x for x in model.graph.initializer if len(x.dims) == 2][-1]
    weight = numpy_helper.to_array(projection).copy()
    weight[0, 0] += 1e-2 * np.abs(weight).max()
    projection.CopyFrom(numpy_helper.from_array(weight, projection.name))
    try:
        path.write_bytes(model.SerializeToString())
        answer(folder)
        verdicts = {r["case"]: r["verdict"] for r in graded(folder, capsys, "--only", "vit-b plain")["results"]}
    finally:
        path.write_bytes(original)
    assert verdicts["towers/vit-b plain/text"] == "FAIL" and verdicts["towers/vit-b plain/image"] == "PASS"


def test_ids_are_the_originals_for_texts_of_every_kind(folder: Path, tmp_path: Path) -> None:
    """Of more texts than the suite asks about, as clipref's own tokenizer is held to them."""
    pairs = known_texts()
    given = np.frombuffer(json.dumps([text for text, _ in pairs]).encode(), np.uint8)
    length = 2 + max(len(ids) for _, ids in pairs)
    attributes = {"truncate": False, "context_length": length}
    case = Case("tokenize/many", "tokenize", "tokenize", (), {"texts": given}, attributes)
    export([case], tmp_path / "questions")
    for name in ("merges.txt", "tables.json"):
        shutil.copyfile(folder / "prepared" / name, tmp_path / name)
    assert "1 answered" in answer(folder, tmp_path)
    found = read_answer(tmp_path / "questions" / folder_name(case) / ANSWER, "tokenize")["ids"]
    right = np.zeros_like(found)
    for row, (_, ids) in zip(right, pairs, strict=True):
        row[: len(ids) + 2] = [49406, *ids, 49407]
    wrong = [text for (text, _), same in zip(pairs, (found == right).all(axis=1), strict=True) if not same]
    assert not wrong, wrong[:5]


LABELS = ["red circle", "blue star", "green ring"]


def classified(page: Page, picture: Path) -> list[tuple[str, str]]:
    """What index.html says of a picture, once it is asked."""
    page.choose("#picture", picture)
    page.until(
        f"document.getElementById('shown').alt === {picture.name!r} && !document.getElementById('classify').disabled"
    )
    page.value("document.getElementById('classify').click()")
    page.until("!document.getElementById('classified').hidden || document.getElementById('error').textContent")
    rows = "[...document.querySelectorAll('#classified tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    return [(row[0], row[1]) for row in page.value(rows)]


def saved_drawing(folder: Path) -> Iterator[Path]:
    """Files of one drawing: in several modes, and as a photograph is, turned and with half of the colours."""
    drawing = one_kind(3).draw(200).resize((310, 231))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be seen, turned by 90 degrees; https://www.cipa.jp/std/documents/e/DC-008-2012_E.pdf
    clear = drawing.copy()
    clear.putalpha(drawing.convert("L"))
    for name, picture, options in (
        ("a.png", drawing, {}), ("clear.png", clear, {}), ("grey.png", drawing.convert("L"), {}),
        ("photo.jpg", drawing, {"exif": turned, "subsampling": "4:2:0", "quality": 90}),
        ("a.webp", drawing, {"lossless": True}),
    ):  # fmt: skip
        picture.save(folder / name, **options)
        yield folder / name


def test_the_page_says_what_clipref_says(page: Page, address: str, tmp_path: Path) -> None:
    page.open(f"{address}/index.html")
    page.until("!document.getElementById('classify').disabled")
    model = AutoModel.from_pretrained("clipref/scenes-vit", backend="reference")
    for path in saved_drawing(tmp_path):
        expected = [(label, f"{100 * share:.2f} %") for label, share in model.classify(path, LABELS, ["a {}"])]
        assert classified(page, path) == expected, path.name
    assert not page.problems


def test_the_page_says_what_goes_wrong(page: Page, address: str, tmp_path: Path) -> None:
    page.open(f"{address}/index.html")
    page.until("!document.getElementById('classify').disabled")
    error = "document.getElementById('error').textContent"
    page.value("document.getElementById('classify').click()")
    assert "no picture yet" in page.until(error)
    (tmp_path / "no.png").write_bytes(b"no picture")
    page.choose("#picture", tmp_path / "no.png")
    assert page.until(error).startswith("no.png: ")
    Image.new("RGBA", (9, 9)).save(tmp_path / "clear.webp", lossless=True)
    page.choose("#picture", tmp_path / "clear.webp")
    assert "save it as a PNG" in page.until(f"{error}.includes('clear.webp') && {error}")
    Image.new("RGB", (9, 9)).save(tmp_path / "black.png")
    page.value(f"document.getElementById('labels').value = '{'star ' * 60}'")
    assert classified(page, tmp_path / "black.png") == []
    assert "63 tokens; at most 40 fit" in page.value(error)
