"""Search a folder of pictures by texts and pictures.

    clipref search photos "a dog on a beach"
    clipref search photos beach --plus 0.5 sunset --minus people --after 2023 --html found.html

The query is the sum of its terms, each a direction with a weight: texts (weight 1), --plus and --minus [WEIGHT] TEXT,
--image and --minus-image [WEIGHT] FILE. The score is the cosine with the sum; of several terms each one's own cosine is
shown too.
Cosines of texts with photographs are small, 0.2 to 0.35 for what fits well, and differ between models.

The index is first brought up to date, which embeds what is new, unless --no-update. Paths are printed relative to DIR;
with -0 they begin with DIR, for `xargs -0`. A page of --html has small copies of the pictures in it.
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...cli.common import print_json, print_table
from ...cli.output import text_file
from ...cli.streams import flush, say
from ...cli.texts import name_of, text_argument
from ...errors import InputError
from ..pages import Section, page
from ..query import Hit, Restriction, Term
from .common import add_index_arguments, add_refresh_arguments, open_fresh_index
from .paths import read_paths

# "-1" as a weight would be taken for an option, as -0 is one.
TERM_OPTIONS = {"--plus": "TEXT", "--minus": "TEXT", "--image": "FILE", "--minus-image": "FILE"}


class AddTerm(argparse.Action):
    """An option's [WEIGHT] VALUE, as a term."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        """Exits through the parser's error."""
        try:
            weight = float(values[0]) if len(values) == 2 else 1.0
            if len(values) > 2:
                raise ValueError
        except ValueError:
            parser.error(f"argument {option}: expected [WEIGHT] and one value, got {' '.join(map(repr, values))}")
        weight = -weight if str(option).startswith("--minus") else weight
        try:
            term = (
                Term(image=Path(values[-1]), weight=weight)
                if TERM_OPTIONS[str(option)] == "FILE"
                else Term(text_argument(values[-1]), weight)
            )
        except (InputError, argparse.ArgumentTypeError) as error:
            parser.error(f"argument {option}: {error}")
        namespace.terms = [*(namespace.terms or []), term]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    add_index_arguments(parser)
    parser.add_argument("query", nargs="*", metavar="QUERY", type=text_argument, help="texts, added up")
    for option, what in TERM_OPTIONS.items():
        parser.add_argument(
            option, nargs="+", dest="terms", action=AddTerm, metavar=("[WEIGHT]", what), help="a term; repeatable"
        )
    parser.add_argument("-n", "--top-k", type=int, default=10, metavar="N", help="hits at most (default: %(default)s)")
    parser.add_argument("--min-score", type=float, metavar="S", help="leave out hits with a lower score")
    parser.add_argument(
        "--within", type=float, metavar="D", help="leave out hits whose score is lower than the best's by more"
    )
    parser.add_argument("--after", metavar="DATE", help="taken then or later: 2024, 2024-05, 2024-05-31")
    parser.add_argument("--before", metavar="DATE", help="taken earlier")
    parser.add_argument("--path", metavar="GLOB", help="a pattern for paths relative to DIR; * stands for slashes too")
    parser.add_argument(
        "--paths-from", metavar="FILE", help="search these paths only, a line each or NUL between; - for standard input"
    )
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="a line of JSON a hit")
    shape.add_argument("--csv", action="store_true", help="CSV with a head")
    shape.add_argument("-0", "--print0", action="store_true", help="paths alone, with a NUL after each, for xargs -0")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with thumbnails, too")
    add_refresh_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Print the hits, best first."""
    terms = [*map(Term, args.query), *(args.terms or [])]
    if not terms:
        raise InputError("nothing to search for; give a text, --plus, --minus or --image.")
    Restriction(args.after, args.before)  # before any work
    if args.top_k < 1:
        raise InputError(f"--top-k is {args.top_k}; expected at least 1.")
    listed = None if args.paths_from is None else read_paths(args.paths_from)
    with open_fresh_index(args) as index:
        options = {name: getattr(args, name) for name in ("top_k", "min_score", "within", "after", "before", "path")}
        hits = index.search(terms, paths=listed, **options)
        if args.html is not None:
            with text_file(args.html) as write:
                title = " ".join(words(term) for term in terms)
                write(
                    page(
                        title,
                        [Section("", [(hit.path, caption(hit, terms)) for hit in hits])],
                        index.folder,
                        index.upright,
                    )
                )
        print_hits(hits, terms, args)
        if not hits:
            say(f"no picture of {len(index)} fits.")
        if (args.after or args.before) and (undated := index.undated()):
            say(f"{undated} pictures of {len(index)} have no date, and were left out.")
        if listed is not None and (unknown := index.unknown(listed)):
            say(f"{unknown} of the {len(listed)} paths given are not in the index.")
    return 0


def words(term: Term) -> str:
    """A term as a page shows it."""
    sign = "" if term.weight == 1 else f"{term.weight:+g} "
    return f"{sign}{term.name}"


def caption(hit: Hit, terms: Sequence[Term]) -> str:
    """What stands below a thumbnail."""
    parts = [f"{hit.score:.3f}"]
    if len(terms) > 1:
        parts += [f"{words(term)}: {cosine:.3f}" for term, cosine in zip(terms, hit.cosines, strict=True)]
    return "; ".join(parts + ([hit.taken] if hit.taken else []))


def print_hits(hits: Sequence[Hit], terms: Sequence[Term], args: argparse.Namespace) -> None:
    """As JSON lines, CSV, paths, or a table."""
    several = [term.name for term in terms] if len(terms) > 1 else []
    if args.print0:
        flush()
        for hit in hits:
            sys.stdout.buffer.write(os.fsencode(os.path.join(args.folder, hit.path)) + b"\0")
    elif args.json:
        for hit in hits:
            line: dict[str, Any] = {"path": name_of(hit.path), "score": hit.score}
            if several:
                line["cosines"] = [
                    {"term": name_of(name), "weight": term.weight, "cosine": cosine}
                    for name, term, cosine in zip(several, terms, hit.cosines, strict=True)
                ]
            facts = {"width": hit.width, "height": hit.height, "taken": hit.taken}
            print_json(line | {name: value for name, value in facts.items() if value is not None})
    elif args.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(["path", "score", *map(name_of, several), "width", "height", "taken"])
        for hit in hits:
            each = hit.cosines if several else ()
            writer.writerow([name_of(hit.path), hit.score, *each, hit.width, hit.height, hit.taken])
    elif hits:
        rows = [
            (f"{hit.score:.4f}", *(f"{c:.4f}" for c in (hit.cosines if several else ())), hit.taken or "", hit.path)
            for hit in hits
        ]
        print_table([("score", *several, "taken", "path"), *rows])
