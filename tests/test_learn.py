"""The chapters: cells run, figures are what cells give, and numbers in sentences have a cell or a source."""

import re
from pathlib import Path

import pytest

from clipref.errors import InputError
from clipref.learn.chapters import FOLDER, Cell, Chapter, chapter, chapters, differences, run, unsupported_numbers

CHAPTERS = chapters()


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells write files where they are run."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("one", CHAPTERS, ids=lambda one: one.key)
def test_every_figure_is_what_its_cell_gives(one: Chapter) -> None:
    assert not differences(one)


@pytest.mark.slow
@pytest.mark.parametrize("one", [one for one in CHAPTERS if "```python slow" in one.text], ids=lambda one: one.key)
def test_slow_cells_too(one: Chapter) -> None:
    assert not differences(one, slow=True)


def written(tmp_path: Path, text: str) -> Chapter:
    path = tmp_path / "01-a-try.md"
    path.write_text(text, encoding="utf-8")
    return Chapter(path)


TRY = """# 1. A try

```python
x = 0.123
print(f"{x:.2f}")
x + 1
```

```text
0.12
1.123
```

So x is <!--= f"{x:.3f}" -->0.123<!--.-->, see chapter 2.

<!-- python
assert x < 1
-->

```python slow
x = 7
x
```

```text
7
```
"""


def test_a_chapter_that_is_right_is_left_as_it_is(tmp_path: Path) -> None:
    one = written(tmp_path, TRY)
    ran = run(one)
    assert (one.key, one.title, ran.markdown, ran.wrong) == ("1", "A try", TRY, [])
    assert [part.hidden for part in ran.parts if isinstance(part, Cell)] == [False, True, False]
    assert differences(one, slow=True) == []


@pytest.mark.parametrize(
    "right, wrong",
    [
        ("0.12\n", "0.14\n"),
        ("0.12\n", "0.12 \n"),
        ("0.12\n1.123", "0.12"),
        ("-->0.123<", "-->0.125<"),
        ("```text\n7\n```", "```text\n8\n```"),
    ],
)
def test_another_figure_is_found_and_mended(right: str, wrong: str, tmp_path: Path) -> None:
    one = written(tmp_path, TRY.replace(right, wrong))
    ran = run(one, slow=True)
    assert len(ran.wrong) == 1 and re.match(r"01-a-try\.md:\d+: written", ran.wrong[0])
    assert ran.markdown == TRY
    assert len(run(one).wrong) == (0 if "8" in wrong else 1)  # slow cells are left alone


def test_the_last_digit_may_be_rounded_otherwise(tmp_path: Path) -> None:
    assert not differences(written(tmp_path, TRY.replace("0.12\n", "0.13\n")))


def test_a_false_claim_and_a_bare_number_are_found(tmp_path: Path) -> None:
    with pytest.raises(AssertionError) as raised:
        run(written(tmp_path, TRY.replace("x < 1", "x > 1")))
    assert raised.traceback[-1].lineno + 1 == 17  # of the chapter's file
    for said in ("It takes 15 s.", "It is `[3, 4]`.", "| 0.5 |", "See [that](02-a.md), or 5."):
        assert len(list(unsupported_numbers(written(tmp_path, f"# 1. A\n\n{said}\n")))) >= 1, said
    for said in ("It takes 15 s ([who](https://a.b)).", "It is `ViT-B-32`.", "See chapters 3 and 4."):
        assert not list(unsupported_numbers(written(tmp_path, f"# 1. A\n\n{said}\n"))), said


def test_chapters_are_numbered_and_lead_to_each_other() -> None:
    assert [one.key for one in CHAPTERS if one.key.isdigit()] == [str(i + 1) for i in range(8)]
    for one in CHAPTERS:
        assert one.text.startswith(f"# {one.key}. " if one.key.isdigit() else "# ")
        assert one.text.count("\n") <= 400
        source = re.sub(r"^```text\n.*?^```$", "", one.text, flags=re.MULTILINE | re.DOTALL)
        assert all(len(line) <= 120 for line in source.splitlines())
        prose = re.sub(r"^(```|<!-- python).*?^(```|-->)$", "", one.text, flags=re.MULTILINE | re.DOTALL)
        for link in re.findall(r"\]\(([^)#]+)\)", prose):
            assert link.startswith("https://") or (FOLDER / link).exists(), link
    assert chapter("02") == chapter("2") and chapter("table-of-names-and-shapes") in CHAPTERS
    with pytest.raises(InputError, match=r"no chapter '9'; expected one of 1, 2"):
        chapter("9")
