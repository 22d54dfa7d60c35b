"""Index a folder of pictures, so that it can be searched.

What is new or changed since the last time is embedded and put into DIR/.clipref (or --index PATH), which clipref search
and others read. Nothing leaves the machine. Committed every few seconds, so that a run that was ended goes on where it
was. A renamed or moved file isn't embedded again, and the whole folder can be moved, the store with it. Two processes
may index one folder at once.

Which files are pictures is one rule: suffixes of the formats that are opened, hidden files left out, links followed,
each folder once; what is left out is counted. A picture that can't be read is remembered with its reason until it
changes; --errors lists those, and the exit code is 3 while there are any.

With --tars the pictures within tar files are embedded, as img2dataset and webdataset write them; each tar becomes a
part in the store's folder, made whole or not at all, and never twice. `--tars --shard I/N` makes every N-th part, on
one of N machines that see the folder, without a word between them; --merge puts all parts into the store afterwards.

The store holds paths, sizes, times, the dates when pictures were taken, and a vector each, from which something of what
a picture shows can be told; it is readable by its owner alone. --forget removes it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...cli.common import print_json, print_table
from ...cli.readable import LEFT_OUT
from ...cli.streams import say
from ...cli.texts import name_of
from ...errors import InputError
from ..formats import EXPORTS, export, import_rows
from ..index import Index
from ..on_ray import embed_tars_on_ray
from ..shards import embed_tars, merge, shard_of
from .common import add_index_arguments, add_update_arguments, open_index, refresh

FORMATS = ", ".join(EXPORTS)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    add_index_arguments(parser)
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--errors", action="store_true", help="list what could not be read, and why; change nothing")
    instead.add_argument("--forget", action="store_true", help="remove the store")
    instead.add_argument("--compact", action="store_true", help="remove vectors of pictures that have gone, now")
    instead.add_argument("--export", nargs=2, metavar=("FORMAT", "OUT"), help=f"write it as {FORMATS}")
    instead.add_argument(
        "--import", nargs=2, dest="imported", metavar=("FORMAT", "SRC"), help="read vectors of these pictures from such"
    )
    instead.add_argument("--tars", action="store_true", help="embed the pictures in DIR's tar files (webdataset's)")
    instead.add_argument("--merge", action="store_true", help="put the parts that --tars --shard made into the store")
    parser.add_argument("--shard", metavar="I/N", help="with --tars: every N-th tar, from the I-th on (0 to N-1)")
    parser.add_argument("--ray", metavar="ADDRESS", help="with --tars: on this Ray cluster (auto, ray://host:10001)")
    parser.add_argument("--retry", action="store_true", help="look again at pictures that could not be read")
    parser.add_argument("--json", action="store_true", help="print the counts, or the errors, as JSON")
    add_update_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """LEFT_OUT if a picture could not be read, now or before."""
    for option, value in (("--export", args.export), ("--import", args.imported)):
        if value is not None and value[0] not in EXPORTS:
            raise InputError(f"{option} {value[0]}: expected one of {FORMATS}.")
    if args.errors or args.forget or args.compact or args.export:
        with Index(args.folder, store=args.index) as index:
            return maintain(index, args)
    if (args.shard or args.ray) and not args.tars:
        raise InputError("--shard and --ray are for --tars; for files, several processes may index one folder.")
    if args.shard and args.ray:
        raise InputError("--shard and --ray are two ways to share the tars out; give one.")
    with open_index(args) as index:
        if args.tars or args.merge:
            return embed_parts(index, args)
        if args.imported:
            counts = import_rows(index, args.imported[0], Path(args.imported[1]))
            say(f"{', '.join(f'{count} {what}' for what, count in counts.items())}; {len(index)} in {index.place}.")
            return LEFT_OUT if counts["not here"] else 0
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
        say(f"{summary.sentence()}; {len(index)} in {index.place}.")
        return 0 if summary.is_whole else LEFT_OUT


def embed_parts(index: Index, args: argparse.Namespace) -> int:
    """--tars and --merge: parts, and the store of them unless they are one shard's."""
    failed = 0
    shard = shard_of(args.shard or "0/1")
    if args.tars:
        if args.ray is not None:
            parts = embed_tars_on_ray(index, args.ray, args.batch_size)
        else:
            parts = embed_tars(index, shard, args.batch_size)
        for part in parts:
            if part.error is not None:
                say(f"{part.tar}: not embedded, {part.error}")
                failed += 1
                continue
            made = "embedded" if part.is_new else "embedded before"
            say(f"{part.tar}: {part.embedded} {made}, {part.failed} can't be read, {part.left_out} members left out.")
            failed += part.failed
    if args.merge or not args.shard:
        merged = merge(index.store)
        say(f"{merged} parts merged; {len(index)} in {index.place}.")
        failed += len(index.errors())
    return LEFT_OUT if failed else 0


def maintain(index: Index, args: argparse.Namespace) -> int:
    """--errors, --forget, --compact and --export."""
    if args.forget:
        say(f"removed {index.store.forget()} bytes from {index.place}.")
    elif args.export:
        count = export(index, args.export[0], Path(args.export[1]))
        say(f"{count} pictures' paths and vectors are in {args.export[1]}.")
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
