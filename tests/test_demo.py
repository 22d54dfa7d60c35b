"""`clipref demo`: a page that needs nothing else, and shows what the command computed."""

import json
import re
from pathlib import Path

import pytest

from clipref.cli import main


def test_page_shows_what_was_computed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo.html"
    assert main(["demo", "--out", str(out), "--scenes", "3", "--json"]) == 0
    found, page = json.loads(capsys.readouterr().out), out.read_text(encoding="utf-8")
    assert found["page"] == str(out) and len(found["classified"]) == 3 and found["classes"] == 72
    for item in found["classified"]:
        assert item["right"] == (item["best"][0]["label"] == item["truth"])
        assert page.count(item["caption"]) >= 2
        for best in item["best"]:
            assert f"{best['probability']:.3f}" in page
    for search in found["searches"]:
        assert search["text"] in page and all(f"{best['cosine']:.3f}" in page for best in search["best"])
    assert page.count("<img ") == 3 + sum(len(search["best"]) for search in found["searches"])
    # Self-contained: every reference is data, and there is no script.
    assert set(re.findall(r'(?:src|href)="([a-z]+):', page)) == {"data"} and "<script" not in page
    assert "http" not in page and "url(" not in page and "@import" not in page


@pytest.mark.slow
@pytest.mark.parametrize("model", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str], model: str) -> None:
    out = tmp_path / "demo.html"
    assert main(["demo", "--out", str(out), "--model", model, "--backend", "reference"]) == 0
    text = capsys.readouterr().out
    assert re.match(rf"{model} on the backend reference: [5-8] of 8 scenes", text) and str(out) in text


def test_refusals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--out", str(tmp_path / "none" / "x.html")]) == 1
    assert "there is no folder" in capsys.readouterr().err
    assert main(["demo", "--scenes", "0"]) == 1
    assert "--scenes is 0" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
