"""Label the pictures of a folder with the classes of a file, and sort them into folders.

The file has a class a line. Probabilities are those of clipref classify. A picture whose best class leads the second
by less than --margin has the label "none".

--sort-into OUT makes hard links (or copies, on another disk or with --copy) at OUT/class/path; nothing is moved,
removed or replaced. Look first with --dry-run, which prints what would be made.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...classifier import TEMPLATES
from ...cli.common import print_json, print_table
from ...cli.streams import say
from ...cli.texts import lines_of, name_of, text_argument
from ...errors import InputError
from ..labels import check_margin, moves, picture_labels, sort_into
from .common import add_index_arguments, add_refresh_arguments, open_fresh_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    add_index_arguments(parser)
    parser.add_argument("--classes", required=True, metavar="FILE", help="a text file, one class a line; - for stdin")
    parser.add_argument(
        "--template", action="append", type=text_argument, help=f"repeatable (default: {TEMPLATES[0]!r})"
    )
    parser.add_argument("--margin", type=float, default=0.1, help='of probabilities, or "none" (default: %(default)s)')
    parser.add_argument("--top-k", type=int, default=3, help="classes that --json lists (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a line of JSON a picture")
    parser.add_argument("--sort-into", type=Path, metavar="OUT", help="make links in a folder for each class")
    parser.add_argument("--copy", action="store_true", help="with --sort-into: copies, not links")
    parser.add_argument("--dry-run", action="store_true", help="with --sort-into: print what would be made")
    add_refresh_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print each picture's label, or sort."""
    labels = [line.strip() for line in lines_of(args.classes, "--classes") if line.strip()]
    if not labels:
        raise InputError(f"--classes {args.classes} has no classes; expected one a line.")
    if args.sort_into is None and (args.copy or args.dry_run):
        raise InputError("--copy and --dry-run say how to --sort-into a folder; give one.")
    if args.top_k < 1:
        raise InputError(f"--top-k is {args.top_k}; expected at least 1.")
    check_margin(args.margin)
    with open_fresh_index(args) as index:
        found = list(picture_labels(index, labels, args.template or TEMPLATES, args.margin, args.top_k))
        planned = [] if args.sort_into is None else moves(index, found, args.sort_into)
    if args.dry_run:
        for move in planned:
            print(f"{name_of(move.source)} -> {name_of(move.target)}")
    elif args.sort_into is not None:
        made = sort_into(planned, args.copy)
        say(f"{made} of {len(planned)} made in {args.sort_into}; the others were there.")
    elif args.json:
        for entry in found:
            best = [{"label": label, "probability": p} for label, p in entry.probabilities]
            print_json({"path": name_of(entry.path), "label": entry.label, "labels": best})
    else:
        rows = [(f"{e.probabilities[0][1]:.4f}", e.label, e.path) for e in found]
        print_table([("probability", "label", "path"), *rows])
    return 0
