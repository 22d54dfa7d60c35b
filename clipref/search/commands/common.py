"""What the commands of a searched folder share: the folder, its store and its model."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ...cli.common import add_model_arguments, open_model
from ...cli.streams import say
from ...errors import InputError
from ..index import Index
from ..store import DATABASE, FOLDER, Store, is_started
from ..update import Summary


def add_index_arguments(parser: argparse.ArgumentParser) -> None:
    """DIR and --index."""
    parser.add_argument("folder", metavar="DIR", help="a folder of pictures")
    parser.add_argument("--index", type=Path, metavar="PATH", help=f"the folder of the store (default: DIR/{FOLDER})")


def add_update_arguments(parser: argparse.ArgumentParser) -> None:
    """How pictures are looked at, and the model."""
    parser.add_argument(
        "--as-openai",
        action="store_true",
        help="see photographs as they are stored, as OpenAI's CLIP does, not upright as their EXIF data says",
    )
    parser.add_argument("--batch-size", type=int, default=32)
    add_model_arguments(parser)


def add_refresh_arguments(parser: argparse.ArgumentParser) -> None:
    """As `add_update_arguments`, and --no-update, which leaves the index as it is."""
    parser.add_argument("--no-update", action="store_true", help="take the index as it is, even if the folder changed")
    add_update_arguments(parser)


def open_fresh_index(args: argparse.Namespace) -> Index:
    """The index, up to date unless --no-update; says what was embedded, and what could not be."""
    index = open_index(args, is_read=args.no_update)
    if not args.no_update:
        summary = refresh(index, args)
        if summary.embedded or summary.failed:
            say(f"{summary.sentence()}.")
    return index


def open_index(args: argparse.Namespace, is_read: bool = False) -> Index:
    """The index that the arguments name; with the model that it was made with, unless another one is named.

    `is_read`: it has to be there already. Raises ClipError.
    """
    if args.batch_size < 1:
        raise InputError(f"--batch-size is {args.batch_size}; expected at least 1.")
    if not Path(args.folder).is_dir():
        raise InputError(f"{args.folder!r} is not a folder; expected one with pictures in it.")
    upright = not args.as_openai
    place = Path(args.folder) / FOLDER if args.index is None else args.index
    if is_read or (is_started(place / DATABASE) and args.model is None):
        store = Store(place)
        if args.model is None:
            args.model, args.revision = store.meta["model"], args.revision or store.meta.get("revision") or None
        upright = store.is_upright if not (args.as_openai or args.upright) else upright
        store.close()
    return Index(args.folder, open_model(args), store=args.index, upright=upright)


def refresh(index: Index, args: argparse.Namespace, retry: bool = False) -> Summary:
    """Bring the index up to date, with a bar where standard error is a terminal."""
    summary = index.update(batch_size=args.batch_size, progress=sys.stderr.isatty(), retry=retry)
    for path, problem in summary.failed:
        say(f"warning: {path!r}: {problem}")
    for problem in summary.found.failures:
        say(f"warning: {problem}")
    return summary
