"""Make the gallery: `python -m clipref.conformance.gallery`, or with names of outsiders that are asked anew.

Asks those named, or all, each in an environment of its own, keeps the results in results/, and writes GALLERY.md and
gallery.html of all that is kept; `--pages` writes these alone. Needs a package index, and a gigabyte or two of disk at
a time.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipref.cli import fail
from clipref.errors import ClipError, InputError

from . import asking, page
from .environments import Installed, NotInstalled, install
from .outsiders import ABSENT, OUTSIDERS
from .table import HERE, Environment, Outsider

MARKDOWN, HTML = HERE.parent / "GALLERY.md", HERE.parent / "gallery.html"


def main(arguments: Sequence[str] | None = None) -> None:
    """The command. Raises InputError."""
    parser = argparse.ArgumentParser("python -m clipref.conformance.gallery", description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="outsiders to be asked anew (all)")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="environments stay there, and are used again")
    parser.add_argument("--pages", action="store_true", help="ask nobody; write the pages of what is kept")
    args = parser.parse_args(arguments)
    known = {outsider.name: outsider for outsider in OUTSIDERS}
    if unknown := sorted(set(args.names) - known.keys()):
        raise InputError(f"No outsider {unknown[0]!r}; there are: {', '.join(known)}.")
    chosen = [known[name] for name in args.names or known]
    for environment in () if args.pages else dict.fromkeys(outsider.environment for outsider in chosen):
        _ask_all([outsider for outsider in chosen if outsider.environment == environment], environment, args.keep)
    write_pages()


def _ask_all(outsiders: Sequence[Outsider], environment: Environment, keep: Path | None) -> None:
    print(f"{environment.name}: {', '.join(o.name for o in outsiders)}", file=sys.stderr)
    try:
        with install(environment, keep) as there:
            for outsider in outsiders:
                _ask(outsider, there)
    except NotInstalled as problem:
        for outsider in outsiders:
            _tell(outsider, {**asking.where(), "not_installed": str(problem)})


def _ask(outsider: Outsider, there: Installed) -> None:
    try:
        _tell(outsider, asking.results(outsider, there))
    except NotInstalled as problem:
        _tell(outsider, {**asking.where(), "not_installed": str(problem)})


def _tell(outsider: Outsider, found: Mapping[str, Any]) -> None:
    asking.write_results(outsider, found)
    print(f"  {outsider.name}: {found.get('not_installed') or page.scores(found)}", file=sys.stderr)


def pages() -> dict[Path, str]:
    """The two pages by where they lie, made of the table and of what is kept."""
    found = {o.name: kept for o in OUTSIDERS if (kept := asking.read_results(o.name)) is not None}
    return {
        MARKDOWN: page.as_markdown(page.blocks(OUTSIDERS, ABSENT, found)),
        HTML: page.as_html(page.blocks(OUTSIDERS, ABSENT, found)),
    }


def write_pages() -> None:
    """Write both pages anew."""
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ClipError as problem:
        sys.exit(fail(str(problem)))
