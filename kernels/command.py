"""The backends there are: what each computes with and in, whether it can run here, and if not, why.

`auto` marks what `from_pretrained` takes for float32 when no backend is named: the fastest by what backends state of
processors like this one, which stands in brackets. kernels/README.md shows how to add one; --check NAME then compares
each of its operations with the definitions in clipref/ops.py. --precisions prints what the backends state of the
precisions that they compute in.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from clipref.backends import PRECISIONS, backends, describe, fastest, traits
from clipref.cli.common import add_json_argument, print_json, print_table

from .check import BUDGET, check


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's own arguments."""
    parser.add_argument("--check", metavar="NAME", help="check this backend's operations; 1 if one is off")
    parser.add_argument("--precisions", action="store_true", help="print backends and precisions as a Markdown table")
    add_json_argument(parser)


def run(args: argparse.Namespace) -> int:
    """Print a table, or one line of JSON."""
    if args.check is not None:
        return _check(args.check, args.json)
    if args.precisions:
        print(precisions())
        return 0
    return _list(args.json)


def _list(json: bool) -> int:
    found: list[dict[str, Any]] = [{"name": name, **describe(name)} for name in sorted(backends())]
    kinds = {kind: fastest("float32", kind, "float32")[0] for kind in ("vit", "resnet")}
    if json:
        print_json([{**entry, "auto": entry["name"] in kinds.values()} for entry in found])
        return 0
    rows = [("backend", "runs here", "precisions", "same bits in any batch", "module", "overrides")]
    for entry in found:
        runs = "yes" if entry["runs"] else f"no: {entry['why not']}"
        same = "yes" if entry["same bits"] else "no"
        stated = (_precisions(entry["speeds"]), same) if entry["runs"] else ("?", "?")
        rows.append((entry["name"] + _auto(entry["name"], kinds), runs, *stated, entry["module"], entry["overrides"]))
    print_table(rows)
    print(
        "In brackets: about how many times as fast as the reference it embeds images here, with ViTs and with ResNets; "
        "what has none is taken when it is named, and never else."
    )
    return 0


def _precisions(speeds: Mapping[str, Mapping[str, float]]) -> str:
    def stated(precision: str) -> str:
        of_kinds = speeds[precision].values()
        return f"{precision} ({', '.join(f'{speed:g}' for speed in of_kinds)})" if any(of_kinds) else precision

    return ", ".join(map(stated, speeds))


def _auto(name: str, kinds: Mapping[str, str]) -> str:
    taken = [kind for kind, backend in kinds.items() if backend == name]
    return "" if not taken else " (auto)" if len(taken) == len(kinds) else f" (auto: {taken[0]})"


def precisions() -> str:
    """Every backend of this package, and what it states of each precision, as a table of Markdown."""
    rows = []
    for name, entry in sorted(backends().items()):
        if entry is not None and not entry.value.startswith("clipref."):
            continue
        stated = traits(None if entry is None else entry.load())
        cells = [stated.fidelity.get(precision, "") for precision in PRECISIONS]
        rows.append([f"`{name}`", *cells, "yes" if stated.same_bits_in_any_batch else ""])
    head = ["", *PRECISIONS, "same bits in any batch"]
    rule = ["---"] * len(head)
    return "\n".join("|" + "|".join(f" {cell} " if cell else " " for cell in row) + "|" for row in [head, rule, *rows])


def _check(name: str, json: bool) -> int:
    found = check(name)
    if json:
        print_json({"budget": BUDGET, "units": found.units, "wrong": list(found.problems), "problems": found.problems})
        return 1 if found.problems else 0
    rows = [("operation", *next(iter(found.units.values())), "")]
    for operation, units in found.units.items():
        wrong = f"WRONG: {found.problems[operation]}" if operation in found.problems else "ok"
        rows.append((operation, *(f"{value:.2g}" for value in units.values()), wrong))
    print_table(rows)
    print(f"Largest difference from float64, in units of the dtype's epsilon times the RMS; up to {BUDGET:g} is right.")
    return 1 if found.problems else 0
