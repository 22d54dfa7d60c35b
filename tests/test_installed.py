"""Entry points are found as importlib.metadata finds them, those of a package that comes later too."""

import os
from importlib import metadata
from pathlib import Path

import pytest

from clipref import cli, installed


def test_what_comes_later_is_found_and_the_rest_is_looked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    before = installed.entry_points(group=cli.GROUP)
    assert set(before) == set(metadata.entry_points(group=cli.GROUP)) and "embed" in before.names
    assert installed.entry_points(group=cli.GROUP) is before
    (tmp_path / "later-1.0.dist-info").mkdir()
    (tmp_path / "later-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: later\nVersion: 1.0\n")
    (tmp_path / "later-1.0.dist-info" / "entry_points.txt").write_text(f"[{cli.GROUP}]\nlater = later:run\n")
    os.utime(tmp_path, ns=(1, 1))  # whatever the clock of the file system has for what was made a moment ago
    assert installed.entry_points(group=cli.GROUP).names == before.names | {"later"}
