"""Say which model, preprocessing and storage made stored vectors.

VECTORS is a .npy, .parquet or .safetensors file, or a folder of clip-retrieval; --images the folder of the pictures
that they are of, or --texts-file the texts, a line each. Every way to make vectors that is known is tried: each model
here, the profiles of preprocessing, the known faults, raw or of length 1. One picture is often enough. The verdict is a
name, several that these pictures can't tell apart, or none; exit codes 0, 0 and 1.

--stamp FILE writes what was found, the weights' digest and three vectors of drawn pictures; --check FILE makes these
anew, after an upgrade, and says what drifted, if anything did.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from clipref.cli.common import add_activation_argument, add_json_argument, print_json, print_table
from clipref.cli.output import text_file
from clipref.cli.texts import json_text, lines_of
from clipref.errors import InputError

if TYPE_CHECKING:
    from .whose.finding import Finding

_SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("vectors", metavar="VECTORS", nargs="?", help="a file or folder of stored vectors")
    items = parser.add_mutually_exclusive_group()
    items.add_argument("--images", metavar="DIR", help="the folder of the pictures that the vectors are of")
    items.add_argument("--texts-file", metavar="FILE", help="the texts that they are of, one a line, in their order")
    parser.add_argument(
        "--models", nargs="+", metavar="MODEL", help="ids or paths to try (default: all that are on this machine)"
    )
    add_activation_argument(parser)
    parser.add_argument("--limit", type=int, default=16, metavar="N", help="items to embed (%(default)s)")
    parser.add_argument(
        "--precision", default="float32", help="in which the engine computed: float32, float16, ... (%(default)s)"
    )
    stamps = parser.add_mutually_exclusive_group()
    stamps.add_argument("--stamp", type=Path, metavar="FILE", help="write what is found, to put beside the store")
    stamps.add_argument("--check", metavar="FILE", help="a stamp: say what drifted since")
    parser.add_argument("--backend", help="that computes vectors for --check (default: auto)")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Search, print, write the stamp; or check one. 1 for no explanation, and for drift."""
    if args.check is not None:
        return _check(args)
    from .whose.finding import whose
    from .whose.stamp import stamp_of

    if args.backend is not None:
        raise InputError("--backend is for --check; the search computes with the reference.")
    if args.vectors is None:
        raise InputError("VECTORS is missing; expected a file or folder of stored vectors, or --check STAMP.")
    if args.images is None and args.texts_file is None:
        raise InputError("expected --images DIR or --texts-file FILE: what the vectors are of.")
    if args.limit < 1:
        raise InputError(f"--limit is {args.limit}; expected at least 1.")
    texts = None if args.texts_file is None else lines_of(args.texts_file, "--texts-file")
    with ExitStack() as stack:
        write = None if args.stamp is None else stack.enter_context(text_file(args.stamp, "--stamp"))
        finding = whose(
            args.vectors,
            images=args.images,
            texts=texts,
            models=args.models,
            limit=args.limit,
            precision=args.precision,
            activation=args.activation,
        )
        if args.json:
            print_json(finding.to_dict())
        else:
            _print(finding, args.precision)
        if write is not None:
            write(json_text(stamp_of(finding, "image" if texts is None else "text"), indent=1) + "\n")
    return 1 if finding.verdict == "none" else 0


def _check(args: argparse.Namespace) -> int:
    from .whose.stamp import check_stamp

    if args.images is not None or args.texts_file is not None:
        raise InputError("--check draws its own pictures; leave --images and --texts-file out.")
    if args.models is not None and len(args.models) > 1:
        raise InputError(f"--check takes one model, got {len(args.models)}.")
    model = None if args.models is None else args.models[0]
    drifts = check_stamp(args.check, args.vectors, model=model, backend=args.backend or "auto")
    if args.json:
        print_json({"drift": [{"what": drift.what, "says": drift.says} for drift in drifts]})
    elif drifts:
        print_table([(f"{drift.what} drifted", drift.says) for drift in drifts])
    else:
        print("nothing drifted: weights, inputs and vectors are as they were when the stamp was written")
    return 1 if drifts else 0


def _print(finding: Finding, precision: str) -> None:
    looked = f"{finding.items} item{'' if finding.items == 1 else 's'} looked at, {finding.tried} explanations tried"
    print(f"verdict: {finding.verdict} ({looked})")
    if finding.candidates:
        rows = [("model", "made", "storage", "normalised", "error, of what is explained")]
        for found in finding.candidates[:_SHOWN]:
            unit = {True: "yes", False: "no", None: "unknown"}[found.normalised]
            rows.append((found.model, f"{found.variant}", found.storage, unit, f"{found.error:.2g}"))
        print_table(rows)
        if len(finding.candidates) > _SHOWN:
            print(f"and {len(finding.candidates) - _SHOWN} more; --json has all")
    if finding.decides is not None:
        print(f"what would decide: the vector of {finding.decides}")
    elif finding.verdict == "one of":
        print("none of clipref's own pictures or texts tells these apart, so to you they may be the same")
    near = finding.runner_up
    if near is not None:
        what = f"{near.model}, {near.variant}, {'unit' if near.normalised else 'raw'} vectors"
        explained = f"explained {near.items} item{'' if near.items == 1 else 's'}, and " if near.items else ""
        print(f"nearest of what is refused: {what}: {explained}is {near.error:.3g} times too far off")
        print(f"  at {finding.refused_at}")
    if finding.too_few:
        print("products of vectors agree with a model's, in too few digits to exclude chance: give more pictures")
    if finding.verdict == "none" and precision == "float32":
        print("if the vectors were computed in half precision, say --precision float16 or bfloat16")
