"""The page of searched folders in headless Chromium: a text, a dropped picture, more like one, filters, a phone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from clipref.search import Index, Term

from .chromium import PROGRAM, Page, browser
from .live_server import Live, live, picture
from .test_server_search import COUNT, MODEL, TEXT
from .test_server_search import folder as folder
from .test_server_search import index as index
from .test_server_search import server as server

pytestmark = [pytest.mark.extra, pytest.mark.skipif(PROGRAM is None, reason="no chromium on this machine")]

PATHS = "[...document.querySelectorAll('#hits .path')].map(e => e.textContent)"
# Thumbnails that were to be fetched and are decoded.
SHOWN = "[...document.querySelectorAll('#hits img')].filter(e => e.naturalWidth === 64).length"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with browser(tmp_path_factory.mktemp("chromium")) as opened:
        yield opened


def typed(page: Page, name: str, text: str) -> None:
    page.value(f"Object.assign(document.getElementById({name!r}), {{value: {text!r}}}).focus()")


def paths(page: Page, expected: list[str]) -> None:
    """Wait until these are shown, in this order."""
    page.until(f"JSON.stringify({PATHS}) === {str(expected).replace(chr(39), chr(34)).replace(' ', '')!r}")


def test_a_query_grows_from_a_text_to_a_picture_to_one_of_its_hits(
    server: Live, page: Page, index: Index, tmp_path: Path
) -> None:
    page.open(f"{server.url}/search")
    assert page.until("document.getElementById('about').textContent.includes('by') && "
                      "document.getElementById('about').textContent") == f"drawn, by {MODEL}"  # fmt: skip
    typed(page, "text", TEXT)
    page.press("Enter")
    paths(page, [hit.path for hit in index.search(TEXT, top_k=40)])
    page.until(f"{SHOWN} > 1")
    page.screenshot(tmp_path / "page.png")
    typed(page, "path", "a/1*")
    page.press("Enter")
    paths(page, [hit.path for hit in index.search(TEXT, path="a/1*")])
    typed(page, "path", "")
    dropped = tmp_path / "dropped.png"
    dropped.write_bytes(picture(0))
    page.drop("#drop-picture", dropped)
    both = index.search([Term(TEXT), Term(image=dropped)], top_k=40)
    paths(page, [hit.path for hit in both])
    page.until(f"{SHOWN} > 1")
    assert page.value("!document.getElementById('forget-picture').hidden")
    page.value("document.querySelectorAll('#hits button')[2].click()")
    vector = index.vectors[index.paths.index(both[2].path)]
    paths(page, [hit.path for hit in index.search(Term(vector=vector), top_k=40)])
    assert page.value("document.getElementById('like').textContent") == both[2].path
    assert page.value("document.getElementById('shown-picture').hidden && !document.getElementById('text').value")
    assert not page.problems


def test_what_goes_wrong_is_shown(server: Live, page: Page) -> None:
    page.open(f"{server.url}/search")
    page.value("document.getElementById('search').click()")
    assert "Type what" in page.until("document.getElementById('search-error').textContent")
    typed(page, "text", TEXT)
    typed(page, "after", "yesterday")
    page.press("Enter")
    assert "dates such as" in page.until("document.getElementById('search-error').textContent")
    typed(page, "after", "2999")
    page.press("Enter")
    assert page.until("document.getElementById('found').textContent") == "No picture fits."


def test_the_page_is_used_by_keyboard_and_fits_a_phone(server: Live, page: Page, folder: Path, tmp_path: Path) -> None:
    page.resize(360, 740)
    page.open(f"{server.url}/search")
    page.value("document.querySelector('details').open = true")
    typed(page, "text", TEXT)
    page.press("Enter")
    page.until(f"{PATHS}.length === {COUNT + 1}")
    assert page.value("document.documentElement.scrollWidth") <= 360
    page.value("document.getElementById('text').focus()")
    seen: set[Any] = set()
    for _ in range(12 + COUNT):
        page.press("Tab")
        seen.add(page.value("document.activeElement.id || document.activeElement.getAttribute('aria-label')"))
    assert {"minus", "picture", "after", "before", "path", "within", "count", "search"} <= seen
    assert sum(str(name).startswith("More like ") for name in seen) > 5
    page.resize(1000, 800)


def test_a_key_is_asked_for_before_anything_is_told(folder: Path, page: Page, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("right\n")
    with live("--search", str(folder), "--backend", "blas", "--api-key-file", str(tmp_path / "keys")) as server:
        page.open(f"{server.url}/search")
        page.until("document.getElementById('about').textContent.includes('key')")
        page.value("const k = document.getElementById('key'); k.value = 'right'; k.dispatchEvent(new Event('change'))")
        page.until("document.getElementById('about').textContent.includes('drawn')")
        typed(page, "text", TEXT)
        page.press("Enter")
        page.until(f"{PATHS}.length === {COUNT + 1} && {SHOWN} > 1")
