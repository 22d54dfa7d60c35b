"""The page in headless Chromium: dropped and chosen pictures, keyboard, phone, errors, and nothing from elsewhere."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipref import AutoModel

from .chromium import PROGRAM, Page, browser
from .live_server import Live, live, picture

pytestmark = [pytest.mark.extra, pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine")]


@pytest.fixture(scope="module")
def server() -> Iterator[Live]:
    with live("--backend", "reference") as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for i, path in enumerate(paths):
        path.write_bytes(picture(i))
    return paths


def test_a_picture_among_texts(server: Live, page: Page, files: list[Path], tmp_path: Path) -> None:
    page.open(server.url)
    assert "clipref/scenes-vit" in page.until("document.getElementById('model').textContent.includes('by') && "
                                              "document.getElementById('model').textContent")  # fmt: skip
    page.drop("#drop-picture", files[0])
    page.until(
        "!document.getElementById('shown-picture').hidden && document.getElementById('shown-picture').naturalWidth"
    )
    assert page.value("document.getElementById('picture').files[0].name") == files[0].name
    page.value("document.getElementById('classify').focus()")
    page.press("Enter")
    rows = page.until(
        "!document.getElementById('classified').hidden && "
        "[...document.querySelectorAll('#classified tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    labels = ["red circle", "blue star", "green ring"]
    model = AutoModel.from_pretrained("clipref/scenes-vit", backend="reference", upright=True)
    found = [(label, f"{100 * p:.2f} %") for label, p in model.classify(files[0], labels, ["a {}"])]
    assert [tuple(row[:2]) for row in rows] == found
    page.screenshot(tmp_path / "page.png")
    assert not page.problems


def test_a_picture_against_a_picture_and_what_goes_wrong(server: Live, page: Page, files: list[Path]) -> None:
    page.open(server.url)
    page.value("document.getElementById('compare').click()")
    assert "two pictures" in page.until("document.getElementById('compare-error').textContent")
    page.choose("#left", files[0])
    page.choose("#right", files[1])
    page.until("!document.getElementById('shown-left').hidden && !document.getElementById('shown-right').hidden")
    page.value("document.getElementById('compare').click()")
    model: Any = AutoModel.from_pretrained("clipref/scenes-vit", backend="reference", upright=True)
    (expected,) = model.compare(files[0], files[1:], prompt_type="image")
    assert page.until("document.getElementById('compared').textContent") == f"Cosine: {expected:.4f}"
    other = files[1].with_name("other.png")
    other.write_bytes(b"no picture")
    page.choose("#right", other)
    page.until("document.getElementById('shown-right').alt === 'other.png'")
    page.value("document.getElementById('compare').click()")
    assert "not an image" in page.until("document.getElementById('compare-error').textContent")


def test_every_control_is_reached_by_keyboard_and_fits_a_phone(server: Live, page: Page) -> None:
    page.resize(360, 740)
    page.open(server.url)
    page.until("document.querySelectorAll('#facts dt').length > 5")
    assert page.value("document.documentElement.scrollWidth") <= 360
    seen = set()
    for _ in range(20):
        page.press("Tab")
        seen.add(page.value("document.activeElement.id || document.activeElement.getAttribute('href')"))
    assert {"picture", "labels", "template", "classify", "left", "right", "compare", "docs"} <= seen
    page.resize(1000, 800)


def test_docs_list_every_route(server: Live, page: Page) -> None:
    page.open(f"{server.url}/docs")
    page.until("document.querySelectorAll('section').length > 5")
    titles = page.value("[...document.querySelectorAll('h2')].map(h => h.textContent)")
    described = server.get("/openapi.json").json["paths"]
    assert titles == [f"{method.upper()} {path}" for path, entry in described.items() for method in entry]


def test_the_policy_stops_scripts_that_are_not_the_pages(server: Live, page: Page) -> None:
    page.open(server.url)
    page.value(
        "document.body.append(Object.assign(document.createElement('script'), {textContent: 'window.evil = 1'}))"
    )
    assert page.value("window.evil === undefined")
    assert "Content Security Policy" in "".join(page.problems)
