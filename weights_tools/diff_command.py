"""Say what differs between two checkpoints, tensor by tensor, and what that does to embeddings.

A and B are model ids, files or folders of any layout that `clipref convert` reads. Each tensor is identical, cast,
quantised, changed by a matrix of low rank, permuted or retrained. Then both embed the same drawn pictures and texts, or
the pictures of --images: cosines, and how many of each item's nearest neighbours are the same. Exit code 0 if all
tensors are the same bits, else 1.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from clipref.cli.common import add_json_argument, print_json, print_table
from clipref.errors import InputError

from .convert import add_source_arguments, options_of

if TYPE_CHECKING:
    from .diff import Difference

_SHOWN = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("a", metavar="A", help="a checkpoint's file or folder, or a model id")
    parser.add_argument("b", metavar="B", help="another one")
    parser.add_argument("--images", metavar="DIR", help="pictures to compare embeddings on (default: drawn ones)")
    parser.add_argument("--limit", type=int, default=64, metavar="N", help="of how many pictures (%(default)s)")
    parser.add_argument("--tensors-only", action="store_true", help="compare no embeddings")
    parser.add_argument("--backend", default="auto", help="that computes them (default: %(default)s)")
    parser.add_argument("--verbose", action="store_true", help="a line for every tensor")
    add_source_arguments(parser)
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Compare and print; 1 if they aren't the same bits."""
    if args.tensors_only and args.images is not None:
        raise InputError("--images is for embeddings, which --tensors-only leaves out; say one of them.")
    if args.limit < 3:
        raise InputError(f"--limit is {args.limit}; expected at least 3, so that items have neighbours.")
    from .diff import diff

    found = diff(
        args.a,
        args.b,
        images=args.images,
        embeddings=not args.tensors_only,
        backend=args.backend,
        options=options_of(args),
        limit=args.limit,
    )
    if args.json:
        print_json(found.to_dict())
    else:
        _print(found, args.verbose)
    return 0 if found.same else 1


def _print(found: Difference, verbose: bool) -> None:
    if found.same:
        print("the same weights, bit for bit")
    elif found.same_rounded:
        print("the same weights once both are rounded to float16: one is a copy of the other in another dtype")
    else:
        print("not the same weights")
    print_table([(f"digest of the {which}", digest) for which, digest in _both(found.digests)])
    rounded = [(f"rounded to float16, the {which}", digest) for which, digest in _both(found.rounded)]
    if not found.same:
        print_table(rounded)
    if verbose:
        print_table([("tensor", "change"), *((tensor.name, tensor.change) for tensor in found.tensors)])
    else:
        print_table([("tensors", "change", "which"), *_summary(found)])
    for setting in found.settings:
        print(f"setting: {setting}")
    for kind, numbers in (found.embeddings or {}).items():
        if numbers is not None:
            print(f"{kind}: {_sentence(numbers)}")


def _both(digests: tuple[str, str]) -> list[tuple[str, str]]:
    return list(zip(("first", "second"), digests, strict=True))


def _summary(found: Difference) -> list[tuple[str, str, str]]:
    """Changes of one kind in one line, the most frequent first."""
    kinds = Counter(_kind(tensor.change) for tensor in found.tensors)
    rows = []
    for kind, count in kinds.most_common():
        names = [tensor.name for tensor in found.tensors if _kind(tensor.change) == kind]
        more = f" and {count - _SHOWN} more" if count > _SHOWN else ""
        rows.append((str(count), kind, "" if kind == "identical" else f"{', '.join(names[:_SHOWN])}{more}"))
    return rows


def _kind(change: str) -> str:
    """A change without its numbers that differ from tensor to tensor."""
    return "retrained" if change.startswith("retrained") else re.sub(r"^another shape: .*", "another shape", change)


def _sentence(numbers: dict[str, Any]) -> str:
    cosine, near = numbers["cosine"], numbers["neighbours"]
    alike = "of other widths" if cosine is None else f"cosine {cosine['mean']:.6f}, at least {cosine['smallest']:.6f}"
    same = f"{100 * near['overlap']:.1f} % of the {near['of']} nearest neighbours are the same"
    return f"{numbers['items']} items, {alike}; {same}"
