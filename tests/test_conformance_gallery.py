"""The gallery: its pages say what was found, and its table agrees with it."""

from pathlib import Path

import pytest

from clipref import InputError
from clipref.conformance.gallery import asking
from clipref.conformance.gallery.__main__ import main, pages
from clipref.conformance.gallery.outsiders import ABSENT, OUTSIDERS
from clipref.conformance.gallery.table import HERE, Line, Outsider
from clipref.conformance.restated.preprocessing import PROFILES

FOUND = {o.name: found for o in OUTSIDERS if (found := asking.read_results(o.name)) is not None}
ASKED = [o for o in OUTSIDERS if "runs" in FOUND.get(o.name, {})]


@pytest.mark.parametrize("page", ["GALLERY.md", "gallery.html"])
def test_a_page_is_made_of_what_is_kept(page: str) -> None:
    """Make it anew with `python -m clipref.conformance.gallery --pages`."""
    (path,) = (path for path in pages() if path.name == page)
    assert path.read_text(encoding="utf-8") == pages()[path]


def test_at_least_twelve_were_asked() -> None:
    assert len({o.package for o in ASKED}) >= 12
    assert len({o.name for o in OUTSIDERS}) == len(OUTSIDERS) and len({a.title for a in ABSENT}) == len(ABSENT)


@pytest.mark.parametrize("outsider", OUTSIDERS, ids=lambda o: o.name)
def test_a_row_agrees_with_what_was_found(outsider: Outsider) -> None:
    assert (HERE / "adapters" / outsider.adapter.partition(":")[0]).is_file()
    found = FOUND[outsider.name]
    if "not_installed" in found:
        assert not outsider.differences
        return
    installed = {name.lower().replace("_", "-"): version for name, version in found["packages"].items()}
    for name, version in outsider.environment.pinned.items():
        assert installed[name.lower().replace("_", "-")].partition("+")[0] == version
    assert [run["profile"] for run in found["runs"]] == [asked.profile for asked in outsider.asked]
    failing = {case["case"].partition("/")[0] for run in found["runs"] for case in run["failing"]}
    assert failing == {d.level for d in outsider.differences}, "each failure has its reason, each reason its failure"
    diagnosed: set[str] = set()
    for run in found["runs"]:
        for diagnosis in run["diagnoses"]:
            diagnosed |= set(diagnosis["faults"])
            diagnosed |= {profile for profile in PROFILES if f"the profile {profile!r}" in diagnosis["says"]}
    assert diagnosed == {name for d in outsider.differences for name in d.named}


def test_a_line_that_has_moved_is_told(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("first = 1\nsecond = 2\n")
    asking.look_up(Line("code.py", 2, "second"), tmp_path)
    asking.look_up(Line("lib.rs", 2, "second", "a repository"), tmp_path)
    for line, says in (
        (Line("code.py", 1, "second"), "it is on lines 2"),
        (Line("code.py", 3, "second"), "it is on lines 2"),
        (Line("code.py", 1, "third"), "not in that file"),
        (Line("other.py", 1, "first"), "not in that file"),
    ):
        with pytest.raises(InputError, match=says):
            asking.look_up(line, tmp_path)


def test_an_unknown_outsider_is_told() -> None:
    with pytest.raises(InputError, match="No outsider 'me'"):
        main(["me"])
