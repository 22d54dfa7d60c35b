"""`clipref look`: tables, JSON, and a page that needs nothing else and can be read without seeing it."""

import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipref import AutoModel, look
from clipref.cli import main
from clipref.look.drawing import map_figure, with_sign
from clipref.look.report import coarse
from clipref.weights_tools.shapes import world

TEXTS = ["an orange square", "a blue <i>triangle</i> & more"]
TEXT_ARGUMENTS = [argument for text in TEXTS for argument in ("--text", text)]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "sce&ne.png"
    world.scene(1).draw().save(path)
    return path


class Outline(HTMLParser):
    """What a page is made of: its tags, that all are closed, its texts, and what is told of pictures."""

    VOID = ("meta", "img")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def check_page(page: str) -> Outline:
    """That it needs nothing else, and that whoever can't see it, or has no mouse, has all of it."""
    outline = Outline(page)
    assert not outline.of("script") and not outline.of("link") and not outline.of("iframe")
    assert "http" not in page and "@import" not in page
    assert all(address.startswith("data:image/png;base64,") for address in re.findall(r"url\(([^)]*)\)", page))
    assert all(str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in outline.of("img"))
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    assert outline.of("html") == [{"lang": "en"}] and len(outline.of("h1")) == len(outline.of("main")) == 1
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    for svg in outline.of("svg"):
        assert svg.get("aria-hidden") == "true" or (svg["role"] == "img" and svg["aria-label"])
    assert len(outline.of("caption")) == len(outline.of("table")) > 0
    assert all(th.get("scope") for th in outline.of("th"))
    assert all(div["tabindex"] == "0" and div["aria-label"] for div in outline.of("div") if div.get("role") == "region")
    assert "prefers-color-scheme: dark" in page and "color-scheme: light dark" in page
    return outline


@pytest.mark.fast_cases("vit]")
@pytest.mark.parametrize("name", ["clipref/shapes-vit", "clipref/shapes-rn"])
def test_page_and_json_of_an_image(name: str, scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "look.html"
    arguments = ["look", str(scene), *TEXT_ARGUMENTS, "--model", name, "--backend", "reference", "--masks", "5"]
    assert main([*arguments, "--html", str(out), "--json"]) == 0
    found, page = json.loads(capsys.readouterr().out), out.read_text(encoding="utf-8")
    outline = check_page(page)
    assert found["page"] == str(out) and found["texts"] == TEXTS
    model = AutoModel.from_pretrained(name, backend="reference")
    assert np.allclose(found["cosines"], model.compare(str(scene), TEXTS), atol=1e-6)
    total = sum(np.reshape(part, (-1, 2)).sum(axis=0) for part in found["parts"].values())
    assert np.allclose(total, found["cosines"], atol=1e-5)
    exact = look.direct_effect(model, TEXTS, image=str(scene))
    assert np.allclose(found["maps"], exact.maps, atol=1e-6)
    assert np.shape(found["rise"])[0] == 2 and np.shape(found["occlusion"])[0] == 2
    assert (found["logit_lens"] is None) == (name == "clipref/shapes-rn")
    # All of it is on the page: texts as they are, maps of each text by each method, their difference, every head.
    told = " ".join(outline.texts)
    assert all(text in told for text in TEXTS) and "<i>" not in page.replace("&lt;i&gt;", "")
    maps = [str(svg["aria-label"]) for svg in outline.of("svg") if svg.get("role") == "img"]
    assert len(maps) == 3 + 2 * 3 + 1 and f"difference of direct effects for {TEXTS[0]}, less {TEXTS[1]}" in maps[2]
    layers, heads = exact.parts["attention"].shape[:2]
    assert sum("background: color-mix" in str(td.get("style")) for td in outline.of("td")) == 2 * layers * heads
    for part in exact.parts["attention"].sum(axis=(1, 2))[:, 0] if layers == 1 else exact.parts["mlp"][:, 0]:
        assert with_sign(float(part)) in told
    for method in ("direct effect", "occlusion", "RISE", "attention rollout"):
        assert method in told
    assert told.count("Can't tell:") == 4 and "the same for every text" in told
    for words in found["words"]:
        for token in words["tokens"]:
            assert str(token["id"]) in told


def test_page_of_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "look.html"
    assert main(["look", *TEXT_ARGUMENTS, "--model", "clipref/shapes-rn", "--html", str(out), "--json"]) == 0
    found, page = json.loads(capsys.readouterr().out), out.read_text(encoding="utf-8")
    outline = check_page(page)
    assert np.allclose(np.diag(found["cosines"]), 1, atol=1e-5)
    assert found["words"][0]["words"] == TEXTS[0].split()
    told = " ".join(outline.texts)
    assert all(f"Words, toward “{text}”" in told for text in TEXTS)
    assert main(["look", "--text", "a star", "--html", str(out)]) == 0
    check_page(out.read_text(encoding="utf-8"))


def test_tables(scene: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(scene), *TEXT_ARGUMENTS]) == 0
    lines = capsys.readouterr().out.splitlines()
    model = AutoModel.from_pretrained("clipref/scenes-vit")
    cosine = model.compare(str(scene), TEXTS)[0]
    assert lines[0].startswith("text") and f"{cosine:.4f}" in lines[1]
    layers = [line for line in lines if line.startswith(("input", "layer", "bias"))]
    assert len(layers) == 2 + 2 * 4
    shown = sum(float(line.split()[-2]) for line in layers)
    places = look.direct_effect(model, TEXTS, image=str(scene))
    assert abs(shown - places.cosines[0]) < 1e-3
    assert "orange" in "\n".join(lines) and "left out" in "\n".join(lines)


def test_nothing_is_written_where_it_fails(scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["look", str(scene), "--text", "", "--html", str(tmp_path / "x.html")]) == 1
    assert "is empty" in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_maps_are_told_in_words() -> None:
    values = np.array([[0.1, -0.2], [0.0, 0.4], [0.3, 0.2]])
    outline = Outline(map_figure(values, "a star", "effect"))
    label: Any = outline.of("svg")[0]["aria-label"]
    assert label.startswith(
        "effect for a star: highest +0.4000 at row 2, column 2; lowest \N{MINUS SIGN}0.2000 at row 1"
    )
    assert len(outline.of("rect")) == 1 + values.size
    strongest = next(rect for rect in outline.of("rect") if rect.get("x") == "1" and rect.get("y") == "1")
    assert strongest["class"] == "more" and strongest["opacity"] == "0.85"
    assert [with_sign(x) for x in (0.0, -0.0001, 0.25, -0.25)] == ["0.000", "0.000", "+0.250", "\N{MINUS SIGN}0.250"]


def test_coarse_maps_are_means() -> None:
    values = np.arange(36.0).reshape(6, 6)
    assert (coarse(values, 3)[0, 1], coarse(values, 3)[2, 2]) == (values[:2, 2:4].mean(), values[4:, 4:].mean())
    assert coarse(values, 4).shape == (4, 4) and coarse(values, 6) is values
