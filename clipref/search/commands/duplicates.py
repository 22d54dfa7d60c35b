"""Find pictures that are the same, or nearly, in a folder.

Equal files are found by their sha256; nearly equal ones by two measures together, the cosine of their vectors
(--cosine) and how many of the 64 bits of a perceptual hash differ (--distance): resized, recompressed, slightly
cropped, grey or mirrored copies. A group has the largest picture first, and each other one is near that one itself.

The limits are not calibrated on published weights: look at the result before you act on it. Nothing is deleted.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ...cli.common import print_json, print_table
from ...cli.output import text_file
from ...cli.streams import say
from ...cli.texts import name_of
from ..duplicates import COSINE, DISTANCE, Group, Member, check_limits, groups
from ..pages import Section, page
from .common import add_index_arguments, add_refresh_arguments, open_fresh_index


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    add_index_arguments(parser)
    parser.add_argument("--exact", action="store_true", help="equal files only")
    parser.add_argument("--cosine", type=float, default=COSINE, help="at least (default: %(default)s)")
    parser.add_argument("--distance", type=int, default=DISTANCE, help="bits at most (default: %(default)s of 64)")
    parser.add_argument("--json", action="store_true", help="a line of JSON a group")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with thumbnails, too")
    add_refresh_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the groups."""
    check_limits(args.cosine, args.distance)  # before any work
    with open_fresh_index(args) as index:
        found, without = groups(index, args.cosine, args.distance, args.exact)
        if args.html is not None:
            with text_file(args.html) as write:
                write(page("Duplicates", [section(group) for group in found], index.folder, index.upright))
    if args.json:
        for group in found:
            members = [{**member._asdict(), "path": name_of(member.path)} for member in group.members]
            print_json({"path": name_of(group.path), "near": members})
    elif found:
        rows = [("group", "cosine", "bits", "path")]
        for number, group in enumerate(found, 1):
            rows += [(str(number), "", "", group.path), *(("", *measures(m), m.path) for m in group.members)]
        print_table(rows)
    if without and not args.exact:
        say(f"{without} pictures were imported and have no hash; of those, only equal files were found.")
    say(f"{len(found)} groups, {sum(len(group.members) for group in found)} pictures beside the first of each.")
    return 0


def measures(member: Member) -> tuple[str, str]:
    """The cosine and the bits, as a table has them."""
    return ("equal", "") if member.is_equal else (f"{member.cosine:.3f}", str(member.distance))


def section(group: Group) -> Section:
    """A group as a page shows it."""
    return Section("", [(group.path, ""), *((member.path, " ".join(measures(member))) for member in group.members)])
