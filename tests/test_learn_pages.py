"""`clipref learn`: the list, a page that needs nothing else and can be read without seeing it, bad arguments."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from clipref.cli import main
from clipref.errors import InputError
from clipref.learn.chapters import Chapter, chapters, run
from clipref.learn.markdown import html_of
from clipref.learn.page import chapter_page, page_address

from .test_look_command import Outline


def test_the_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["learn"]) == 0
    out = capsys.readouterr().out
    assert all(one.title in out and str(one.path) in out for one in chapters())


def test_a_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["learn", "3"]) == 0
    (out,) = tmp_path.iterdir()  # what cells write isn't here
    page = out.read_text(encoding="utf-8")
    assert out.name == "03-patches-and-the-class-token.html" and str(out) in capsys.readouterr().out
    outline = Outline(page)
    assert not any(outline.of(tag) for tag in ("script", "link", "iframe"))
    assert outline.of("img") and all(
        str(image["src"]).startswith("data:image/png;base64,") and image["alt"] for image in outline.of("img")
    )
    assert "<!--" not in page and "[picture:" not in page and "assert " not in page
    assert len(outline.of("h1")) == len(outline.of("main")) == 1
    levels = [int(tag[1]) for tag, _ in outline.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    assert all(pre.get("tabindex") == "0" and pre["aria-label"] for pre in outline.of("pre"))
    assert all(svg.get("aria-label") for svg in outline.of("svg"))
    assert "prefers-color-scheme: dark" in page
    inner = [str(a["href"]) for a in outline.of("a") if "://" not in str(a["href"])]
    assert {f"{one.name}.html" for one in chapters()} <= set(inner)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["9"], "There is no chapter '9'; expected one of 1, 2"),
        (["--out", "x.html"], "--out is given without a chapter"),
        (["all", "--out", "no/where"], "--out no/where can't be made a folder: No such file or directory"),
        (["1", "--out", "no/x.html"], "there is no folder"),
    ],
)
def test_bad_arguments(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["learn", *arguments]) != 0
    assert message in capsys.readouterr().err and not list(tmp_path.iterdir())


def test_a_chapter_that_fails_leaves_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "02-b.md").write_text("# 2. B\n\n```python\n1 / 0\n```\n", encoding="utf-8")
    monkeypatch.setattr("clipref.learn.chapters.chapter", lambda key: Chapter(tmp_path / "02-b.md"))
    with pytest.raises(ZeroDivisionError):
        main(["learn", "2", "--out", "b.html"])
    assert [path.name for path in tmp_path.iterdir()] == ["02-b.md"]


def test_curves_and_matrices_are_told_in_words(tmp_path: Path) -> None:
    cell = (
        "from clipref import learn\nlearn.show_curves({'a <b>': [2, 1]}, 'it falls')\n```\n\n```python\n"
        "learn.show_matrix([[1, -2]], ['r'], ['c', 'd'], 'some & more')"
    )
    (tmp_path / "01-a.md").write_text(f"# 1. A\n\n```python\n{cell}\n```\n", encoding="utf-8")
    ran = run(Chapter(tmp_path / "01-a.md"))
    assert "[picture: it falls]" in ran.markdown and "[picture: some & more]" in ran.markdown
    page = chapter_page(ran)
    assert 'aria-label="it falls"' in page and "a &lt;b&gt;: from 2.00 to 1.00" in page
    assert "<caption>some &amp; more</caption>" in page and "\N{MINUS SIGN}2.00" in page


def test_markdown_is_what_it_says() -> None:
    text = "# A & b\n\nSome `x < *y*`, *z*, **w** and\n[l `m`](02-a.md).\n\n- one\n  more\n- two\n\n    e = a  < b\n"
    assert html_of(text, page_address) == (
        "<h1>A &amp; b</h1>\n<p>Some <code>x &lt; *y*</code>, <em>z</em>, <b>w</b> and\n"
        '<a href="02-a.html">l <code>m</code></a>.</p>\n<ul><li>one\n  more</li><li>two</li></ul>\n'
        "<pre><code>e = a  &lt; b</code></pre>"
    )
    assert page_address("https://a.b/c.md") == "https://a.b/c.md"
    for unknown in ("| a | b |", "> quoted", "```sh\nls\n```", "1. one", "![a](b)", "#### deep", "<b>raw</b>", "* one"):
        with pytest.raises(InputError, match="isn't among"):
            html_of(unknown)
