"""Group the pictures of a folder by what they show, and find those that fit nowhere.

Spherical k-means on the vectors, with --clusters groups (default: the square root of half the number of pictures). With
--words FILE, a word or phrase a line, each group is named by the one that fits it better than it fits the others.
--outliers N lists the pictures that are least like their group. --html writes a contact sheet.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from ...cli.common import print_json, print_table
from ...cli.output import text_file
from ...cli.streams import say
from ...cli.texts import lines_of, name_of
from ...errors import InputError
from ..clusters import clusters, names_of
from ..pages import Section, page
from .common import add_index_arguments, add_refresh_arguments, open_fresh_index

# Pictures of a group that a page shows.
SHOWN = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    add_index_arguments(parser)
    parser.add_argument("-k", "--clusters", type=int, metavar="K")
    parser.add_argument("--words", metavar="FILE", help="names to choose from, one a line; - for standard input")
    parser.add_argument("--outliers", type=int, default=0, metavar="N")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn at random (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="a line of JSON a picture")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a contact sheet")
    add_refresh_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the groups, the largest first."""
    words = [] if args.words is None else [line.strip() for line in lines_of(args.words, "--words") if line.strip()]
    if args.words is not None and not words:
        raise InputError(f"--words {args.words} has none; expected one a line.")
    for name in ("outliers", "seed"):
        if getattr(args, name) < 0:
            raise InputError(f"--{name} is {getattr(args, name)}; expected at least 0.")
    if args.clusters is not None and args.clusters < 1:
        raise InputError(f"--clusters is {args.clusters}; expected at least 1.")
    with open_fresh_index(args) as index:
        paths, rows = index.snapshot()
        if not paths:
            say("no pictures.")
            return 0
        found = clusters(rows, args.clusters or max(1, round((len(paths) / 2) ** 0.5)), args.seed)
        names = [""] * len(found.centres)
        if words:
            names = names_of(found.centres, words, index.model.embed_text(words, normalize=True))
        order = np.argsort(-np.bincount(found.members), kind="stable").tolist()
        ranked = [np.flatnonzero(found.members == k) for k in order]
        ranked = [members[np.argsort(-found.cosines[members], kind="stable")] for members in ranked]
        outliers = np.argsort(found.cosines, kind="stable")[: args.outliers]
        if args.html is not None:
            sections = [
                Section(
                    f"{number}. {names[k]} ({len(members)})",
                    [(paths[i], f"{found.cosines[i]:.3f}") for i in members[:SHOWN]],
                )
                for number, (k, members) in enumerate(zip(order, ranked, strict=True), 1)
            ]
            if len(outliers):
                sections.append(Section("Outliers", [(paths[i], f"{found.cosines[i]:.3f}") for i in outliers]))
            with text_file(args.html) as write:
                write(page("Clusters", sections, index.folder, index.upright))
    if args.json:
        apart = set(outliers.tolist())
        for number, (k, members) in enumerate(zip(order, ranked, strict=True), 1):
            for i in members.tolist():
                line = {"path": name_of(paths[i]), "cluster": number, "cosine": float(found.cosines[i])}
                print_json(line | ({"name": names[k]} if words else {}) | ({"outlier": True} if i in apart else {}))
        return 0
    table = [("cluster", "pictures", "name", "most typical")]
    for number, (k, members) in enumerate(zip(order, ranked, strict=True), 1):
        table.append((str(number), str(len(members)), names[k], paths[members[0]]))
    print_table(table)
    if len(outliers):
        print_table([("cosine", "outlier"), *((f"{found.cosines[i]:.3f}", paths[i]) for i in outliers)])
    return 0
