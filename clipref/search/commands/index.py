"""Index a folder of pictures, so that it can be searched.

What is new or changed since the last time is embedded and put into DIR/.clipref (or --index PATH), which clipref search
and others read. Nothing leaves the machine. Committed every few seconds, so that a run that was ended goes on where it
was. A renamed or moved file isn't embedded again, and the whole folder can be moved, the store with it. Two processes
may index one folder at once.

Which files are pictures is one rule: suffixes of the formats that are opened, hidden files left out, links followed,
each folder once; what is left out is counted. A picture that can't be read is remembered with its reason until it
changes; --errors lists those, and the exit code is 3 while there are any.

The store holds paths, sizes, times, the dates when pictures were taken, and a vector each, from which something of what
a picture shows can be told; it is readable by its owner alone. --forget removes it.
"""

from __future__ import annotations

import argparse

from ...cli.common import print_json, print_table
from ...cli.readable import LEFT_OUT
from ...cli.streams import say
from ...cli.texts import name_of
from ..index import Index
from .common import add_index_arguments, add_update_arguments, open_index, refresh


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    add_index_arguments(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--errors", action="store_true", help="list what could not be read, and why; change nothing")
    instead.add_argument("--forget", action="store_true", help="remove the store")
    instead.add_argument("--compact", action="store_true", help="remove vectors of pictures that have gone, now")
    parser.add_argument("--retry", action="store_true", help="look again at pictures that could not be read")
    parser.add_argument("--json", action="store_true", help="print the counts, or the errors, as JSON")
    add_update_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """LEFT_OUT if a picture could not be read, now or before."""
    if args.errors or args.forget or args.compact:
        with Index(args.folder, store=args.index) as index:
            return maintain(index, args)
    with open_index(args) as index:
        summary = refresh(index, args, args.retry)
        if args.json:
            print_json(
                {
                    "pictures": len(index),
                    "embedded": summary.embedded,
                    "known": summary.known,
                    "unchanged": summary.unchanged,
                    "removed": summary.removed,
                    "errors": len(index.errors()),
                    "left_out": dict(summary.found.left_out),
                }
            )
        say(f"{summary.told()}; {len(index)} in {index.place}.")
        return 0 if summary.is_whole else LEFT_OUT


def maintain(index: Index, args: argparse.Namespace) -> int:
    """--errors, --forget and --compact."""
    if args.forget:
        say(f"removed {index.store.forget()} bytes from {index.place}.")
    elif args.compact:
        index.store.compact()
        say(f"{len(index)} pictures in {index.place}.")
    else:
        errors = index.errors()
        if args.json:
            for path, error in errors:
                print_json({"path": name_of(path), "error": error})
        elif errors:
            print_table([("path", "error"), *errors])
        return LEFT_OUT if errors else 0
    return 0
