"""CLIP, opened: eight chapters on what happens between a picture, a text and their cosine, with exercises.

Without a number it lists them. With one it runs that chapter's cells on the embedded models, which takes from a second
to half a minute and no network, and writes the chapter as one page of HTML with its pictures inside; `all` writes them
all.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..cli.common import print_table
from ..cli.output import text_file
from ..errors import InputError
from ..files import scratch_folder

if TYPE_CHECKING:
    from .chapters import Chapter


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("chapter", nargs="?", metavar="N", help="a number, the name of a page, or all")
    parser.add_argument("--out", type=Path, help="where: a file; with all, a folder (default: the chapter's name)")


def run(args: argparse.Namespace) -> None:
    """List the chapters, or write one or all."""
    from .chapters import chapter, chapters

    if args.chapter is None:
        if args.out is not None:
            raise InputError("--out is given without a chapter; expected a number, or all.")
        print_table([("chapter", "title", "file"), *((one.key, one.title, str(one.path)) for one in chapters())])
        print("\nTo read one: clipref learn 1")
        return
    if args.chapter != "all":
        one = chapter(args.chapter)
        out = Path(f"{one.name}.html") if args.out is None else args.out
        if out.is_dir():
            out = out / f"{one.name}.html"
        _write(one, out)
        return
    folder = Path() if args.out is None else args.out
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise InputError(f"--out {folder} can't be made a folder: {error.strerror}; name another.") from error
    for one in chapters():
        _write(one, folder / f"{one.name}.html")


def _write(one: Chapter, out: Path) -> None:
    """Run a chapter in a folder of its own, for its cells write files, and write its page."""
    from .chapters import run as run_chapter
    from .page import chapter_page

    with text_file(out.absolute()) as write, scratch_folder() as folder, _working_in(folder):
        write(chapter_page(run_chapter(one)))
    print(f"{one.title}: {out.absolute()}")


@contextlib.contextmanager
def _working_in(folder: Path) -> Iterator[None]:
    before = os.getcwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
