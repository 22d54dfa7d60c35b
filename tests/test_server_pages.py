"""The pages and openapi.json, held to the routes that there are."""

import json
import re
from importlib.resources import files
from typing import Any

import pytest

pytestmark = pytest.mark.extra

PAGES = files("clipref.server") / "pages"


@pytest.fixture(scope="module")
def server() -> Any:
    from .live_server import live

    with live() as running:
        yield running


def test_openapi_has_every_route_and_no_other(server: Any) -> None:
    from clipref.server.app import PAGES as PAGE_ROUTES
    from clipref.server.app import routes

    described = server.get("/openapi.json").json
    found = {(path, method.lower()) for path, entry in described["paths"].items() for method in entry}
    there: set[tuple[str, str]] = set()
    for route in routes(server.server):
        there |= {(route.path, m.lower()) for m in route.methods - {"HEAD"}}
    assert found == there - {(path, "get") for path in PAGE_ROUTES}


def test_openapi_says_which_fields_are_required_and_what_is_refused(server: Any) -> None:
    for path, entry in server.get("/openapi.json").json["paths"].items():
        if "post" not in entry:
            continue
        ((kind, content),) = entry["post"]["requestBody"]["content"].items()
        properties = content["schema"]["properties"]
        assert set(content["schema"]["required"]) <= set(properties) and all(properties.values())
        assert set(content.get("example", {})) <= set(properties)
        assert {"200", "400", "401", "404", "408", "413", "429", "500", "503", "504"} == set(entry["post"]["responses"])
        if kind == "application/json":
            for name in content["schema"]["required"]:
                body = {other: "x" for other in content["schema"]["required"] if other != name}
                reply = server.post(path, body)
                assert reply.status == 400 and name in json.dumps(reply.json), (path, name, reply.json)


@pytest.mark.parametrize(
    "path", ["/", "/search", "/docs", "/page.css", "/asking.js", "/page.js", "/search.js", "/docs.js"]
)
def test_pages_load_nothing_from_elsewhere(server: Any, path: str) -> None:
    reply = server.get(path)
    assert reply.status == 200 and reply.headers["x-content-type-options"] == "nosniff"
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';") and "unsafe" not in policy and "http" not in policy
    text = reply.content.decode()
    assert not re.search(r"https?:|[\"'(=]//|@import|url\(", text)
    assert not re.search(r"<script(?![^>]*src=)|<style|\son\w+=|\sstyle=|javascript:|innerHTML|eval\(", text)


@pytest.mark.parametrize(("name", "program"), [("index.html", "page.js"), ("search.html", "search.js")])
def test_every_label_and_id_of_the_page_is_used(name: str, program: str) -> None:
    page, script, shared = ((PAGES / n).read_text(encoding="utf-8") for n in (name, program, "asking.js"))
    script += shared
    ids = set(re.findall(r'\sid="([^"]+)"', page))
    assert set(re.findall(r'byId\("([^"]+)"\)', script)) <= ids
    assert set(re.findall(r'(?:for|aria-labelledby)="([^"]+)"', page)) <= ids
    for name in re.findall(r"<(?:input|textarea|select) id=\"([^\"]+)\"", page):
        assert f'for="{name}"' in page
